//! Garbage collection: what nothing points at goes, while everything else goes on.
//!
//! First tags end by the rules of their repositories (`retention`). There is no mark phase then. The graph of digests has no cycle, so it is peeled: what no entry names and no manifest
//! points at is taken away, and then what that pointed at, until nothing more comes off.
//!
//! ```text
//! grants      a repository no longer shows a manifest that none of its entries and manifests leads to, nor a blob
//! manifests   the catalog forgets one that no repository shows and no manifest carries
//! blobs       the same; its key is condemned with the row that named it, then its bytes go, then the condemnation
//! ```
//!
//! A referrer lives with its subject and never keeps it. What was brought or asked for within the grace period stays
//! (`renewed`), as does what one of the last generations could be restored to, and what a receipt pins. Each step is a
//! short transaction of its own, which asks again before it takes away, on the one connection that writes: nobody
//! grants, links or names a digest in between. A run that was cut short is simply begun again. Whoever brings the same
//! bytes meanwhile brings them under another key, since a key is never written twice.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use artifact::{Digest, Repository};
use sqlx::SqliteConnection;

use crate::retention::{self, Expired, Rule, Why};
use crate::{Cause, Change, Result, Store, blobs, catalog, change};

/// Rows that one step looks at.
const STEP: i64 = 1000;

/// What a collection takes away.
pub struct Sweep<'a> {
    /// Only what was last brought, asked for or let go of before this, in seconds since 1970.
    pub before: i64,
    /// So many of the last generations can still be restored afterwards. What an operator removed on purpose, and what
    /// local repositories had before, is not kept for that.
    pub keep: u32,
    /// Which tags end before that.
    pub rules: &'a [Rule],
    /// Who asked for it, as the history has it.
    pub by: &'a str,
    /// Whether a digest stays, whatever leads to it.
    pub pinned: &'a (dyn Fn(&Digest) -> bool + Sync),
    /// Hears of everything that goes.
    pub report: &'a (dyn Fn(Gone) + Sync),
    /// Takes nothing away, and says what would go. Nobody else writes to the store meanwhile.
    pub dry_run: bool,
}

/// Something that went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gone {
    /// A tag ended by a rule.
    Tag {
        /// The repository.
        repository: Repository,
        /// The tag.
        name: String,
        /// What it named.
        digest: Digest,
        /// Why.
        why: Why,
    },
    /// A repository shows this no longer.
    Grant {
        /// The repository.
        repository: Repository,
        /// The manifest or blob.
        digest: Digest,
        /// Which of the two.
        is_manifest: bool,
    },
    /// No repository showed this manifest.
    Manifest {
        /// The manifest.
        digest: Digest,
    },
    /// No repository showed this blob.
    Blob {
        /// The blob.
        digest: Digest,
        /// Its bytes.
        size: u64,
    },
}

/// How much went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Tags that ended.
    pub tags: u64,
    /// What repositories no longer show.
    pub grants: u64,
    /// Manifests that are gone.
    pub manifests: u64,
    /// Blobs that are gone.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A manifest that a repository shows, although nothing leads to it there. `$1` is the time before which it was renewed,
/// `$2` how many generations are kept.
const LOOSE_MANIFEST: &str = "granted.renewed < $1 \
    AND NOT EXISTS (SELECT 1 FROM entry WHERE entry.digest = granted.digest AND entry.repository = granted.repository) \
    AND NOT EXISTS (SELECT 1 FROM link JOIN repository_manifest AS parent ON parent.digest = link.parent \
      AND parent.repository = granted.repository WHERE link.child = granted.digest) \
    AND NOT EXISTS (SELECT 1 FROM manifest JOIN repository_manifest AS subject ON subject.digest = manifest.subject \
      AND subject.repository = granted.repository WHERE manifest.digest = granted.digest)";

