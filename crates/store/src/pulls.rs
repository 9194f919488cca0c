//! When what was pulled. Pulls are answered from memory, and so they are noted there; the catalog is told now and then,
//! all at once. A kill loses what was noted since.

use std::sync::PoisonError;

use artifact::{Digest, Repository};

use crate::{Result, Store, catalog};

/// Notes that wait at most. Each takes some 200 bytes.
const MOST: usize = 20_000;
/// Rows that one transaction writes.
const STEP: usize = 1000;

impl Store {
    /// Notes that somebody pulled a manifest from a repository. `false`: too much is noted already; it is again when that
    /// is written.
    pub fn note_pull(&self, repository: &Repository, digest: &Digest) -> bool {
        let mut pulls = self.inner.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        let room = pulls.len() < MOST;
        if room {
            pulls.insert((repository.clone(), *digest));
        }
        room
    }

    /// Writes down what was pulled since this was last done, as pulled now.
    ///
    /// # Errors
    /// When the catalog refuses; the notes are kept then.
    pub async fn write_pulls(&self) -> Result<()> {
        let noted: Vec<_> = {
            let mut pulls = self.inner.pulls.lock().unwrap_or_else(PoisonError::into_inner);
            pulls.drain().collect()
        };
        for (written, some) in noted.chunks(STEP).enumerate() {
            let done = self.write_some(some).await;
            if done.is_err() {
                let mut pulls = self.inner.pulls.lock().unwrap_or_else(PoisonError::into_inner);
                pulls.extend(noted.iter().skip(written * STEP).take(MOST).cloned());
                return done;
            }
        }
        Ok(())
    }

    /// Nobody who has an answer in memory need hear of it: the store's version stays.
    async fn write_some(&self, noted: &[(Repository, Digest)]) -> Result<()> {
        self.may_write()?;
        let now = self.now();
        let written = catalog::transaction(self.inner.catalog.writer(), async |db| {
            for (repository, digest) in noted {
                sqlx::query(
                    "UPDATE repository_manifest SET pulled = $1 WHERE digest = $2 AND repository = \
                     (SELECT id FROM repository WHERE kind = $3 AND host = $4 AND name = $5)",
                )
                .bind(now)
                .bind(digest.as_bytes())
                .bind(repository.kind.as_str())
                .bind(&repository.host)
                .bind(&repository.name)
                .execute(&mut *db)
                .await?;
            }
            Ok(())
        });
        written.await.map_err(|error| self.failed(error))
    }
}
