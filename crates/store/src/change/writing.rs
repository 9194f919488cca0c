//! Writing a change into the catalog, inside a transaction.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use artifact::{Digest, Entry, Repository, valid_path, valid_tag};
use sqlx::SqliteConnection;

use super::{Cause, Change, Changed, Manifested, Renewal, Replaced, State};
use crate::{Error, NewBlob, Result, blobs};

/// Writes one change inside the group's transaction.
pub(crate) async fn write(
    db: &mut SqliteConnection,
    change: &mut Change,
    folder: &Path,
    path: &Path,
    now: i64,
) -> Result<Changed> {
    let mut writing = Writing {
        db,
        folder,
        path,
        now,
        cause: change.cause.clone(),
        generation: None,
        known: None,
        arrived: Vec::new(),
        changed: Changed::default(),
    };
    for (repository, blob) in &change.blobs {
        writing.changed.leftovers.extend(blob.partial.clone());
        writing.blob(repository.as_deref(), blob).await?;
    }
    for (repository, digest) in &change.blob_grants {
        writing.grant_blob(repository, digest).await?;
    }
    for renewal in &change.renewals {
        writing.renew(renewal).await?;
    }
    writing.require(&change.required).await?;
    writing.complete_what_can_be().await?;
    for manifest in &change.manifests {
        writing.manifest(manifest).await?;
    }
    for (repository, digest) in &change.manifest_grants {
        writing.grant_manifest(repository, digest).await?;
    }
    if let Some((generation, local)) = change.back_to {
        writing.back_to(generation, local, change).await?;
    }
    for (repository, entry) in &change.entries {
        writing.entry(repository, entry, change.force).await?;
    }
    for (repository, name, was) in &change.removed {
        if was.is_none() || *was == writing.state(repository, name).await? {
            writing.remove(repository, name).await?;
        }
    }
    for (repository, digest) in &change.revoked_manifests {
        writing.revoke_manifest(repository, digest).await?;
    }
    for (repository, digest) in &change.revoked_blobs {
        writing.revoke_blob(repository, digest).await?;
    }
    Ok(writing.changed)
}

pub(crate) struct Writing<'a> {
    pub(crate) db: &'a mut SqliteConnection,
    /// The store's folder, and the database's file in it.
    folder: &'a Path,
    path: &'a Path,
    /// Seconds since 1970.
    now: i64,
    cause: Option<Cause>,
    /// The generation that what it does to entries belongs to, once it did something.
    generation: Option<i64>,
    /// The repository that was asked for last, and its number: most changes are of one.
    known: Option<(Repository, i64)>,
    /// Digests that are present since this change, whose parents may now be complete.
    arrived: Vec<Digest>,
    changed: Changed,
}

type EntryRow = (Vec<u8>, i64, i64, String, String);

