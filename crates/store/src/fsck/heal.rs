//! Putting right what a scrub found: what must be brought, from where it may be had, and what the catalog makes of it.
//!
//! Nothing gets another name, and no repository shows more than its entries say. Bytes come in as any others do, proven
//! by their digest and under a new key; a manifest's row is written again from the document.

use artifact::{Digest, Repository};

use super::{Finding, Fsck};
use crate::read::repository_of;
use crate::{Change, Hit, Result, Store};

/// Repositories that are told of something that was lost: it is asked for in one after the other.
const PLACES: i64 = 32;

/// Something whose bytes must be brought again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The blob or manifest.
    pub digest: Digest,
    /// Which of the two.
    pub is_manifest: bool,
    /// Its bytes, where the catalog knows.
    pub size: Option<u64>,
    /// Repositories that show it, or what leads to it.
    pub shown_by: Vec<Repository>,
    /// The entries that need it.
    pub needed_by: Vec<Hit>,
}

impl Fsck {
    /// What must be brought again, of what was found.
    fn lost(&self) -> impl Iterator<Item = (&Digest, bool, &[Hit])> {
        self.findings.iter().filter_map(|finding| match finding {
            Finding::Missing { digest, needed_by } | Finding::Corrupt { digest, needed_by, .. } => {
                Some((digest, false, needed_by.as_slice()))
            }
            Finding::CorruptManifest { digest, needed_by } => Some((digest, true, needed_by.as_slice())),
            Finding::Gone { digest, is_manifest, needed_by } => Some((digest, *is_manifest, needed_by.as_slice())),
            Finding::Catalog { .. } | Finding::MisLinked { .. } | Finding::Orphan { .. } => None,
        })
    }
}

impl Store {
    /// What must be brought again, and where it may be had.
    ///
    /// # Errors
    /// When the catalog does not answer.
    pub async fn lost(&self, fsck: &Fsck) -> Result<Vec<Lost>> {
        let mut all = Vec::new();
        for (digest, is_manifest, needed_by) in fsck.lost() {
            let size: Option<i64> = sqlx::query_scalar(
                "SELECT size FROM blob WHERE digest = $1 AND $2 = 0 UNION ALL SELECT size FROM link WHERE child = $1 LIMIT 1",
            )
            .bind(digest.as_bytes())
            .bind(is_manifest)
            .fetch_optional(self.db())
            .await
            .map_err(|error| self.failed(error))?;
            let shown: Vec<(String, String, String)> = sqlx::query_as(
                "WITH RECURSIVE above (digest) AS (SELECT $1 UNION SELECT parent FROM link JOIN above ON child = above.digest) \
                 SELECT kind, host, name FROM repository WHERE id IN ( \
                 SELECT repository FROM repository_blob JOIN above USING (digest) UNION \
                 SELECT repository FROM repository_manifest JOIN above USING (digest) UNION \
                 SELECT repository FROM entry JOIN above USING (digest)) ORDER BY kind, host, name LIMIT $2",
            )
            .bind(digest.as_bytes())
            .bind(PLACES)
            .fetch_all(self.db())
            .await
            .map_err(|error| self.failed(error))?;
            let shown_by = shown.into_iter().filter_map(|(kind, host, name)| repository_of(&kind, host, name));
            all.push(Lost {
                digest: *digest,
                is_manifest,
                size: size.map(i64::cast_unsigned),
                shown_by: shown_by.collect(),
                needed_by: needed_by.to_vec(),
            });
        }
        Ok(all)
    }

    /// Puts right what needs no bytes from elsewhere: the links of manifests whose documents are right, and that a
    /// repository shows what its entry names.
    ///
    /// # Errors
    /// When the catalog refuses.
    pub async fn relink(&self, fsck: &Fsck) -> Result<()> {
        for finding in &fsck.findings {
            let Finding::MisLinked { digest, .. } = finding else { continue };
            let mut change = Change::new();
            if let Some(stored) = self.manifest(digest).await? {
                change.heal_manifest(digest, stored.bytes, &stored.media_type);
            }
            for Hit { repository, .. } in self.entries_of(digest).await? {
                match repository.kind {
                    artifact::Kind::Image => change.grant_manifest(&repository, digest),
                    _ => change.grant_blob(&repository, digest),
                };
            }
            // What cannot be put right, for want of what is lost, stays found.
            match self.apply(change).await {
                Err(crate::Error::Mismatch { .. } | crate::Error::Manifest { .. } | crate::Error::Missing { .. }) => {}
                applied => drop(applied?),
            }
        }
        Ok(())
    }

    /// What is still wrong of what a scrub found, without hashing again what was right or what was brought since.
    ///
    /// # Errors
    /// As [`Store::fsck`].
    pub async fn recheck(&self, before: &Fsck) -> Result<Fsck> {
        let mut after = Fsck::default();
        for finding in &before.findings {
            let (Finding::Missing { digest, .. } | Finding::Corrupt { digest, .. }) = finding else { continue };
            if self.blob(digest).await?.is_none() {
                after.findings.push(finding.clone());
            }
        }
        self.check_catalog(&mut after).await?;
        Ok(after)
    }
}
