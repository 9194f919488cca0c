//! What a store can be asked.

use std::fs::File;

use artifact::{Digest, Entry, Kind, Repository};
use bytes::Bytes;

use crate::{Cause, Replaced, Result, Store};

/// A blob that the catalog names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Where its bytes are, below the store's `blobs/`.
    pub key: String,
}

/// A manifest with what the catalog knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredManifest {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes, verbatim.
    pub bytes: Bytes,
    /// The media type to answer it with.
    pub media_type: String,
    /// Whether every carried link is present.
    pub complete: bool,
}

/// A link from a manifest to what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What it points at.
    pub child: Digest,
    /// Whether the child is a manifest (else a blob).
    pub is_manifest: bool,
    /// Carried, or omitted on purpose.
    pub carried: bool,
    /// Whether the store has it.
    pub present: bool,
    /// Bytes, as the parent says.
    pub size: u64,
}

/// A manifest that refers to another (OCI distribution spec, "Listing Referrers").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
    /// Its artifact type, when it has one.
    pub artifact_type: Option<String>,
    /// Its annotations, a JSON object.
    pub annotations: Option<serde_json::Value>,
}

/// A repository that has the name and reference somebody asked for without naming a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The repository.
    pub repository: Repository,
    /// The manifest or blob there.
    pub digest: Digest,
}

/// A thing that a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Its repository.
    pub repository: Repository,
    /// The entry.
    pub entry: Entry,
}

/// How much a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Repositories.
    pub repositories: u64,
    /// Entries.
    pub entries: u64,
    /// Manifests.
    pub manifests: u64,
    /// Blobs.
    pub blobs: u64,
    /// Bytes of the blobs.
    pub bytes: u64,
}

impl Store {
    /// A blob, whoever may show it. For commands; a server asks [`Store::granted_blob`].
    pub async fn blob(&self, digest: &Digest) -> Result<Option<Blob>> {
        todo!("{digest}")
    }

    /// Which of these blobs the store has.
    pub async fn blobs(&self, digests: &[Digest]) -> Result<Vec<Blob>> {
        todo!("{digests:?}")
    }

    /// A blob that this repository may show.
    pub async fn granted_blob(&self, repository: &Repository, digest: &Digest) -> Result<Option<Blob>> {
        todo!("{repository} {digest}")
    }

    /// Opens a blob's bytes for reading.
    pub fn open_blob(&self, blob: &Blob) -> Result<File> {
        todo!("{blob:?}")
    }

    /// A manifest, whoever may show it. For commands; a server asks [`Store::granted_manifest`].
    pub async fn manifest(&self, digest: &Digest) -> Result<Option<StoredManifest>> {
        todo!("{digest}")
    }

    /// A manifest that this repository may show.
    pub async fn granted_manifest(&self, repository: &Repository, digest: &Digest) -> Result<Option<StoredManifest>> {
        todo!("{repository} {digest}")
    }

    /// An entry, whether complete or not.
    pub async fn entry(&self, repository: &Repository, name: &str) -> Result<Option<Entry>> {
        todo!("{repository} {name}")
    }

    /// Whether what an entry names can be offered: a manifest that is complete, a blob that is there.
    pub async fn is_complete(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        todo!("{repository} {digest}")
    }

    /// Complete entries whose names sort (bytewise) after `after`, at most `limit`.
    pub async fn entries(&self, repository: &Repository, after: &str, limit: u32) -> Result<Vec<Entry>> {
        todo!("{repository} {after} {limit}")
    }

    /// Repositories in the order of (kind, host, name) after `after`, at most `limit`.
    pub async fn repositories(
        &self,
        kind: Option<Kind>,
        after: Option<&Repository>,
        limit: u32,
    ) -> Result<Vec<Repository>> {
        todo!("{kind:?} {after:?} {limit}")
    }

    /// The hosts of which there are repositories of this kind, sorted; a local one's is empty.
    pub async fn hosts(&self, kind: Kind) -> Result<Vec<String>> {
        todo!("{kind}")
    }

    /// Image repositories of every host (and local) named `name` that have this tag, manifest or blob, complete.
    pub async fn candidates(&self, name: &str, reference: &str) -> Result<Vec<Candidate>> {
        todo!("{name} {reference}")
    }

    /// What refers to `subject` in this repository, sorted by digest.
    pub async fn referrers(&self, repository: &Repository, subject: &Digest) -> Result<Vec<Referrer>> {
        todo!("{repository} {subject}")
    }

    /// What a manifest points at.
    pub async fn links(&self, parent: &Digest) -> Result<Vec<Link>> {
        todo!("{parent}")
    }

    /// The manifests that point at this digest.
    pub async fn parents(&self, child: &Digest) -> Result<Vec<Digest>> {
        todo!("{child}")
    }

    /// The entries that name exactly this digest.
    pub async fn entries_of(&self, digest: &Digest) -> Result<Vec<Hit>> {
        todo!("{digest}")
    }

    /// Entries whose repository or name has `text` in it (a substring, any case), best first.
    pub async fn search(&self, text: &str, limit: u32) -> Result<Vec<Hit>> {
        todo!("{text} {limit}")
    }

    /// How much there is.
    pub async fn usage(&self) -> Result<Usage> {
        todo!()
    }

    /// A document of the site (CA, keys, token hashes, bundle records), by name.
    pub async fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        todo!("{name}")
    }

    /// Names of documents that begin with `prefix`, sorted.
    pub async fn documents(&self, prefix: &str) -> Result<Vec<String>> {
        todo!("{prefix}")
    }

    /// Puts a document unless there is one, and returns the one that is there now: two replicas that start together
    /// agree on one CA.
    pub async fn document_once(&self, name: &str, bytes: &[u8]) -> Result<Vec<u8>> {
        todo!("{name} {bytes:?}")
    }

    /// Puts a document in the place of whatever was there; `None` removes it.
    pub async fn set_document(&self, name: &str, bytes: Option<&[u8]>) -> Result<()> {
        todo!("{name} {bytes:?}")
    }

    /// Generations, newest first: number, when (seconds since 1970), why, and how many entries it changed.
    pub async fn history(&self, limit: u32) -> Result<Vec<(i64, i64, Cause, u64)>> {
        todo!("{limit}")
    }

    /// What must be undone, entry by entry, to be again as after generation `number`: each entry's state then.
    pub async fn state_at(&self, number: i64) -> Result<Vec<Replaced>> {
        todo!("{number}")
    }
}
