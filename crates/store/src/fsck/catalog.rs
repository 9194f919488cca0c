//! What the catalog says, held against itself.

use std::collections::{HashMap, HashSet};

use artifact::{Digest, Hasher};

use super::{Finding, Fsck};
use crate::{Result, Store};

/// Rows that the catalog should have and has not: what a manifest that is complete carries, what a repository shows, and
/// what an entry names. The last column tells manifests from blobs.
const GONE: &str = "SELECT child, is_manifest FROM link JOIN manifest ON manifest.digest = parent \
      WHERE complete = 1 AND carried = 1 AND CASE WHEN is_manifest = 1 \
      THEN NOT EXISTS (SELECT 1 FROM manifest AS below WHERE below.digest = child) \
      ELSE NOT EXISTS (SELECT 1 FROM blob WHERE blob.digest = child) END \
    UNION SELECT digest, 1 FROM repository_manifest AS shown \
      WHERE NOT EXISTS (SELECT 1 FROM manifest WHERE manifest.digest = shown.digest) \
    UNION SELECT digest, 0 FROM repository_blob AS shown \
      WHERE NOT EXISTS (SELECT 1 FROM blob WHERE blob.digest = shown.digest) \
    UNION SELECT digest, kind = 'image' FROM entry JOIN repository ON repository.id = repository WHERE CASE WHEN kind = 'image' \
      THEN NOT EXISTS (SELECT 1 FROM manifest WHERE manifest.digest = entry.digest) \
      ELSE NOT EXISTS (SELECT 1 FROM blob WHERE blob.digest = entry.digest) END";

/// Manifests that are marked complete over a child that is not.
const HOLES: &str = "SELECT parent, child FROM link JOIN manifest ON manifest.digest = parent \
    WHERE complete = 1 AND carried = 1 AND is_manifest = 1 \
    AND EXISTS (SELECT 1 FROM manifest AS below WHERE below.digest = child AND below.complete = 0)";

/// Entries that offer what is there, and is not whole or not granted.
const NOT_OFFERABLE: &str = "SELECT kind, host, repository.name, entry.name, entry.digest FROM entry \
    JOIN repository ON repository.id = repository WHERE CASE WHEN kind = 'image' \
    THEN EXISTS (SELECT 1 FROM manifest WHERE manifest.digest = entry.digest) \
      AND NOT EXISTS (SELECT 1 FROM manifest JOIN repository_manifest AS granted USING (digest) \
      WHERE manifest.digest = entry.digest AND complete = 1 AND granted.repository = entry.repository) \
    ELSE EXISTS (SELECT 1 FROM blob WHERE blob.digest = entry.digest) \
      AND NOT EXISTS (SELECT 1 FROM blob JOIN repository_blob AS granted USING (digest) \
      WHERE blob.digest = entry.digest AND granted.repository = entry.repository) END";

type OfferRow = (String, String, String, String, Vec<u8>);

impl Store {
    /// Whether the database's own file is sound: what it says is worth nothing otherwise.
    pub(super) async fn check_database(&self, fsck: &mut Fsck) -> Result<()> {
        let said: Vec<String> = match sqlx::query_scalar("PRAGMA integrity_check(10)").fetch_all(self.db()).await {
            Ok(said) => said,
            Err(error) if crate::error::is_damage(&error) => vec![error.to_string()],
            Err(error) => return Err(self.failed(error)),
        };
        let wrong = said.into_iter().filter(|line| line != "ok");
        fsck.findings.extend(wrong.map(|what| Finding::Catalog { what }));
        Ok(())
    }

    /// Everything that can be told without reading a blob.
    pub(super) async fn check_catalog(&self, fsck: &mut Fsck) -> Result<()> {
        self.check_manifests(fsck).await?;
        self.check_rows(fsck).await?;
        self.check_entries(fsck).await
    }

    async fn check_manifests(&self, fsck: &mut Fsck) -> Result<()> {
        let mut after: Vec<u8> = Vec::new();
        loop {
            let rows: Vec<(Vec<u8>, Vec<u8>, String)> = sqlx::query_as(
                "SELECT digest, bytes, media_type FROM manifest WHERE digest > $1 ORDER BY digest LIMIT 100",
            )
            .bind(&after)
            .fetch_all(self.db())
            .await
            .map_err(|error| self.failed(error))?;
            let Some(last) = rows.last() else { return Ok(()) };
            after.clone_from(&last.0);
            for (digest, bytes, media_type) in rows {
                let Some(digest) = Digest::from_bytes(&digest) else { continue };
                fsck.manifests += 1;
                let mut hasher = Hasher::new(digest.algorithm());
                hasher.update(&bytes);
                let read = artifact::Manifest::parse(&bytes, &media_type);
                let (true, Ok(read)) = (hasher.finish() == digest, read) else {
                    let needed_by = self.needed_by(&digest).await?;
                    fsck.findings.push(Finding::CorruptManifest { digest, needed_by });
                    continue;
                };
                let said: HashSet<Digest> = read.links().map(|link| link.digest).collect();
                let kept: HashSet<Digest> = self.links(&digest).await?.into_iter().map(|link| link.child).collect();
                if said != kept {
                    let what = format!("it has {} links, the catalog {}", said.len(), kept.len());
                    fsck.findings.push(Finding::MisLinked { digest, what });
                }
            }
        }
    }

    async fn check_rows(&self, fsck: &mut Fsck) -> Result<()> {
        let gone: Vec<(Vec<u8>, bool)> =
            sqlx::query_as(GONE).fetch_all(self.db()).await.map_err(|error| self.failed(error))?;
        // Something may be both, by mistake of whoever named it: what names it as a manifest knows more.
        let mut all: HashMap<Digest, bool> = HashMap::new();
        for (digest, is_manifest) in gone {
            if let Some(digest) = Digest::from_bytes(&digest) {
                *all.entry(digest).or_default() |= is_manifest;
            }
        }
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort_unstable();
        for (digest, is_manifest) in all {
            let needed_by = self.needed_by(&digest).await?;
            fsck.findings.push(Finding::Gone { digest, is_manifest, needed_by });
        }
        let holes: Vec<(Vec<u8>, Vec<u8>)> =
            sqlx::query_as(HOLES).fetch_all(self.db()).await.map_err(|error| self.failed(error))?;
        for (parent, child) in holes {
            if let (Some(digest), Some(child)) = (Digest::from_bytes(&parent), Digest::from_bytes(&child)) {
                let what = format!("it is marked complete, but {child} is not");
                fsck.findings.push(Finding::MisLinked { digest, what });
            }
        }
        Ok(())
    }

    async fn check_entries(&self, fsck: &mut Fsck) -> Result<()> {
        let dangling: Vec<OfferRow> =
            sqlx::query_as(NOT_OFFERABLE).fetch_all(self.db()).await.map_err(|error| self.failed(error))?;
        for (kind, host, repository, name, digest) in dangling {
            if let Some(digest) = Digest::from_bytes(&digest) {
                let what =
                    format!("the {kind} {host}/{repository} offers it as `{name}`, but it is not whole or not granted");
                fsck.findings.push(Finding::MisLinked { digest, what });
            }
        }
        Ok(())
    }
}