/// The same of a blob.
const LOOSE_BLOB: &str = "granted.renewed < $1 \
    AND NOT EXISTS (SELECT 1 FROM entry WHERE entry.digest = granted.digest AND entry.repository = granted.repository) \
    AND NOT EXISTS (SELECT 1 FROM link JOIN repository_manifest AS parent ON parent.digest = link.parent \
      AND parent.repository = granted.repository WHERE link.child = granted.digest)";

/// What an entry was that one of the last generations could be restored to. Local repositories are not restored unless
/// asked, and what was removed on purpose shall go.
const NOT_KEPT: &str = "NOT EXISTS (SELECT 1 FROM change JOIN repository ON repository.id = change.repository \
      LEFT JOIN generation ON generation.number = change.generation \
      WHERE change.repository = granted.repository AND host <> '' \
      AND old IS NOT NULL AND json_extract(old, '$.digest') = CASE length(granted.digest) WHEN 32 THEN 'sha256:' ELSE 'sha512:' END \
        || lower(hex(granted.digest)) \
      AND change.generation > (SELECT coalesce(max(number), 0) FROM generation) - $2 \
      AND (new IS NOT NULL OR coalesce(action, '') NOT IN ('rm', 'delete', 'gc')))";

const LOOSE_ROW: &str = "renewed < $1 AND NOT EXISTS (SELECT 1 FROM link WHERE child = row.digest AND carried = 1)";

type GrantRow = (String, String, String, Vec<u8>);

/// Where a walk over a table stands.
type Place = (i64, Vec<u8>);

/// One step: what went of the rows after `after`, and where the next begins.
struct Step {
    gone: Vec<Gone>,
    next: Option<Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    ManifestGrants,
    BlobGrants,
    Manifests,
    Blobs,
}

impl Layer {
    /// In this order: each is held by the one before it.
    const ALL: [Self; 4] = [Self::ManifestGrants, Self::BlobGrants, Self::Manifests, Self::Blobs];

    /// Whether things of this layer hold one another.
    fn is_deep(self) -> bool {
        matches!(self, Self::ManifestGrants | Self::Manifests)
    }
}

impl Store {
    /// Takes away what nothing leads to any more. Everybody else goes on meanwhile.
    ///
    /// # Errors
    /// When the catalog refuses; what went until then is gone, and the next run goes on.
    pub async fn gc(&self, sweep: &Sweep<'_>) -> Result<Swept> {
        if sweep.dry_run {
            return self.rehearse(sweep).await;
        }
        self.may_write()?;
        self.bury().await?;
        let mut swept = Swept::default();
        self.end_tags(sweep, &mut swept).await?;
        for layer in Layer::ALL {
            let mut changed = false;
            loop {
                let mut went = 0;
                let mut place = Some((0, Vec::new()));
                while let Some(after) = place {
                    let mut step = None;
                    let committed = catalog::transaction(self.inner.catalog.writer(), async |db| {
                        step = Some(take(db, layer, &after, sweep).await?);
                        Ok(())
                    });
                    committed.await.map_err(|error| self.failed(error))?;
                    let Some(Step { gone, next }) = step else { break };
                    went += gone.len();
                    swept.count(&gone);
                    if layer == Layer::Blobs && !gone.is_empty() {
                        self.bury().await?;
                    }
                    gone.into_iter().for_each(sweep.report);
                    place = next;
                }
                changed |= went > 0;
                if went == 0 || !layer.is_deep() {
                    break;
                }
            }
            if changed {
                // Whoever has it in memory, or open, lets go of it.
                self.inner.version.fetch_add(1, Ordering::AcqRel);
            }
        }
        Ok(swept)
    }

