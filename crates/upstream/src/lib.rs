//! Talking to the outside: registries and web servers, with credentials, retries, resumption, limits and mirrors.
//!
//! A [`Client`] is made once from the `upstreams:` section ([`Upstreams`]) and the [`Surroundings`] (credential files,
//! CA bundle, proxies). Everything it answers is proven by digest where one is known; what it cannot prove it says.

// How one is reached, and what may go wrong.
mod config;
mod error;

// A connection: a name's addresses, whom we believe, one request with its redirects, and the wait before the next.
mod body;
mod resolver;
mod retry;
mod tls;
mod transport;

// Who we are, when somebody asks.
mod auth;

// Where a thing may be had, how its bytes come, and what is no thing at all.
mod mirror;
mod page;
mod transfer;

// What is asked for, and what is put there.
mod file;
mod link;
mod push;
mod registry;

#[cfg(test)]
mod tests;

pub use body::Outgoing;
pub use config::{Mirror, MirrorTrust, Proxying, Surroundings, Upstream, Upstreams};
pub use error::{Error, Result, Unreachable};
pub use push::Arrival;
pub use resolver::{Resolver, Unresolved};

use std::future::Future;
use std::io;
use std::sync::Arc;

use artifact::{Descriptor, Digest, Reference, Repository, Trust};
use bytes::Bytes;
use http::StatusCode;
use url::Url;

use auth::{Access, Authority};
use transport::{Answer, Ask, Transport};

/// Where a download goes. `len` bytes are there already; the transfer goes on from there, or restarts the sink when
/// the server cannot continue.
#[expect(clippy::len_without_is_empty, reason = "how far it is, not a collection")]
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
    /// Its media type: the document's own, or else `Content-Type`.
    pub media_type: String,
}

/// What is known of a file at a web server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// Its bytes, when that is known.
    pub size: Option<u64>,
    /// Where it really was, after redirects (then without the query, which is signed for minutes).
    pub url: String,
    /// `Last-Modified`, as it was written.
    pub last_modified: Option<String>,
}

/// The one door to upstreams. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    transport: Transport,
    authority: Authority,
}

impl Client {
    /// A client for these upstreams; hosts that are not among them are reached with the defaults.
    ///
    /// Reads the CA bundle and each upstream's certificates, but opens no connection. To be called inside a Tokio runtime.
    pub fn new(upstreams: Upstreams, surroundings: &Surroundings) -> Result<Self> {
        Ok(Self::with(Transport::new(upstreams.checked()?, surroundings)?, surroundings))
    }

