//! Talking to the outside: registries and web servers, with credentials, retries, resumption, limits and mirrors.
//!
//! A [`Client`] is made once from the `upstreams:` section ([`Upstreams`]) and the [`Surroundings`] (credential files,
//! CA bundle, proxies). Everything it answers is proven by digest where one is known; what it cannot prove it says.

mod config;
mod error;

pub use config::{Mirror, MirrorShape, Surroundings, Upstream, Upstreams};
pub use error::{Error, Result};

use std::future::Future;
use std::io;

use artifact::{Descriptor, Digest, Reference, Repository, Trust};
use bytes::Bytes;

/// Where a download goes. `len` bytes are there already; the transfer goes on from there, or restarts the sink when
/// the server cannot continue.
pub trait Sink: Send {
    /// How many bytes are there.
    fn len(&self) -> u64;
    /// Takes the next bytes.
    fn write(&mut self, bytes: Bytes) -> impl Future<Output = io::Result<()>> + Send;
    /// Drops what is there.
    fn restart(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

/// What a tag or digest is at its upstream now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The manifest's digest.
    pub digest: Digest,
    /// `Content-Type`.
    pub media_type: String,
    /// Why it is believed: the reference's digest, the origin's word, or a mirror's.
    pub trust: Trust,
}

/// A manifest, proven against its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes, verbatim.
    pub bytes: Bytes,
    /// `Content-Type`.
    pub media_type: String,
}

/// What is known of a file at a web server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// `Content-Length`, when it is said.
    pub size: Option<u64>,
    /// Where it really was, after redirects.
    pub url: String,
    /// `Last-Modified`, as it was written.
    pub last_modified: Option<String>,
}

/// The one door to upstreams. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {}

impl Client {
    /// A client for these upstreams; hosts that are not among them are reached with the defaults.
    pub fn new(upstreams: Upstreams, surroundings: &Surroundings) -> Result<Self> {
        todo!("{upstreams:?} {surroundings:?}")
    }

    /// What a reference names now: by HEAD (rate limits count GETs), at the origin for tags.
    pub async fn resolve(&self, reference: &Reference) -> Result<Resolved> {
        todo!("{reference}")
    }

    /// A manifest by its digest, proven; from mirrors where there are some.
    pub async fn manifest(&self, repository: &Repository, digest: &Digest) -> Result<Fetched> {
        todo!("{repository} {digest}")
    }

    /// A manifest by a tag, `None` when there is no such tag. For cosign's and the referrers fallback's tags.
    pub async fn tagged(&self, repository: &Repository, tag: &str) -> Result<Option<Fetched>> {
        todo!("{repository} {tag}")
    }

    /// What refers to `subject`: by the referrers API, or its fallback tag where there is none (distribution spec,
    /// "Unavailable Referrers API").
    pub async fn referrers(&self, repository: &Repository, subject: &Digest) -> Result<Vec<Descriptor>> {
        todo!("{repository} {subject}")
    }

    /// Streams a blob into `sink`, resuming at its length; retried, and cut when more comes than the descriptor says.
    /// The sink's owner checks the digest.
    pub async fn blob(&self, repository: &Repository, blob: &Descriptor, sink: &mut impl Sink) -> Result<()> {
        todo!("{repository} {blob:?} {}", sink.len())
    }

    /// What a web server says of a file: HEAD, or the headers of a GET where HEAD is refused.
    pub async fn head(&self, url: &url::Url) -> Result<Remote> {
        todo!("{url}")
    }

    /// A small document whole (checksum files), refused over `limit` bytes.
    pub async fn document(&self, url: &url::Url, limit: usize) -> Result<Bytes> {
        todo!("{url} {limit}")
    }

    /// Streams a file into `sink`, as [`Client::blob`] does.
    pub async fn file(&self, url: &url::Url, size: Option<u64>, sink: &mut impl Sink) -> Result<Remote> {
        todo!("{url} {size:?} {}", sink.len())
    }
}
