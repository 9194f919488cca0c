//! A copy of the catalog, for the day on which the catalog is lost.
//!
//! The blobs say themselves what they are; what they are called, who may see them and who may come in is in the catalog
//! alone. So a copy of it lies beside it, whole and as old as the last work that ended an hour or more after the one
//! before. It is one file, replaced by a rename, and takes as much room as the catalog does.

use std::time::Duration;

use crate::{Result, Store, catalog};

/// The copy, in the store's folder.
pub(crate) const NAME: &str = "naru.db.kept";
/// Room that is left to others on the disk.
const SPARE: u64 = 64 << 20;

impl Store {
    /// Copies the catalog, unless there is a copy that is younger than `age`, another one is being made, or the disk has
    /// no room for it. Answers whether one was made. Others read and write meanwhile, but on a network file system.
    ///
    /// # Errors
    /// When the copy cannot be written; the one before stays.
    pub async fn keep_catalog(&self, age: Duration) -> Result<bool> {
        let Ok(_keeping) = self.inner.keeping.try_lock() else { return Ok(false) };
        self.may_write()?;
        let (path, copy) = (self.folder().join("naru.db"), self.folder().join(NAME));
        let made = std::fs::metadata(&copy).and_then(|file| file.modified()).ok();
        if made.and_then(|made| made.elapsed().ok()).is_some_and(|old| old < age) {
            return Ok(false);
        }
        let size = |name: &str| std::fs::metadata(self.folder().join(name)).map_or(0, |file| file.len());
        let needed = size("naru.db") + size("naru.db-wal");
        if needed.saturating_add(SPARE) > self.free_space()? {
            tracing::warn!("no copy of the catalog is made: the disk has no room for {needed} bytes more");
            return Ok(false);
        }
        catalog::copy(self.folder(), &path, self.db(), &copy).await.map(|()| true)
    }
}
