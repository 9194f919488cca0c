//! Changes: everything that becomes true together.

mod writing;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use artifact::{Digest, Entry, Repository};
use bytes::Bytes;

pub(crate) use self::writing::{Writing, write};
use crate::{NewBlob, Result, Store, blobs};

/// Renewals that one change has at most: others wait for it.
const RENEWALS: usize = 10_000;
/// What was renewed within this, in seconds, is not renewed again.
const HOUR: i64 = 60 * 60;

/// Why a change is made. With a cause, the store begins a new generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The command: `load`, `restore`, `pull`, `rm`.
    pub action: String,
    /// What with: a bundle's id, a lock's path.
    pub subject: String,
    /// Who, and by which key, as far as it is known.
    pub by: String,
}

/// What becomes true together. Manifests are given children first; nothing is checked before [`Store::apply`].
#[derive(Debug, Default)]
pub struct Change {
    cause: Option<Cause>,
    /// Who is named by the last of what follows: most changes are of one repository.
    last: Option<Arc<Repository>>,
    blobs: Vec<(Option<Arc<Repository>>, NewBlob)>,
    blob_grants: Vec<(Arc<Repository>, Digest)>,
    manifests: Vec<Manifested>,
    manifest_grants: Vec<(Arc<Repository>, Digest)>,
    entries: Vec<(Arc<Repository>, Entry)>,
    removed: Vec<Removal>,
    renewals: Vec<Renewal>,
    /// Blobs that a repository must show already.
    pub(crate) required: Vec<(Arc<Repository>, Digest)>,
    /// Grants that end.
    pub(crate) revoked_blobs: Vec<(Arc<Repository>, Digest)>,
    pub(crate) revoked_manifests: Vec<(Arc<Repository>, Digest)>,
    /// Puts entries back to what they were after this generation; local ones too.
    back_to: Option<(i64, bool)>,
    force: bool,
}

/// An entry that goes: its repository, its name, and what it must still be, where that matters.
type Removal = (Arc<Repository>, String, Option<State>);

/// What an entry names, and when it was last seen.
type State = (Digest, i64);

/// What is not to be collected for a while.
#[derive(Clone, Debug)]
enum Renewal {
    Thing(Digest),
    Grant(Arc<Repository>, Digest),
}

#[derive(Debug)]
struct Manifested {
    /// Who shows it from now on; `None`: who shows it already.
    repository: Option<Arc<Repository>>,
    digest: Digest,
    bytes: Bytes,
    media_type: String,
    omitted: HashSet<Digest>,
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
        let repository = repository.map(|repository| self.whose(repository));
        self.blobs.push((repository, blob));
        self
    }

    /// Grants a blob that the store has already (a verified pull or a load found that it need not be fetched again).
    pub fn grant_blob(&mut self, repository: &Repository, digest: &Digest) -> &mut Self {
        let repository = self.whose(repository);
        self.blob_grants.push((repository, *digest));
        self
    }

    /// Stores a manifest with its links and grants it. `media_type` is how it came (empty: read it from the document).
    /// Children and blobs in `omitted` are left out on purpose; all others must come for the manifest to be complete.
    /// Foreign layers count as omitted unless the store has them. Of a manifest that is there already, a link that was
    /// omitted becomes carried once its child is present, and never before.
    pub fn manifest(
        &mut self,
        repository: &Repository,
        digest: &Digest,
        bytes: Bytes,
        media_type: &str,
        omitted: HashSet<Digest>,
    ) -> &mut Self {
        let repository = self.whose(repository);
        self.manifests.push(Manifested {
            repository: Some(repository),
            digest: *digest,
            bytes,
            media_type: media_type.to_owned(),
            omitted,
        });
        self
    }

    /// Writes down again what the catalog has of a manifest, out of its document, and grants it to nobody. What it points
    /// at and the catalog has no link to counts as carried; children of an index that are not here, as left out.
    pub fn heal_manifest(&mut self, digest: &Digest, bytes: Bytes, media_type: &str) -> &mut Self {
        let media_type = media_type.to_owned();
        self.manifests.push(Manifested {
            repository: None,
            digest: *digest,
            bytes,
            media_type,
            omitted: HashSet::new(),
        });
        self
    }

    /// Grants a manifest that the store has already.
    pub fn grant_manifest(&mut self, repository: &Repository, digest: &Digest) -> &mut Self {
        let repository = self.whose(repository);
        self.manifest_grants.push((repository, *digest));
        self
    }

    /// Adds or moves an entry. What it names must be complete. An entry whose upstream was seen later than this one
    /// stays, and is reported in [`Applied::kept`] (unless [`Change::force`]).
    pub fn entry(&mut self, repository: &Repository, entry: Entry) -> &mut Self {
        let repository = self.whose(repository);
        self.entries.push((repository, entry));
        self
    }

    /// Says that a blob or a manifest will be needed: it is not collected until the grace period has passed once more.
    /// Whoever leaves something out because it is here already says so.
    pub fn renew(&mut self, digest: &Digest) -> &mut Self {
        self.renewals.push(Renewal::Thing(*digest));
        self
    }

    /// As [`Change::renew`], of what a repository shows.
    pub fn renew_grant(&mut self, repository: &Repository, digest: &Digest) -> &mut Self {
        let repository = self.whose(repository);
        self.renewals.push(Renewal::Grant(repository, *digest));
        self
    }

    /// Removes an entry; not an error when there is none.
    pub fn remove(&mut self, repository: &Repository, name: &str) -> &mut Self {
        let repository = self.whose(repository);
        self.removed.push((repository, name.to_owned(), None));
        self
    }

    /// Removes an entry that still names this digest, and was last seen then. What somebody gave another meaning, or
    /// brought again, stays.
    pub(crate) fn remove_unchanged(&mut self, repository: &Repository, name: &str, digest: Digest, seen: i64) {
        let repository = self.whose(repository);
        self.removed.push((repository, name.to_owned(), Some((digest, seen))));
    }

    /// Lets older entries replace newer ones.
    pub fn force(&mut self) -> &mut Self {
        self.force = true;
        self
    }

    /// Puts every entry back to what it was after a generation, local ones only if told. What that is, is asked when the
    /// change is written: until then others may change more.
    pub(crate) fn back_to(&mut self, generation: i64, local: bool) -> &mut Self {
        self.back_to = Some((generation, local));
        self
    }

    /// The repository, kept once for all that is said of it in a row.
    pub(crate) fn whose(&mut self, repository: &Repository) -> Arc<Repository> {
        match &self.last {
            Some(last) if **last == *repository => Arc::clone(last),
            _ => Arc::clone(self.last.insert(Arc::new(repository.clone()))),
        }
    }

    /// From here on the new blobs' files belong to the catalog.
    pub(crate) fn take_over(&mut self) {
        for (_, blob) in &mut self.blobs {
            blob.unnamed = None;
        }
    }
}

