//! Changes: everything that becomes true together.

use std::collections::HashSet;

use artifact::{Digest, Entry, Repository};
use bytes::Bytes;

use crate::{NewBlob, Result, Store};

/// Why a change is made. With a cause, the store begins a new generation, and remembers what each entry was before,
/// for `history` and `restore`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The command: `load`, `restore`, `pull`, `rm`, `push`.
    pub action: String,
    /// What with: a bundle's id, a lock's path.
    pub subject: String,
    /// Who, and by which key, as far as it is known.
    pub by: String,
}

/// What becomes true together. Parts may be given in any order; nothing is checked before [`Store::apply`].
#[derive(Debug, Default)]
pub struct Change {
    pub(crate) cause: Option<Cause>,
    pub(crate) blobs: Vec<(Option<Repository>, NewBlob)>,
    pub(crate) blob_grants: Vec<(Repository, Digest)>,
    pub(crate) manifests: Vec<Manifested>,
    pub(crate) manifest_grants: Vec<(Repository, Digest)>,
    pub(crate) entries: Vec<(Repository, Entry)>,
    pub(crate) removed: Vec<(Repository, String)>,
    pub(crate) force: bool,
}

#[derive(Debug)]
pub(crate) struct Manifested {
    pub(crate) repository: Repository,
    pub(crate) digest: Digest,
    pub(crate) bytes: Bytes,
    pub(crate) media_type: String,
    pub(crate) omitted: HashSet<Digest>,
}

impl Change {
    /// A change without a cause: it makes no generation.
    pub fn new() -> Self {
        Self::default()
    }

    /// A change that makes a generation.
    pub fn because(cause: Cause) -> Self {
        Self { cause: Some(cause), ..Self::default() }
    }

    /// Names a finished blob in the catalog, and grants it to `repository`. Without a repository it waits, ungranted,
    /// for a later change (a bundle's members arrive before what they are for is known).
    pub fn blob(&mut self, repository: Option<&Repository>, blob: NewBlob) -> &mut Self {
        self.blobs.push((repository.cloned(), blob));
        self
    }

    /// Grants a blob that the store has already (a verified pull or a load found that it need not be fetched again).
    pub fn grant_blob(&mut self, repository: &Repository, digest: &Digest) -> &mut Self {
        self.blob_grants.push((repository.clone(), *digest));
        self
    }

    /// Stores a manifest with its links and grants it. `media_type` is how it came (empty: read it from the document).
    /// Children and blobs in `omitted` are left out on purpose; all others must come for the manifest to be complete.
    /// Foreign layers count as omitted unless the store has them.
    pub fn manifest(
        &mut self,
        repository: &Repository,
        digest: &Digest,
        bytes: Bytes,
        media_type: &str,
        omitted: HashSet<Digest>,
    ) -> &mut Self {
        self.manifests.push(Manifested {
            repository: repository.clone(),
            digest: *digest,
            bytes,
            media_type: media_type.to_owned(),
            omitted,
        });
        self
    }

    /// Grants a manifest that the store has already.
    pub fn grant_manifest(&mut self, repository: &Repository, digest: &Digest) -> &mut Self {
        self.manifest_grants.push((repository.clone(), *digest));
        self
    }

    /// Adds or moves an entry. An entry whose upstream was seen later than this one stays, and is reported in
    /// [`Applied::kept`] (unless [`Change::force`]).
    pub fn entry(&mut self, repository: &Repository, entry: Entry) -> &mut Self {
        self.entries.push((repository.clone(), entry));
        self
    }

    /// Removes an entry; not an error when there is none.
    pub fn remove(&mut self, repository: &Repository, name: &str) -> &mut Self {
        self.removed.push((repository.clone(), name.to_owned()));
        self
    }

    /// Lets older entries replace newer ones.
    pub fn force(&mut self) -> &mut Self {
        self.force = true;
        self
    }
}

/// An entry that now names something else, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// Its repository.
    pub repository: Repository,
    /// Its name.
    pub name: String,
    /// What it named before (`None`: it is new).
    pub old: Option<Digest>,
    /// What it names now (`None`: it is gone).
    pub new: Option<Digest>,
}

/// What a change did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The generation it made, when it had a cause and changed an entry.
    pub generation: Option<i64>,
    /// Entries that are new, moved or gone.
    pub replaced: Vec<Replaced>,
    /// Entries left as they were, because what is there was seen later at its upstream.
    pub kept: Vec<Replaced>,
}

impl Store {
    /// Makes a change true, all of it or nothing. When this returns, it survives a power cut.
    pub async fn apply(&self, change: Change) -> Result<Applied> {
        todo!("{change:?}")
    }
}
