//! Grants that end: what a repository shall show no longer. The bytes stay until nothing needs them any more.

use std::sync::Arc;

use artifact::{Digest, Repository};

use crate::change::Writing;
use crate::{Change, Error, Result};

impl Change {
    /// Insists that this repository shows a blob when the change is made: whoever looked before may have been too early.
    pub fn require_blob(&mut self, repository: &Repository, digest: &Digest) -> &mut Self {
        let repository = self.whose(repository);
        self.required.push((repository, *digest));
        self
    }

    /// Ends a repository's right to show a blob. Refused ([`Error::Needed`]) while a manifest that it shows names it; of
    /// one that it does not show it is [`Error::Missing`].
    pub fn revoke_blob(&mut self, repository: &Repository, digest: &Digest) -> &mut Self {
        let repository = self.whose(repository);
        self.revoked_blobs.push((repository, *digest));
        self
    }

    /// Ends a repository's right to show a manifest, and removes its entries that name it. Of one that it does not show
    /// it is [`Error::Missing`].
    pub fn revoke_manifest(&mut self, repository: &Repository, digest: &Digest) -> &mut Self {
        let repository = self.whose(repository);
        self.revoked_manifests.push((repository, *digest));
        self
    }
}

impl Writing<'_> {
    pub(crate) async fn require(&mut self, blobs: &[(Arc<Repository>, Digest)]) -> Result<()> {
        for (repository, digest) in blobs {
            let id = self.repository(repository).await?;
            let granted =
                "SELECT 1 FROM repository_blob JOIN blob USING (digest) WHERE repository = $1 AND digest = $2";
            let granted: Option<i64> = sqlx::query_scalar(granted)
                .bind(id)
                .bind(digest.as_bytes())
                .fetch_optional(&mut *self.db)
                .await
                .map_err(|source| self.error(source))?;
            granted.ok_or_else(|| Error::Missing { repository: Repository::clone(repository), digest: *digest })?;
        }
        Ok(())
    }

    pub(crate) async fn revoke_blob(&mut self, repository: &Repository, digest: &Digest) -> Result<()> {
        let id = self.repository(repository).await?;
        // By what the manifest says, left out or not: somebody may bring the manifest again, and count on it.
        let needs = "SELECT parent FROM link JOIN repository_manifest AS shown ON shown.digest = parent \
                     WHERE child = $1 AND is_manifest = 0 AND repository = $2 LIMIT 1";
        let needs: Option<Vec<u8>> = sqlx::query_scalar(needs)
            .bind(digest.as_bytes())
            .bind(id)
            .fetch_optional(&mut *self.db)
            .await
            .map_err(|source| self.error(source))?;
        if let Some(by) = needs.and_then(|bytes| Digest::from_bytes(&bytes)) {
            return Err(Error::Needed { repository: repository.clone(), digest: *digest, by });
        }
        self.revoke("DELETE FROM repository_blob WHERE repository = $1 AND digest = $2", id, repository, digest).await
    }

    pub(crate) async fn revoke_manifest(&mut self, repository: &Arc<Repository>, digest: &Digest) -> Result<()> {
        let id = self.repository(repository).await?;
        let names: Vec<String> = sqlx::query_scalar("SELECT name FROM entry WHERE digest = $1 AND repository = $2")
            .bind(digest.as_bytes())
            .bind(id)
            .fetch_all(&mut *self.db)
            .await
            .map_err(|source| self.error(source))?;
        for name in names {
            self.remove(repository, &name).await?;
        }
        self.revoke("DELETE FROM repository_manifest WHERE repository = $1 AND digest = $2", id, repository, digest)
            .await
    }

    async fn revoke(
        &mut self,
        statement: &'static str,
        id: i64,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<()> {
        let done = sqlx::query(statement).bind(id).bind(digest.as_bytes()).execute(&mut *self.db).await;
        match done.map_err(|source| self.error(source))?.rows_affected() {
            0 => Err(Error::Missing { repository: repository.clone(), digest: *digest }),
            _ => Ok(()),
        }
    }
}