impl Writing<'_> {
    pub(crate) async fn repository(&mut self, repository: &Repository) -> Result<i64> {
        match &self.known {
            Some((known, id)) if known == repository => Ok(*id),
            _ => {
                let id = self.number(repository).await?;
                self.known = Some((repository.clone(), id));
                Ok(id)
            }
        }
    }

    async fn number(&mut self, repository: &Repository) -> Result<i64> {
        let (kind, host, name) = (repository.kind.as_str(), &repository.host, &repository.name);
        let found = sqlx::query_scalar("SELECT id FROM repository WHERE kind = $1 AND host = $2 AND name = $3")
            .bind(kind)
            .bind(host)
            .bind(name)
            .fetch_optional(&mut *self.db)
            .await
            .map_err(|source| self.error(source))?;
        if let Some(id) = found {
            return Ok(id);
        }
        let checked = repository.clone().check();
        checked.map_err(|_| Error::Name(repository.to_string()))?;
        sqlx::query_scalar("INSERT INTO repository (kind, host, name) VALUES ($1, $2, $3) RETURNING id")
            .bind(kind)
            .bind(host)
            .bind(name)
            .fetch_one(&mut *self.db)
            .await
            .map_err(|source| self.error(source))
    }

    async fn blob(&mut self, repository: Option<&Repository>, blob: &NewBlob) -> Result<()> {
        let statement = "INSERT INTO blob (digest, size, key, renewed) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
        let written = sqlx::query(statement)
            .bind(blob.digest.as_bytes())
            .bind(integer(blob.size))
            .bind(&blob.key)
            .bind(self.now)
            .execute(&mut *self.db)
            .await
            .map_err(|source| self.error(source))?;
        if written.rows_affected() > 0 {
            self.arrived.push(blob.digest);
        } else {
            self.spare_or_heal(blob).await?;
        }
        match repository {
            Some(repository) => self.grant_blob(repository, &blob.digest).await,
            None => Ok(()),
        }
    }

    /// The catalog names such a blob already: the new bytes are a spare copy, unless those it names were lost since.
    async fn spare_or_heal(&mut self, blob: &NewBlob) -> Result<()> {
        let (size, key): (i64, String) = sqlx::query_as("SELECT size, key FROM blob WHERE digest = $1")
            .bind(blob.digest.as_bytes())
            .fetch_one(&mut *self.db)
            .await
            .map_err(|source| self.error(source))?;
        if size == integer(blob.size) && blobs::is_there(self.folder, &key, blob.size) {
            self.changed.copies.push(blob.key.clone());
            return self.renew(&Renewal::Thing(blob.digest)).await;
        }
        sqlx::query("UPDATE blob SET size = $2, key = $3, renewed = $4 WHERE digest = $1")
            .bind(blob.digest.as_bytes())
            .bind(integer(blob.size))
            .bind(&blob.key)
            .bind(self.now)
            .execute(&mut *self.db)
            .await
            .map_err(|source| self.error(source))?;
        // What is left of the old bytes is of no use to anybody.
        self.changed.copies.push(key);
        Ok(())
    }

    async fn renew(&mut self, renewal: &Renewal) -> Result<()> {
        let (statements, repository, digest): (&[&'static str], i64, &Digest) = match renewal {
            Renewal::Thing(digest) => (
                &[
                    "UPDATE blob SET renewed = $3 WHERE digest = $2 AND $1 = 0",
                    "UPDATE manifest SET renewed = $3 WHERE digest = $2 AND $1 = 0",
                ],
                0,
                digest,
            ),
            Renewal::Grant(repository, digest) => (
                &[
                    "UPDATE repository_blob SET renewed = $3 WHERE repository = $1 AND digest = $2",
                    "UPDATE repository_manifest SET renewed = $3 WHERE repository = $1 AND digest = $2",
                ],
                self.repository(repository).await?,
                digest,
            ),
        };
        for statement in statements {
            self.grant(statement, repository, digest).await?;
        }
        Ok(())
    }

    async fn grant_blob(&mut self, repository: &Repository, digest: &Digest) -> Result<()> {
        if !self.has("SELECT 1 FROM blob WHERE digest = $1", digest).await? {
            return Err(Error::Missing { repository: repository.clone(), digest: *digest });
        }
        let id = self.repository(repository).await?;
        self.grant(
            "INSERT INTO repository_blob (repository, digest, renewed) VALUES ($1, $2, $3) \
             ON CONFLICT DO UPDATE SET renewed = excluded.renewed",
            id,
            digest,
        )
        .await
    }

    async fn grant_manifest(&mut self, repository: &Repository, digest: &Digest) -> Result<()> {
        if !self.has("SELECT 1 FROM manifest WHERE digest = $1", digest).await? {
            return Err(Error::Missing { repository: repository.clone(), digest: *digest });
        }
        let id = self.repository(repository).await?;
        self.grant(
            "INSERT INTO repository_manifest (repository, digest, renewed) VALUES ($1, $2, $3) \
             ON CONFLICT DO UPDATE SET renewed = excluded.renewed",
            id,
            digest,
        )
        .await
    }

    async fn manifest(&mut self, given: &Manifested) -> Result<()> {
        let Manifested { repository, digest, bytes, media_type, omitted } = given;
        let mut hasher = artifact::Hasher::new(digest.algorithm());
        hasher.update(bytes);
        let found = hasher.finish();
        if found != *digest {
            return Err(Error::Mismatch { expected: *digest, found });
        }
        let read = artifact::Manifest::parse(bytes, media_type)
            .map_err(|source| Error::Manifest { digest: *digest, source })?;
        let annotations = read.annotations.as_ref().and_then(|map| serde_json::to_string(map).ok());
        sqlx::query(
            "INSERT INTO manifest (digest, bytes, media_type, artifact_type, subject, annotations, complete, renewed) \
             VALUES ($1, $2, $3, $4, $5, $6, 0, $7) ON CONFLICT DO UPDATE SET renewed = excluded.renewed, \
             bytes = excluded.bytes, artifact_type = excluded.artifact_type, subject = excluded.subject, \
             annotations = excluded.annotations",
        )
        .bind(digest.as_bytes())
        .bind(bytes.as_ref())
        .bind(&read.media_type)
        .bind(&read.artifact_type)
        .bind(read.subject.as_ref().map(|subject| subject.digest.as_bytes().to_vec()))
        .bind(annotations)
        .bind(self.now)
        .execute(&mut *self.db)
        .await
        .map_err(|source| self.error(source))?;
        let heals = repository.is_none();
        if heals {
            self.unlink_strangers(digest, &read).await?;
        }
        let children = read.manifests.iter().map(|child| (child, true));
        for (child, is_manifest) in children.chain(read.blobs().map(|blob| (blob, false))) {
            let present = self.is_present(&child.digest, is_manifest).await?;
            let wanted = !omitted.contains(&child.digest) && (present || !(heals && is_manifest));
            let carried = wanted && (present || !child.is_foreign());
            // A link that is carried stays so: another list wanted it. One that was omitted is carried from the moment
            // its child is present, so that what is offered never gets a hole. One that waits in vain for its child
            // (the volume with it was lost) gives way to a wish without it; nothing that is offered has such a link.
            sqlx::query(
                "INSERT INTO link (parent, child, is_manifest, carried, size) VALUES ($1, $2, $3, $4, $5) \
                 ON CONFLICT DO UPDATE SET carried = $6 WHERE (carried = 0 AND $6) OR (carried = 1 AND $7)",
            )
            .bind(digest.as_bytes())
            .bind(child.digest.as_bytes())
            .bind(is_manifest)
            .bind(carried)
            .bind(integer(child.size))
            .bind(wanted && present)
            .bind(!wanted && !present && !heals)
            .execute(&mut *self.db)
            .await
            .map_err(|source| self.error(source))?;
        }
        self.arrived.push(*digest);
        self.complete_what_can_be().await?;
        match repository {
            Some(repository) => self.grant_manifest(repository, digest).await,
            None => Ok(()),
        }
    }

    /// Takes away links to what a manifest does not point at.
    async fn unlink_strangers(&mut self, digest: &Digest, read: &artifact::Manifest) -> Result<()> {
        let said: HashSet<&[u8]> = read.links().map(|link| link.digest.as_bytes()).collect();
        let kept: Vec<Vec<u8>> = sqlx::query_scalar("SELECT child FROM link WHERE parent = $1")
            .bind(digest.as_bytes())
            .fetch_all(&mut *self.db)
            .await
            .map_err(|source| self.error(source))?;
        for child in kept.iter().filter(|child| !said.contains(child.as_slice())) {
            sqlx::query("DELETE FROM link WHERE parent = $1 AND child = $2")
                .bind(digest.as_bytes())
                .bind(child)
                .execute(&mut *self.db)
                .await
                .map_err(|source| self.error(source))?;
        }
        Ok(())
    }

    /// Marks as complete what this change completed, upwards from what arrived.
    async fn complete_what_can_be(&mut self) -> Result<()> {
        while let Some(digest) = self.arrived.pop() {
            let parents = if self.has("SELECT 1 FROM manifest WHERE digest = $1", &digest).await? {
                let now_complete = sqlx::query(
                    "UPDATE manifest SET complete = 1 WHERE digest = $1 AND complete = 0 AND NOT EXISTS ( \
                     SELECT 1 FROM link WHERE parent = $1 AND carried = 1 AND CASE WHEN is_manifest = 1 \
                     THEN NOT EXISTS (SELECT 1 FROM manifest AS below WHERE below.digest = link.child AND below.complete = 1) \
                     ELSE NOT EXISTS (SELECT 1 FROM blob WHERE blob.digest = link.child) END)",
                )
                .bind(digest.as_bytes())
                .execute(&mut *self.db)
                .await
                .map_err(|source| self.error(source))?;
                now_complete.rows_affected() > 0
            } else {
                true
            };
            if parents {
                let above: Vec<Vec<u8>> = sqlx::query_scalar(
                    "SELECT parent FROM link JOIN manifest ON manifest.digest = parent \
                     WHERE child = $1 AND carried = 1 AND complete = 0",
                )
                .bind(digest.as_bytes())
                .fetch_all(&mut *self.db)
                .await
                .map_err(|source| self.error(source))?;
                self.arrived.extend(above.iter().filter_map(|bytes| Digest::from_bytes(bytes)));
            }
        }
        Ok(())
    }

    async fn entry(&mut self, repository: &Arc<Repository>, entry: &Entry, force: bool) -> Result<()> {
        let named = match repository.kind {
            // Who names a digest gets it, and nothing else.
            artifact::Kind::Image => {
                valid_tag(&entry.name) || entry.name.parse::<Digest>().is_ok_and(|named| named == entry.digest)
            }
            _ => valid_path(&entry.name),
        };
        if !named {
            return Err(Error::Name(entry.name.clone()));
        }
        self.offerable(repository, &entry.digest).await?;
        let id = self.repository(repository).await?;
        let old = self.existing(id, &entry.name).await?;
        if let Some(old) = &old {
            let changes = old.digest != entry.digest;
            if changes && old.seen > entry.seen && !force {
                self.changed.applied.kept.push(replaced(repository, &entry.name, Some(old), Some(entry)));
                return Ok(());
            }
            if !changes && old.seen >= entry.seen {
                return Ok(());
            }
        }
        sqlx::query(
            "INSERT INTO entry (repository, name, digest, size, seen, origin, trust) VALUES ($1, $2, $3, $4, $5, $6, $7) \
             ON CONFLICT (repository, name) DO UPDATE SET digest = excluded.digest, size = excluded.size, \
             seen = excluded.seen, origin = excluded.origin, trust = excluded.trust",
        )
        .bind(id)
        .bind(&entry.name)
        .bind(entry.digest.as_bytes())
        .bind(integer(entry.size))
        .bind(entry.seen)
        .bind(&entry.origin)
        .bind(entry.trust.as_str())
        .execute(&mut *self.db)
        .await
        .map_err(|source| self.error(source))?;
        if old.as_ref().map(|old| old.digest) != Some(entry.digest) {
            if let Some(old) = &old {
                // Whoever was just told that digest by this name may still come for it.
                self.renew(&Renewal::Grant(Arc::clone(repository), old.digest)).await?;
            }
            self.log(id, &entry.name, old.as_ref(), Some(entry)).await?;
            self.changed.applied.replaced.push(replaced(repository, &entry.name, old.as_ref(), Some(entry)));
        }
        Ok(())
    }

    /// An entry offers only what is there, whole, and granted to its repository.
    async fn offerable(&mut self, repository: &Repository, digest: &Digest) -> Result<()> {
        let id = self.repository(repository).await?;
        let (granted, complete) = match repository.kind {
            artifact::Kind::Image => (
                "SELECT complete FROM manifest JOIN repository_manifest USING (digest) WHERE digest = $1 AND repository = $2",
                true,
            ),
            _ => {
                ("SELECT 1 FROM blob JOIN repository_blob USING (digest) WHERE digest = $1 AND repository = $2", false)
            }
        };
        let found: Option<i64> = sqlx::query_scalar(granted)
            .bind(digest.as_bytes())
            .bind(id)
            .fetch_optional(&mut *self.db)
            .await
            .map_err(|source| self.error(source))?;
        match found {
            Some(1) => Ok(()),
            Some(_) if complete => {
                let missing = self.first_missing(digest).await?;
                Err(Error::Incomplete { repository: repository.clone(), digest: *digest, missing })
            }
            _ => Err(Error::Missing { repository: repository.clone(), digest: *digest }),
        }
    }

    async fn first_missing(&mut self, digest: &Digest) -> Result<Digest> {
        let found: Option<Vec<u8>> = sqlx::query_scalar(
            "WITH RECURSIVE below (child, is_manifest) AS ( \
             SELECT child, is_manifest FROM link WHERE parent = $1 AND carried = 1 UNION \
             SELECT link.child, link.is_manifest FROM link JOIN below ON link.parent = below.child WHERE carried = 1) \
             SELECT child FROM below WHERE CASE WHEN is_manifest = 1 \
             THEN NOT EXISTS (SELECT 1 FROM manifest WHERE digest = child) \
             ELSE NOT EXISTS (SELECT 1 FROM blob WHERE digest = child) END LIMIT 1",
        )
        .bind(digest.as_bytes())
        .fetch_optional(&mut *self.db)
        .await
        .map_err(|source| self.error(source))?;
        Ok(found.and_then(|bytes| Digest::from_bytes(&bytes)).unwrap_or(*digest))
    }

    pub(crate) async fn remove(&mut self, repository: &Arc<Repository>, name: &str) -> Result<()> {
        let id = self.repository(repository).await?;
        let Some(old) = self.existing(id, name).await? else { return Ok(()) };
        sqlx::query("DELETE FROM entry WHERE repository = $1 AND name = $2")
            .bind(id)
            .bind(name)
            .execute(&mut *self.db)
            .await
            .map_err(|source| self.error(source))?;
        self.renew(&Renewal::Grant(Arc::clone(repository), old.digest)).await?;
        self.log(id, name, Some(&old), None).await?;
        self.changed.applied.replaced.push(replaced(repository, name, Some(&old), None));
        Ok(())
    }

    async fn state(&mut self, repository: &Repository, name: &str) -> Result<Option<State>> {
        let id = self.repository(repository).await?;
        Ok(self.existing(id, name).await?.map(|entry| (entry.digest, entry.seen)))
    }

    /// Remembers what an entry was. A change without a cause belongs to the generation that is current.
    async fn log(&mut self, repository: i64, name: &str, old: Option<&Entry>, new: Option<&Entry>) -> Result<()> {
        let generation = match self.generation {
            Some(generation) => generation,
            None => self.begin_generation().await?,
        };
        let text = |entry: Option<&Entry>| entry.and_then(|entry| serde_json::to_string(entry).ok());
        sqlx::query("INSERT INTO change (generation, repository, name, old, new) VALUES ($1, $2, $3, $4, $5)")
            .bind(generation)
            .bind(repository)
            .bind(name)
            .bind(text(old))
            .bind(text(new))
            .execute(&mut *self.db)
            .await
            .map(drop)
            .map_err(|source| self.error(source))
    }

    async fn begin_generation(&mut self) -> Result<i64> {
        let generation: i64 = match &self.cause {
            Some(cause) => sqlx::query_scalar(
                "INSERT INTO generation (at, action, subject, by) VALUES ($1, $2, $3, $4) RETURNING number",
            )
            .bind(self.now)
            .bind(&cause.action)
            .bind(&cause.subject)
            .bind(&cause.by),
            None => sqlx::query_scalar("SELECT coalesce(max(number), 0) FROM generation"),
        }
        .fetch_one(&mut *self.db)
        .await
        .map_err(|source| self.error(source))?;
        self.changed.applied.generation = self.cause.is_some().then_some(generation);
        self.generation = Some(generation);
        Ok(generation)
    }

    /// Adds to the change what puts entries back to what they were.
    async fn back_to(&mut self, generation: i64, local: bool, change: &mut Change) -> Result<()> {
        let newest: i64 = sqlx::query_scalar("SELECT coalesce(max(number), 0) FROM generation")
            .fetch_one(&mut *self.db)
            .await
            .map_err(|source| self.error(source))?;
        if !(0..=newest).contains(&generation) {
            return Err(Error::NoGeneration(generation));
        }
        // Of each entry the first change after that generation knows what it was.
        let found: Vec<(String, String, String, String, Option<String>)> = sqlx::query_as(
            "SELECT kind, host, repository.name, change.name, old FROM change JOIN repository ON repository.id = repository \
             WHERE change.id IN (SELECT min(id) FROM change WHERE generation > $1 GROUP BY repository, name) \
             ORDER BY change.id",
        )
        .bind(generation)
        .fetch_all(&mut *self.db)
        .await
        .map_err(|source| self.error(source))?;
        for (kind, host, name, entry, old) in found {
            let Some(repository) = crate::read::repository_of(&kind, host, name) else { continue };
            if repository.is_local() && !local {
                continue;
            }
            match old.and_then(|text| serde_json::from_str::<Entry>(&text).ok()) {
                Some(old) => change.entry(&repository, Entry { seen: old.seen.max(1), ..old }),
                None => change.remove(&repository, &entry),
            };
        }
        Ok(())
    }

    async fn existing(&mut self, repository: i64, name: &str) -> Result<Option<Entry>> {
        let row: Option<EntryRow> =
            sqlx::query_as("SELECT digest, size, seen, origin, trust FROM entry WHERE repository = $1 AND name = $2")
                .bind(repository)
                .bind(name)
                .fetch_optional(&mut *self.db)
                .await
                .map_err(|source| self.error(source))?;
        Ok(row.and_then(|(digest, size, seen, origin, trust)| {
            crate::read::entry_of(name.to_owned(), &digest, size, seen, origin, &trust)
        }))
    }

    async fn is_present(&mut self, digest: &Digest, is_manifest: bool) -> Result<bool> {
        let question = if is_manifest {
            "SELECT 1 FROM manifest WHERE digest = $1 AND complete = 1"
        } else {
            "SELECT 1 FROM blob WHERE digest = $1"
        };
        self.has(question, digest).await
    }

    async fn has(&mut self, question: &'static str, digest: &Digest) -> Result<bool> {
        let found: Option<i64> = sqlx::query_scalar(question)
            .bind(digest.as_bytes())
            .fetch_optional(&mut *self.db)
            .await
            .map_err(|source| self.error(source))?;
        Ok(found.is_some())
    }

    async fn grant(&mut self, statement: &'static str, repository: i64, digest: &Digest) -> Result<()> {
        let written = sqlx::query(statement).bind(repository).bind(digest.as_bytes()).bind(self.now);
        let written = written.execute(&mut *self.db).await;
        written.map(drop).map_err(|source| self.error(source))
    }

    pub(crate) fn error(&self, source: sqlx::Error) -> Error {
        Error::Catalog { path: PathBuf::from(self.path), source }
    }
}

fn replaced(repository: &Arc<Repository>, name: &str, old: Option<&Entry>, new: Option<&Entry>) -> Replaced {
    Replaced {
        repository: Arc::clone(repository),
        name: name.to_owned(),
        old: old.map(|entry| entry.digest),
        new: new.map(|entry| entry.digest),
    }
}

/// SQL has signed integers; sizes beyond 2^63 do not exist.
fn integer(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
