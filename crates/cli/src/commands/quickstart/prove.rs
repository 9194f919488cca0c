//! The proof: what the sealed server hands out has the digests that the lock has.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use anyhow::Context as _;
use artifact::{Descriptor, Digest, Hasher, Repository};
use bytes::Bytes;
use collect::Lock;
use collect::lock::{LockedBlob, LockedImage};
use serve::Server;
use upstream::{Client, Sink, Upstream, Upstreams};
use url::Url;

use crate::commands::Context;
use crate::failure::Failure;
use crate::size::size;
use crate::terminal::Speaker;

/// The file with the site's CA, for clients.
pub(super) const AUTHORITY: &str = "ca.crt";

/// Pulls one image and one file over TLS, as a client that trusts the site's CA.
pub(super) async fn prove(
    lock: &Lock,
    server: &Server,
    folder: &Path,
    context: &Context,
    voice: &Speaker,
) -> anyhow::Result<()> {
    let address = server.address().to_string();
    let ca = folder.join(AUTHORITY);
    std::fs::write(&ca, server.authority_pem().context("the site has no CA")?)
        .with_context(|| ca.display().to_string())?;
    let trusting = Upstream { ca: Some(ca), ..Upstream::default() };
    let client =
        Client::new(Upstreams(BTreeMap::from([(address.clone(), trusting)])), &context.environment.surroundings())?;

    let image = lock.images.first().context("the lock has no image")?;
    // The upstream's host is the first part of the path; a port is written so that every client can say it.
    let host = image.reference.host().replace(':', "_");
    let repository = Repository::image(&address, format!("{host}/{}", image.reference.name()));
    let bytes = pull(&client, &repository, image).await?;
    voice.say(&format!("{}@{}: {} pulled, every digest is right", image.reference, image.digest, size(bytes)));

    let file = lock.files.first().map(|file| (&file.host, &file.path, &file.digest));
    let local = lock.local.first().map(|file| (collect::list::LOCAL.to_owned(), &file.path, &file.digest));
    let (host, path, digest) = match (&file, &local) {
        (Some((host, path, digest)), _) => (host.as_str(), *path, *digest),
        (None, Some((host, path, digest))) => (host.as_str(), *path, *digest),
        (None, None) => return Err(Failure::new("the lock has no file").into()),
    };
    let mut url = Url::parse(&format!("https://{address}/files/"))?;
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().push(host).extend(path.split('/'));
    }
    let mut sink = Hashing::default();
    client.file(&url, None, &mut sink).await?;
    same(digest, sink)?;
    voice.say(&format!("{url}: {digest}, which is right"));
    Ok(())
}

/// Pulls every manifest and blob of an image that is carried; answers how many bytes that were.
async fn pull(client: &Client, repository: &Repository, image: &LockedImage) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for manifest in &image.manifests {
        // The client compares the digest.
        bytes += client.manifest(repository, &manifest.digest).await?.bytes.len() as u64;
        for blob in manifest.blobs.iter().filter(|blob| !blob.skipped) {
            bytes += pull_blob(client, repository, blob).await?;
        }
    }
    Ok(bytes)
}

async fn pull_blob(client: &Client, repository: &Repository, blob: &LockedBlob) -> anyhow::Result<u64> {
    let descriptor = Descriptor {
        media_type: blob.media_type.clone(),
        digest: blob.digest,
        size: blob.size,
        urls: Vec::new(),
        platform: None,
        artifact_type: None,
        annotations: None,
    };
    let mut sink = Hashing::default();
    client.blob(repository, &descriptor, &mut sink).await?;
    same(&blob.digest, sink)?;
    Ok(blob.size)
}

fn same(expected: &Digest, sink: Hashing) -> Result<(), Failure> {
    let found = sink.hasher.finish();
    if found == *expected {
        return Ok(());
    }
    Err(Failure::new(format!("the server answered {found} for {expected}")))
}

/// A sink that keeps nothing but the hash.
struct Hashing {
    hasher: Hasher,
    length: u64,
}

impl Default for Hashing {
    fn default() -> Self {
        Self { hasher: Hasher::sha256(), length: 0 }
    }
}

impl Sink for Hashing {
    fn len(&self) -> u64 {
        self.length
    }

    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        self.hasher.update(&bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    async fn restart(&mut self) -> io::Result<()> {
        *self = Self::default();
        Ok(())
    }
}