    /// A client that asks on behalf of others, who name hosts that its user has never heard of. Whoever its user did not
    /// name, in `upstreams` or as a mirror there, is reached only by a name, and only at public addresses: where
    /// redirects lead and where tokens are had, too. Nobody is waited for long before an answer, since somebody waits
    /// for that.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn for_others(upstreams: Upstreams, surroundings: &Surroundings) -> Result<Self> {
        Ok(Self::with(Transport::guarded(upstreams.checked()?, surroundings)?, surroundings))
    }

    fn with(transport: Transport, surroundings: &Surroundings) -> Self {
        let authority = Authority::new(surroundings.credential_files.clone());
        Self { inner: Arc::new(Inner { transport, authority }) }
    }

    /// The resolver that this client uses.
    pub fn resolver(&self) -> &Resolver {
        self.inner.transport.resolver()
    }

    /// How many requests this upstream has said, a moment ago, that it will still answer. (Docker Hub counts manifests by
    /// GET, and tells by HEAD how many are left.)
    pub fn allowance(&self, host: &str) -> Option<u64> {
        self.inner.transport.allowance(host)
    }

    /// What a reference names now: by HEAD (rate limits count GETs). A digest wins over a tag beside it. A tag is asked
    /// of the origin; only where that cannot be reached is a mirror with `trust: mirror` believed.
    pub async fn resolve(&self, reference: &Reference) -> Result<Resolved> {
        registry::resolve(&self.inner, reference).await
    }

    /// What a tag names now, as [`Client::resolve`] asks it.
    pub async fn resolve_tag(&self, repository: &Repository, tag: &str) -> Result<Resolved> {
        registry::resolve_tag(&self.inner, repository, tag).await
    }

    /// A manifest by its digest, proven; from mirrors where there are some. At most 4 MiB; Docker schema 1 is refused.
    pub async fn manifest(&self, repository: &Repository, digest: &Digest) -> Result<Fetched> {
        registry::manifest(&self.inner, repository, digest).await
    }

    /// A manifest by a tag, `None` when there is no such tag. For cosign's and the referrers fallback's tags.
    pub async fn tagged(&self, repository: &Repository, tag: &str) -> Result<Option<Fetched>> {
        registry::tagged(&self.inner, repository, tag).await
    }

    /// What refers to `subject`: by the referrers API, or its fallback tag where there is none (distribution spec,
    /// "Unavailable Referrers API"). Each once. A refusal or a limit is an error, never "has none".
    pub async fn referrers(&self, repository: &Repository, subject: &Digest) -> Result<Vec<Descriptor>> {
        registry::referrers(&self.inner, repository, subject).await
    }

    /// Streams a blob into `sink`, resuming at its length; retried, and cut when more comes than the descriptor says.
    /// The sink's owner checks the digest. (With mirrors it is checked here too, so that wrong bytes lead to the next.)
    pub async fn blob(&self, repository: &Repository, blob: &Descriptor, sink: &mut impl Sink) -> Result<()> {
        registry::blob(&self.inner, repository, blob, sink).await
    }

    /// How many bytes a blob has, by HEAD; from mirrors where there are some.
    pub async fn blob_size(&self, repository: &Repository, digest: &Digest) -> Result<u64> {
        registry::blob_size(&self.inner, repository, digest).await
    }

    /// What a tag or digest is at the registry that is pushed to; `None`: it has no such thing. Mirrors are not asked.
    pub async fn standing(&self, repository: &Repository, name: &str) -> Result<Option<Digest>> {
        push::standing(&self.inner, repository, name).await
    }

    /// What refers to `subject` at the registry that is pushed to, as [`Client::referrers`] tells it.
    pub async fn standing_referrers(&self, repository: &Repository, subject: &Digest) -> Result<Vec<Descriptor>> {
        push::standing_referrers(&self.inner, repository, subject).await
    }

    /// Puts a blob there, unless it is there: mounted `from` a repository of the same registry, or sent. A transfer that
    /// is cut goes on where the registry says that it ended; retried.
    pub async fn push_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        bytes: &Arc<Outgoing>,
        from: Option<&Repository>,
    ) -> Result<Arrival> {
        push::blob(&self.inner, repository, digest, bytes, from).await
    }

    /// Puts a manifest there, under a tag or its digest; what it points at has to be there.
    ///
    /// # Errors
    /// [`Error::Refused`] when the registry does not take it, as some do with an index whose children are not all there.
    pub async fn push_manifest(&self, repository: &Repository, name: &str, manifest: &Fetched) -> Result<()> {
        push::manifest(&self.inner, repository, name, manifest).await
    }

    /// Adds these to the fallback tag of `subject`, as clients must where a registry lists no referrers itself
    /// (distribution spec, "Pushing Manifests with Subject"). What the tag lists already stays.
    pub async fn push_referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        referrers: &[Descriptor],
    ) -> Result<()> {
        push::referrers(&self.inner, repository, subject, referrers).await
    }

    /// What a web server says of a file: HEAD, or the headers of a GET where HEAD is refused. Where the origin cannot be
    /// reached, what its mirrors say: a size and a date, which prove nothing.
    pub async fn head(&self, url: &Url) -> Result<Remote> {
        file::head(&self.inner, url).await
    }

    /// A small document whole (checksum files), refused over `limit` bytes.
    pub async fn document(&self, url: &Url, limit: usize) -> Result<Bytes> {
        file::document(&self.inner, url, limit).await
    }

    /// Streams a file into `sink`, as [`Client::blob`] does. Only from its origin, since nothing would prove a
    /// mirror's bytes: where the digest is known, see [`Client::pinned_file`].
    pub async fn file(&self, url: &Url, size: Option<u64>, sink: &mut impl Sink) -> Result<Remote> {
        file::file(&self.inner, url, size, None, sink).await
    }

    /// As [`Client::file`] for a file whose digest is known: from mirrors where there are some.
    pub async fn pinned_file(
        &self,
        url: &Url,
        size: Option<u64>,
        digest: &Digest,
        sink: &mut impl Sink,
    ) -> Result<Remote> {
        file::file(&self.inner, url, size, Some(digest), sink).await
    }
}

impl Inner {
    /// One request to a host that has no claim to our name.
    async fn anonymously(&self, host: &str, ask: &Ask) -> Result<Answer> {
        let seat = self.transport.seat(host).await;
        let mut answer = self.transport.send(ask).await?;
        answer.seat = seat;
        Ok(answer)
    }

    /// One request, authorized where the upstream asks for it.
    async fn request(&self, access: &Access, mut ask: Ask) -> Result<Answer> {
        let seat = self.transport.seat(&access.host).await;
        ask.authorization = self.authority.ready(&self.transport, access, &ask.url).await?;
        let mut answer = self.transport.send(&ask).await?;
        // A storage host that a redirect led to is not the one whose credentials we have.
        if answer.status() == StatusCode::UNAUTHORIZED && answer.same_origin {
            let used = ask.authorization.as_ref();
            let header = self.authority.answer(&self.transport, access, &answer.url, answer.headers(), used).await?;
            if header.is_some() {
                ask.authorization = header;
                answer = self.transport.send(&ask).await?;
            }
        }
        answer.seat = seat;
        Ok(answer)
    }
}
