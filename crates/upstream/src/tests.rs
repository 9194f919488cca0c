//! The client against servers on loopback that do what upstreams in the field do.

mod authorization;
mod files;
mod mirrors;
mod pushes;
mod registries;
mod server;
mod tls;
mod transfers;

use std::io;

use artifact::{Descriptor, Digest, Reference, Repository, media_type};
use bytes::Bytes;
use url::Url;

use crate::{Client, Mirror, MirrorTrust, Sink, Surroundings, Upstream, Upstreams};

/// A sink in memory that counts how often it was begun again.
#[derive(Default)]
struct Memory {
    bytes: Vec<u8>,
    restarts: usize,
}

impl Sink for Memory {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn restart(&mut self) -> io::Result<()> {
        self.bytes.clear();
        self.restarts += 1;
        Ok(())
    }
}

fn client(upstreams: impl IntoIterator<Item = (String, Upstream)>) -> Client {
    Client::new(Upstreams(upstreams.into_iter().collect()), &Surroundings::default()).unwrap()
}

fn plain_client() -> Client {
    client([])
}

/// One upstream with these mirrors.
fn mirrored<'a>(host: &str, mirrors: impl IntoIterator<Item = &'a str>, trust: Option<MirrorTrust>) -> Client {
    let mirrors = mirrors.into_iter().map(|url| Mirror { url: url.to_owned(), trust }).collect();
    client([(host.to_owned(), Upstream { mirrors, ..Upstream::default() })])
}

/// Bytes that do not repeat, so that a piece at the wrong place is noticed.
fn content(size: usize) -> Vec<u8> {
    (0_u32..).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).take(size).collect()
}

fn descriptor(bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: media_type::OCI_LAYER_GZIP.to_owned(),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        urls: Vec::new(),
        platform: None,
        artifact_type: None,
        annotations: None,
    }
}

fn manifest() -> Vec<u8> {
    let kind = media_type::OCI_MANIFEST;
    format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","artifactType":"application/x","layers":[]}}"#).into_bytes()
}

fn repository(host: &str) -> Repository {
    Repository::image(host, "library/app")
}

fn reference(host: &str, rest: &str) -> Reference {
    format!("{host}/library/app{rest}").parse().unwrap()
}

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

/// A future that cannot move between threads would be found by our callers only.
#[expect(dead_code, reason = "compiled, never called")]
fn futures_move_between_threads(client: &Client, reference: &Reference, url: &Url, blob: &Descriptor) {
    fn is_send(_: impl Send) {}
    let (repository, mut sink) = (reference.repository(), Memory::default());
    is_send(client.resolve(reference));
    is_send(client.manifest(&repository, &blob.digest));
    is_send(client.tagged(&repository, "x"));
    is_send(client.referrers(&repository, &blob.digest));
    is_send(client.blob(&repository, blob, &mut sink));
    is_send(client.head(url));
    is_send(client.document(url, 1));
    is_send(client.file(url, None, &mut sink));
    is_send(client.standing(&repository, "x"));
    is_send(client.standing_referrers(&repository, &blob.digest));
    is_send(client.pinned_file(url, None, &blob.digest, &mut sink));
}
