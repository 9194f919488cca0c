//! Scrubbing: are the bytes what their names say, and is everything there that the catalog promises?

mod catalog;
mod heal;

pub use heal::Lost;

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use artifact::{Digest, Hasher, Progress};

use crate::{Blob, Error, Hit, Result, Store, writer};

/// A partial file that nobody has written to for so many seconds is not waited for any more.
const FORSAKEN: i64 = 24 * 60 * 60;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// The catalog's own file is damaged. Nothing else is looked at then.
    Catalog {
        /// In the database's words.
        what: String,
    },
    /// The catalog names a blob whose bytes are not there.
    Missing {
        /// The blob.
        digest: Digest,
        /// Which entries need it.
        needed_by: Vec<Hit>,
    },
    /// A blob's bytes are not what its name says.
    Corrupt {
        /// The blob.
        digest: Digest,
        /// What its bytes hash to, or what reading them said.
        found: String,
        /// Which entries need it.
        needed_by: Vec<Hit>,
    },
    /// A manifest's bytes are not what its name says.
    CorruptManifest {
        /// The manifest.
        digest: Digest,
        /// Which entries need it.
        needed_by: Vec<Hit>,
    },
    /// The catalog has lost the row of something that a manifest carries, a repository shows or an entry names.
    Gone {
        /// The blob or manifest.
        digest: Digest,
        /// Which of the two.
        is_manifest: bool,
        /// Which entries need it.
        needed_by: Vec<Hit>,
    },
    /// A link, an entry or a completeness mark does not agree with what is there.
    MisLinked {
        /// What the link is of.
        digest: Digest,
        /// In words.
        what: String,
    },
    /// A file that no row names: what a killed writer left. Harmless.
    Orphan {
        /// Below the store's folder.
        path: PathBuf,
        /// Its bytes.
        size: u64,
    },
}

/// What a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fsck {
    /// Blobs whose bytes were hashed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Manifests that were hashed and whose links were compared.
    pub manifests: u64,
    /// Partial files that a later run may continue.
    pub partial: u64,
    /// What is wrong, worst first.
    pub findings: Vec<Finding>,
    /// Orphans, and partial files that were left for a day, that were removed (only when asked to).
    pub removed: u64,
}

impl Fsck {
    /// Whether nothing that was acknowledged is lost or wrong. Orphans do not count.
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(|finding| matches!(finding, Finding::Orphan { .. }))
    }
}

impl Store {
    /// Hashes every blob again, compares every link, and looks for files that nothing names; removes those when `tidy`,
    /// and partial files that nobody went on with for a day.
    /// Damaged bytes are set aside, so that the next load or pull brings them again.
    ///
    /// # Errors
    /// Only when it cannot go on; what is wrong with the store is in the answer.
    pub async fn fsck(&self, tidy: bool, progress: Arc<dyn Progress>) -> Result<Fsck> {
        let mut fsck = Fsck::default();
        self.check_database(&mut fsck).await?;
        if !fsck.findings.is_empty() {
            return Ok(fsck);
        }
        let usage = self.usage().await?;
        progress.begin("re-hash", usage.bytes.cast_unsigned());
        self.check_blobs(&mut fsck, &progress).await?;
        progress.end();
        self.check_catalog(&mut fsck).await?;
        self.check_files(&mut fsck, tidy).await?;
        Ok(fsck)
    }

