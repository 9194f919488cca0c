//! What a store has, digest by digest: for a receipt.

use artifact::Digest;

use crate::{Result, Store};

/// Digests that are read at a time.
const PAGE: i64 = 10_000;

impl Store {
    /// Hands every blob, and every manifest that is complete, to `take`, a page at a time: a store may have millions.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn held(&self, mut take: impl FnMut(Digest)) -> Result<()> {
        for page in [
            "SELECT digest FROM blob WHERE digest > $1 ORDER BY digest LIMIT $2",
            "SELECT digest FROM manifest WHERE digest > $1 AND complete = 1 ORDER BY digest LIMIT $2",
        ] {
            let mut last = Vec::new();
            loop {
                let found: Vec<Vec<u8>> = sqlx::query_scalar(page)
                    .bind(&last)
                    .bind(PAGE)
                    .fetch_all(self.db())
                    .await
                    .map_err(|error| self.failed(error))?;
                found.iter().filter_map(|bytes| Digest::from_bytes(bytes)).for_each(&mut take);
                match found.into_iter().next_back() {
                    Some(next) => last = next,
                    None => break,
                }
            }
        }
        Ok(())
    }
}
