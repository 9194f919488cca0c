//! Where it rests: blobs and a catalog, the same on both sides of the gap.
//!
//!     STORE/
//!     ├── naru.db                  the catalog (SQLite, WAL, synchronous=FULL)
//!     ├── naru.sock                the holder's socket, while a server holds the store
//!     ├── lock                     held (flock) by the one process that has the store open
//!     ├── blobs/sha256/ab/abcd….KEY   every byte once; a key is never written twice
//!     └── partial/                 what is being written; `sha256-abcd…` are continued by the next run
//!
//! A [`Store`] is opened by one process. Bytes go in through a [`BlobWriter`] (hashed as they pass, fsynced, renamed
//! into place) and become visible only when a [`Change`] that names them is applied: one transaction that writes
//! blobs, manifests, links, grants and entries together. Concurrent changes share one commit (group commit).

mod change;
mod error;
mod read;
mod writer;

pub use change::{Applied, Cause, Change, Replaced};
pub use error::{Error, Result};
pub use read::{Blob, Candidate, Hit, Link, Referrer, StoredManifest, Usage};
pub use writer::{BlobWriter, NewBlob, Patchwork};

use std::path::Path;

/// A store, held by this process. Cheap to clone.
#[derive(Clone)]
pub struct Store {}

impl Store {
    /// Opens the store in `folder`, making it when there is none; takes its lock.
    ///
    /// # Errors
    /// [`Error::Held`] when another process holds it, [`Error::Newer`] when a newer Naru wrote it, [`Error::Io`] with
    /// the path otherwise.
    pub async fn open(folder: &Path) -> Result<Self> {
        todo!("{}", folder.display())
    }

    /// The store's folder.
    pub fn folder(&self) -> &Path {
        todo!()
    }

    /// Ends all writing and releases the lock.
    pub async fn close(&self) {
        todo!()
    }

    /// Counts committed changes; whoever caches mutable names drops them when it moves.
    pub fn version(&self) -> u64 {
        todo!()
    }
}