    /// Ends tags by their rules: as one generation, as far as they still are what they were when they were looked at.
    async fn end_tags(&self, sweep: &Sweep<'_>, swept: &mut Swept) -> Result<()> {
        if sweep.rules.is_empty() {
            return Ok(());
        }
        self.write_pulls().await?;
        let mut reader = self.db().acquire().await.map_err(|error| self.failed(error))?;
        let expired = retention::expired(&mut reader, sweep.rules, self.now()).await;
        let expired = expired.map_err(|error| self.failed(error))?;
        drop(reader);
        if expired.is_empty() {
            return Ok(());
        }
        let applied = self.apply(ending(&expired, sweep.by)).await?;
        let ended: HashSet<_> = applied.replaced.iter().map(|gone| (&*gone.repository, &gone.name)).collect();
        let ended = |one: &Expired| ended.contains(&(&one.repository, &one.name));
        let gone: Vec<Gone> = expired.iter().filter(|one| ended(one)).map(gone).collect();
        swept.count(&gone);
        gone.into_iter().for_each(sweep.report);
        Ok(())
    }

    /// The same in one transaction, which is taken back.
    async fn rehearse(&self, sweep: &Sweep<'_>) -> Result<Swept> {
        let (mut swept, mut done, mut all, mut refused) = (Swept::default(), false, Vec::new(), None);
        if !sweep.rules.is_empty() {
            self.write_pulls().await?;
        }
        let (now, path) = (self.now(), self.inner.catalog.path());
        let rehearsed = catalog::transaction(self.inner.catalog.writer(), async |db| {
            let expired = retention::expired(db, sweep.rules, now).await?;
            if let Err(error) = change::write(db, &mut ending(&expired, sweep.by), self.folder(), path, now).await {
                refused = Some(error);
                return Err(sqlx::Error::RowNotFound);
            }
            all.extend(expired.iter().map(gone));
            swept.count(&all);
            for layer in Layer::ALL {
                loop {
                    let mut went = 0;
                    let mut place = Some((0, Vec::new()));
                    while let Some(after) = place {
                        let Step { gone, next } = take(db, layer, &after, sweep).await?;
                        went += gone.len();
                        swept.count(&gone);
                        // Told afterwards: whoever reads it page by page keeps nobody from writing.
                        all.extend(gone);
                        place = next;
                    }
                    if went == 0 || !layer.is_deep() {
                        break;
                    }
                }
            }
            done = true;
            Err(sqlx::Error::RowNotFound)
        });
        match rehearsed.await {
            Err(error) if !done => return Err(refused.unwrap_or_else(|| self.failed(error))),
            _ => {}
        }
        all.into_iter().for_each(sweep.report);
        Ok(swept)
    }

    /// Removes the bytes of condemned keys; those that an earlier run left, too.
    async fn bury(&self) -> Result<()> {
        let keys: Vec<String> = sqlx::query_scalar("SELECT key FROM condemned")
            .fetch_all(self.inner.catalog.writer())
            .await
            .map_err(|error| self.failed(error))?;
        if keys.is_empty() {
            return Ok(());
        }
        let folder = self.folder().to_owned();
        let removed = tokio::task::spawn_blocking(move || {
            let is_gone = |key: &String| match std::fs::remove_file(blobs::place(&folder, key)) {
                Ok(()) => true,
                Err(error) => error.kind() == std::io::ErrorKind::NotFound,
            };
            // What cannot be removed now stays condemned.
            keys.into_iter().filter(is_gone).collect::<Vec<_>>()
        });
        let removed = removed.await.unwrap_or_default();
        let forgotten = catalog::transaction(self.inner.catalog.writer(), async |db| {
            for key in &removed {
                sqlx::query("DELETE FROM condemned WHERE key = $1").bind(key).execute(&mut *db).await?;
            }
            Ok(())
        });
        forgotten.await.map_err(|error| self.failed(error))
    }
}

impl Swept {
    fn count(&mut self, gone: &[Gone]) {
        for gone in gone {
            match gone {
                Gone::Tag { .. } => self.tags += 1,
                Gone::Grant { .. } => self.grants += 1,
                Gone::Manifest { .. } => self.manifests += 1,
                Gone::Blob { size, .. } => {
                    self.blobs += 1;
                    self.bytes += size;
                }
            }
        }
    }
}