    async fn check_blobs(&self, fsck: &mut Fsck, progress: &Arc<dyn Progress>) -> Result<()> {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut after: Vec<u8> = Vec::new();
        loop {
            let rows: Vec<(Vec<u8>, i64, String)> =
                sqlx::query_as("SELECT digest, size, key FROM blob WHERE digest > $1 ORDER BY digest LIMIT 1000")
                    .bind(&after)
                    .fetch_all(self.db())
                    .await
                    .map_err(|error| self.failed(error))?;
            let Some(last) = rows.last() else { return Ok(()) };
            after.clone_from(&last.0);
            let blobs: Arc<Vec<Blob>> = Arc::new(
                rows.into_iter()
                    .filter_map(|(digest, size, key)| {
                        Some(Blob { digest: Digest::from_bytes(&digest)?, size: size.cast_unsigned(), key })
                    })
                    .collect(),
            );
            let next = Arc::new(AtomicU64::new(0));
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    let (store, blobs, next, progress) =
                        (self.clone(), Arc::clone(&blobs), Arc::clone(&next), Arc::clone(progress));
                    tokio::task::spawn_blocking(move || store.hash_blobs(&blobs, &next, progress.as_ref()))
                })
                .collect();
            for worker in workers {
                for (digest, wrong) in worker.await.unwrap_or_default() {
                    let needed_by = self.needed_by(&digest).await?;
                    fsck.findings.push(match wrong {
                        None => Finding::Missing { digest, needed_by },
                        Some(found) => Finding::Corrupt { digest, found, needed_by },
                    });
                }
            }
            fsck.blobs += blobs.len() as u64;
            fsck.bytes += blobs.iter().map(|blob| blob.size).sum::<u64>();
        }
    }

    /// Hashes blobs from a shared list until it is empty. `None` says that the bytes are missing.
    fn hash_blobs(&self, blobs: &[Blob], next: &AtomicU64, progress: &dyn Progress) -> Vec<(Digest, Option<String>)> {
        let mut wrong = Vec::new();
        while let Some(blob) = blobs.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX)) {
            let mut hasher = Hasher::new(blob.digest.algorithm());
            let path = self.path_of(&blob.key);
            // To open what is no file may take for ever: a FIFO waits for somebody who writes to it.
            if std::fs::metadata(&path).is_ok_and(|there| !there.is_file()) {
                self.set_aside(blob);
                wrong.push((blob.digest, Some("what is there is no file".to_owned())));
                continue;
            }
            let found = self
                .open_blob(blob)
                .and_then(|file| writer::read_file(&file, |bytes| hasher.update(bytes)).map_err(Error::io(&path)));
            match found.map(|length| (length, hasher.finish())) {
                Ok((_, digest)) if digest == blob.digest => {}
                Ok((length, digest)) => {
                    self.set_aside(blob);
                    wrong.push((blob.digest, Some(format!("{digest}, {length} bytes"))));
                }
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    wrong.push((blob.digest, None));
                }
                Err(error) => {
                    // A disk that cannot read a sector will not do so for whoever asks next, and right bytes shall come.
                    if error.is_bad_sector() {
                        self.set_aside(blob);
                    }
                    wrong.push((blob.digest, Some(error.to_string())));
                }
            }
            progress.advance(blob.size);
        }
        wrong
    }

    /// Takes bytes that are not what their name says from where they would be offered, and would keep the right ones
    /// from being brought again. They stay beside, an orphan, in case somebody wants to look at them.
    fn set_aside(&self, blob: &Blob) {
        let path = self.path_of(&blob.key);
        let mut aside = path.clone().into_os_string();
        aside.push(".damaged");
        // On a store that cannot be written it is enough to have said so.
        let _ = std::fs::rename(&path, aside);
        // A server must not go on from what it has open.
        self.inner.version.fetch_add(1, Ordering::AcqRel);
    }

    async fn check_files(&self, fsck: &mut Fsck, tidy: bool) -> Result<()> {
        let root = self.inner.folder.join("blobs");
        for path in files_below(&root)? {
            let key = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().into_owned();
            let named: Option<i64> = sqlx::query_scalar("SELECT 1 FROM blob WHERE key = $1")
                .bind(&key)
                .fetch_optional(self.db())
                .await
                .map_err(|error| self.failed(error))?;
            if named.is_none() {
                self.orphan(fsck, &path, tidy);
            }
        }
        for path in files_below(&self.partial_path(""))? {
            // What has a digest for its name is continued by the next pull or load; the rest has no owner any more.
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("new-") {
                self.orphan(fsck, &path, tidy);
            } else if tidy && self.forsake(&path, writer::partial_of(&name)) {
                fsck.removed += 1;
            } else {
                fsck.partial += 1;
            }
        }
        Ok(())
    }

    /// Removes what a run has left that nobody went on with for a day, unless somebody has it in hand.
    fn forsake(&self, path: &Path, digest: Option<Digest>) -> bool {
        let Some(digest) = digest else { return false };
        let is_old = std::fs::metadata(path).is_ok_and(|file| file.mtime() < self.now().saturating_sub(FORSAKEN));
        if !is_old || !self.pick_up(&digest) {
            return false;
        }
        let removed = std::fs::remove_file(path).is_ok();
        self.put_down(&digest);
        removed
    }

    fn orphan(&self, fsck: &mut Fsck, path: &Path, tidy: bool) {
        let Ok(metadata) = std::fs::metadata(path) else { return };
        // What came into its place since this store was opened may be named in the next moment: a push, a load, a pull.
        if metadata.ctime() >= self.inner.opened {
            return;
        }
        let size = metadata.len();
        if tidy && std::fs::remove_file(path).is_ok() {
            fsck.removed += 1;
        } else {
            let path = path.strip_prefix(self.folder()).unwrap_or(path).to_owned();
            fsck.findings.push(Finding::Orphan { path, size });
        }
    }

    /// The entries that cannot be whole without this digest.
    pub async fn needed_by(&self, digest: &Digest) -> Result<Vec<Hit>> {
        let (mut seen, mut waiting, mut hits) = (HashSet::new(), vec![*digest], Vec::new());
        while let Some(digest) = waiting.pop() {
            if seen.insert(digest) {
                hits.extend(self.entries_of(&digest).await?);
                waiting.extend(self.parents(&digest).await?);
            }
        }
        Ok(hits)
    }
}

pub(crate) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(Error::io(&folder))? {
            let path = entry.map_err(Error::io(&folder))?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    Ok(files)
}