/// An entry that now names something else, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// Its repository.
    pub repository: Arc<Repository>,
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

/// What the writer hands back: the answer, and files that nothing names any more.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    applied: Applied,
    copies: Vec<String>,
    /// Partial files whose blobs are named now.
    leftovers: Vec<PathBuf>,
}

impl Store {
    /// As [`Change::renew`], for each of these.
    pub async fn renew(&self, digests: impl IntoIterator<Item = Digest>) -> Result<()> {
        let mut digests = digests.into_iter();
        loop {
            let mut change = Change::new();
            for digest in digests.by_ref().take(RENEWALS) {
                change.renew(&digest);
            }
            if change.renewals.is_empty() {
                return Ok(());
            }
            self.apply(change).await?;
        }
    }

    /// As [`Change::renew_grant`], unless that was done within the hour: who asks before a push asks often.
    pub async fn renew_grant(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        let renewed: Option<i64> = sqlx::query_scalar(
            "SELECT max(renewed) FROM (SELECT repository, digest, renewed FROM repository_blob UNION ALL \
             SELECT repository, digest, renewed FROM repository_manifest) JOIN repository ON repository.id = repository \
             WHERE digest = $1 AND kind = $2 AND host = $3 AND name = $4",
        )
        .bind(digest.as_bytes())
        .bind(repository.kind.as_str())
        .bind(&repository.host)
        .bind(&repository.name)
        .fetch_one(self.db())
        .await
        .map_err(|error| self.failed(error))?;
        if renewed.is_none_or(|renewed| renewed >= self.now() - HOUR) {
            return Ok(());
        }
        let mut change = Change::new();
        change.renew_grant(repository, digest);
        self.apply(change).await.map(drop)
    }

    /// Makes a change true, all of it or nothing. When this returns, it survives a power cut.
    pub async fn apply(&self, change: Change) -> Result<Applied> {
        self.may_write()?;
        self.inner.catalog.commit(change).await
    }
}

impl Changed {
    /// Whether there are files that nothing names any more.
    pub(crate) fn leaves_files(&self) -> bool {
        !self.copies.is_empty() || !self.leftovers.is_empty()
    }

    /// Removes the files that nothing names any more, now that the change is true. Blocking.
    pub(crate) fn clear(self, folder: &Path) -> Applied {
        for path in self.leftovers {
            let _ = std::fs::remove_file(path);
        }
        for key in self.copies {
            // Somebody else brought the same bytes first, or these were damaged.
            let _ = std::fs::remove_file(blobs::place(folder, &key));
        }
        self.applied
    }
}