/// What ends tags.
fn ending(expired: &[Expired], by: &str) -> Change {
    let cause = Cause { action: "gc".to_owned(), subject: "retention".to_owned(), by: by.to_owned() };
    let mut change = Change::because(cause);
    for Expired { repository, name, digest, seen, .. } in expired {
        change.remove_unchanged(repository, name, *digest, *seen);
    }
    change
}

fn gone(Expired { repository, name, digest, why, .. }: &Expired) -> Gone {
    Gone::Tag { repository: repository.clone(), name: name.clone(), digest: *digest, why: *why }
}

/// Takes away what is loose among the rows of a layer that come next.
async fn take(db: &mut SqliteConnection, layer: Layer, after: &Place, sweep: &Sweep<'_>) -> sqlx::Result<Step> {
    match layer {
        Layer::ManifestGrants => grants(db, "repository_manifest", LOOSE_MANIFEST, after, sweep).await,
        Layer::BlobGrants => grants(db, "repository_blob", LOOSE_BLOB, after, sweep).await,
        Layer::Manifests => manifests(db, after, sweep).await,
        Layer::Blobs => blob_rows(db, after, sweep).await,
    }
}

/// A statement made of our own constants.
fn statement(parts: &[&str]) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(parts.concat())
}

/// What repositories show although nothing leads to it, between two places.
fn loose_grants(table: &str, loose: &str) -> sqlx::AssertSqlSafe<String> {
    statement(&[
        "SELECT repository, digest FROM ",
        table,
        " AS granted WHERE (repository, digest) > ($3, $4) AND ($5 = 0 OR (repository, digest) <= ($6, $7)) AND ",
        loose,
        " AND ",
        NOT_KEPT,
    ])
}

async fn grants(
    db: &mut SqliteConnection,
    table: &str,
    loose: &str,
    (repository, digest): &Place,
    sweep: &Sweep<'_>,
) -> sqlx::Result<Step> {
    // To where this step looks: a range of the table, so that a step is short whatever it finds.
    let end: Option<Place> = sqlx::query_as(statement(&[
        "SELECT repository, digest FROM ",
        table,
        " WHERE (repository, digest) > ($1, $2) ORDER BY repository, digest LIMIT 1 OFFSET $3",
    ]))
    .bind(repository)
    .bind(digest)
    .bind(STEP - 1)
    .fetch_optional(&mut *db)
    .await?;
    let found: Vec<(i64, Vec<u8>)> = sqlx::query_as(loose_grants(table, loose))
        .bind(sweep.before)
        .bind(i64::from(sweep.keep))
        .bind(repository)
        .bind(digest)
        .bind(end.is_some())
        .bind(end.as_ref().map_or(0, |end| end.0))
        .bind(end.as_ref().map_or_else(Vec::new, |end| end.1.clone()))
        .fetch_all(&mut *db)
        .await?;
    let mut gone = Vec::new();
    for (repository, digest) in found {
        let removed: Vec<GrantRow> = sqlx::query_as(statement(&[
            "DELETE FROM ",
            table,
            " WHERE repository = $1 AND digest = $2 RETURNING \
             (SELECT kind FROM repository WHERE id = repository), (SELECT host FROM repository WHERE id = repository), \
             (SELECT name FROM repository WHERE id = repository), digest",
        ]))
        .bind(repository)
        .bind(&digest)
        .fetch_all(&mut *db)
        .await?;
        gone.extend(removed.into_iter().filter_map(|(kind, host, name, digest)| {
            Some(Gone::Grant {
                repository: crate::read::repository_of(&kind, host, name)?,
                digest: Digest::from_bytes(&digest)?,
                is_manifest: table == "repository_manifest",
            })
        }));
    }
    Ok(Step { gone, next: end })
}

