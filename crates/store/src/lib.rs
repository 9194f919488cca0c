//! Where it rests: blobs and a catalog, the same on both sides of the gap.
//!
//! ```text
//! STORE/
//! ├── naru.db                     the catalog (SQLite, WAL, synchronous=FULL)
//! ├── naru.db.kept                a copy of it, for the day on which it is lost
//! ├── naru.db.damaged-SECONDS     a catalog that was damaged, put aside by `fsck --rebuild`
//! ├── naru.db.format-1.SECONDS    the catalog as an older Naru wrote it, copied before it was changed
//! ├── naru.sock                   the holder's socket, while a server holds the store
//! ├── lock                        held (flock) by the one process that has the store open
//! ├── audit/                      who changed what, and who was refused (`serve` writes it)
//! ├── blobs/sha256/ab/abcd….KEY   every byte once; a key is never written twice
//! └── partial/                    what is being written; `sha256-abcd…` are continued by the next run, `upload-…` by
//!                                 the client that sends them
//! ```
//!
//! A [`Store`] is opened by one process. Bytes go in through a [`BlobWriter`] (hashed as they pass, fsynced, renamed
//! into place) and become visible only when a [`Change`] that names them is applied: one transaction that writes
//! blobs, manifests, links, grants and entries together. Concurrent changes share one commit (group commit).
//!
//! An entry names only what is *complete*: a change that would offer something with a hole in it is refused.

mod account;
mod blobs;
mod catalog;
mod change;
mod clock;
pub mod direct;
mod error;
mod fsck;
mod gc;
mod held;
mod incoming;
mod kept;
mod lock;
mod pages;
mod pulls;
mod read;
mod rebuild;
mod retention;
mod revoke;
mod socket;
mod sum;
mod uploads;
mod writer;

pub use account::{Account, AccountKind};
pub use change::{Applied, Cause, Change, Replaced};
pub use error::{Error, Result};
pub use fsck::{Finding, Fsck, Lost};
pub use gc::{Gone, Sweep, Swept};
pub use incoming::{Incoming, Written};
pub use read::{Blob, Candidate, Generation, Hit, Link, Referrer, StoredManifest, Usage};
pub use rebuild::{Origin, Rebuilt};
pub use retention::{Rule, Why};
pub use socket::{Call, Caller, Socket, call};
pub use sum::{Check, Sum};
pub use writer::{BlobWriter, NewBlob, Patchwork};

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use artifact::{Digest, Repository};

/// A store, held by this process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    catalog: catalog::Catalog,
    version: Arc<AtomicU64>,
    clock: Arc<clock::Clock>,
    /// When it was opened, in seconds since 1970: no writer of ours is older.
    opened: i64,
    /// The first fsync that failed: nothing is written after it.
    stopped: Arc<OnceLock<String>>,
    /// Manifests that were pulled, and of which the catalog does not know yet.
    pulls: Mutex<HashSet<(Repository, Digest)>>,
    /// How many blobs are written past the kernel's cache just now.
    direct: Arc<AtomicUsize>,
    /// Partial files that a writer of this process has in hand.
    in_hand: Mutex<HashSet<Digest>>,
    /// Held by who makes a copy of the catalog.
    keeping: tokio::sync::Mutex<()>,
    /// Released last.
    _lock: lock::Lock,
}

impl Store {
    /// Opens the store in `folder`, making it when there is none; takes its lock.
    ///
    /// # Errors
    /// [`Error::Held`] when another process holds it, [`Error::NoCatalog`] when there are bytes and no catalog,
    /// [`Error::Newer`] when a newer Naru wrote it, [`Error::Migration`]
    /// when an older one did and its catalog cannot be brought to this one's format, [`Error::NotAStore`]
    /// when something else is in the folder, [`Error::Io`] with the path otherwise.
    pub async fn open(folder: &Path) -> Result<Self> {
        blobs::lay_folders(folder)?;
        Self::open_as(folder, blobs::is_shared(folder)).await
    }

    /// As [`Store::open`], for a folder that other machines reach too (`NFSv4`, SMB): the catalog has one connection, which
    /// locks its file for as long as it is open, since shared memory does not reach that far. [`Store::open`] finds such
    /// folders by itself.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn open_shared(folder: &Path) -> Result<Self> {
        blobs::lay_folders(folder)?;
        Self::open_as(folder, true).await
    }

    async fn open_as(folder: &Path, shared: bool) -> Result<Self> {
        let lock = lock::Lock::take(folder)?;
        Self::open_locked(folder, shared, lock).await
    }

    async fn open_locked(folder: &Path, shared: bool, lock: lock::Lock) -> Result<Self> {
        let version = Arc::new(AtomicU64::new(1));
        let stopped = Arc::default();
        let clock = Arc::<clock::Clock>::default();
        let catalog =
            catalog::Catalog::open(folder, shared, Arc::clone(&version), Arc::clone(&stopped), Arc::clone(&clock))
                .await?;
        Ok(Self {
            inner: Arc::new(Inner {
                folder: folder.to_owned(),
                catalog,
                version,
                opened: clock::now(),
                clock,
                stopped,
                pulls: Mutex::default(),
                direct: Arc::default(),
                in_hand: Mutex::default(),
                keeping: tokio::sync::Mutex::default(),
                _lock: lock,
            }),
        })
    }

    /// Opens the store in `folder` for what only looks at it or changes what is there: none is made.
    ///
    /// # Errors
    /// [`Error::NoStore`] when there is none; as [`Store::open`].
    pub async fn open_existing(folder: &Path) -> Result<Self> {
        // What cannot be looked at is refused by name when it is opened; so is one that has lost its catalog.
        let is_missing = folder.join("naru.db").try_exists().is_ok_and(|exists| !exists);
        if is_missing && !blobs::was_a_store(folder) {
            return Err(Error::NoStore { path: folder.to_owned() });
        }
        Self::open(folder).await
    }

    /// The store's folder.
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// Ends all writing; what was acknowledged is in the database's own file then. The lock goes with the last clone.
    pub async fn close(&self) {
        self.inner.catalog.close().await;
    }

    /// Counts committed changes; whoever caches mutable names drops them when it moves.
    pub fn version(&self) -> u64 {
        self.inner.version.load(Ordering::Acquire)
    }

    /// Refuses to write once an fsync has failed.
    fn may_write(&self) -> Result<()> {
        match self.inner.stopped.get() {
            Some(why) => Err(Error::Stopped { path: self.inner.folder.clone(), why: why.clone() }),
            None => Ok(()),
        }
    }

    /// Whether an fsync has failed since it was opened: it reads, and writes no more.
    pub fn has_stopped(&self) -> bool {
        self.inner.stopped.get().is_some()
    }

    /// A failed fsync is never retried: the kernel may have dropped the pages and marked them clean.
    fn stop(&self, error: &Error) {
        let _ = self.inner.stopped.set(error.to_string());
    }
}