/// Digests of the rows of a table that come next and are loose, and where the step after this one begins.
async fn loose_rows(
    db: &mut SqliteConnection,
    table: &str,
    shown: &str,
    after: &[u8],
    sweep: &Sweep<'_>,
) -> sqlx::Result<(Vec<Digest>, Option<Place>)> {
    let end: Option<Vec<u8>> = sqlx::query_scalar(statement(&[
        "SELECT digest FROM ",
        table,
        " WHERE digest > $1 ORDER BY digest LIMIT 1 OFFSET $2",
    ]))
    .bind(after)
    .bind(STEP - 1)
    .fetch_optional(&mut *db)
    .await?;
    let found: Vec<Vec<u8>> = sqlx::query_scalar(statement(&[
        "SELECT digest FROM ",
        table,
        " AS row WHERE digest > $2 AND ($3 = 0 OR digest <= $4) AND ",
        LOOSE_ROW,
        " AND NOT EXISTS (SELECT 1 FROM ",
        shown,
        " AS granted WHERE granted.digest = row.digest)",
    ]))
    .bind(sweep.before)
    .bind(after)
    .bind(end.is_some())
    .bind(end.clone().unwrap_or_default())
    .fetch_all(&mut *db)
    .await?;
    let digests = found.iter().filter_map(|bytes| Digest::from_bytes(bytes));
    Ok((digests.filter(|digest| !(sweep.pinned)(digest)).collect(), end.map(|end| (0, end))))
}

async fn manifests(db: &mut SqliteConnection, after: &Place, sweep: &Sweep<'_>) -> sqlx::Result<Step> {
    let (loose, next) = loose_rows(db, "manifest", "repository_manifest", &after.1, sweep).await?;
    for digest in &loose {
        for statement in ["DELETE FROM link WHERE parent = $1", "DELETE FROM manifest WHERE digest = $1"] {
            sqlx::query(statement).bind(digest.as_bytes()).execute(&mut *db).await?;
        }
    }
    let gone = loose.into_iter().map(|digest| Gone::Manifest { digest }).collect();
    Ok(Step { gone, next })
}

async fn blob_rows(db: &mut SqliteConnection, after: &Place, sweep: &Sweep<'_>) -> sqlx::Result<Step> {
    let (loose, next) = loose_rows(db, "blob", "repository_blob", &after.1, sweep).await?;
    let mut gone = Vec::new();
    for digest in loose {
        let row: (i64, String) = sqlx::query_as("DELETE FROM blob WHERE digest = $1 RETURNING size, key")
            .bind(digest.as_bytes())
            .fetch_one(&mut *db)
            .await?;
        sqlx::query("INSERT INTO condemned (key) VALUES ($1) ON CONFLICT DO NOTHING")
            .bind(&row.1)
            .execute(&mut *db)
            .await?;
        gone.push(Gone::Blob { digest, size: row.0.cast_unsigned() });
    }
    Ok(Step { gone, next })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a step costs grows with what it looks at, and with nothing else that is in the store.
    #[tokio::test]
    async fn every_question_goes_by_an_index() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        for (table, loose) in [("repository_manifest", LOOSE_MANIFEST), ("repository_blob", LOOSE_BLOB)] {
            let sqlx::AssertSqlSafe(question) = loose_grants(table, loose);
            let mut plan = sqlx::query_as::<_, (i64, i64, i64, String)>(statement(&["EXPLAIN QUERY PLAN ", &question]));
            for _ in 0..7 {
                plan = plan.bind(0_i64);
            }
            let plan = plan.fetch_all(store.db()).await.unwrap();
            let plan: Vec<String> = plan.into_iter().map(|(.., step)| step).collect();
            assert!(plan.iter().all(|step| !step.starts_with("SCAN")), "{plan:#?}");
            assert!(plan.iter().any(|step| step.contains("INDEX change_old")), "{plan:#?}");
        }
    }
}
