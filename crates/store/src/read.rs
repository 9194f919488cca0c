//! What a store can be asked.

use std::fs::File;
use std::sync::Arc;

use artifact::{Digest, Entry, Repository, Trust};
use bytes::Bytes;
use sqlx::Sqlite;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;

use crate::{Applied, Cause, Change, Error, Replaced, Result, Store, blobs, catalog};

/// A blob that the catalog names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Where its bytes are, below the store's `blobs/`.
    pub key: String,
}

/// A manifest with what the catalog knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredManifest {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes, verbatim.
    pub bytes: Bytes,
    /// The media type to answer it with.
    pub media_type: String,
    /// Whether every carried link is present.
    pub complete: bool,
}

impl StoredManifest {
    /// Whether its bytes are what its name says: what takes them on asks, since a disk may have changed them.
    pub fn is_sound(&self) -> bool {
        Digest::by(self.digest.algorithm(), &self.bytes) == self.digest
    }
}

/// A link from a manifest to what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What it points at.
    pub child: Digest,
    /// Whether the child is a manifest (else a blob).
    pub is_manifest: bool,
    /// Carried, or omitted on purpose.
    pub carried: bool,
    /// Whether the store has it (a manifest: complete).
    pub present: bool,
    /// Bytes, as the parent says.
    pub size: u64,
}

/// A manifest that refers to another (OCI distribution spec, "Listing Referrers").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
    /// Its artifact type, when it has one.
    pub artifact_type: Option<String>,
    /// Its annotations, a JSON object.
    pub annotations: Option<serde_json::Value>,
}

/// A repository that has the name and reference somebody asked for without naming a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The repository.
    pub repository: Repository,
    /// The manifest or blob there.
    pub digest: Digest,
}

/// An entry with its repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Its repository.
    pub repository: Repository,
    /// The entry.
    pub entry: Entry,
}

/// A numbered state of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Its number, counted from 1.
    pub number: i64,
    /// When it began, in seconds since 1970.
    pub at: i64,
    /// Why.
    pub cause: Cause,
    /// How many entries changed with it or since, before the next.
    pub changed: i64,
}

/// How much a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Repositories.
    pub repositories: i64,
    /// Entries.
    pub entries: i64,
    /// Manifests.
    pub manifests: i64,
    /// Blobs.
    pub blobs: i64,
    /// Bytes of the blobs.
    pub bytes: i64,
}

pub(crate) type EntryRow = (String, Vec<u8>, i64, i64, String, String);
pub(crate) type ReferrerRow = (Vec<u8>, i64, String, Option<String>, Option<String>);
type ChangeRow = (String, String, String, String, Option<String>, Option<String>);
type HitRow = (String, String, String, String, Vec<u8>, i64, i64, String, String);

/// Repositories of one name, whatever their host, by an index of names.
pub(crate) const CANDIDATES_BY_TAG: &str = "SELECT host, digest FROM repository JOIN entry ON repository = id \
     WHERE kind = 'image' AND repository.name = $1 AND entry.name = $2 ORDER BY host";

pub(crate) const CANDIDATES_BY_DIGEST: &str = "SELECT host, digest FROM repository JOIN repository_manifest ON repository = id \
     WHERE kind = 'image' AND name = $1 AND digest = $2 UNION \
     SELECT host, digest FROM repository JOIN repository_blob ON repository = id \
     WHERE kind = 'image' AND name = $1 AND digest = $2 ORDER BY host";

pub(crate) const MIRRORED: &str =
    "SELECT EXISTS (SELECT 1 FROM repository WHERE kind = 'image' AND name = $1 AND host <> '')";

/// The pluses keep SQLite from beginning with all repositories of a host.
pub(crate) const OF_HOST: &str = "SELECT size, key FROM blob JOIN repository_blob USING (digest) \
     JOIN repository ON repository.id = repository WHERE digest = $1 AND +kind = 'image' AND +host = $2 LIMIT 1";

impl Store {
    /// A blob, whoever may show it, unless its bytes were lost ([`Store::holds`]). For commands; a server asks
    /// [`Store::granted_blob`].
    pub async fn blob(&self, digest: &Digest) -> Result<Option<Blob>> {
        let row = sqlx::query_as("SELECT size, key FROM blob WHERE digest = $1").bind(digest.as_bytes());
        let found: Option<(i64, String)> = row.fetch_optional(self.db()).await.map_err(|e| self.failed(e))?;
        let named = found.map(|(size, key)| Blob { digest: *digest, size: size.cast_unsigned(), key });
        Ok(named.filter(|blob| self.holds(blob)))
    }

    /// Whether a blob's file is there and as long as it was: one that was lost shall be brought again.
    pub fn holds(&self, blob: &Blob) -> bool {
        blobs::is_there(self.folder(), &blob.key, blob.size)
    }

    /// Which of these blobs the store has.
    pub async fn blobs(&self, digests: &[Digest]) -> Result<Vec<Blob>> {
        let mut found = Vec::new();
        for digest in digests {
            found.extend(self.blob(digest).await?);
        }
        Ok(found)
    }

    /// A blob that this repository may show, as the catalog has it: nobody looks whether its file is there.
    pub async fn granted_blob(&self, repository: &Repository, digest: &Digest) -> Result<Option<Blob>> {
        let found: Option<(i64, String)> = sqlx::query_as(
            "SELECT size, key FROM blob JOIN repository_blob USING (digest) JOIN repository ON repository.id = repository \
             WHERE digest = $1 AND kind = $2 AND host = $3 AND name = $4",
        )
        .bind(digest.as_bytes())
        .bind(repository.kind.as_str())
        .bind(&repository.host)
        .bind(&repository.name)
        .fetch_optional(self.db())
        .await
        .map_err(|error| self.failed(error))?;
        Ok(found.map(|(size, key)| Blob { digest: *digest, size: size.cast_unsigned(), key }))
    }

    /// A blob that some image repository of this host may show, unless its bytes were lost.
    ///
    /// # Errors
    /// When the catalog does not answer.
    pub async fn blob_of_host(&self, host: &str, digest: &Digest) -> Result<Option<Blob>> {
        let found: Option<(i64, String)> = sqlx::query_as(OF_HOST)
            .bind(digest.as_bytes())
            .bind(host)
            .fetch_optional(self.db())
            .await
            .map_err(|error| self.failed(error))?;
        let named = found.map(|(size, key)| Blob { digest: *digest, size: size.cast_unsigned(), key });
        Ok(named.filter(|blob| self.holds(blob)))
    }

    /// Opens a blob's bytes for reading.
    pub fn open_blob(&self, blob: &Blob) -> Result<File> {
        let path = self.path_of(&blob.key);
        File::open(&path).map_err(Error::io(&path))
    }

    /// A manifest, whoever may show it. For commands; a server asks [`Store::granted_manifest`].
    pub async fn manifest(&self, digest: &Digest) -> Result<Option<StoredManifest>> {
        let found: Option<(Vec<u8>, String, bool)> =
            sqlx::query_as("SELECT bytes, media_type, complete FROM manifest WHERE digest = $1")
                .bind(digest.as_bytes())
                .fetch_optional(self.db())
                .await
                .map_err(|error| self.failed(error))?;
        Ok(found.map(|row| stored(digest, row)))
    }

    /// A manifest that this repository may show.
    pub async fn granted_manifest(&self, repository: &Repository, digest: &Digest) -> Result<Option<StoredManifest>> {
        let found: Option<(Vec<u8>, String, bool)> = sqlx::query_as(
            "SELECT bytes, media_type, complete FROM manifest JOIN repository_manifest USING (digest) \
             JOIN repository ON repository.id = repository \
             WHERE digest = $1 AND kind = $2 AND host = $3 AND name = $4",
        )
        .bind(digest.as_bytes())
        .bind(repository.kind.as_str())
        .bind(&repository.host)
        .bind(&repository.name)
        .fetch_optional(self.db())
        .await
        .map_err(|error| self.failed(error))?;
        Ok(found.map(|row| stored(digest, row)))
    }

    /// An entry, whether it is complete (always, unless bytes were lost since) or not.
    pub async fn entry(&self, repository: &Repository, name: &str) -> Result<Option<Entry>> {
        let found: Option<EntryRow> = sqlx::query_as(
            "SELECT entry.name, digest, size, seen, origin, trust FROM entry JOIN repository ON repository.id = repository \
             WHERE kind = $1 AND host = $2 AND repository.name = $3 AND entry.name = $4",
        )
        .bind(repository.kind.as_str())
        .bind(&repository.host)
        .bind(&repository.name)
        .bind(name)
        .fetch_optional(self.db())
        .await
        .map_err(|error| self.failed(error))?;
        Ok(found.and_then(entry_of_row))
    }

    /// Whether an upstream has an image repository of this name.
    pub async fn is_mirrored(&self, name: &str) -> Result<bool> {
        sqlx::query_scalar(MIRRORED).bind(name).fetch_one(self.db()).await.map_err(|error| self.failed(error))
    }

    /// Image repositories of every host (and local) named `name` that have this tag, manifest or blob.
    pub async fn candidates(&self, name: &str, reference: &str) -> Result<Vec<Candidate>> {
        let found: Vec<(String, Vec<u8>)> = if let Ok(digest) = reference.parse::<Digest>() {
            sqlx::query_as(CANDIDATES_BY_DIGEST).bind(name).bind(digest.as_bytes()).fetch_all(self.db()).await
        } else {
            sqlx::query_as(CANDIDATES_BY_TAG).bind(name).bind(reference).fetch_all(self.db()).await
        }
        .map_err(|error| self.failed(error))?;
        let candidates = found.into_iter().filter_map(|(host, digest)| {
            Some(Candidate { repository: Repository::image(host, name), digest: Digest::from_bytes(&digest)? })
        });
        Ok(candidates.collect())
    }

    /// What refers to `subject` in this repository, sorted by digest.
    pub async fn referrers(&self, repository: &Repository, subject: &Digest) -> Result<Vec<Referrer>> {
        let found: Vec<ReferrerRow> = sqlx::query_as(
            "SELECT digest, length(bytes), media_type, artifact_type, annotations FROM manifest \
             JOIN repository_manifest USING (digest) JOIN repository ON repository.id = repository \
             WHERE subject = $1 AND complete = 1 AND kind = $2 AND host = $3 AND name = $4 ORDER BY digest",
        )
        .bind(subject.as_bytes())
        .bind(repository.kind.as_str())
        .bind(&repository.host)
        .bind(&repository.name)
        .fetch_all(self.db())
        .await
        .map_err(|error| self.failed(error))?;
        Ok(found.into_iter().filter_map(referrer_of).collect())
    }

    /// What a manifest points at.
    pub async fn links(&self, parent: &Digest) -> Result<Vec<Link>> {
        let found: Vec<(Vec<u8>, bool, bool, i64, bool)> = sqlx::query_as(
            "SELECT child, is_manifest, carried, size, CASE WHEN is_manifest = 1 \
             THEN EXISTS (SELECT 1 FROM manifest WHERE digest = child AND complete = 1) \
             ELSE EXISTS (SELECT 1 FROM blob WHERE digest = child) END FROM link WHERE parent = $1 ORDER BY child",
        )
        .bind(parent.as_bytes())
        .fetch_all(self.db())
        .await
        .map_err(|error| self.failed(error))?;
        let links = found.into_iter().filter_map(|(child, is_manifest, carried, size, present)| {
            let child = Digest::from_bytes(&child)?;
            Some(Link { child, is_manifest, carried, present, size: size.cast_unsigned() })
        });
        Ok(links.collect())
    }

    /// The manifests that point at this digest.
    pub async fn parents(&self, child: &Digest) -> Result<Vec<Digest>> {
        let found: Vec<Vec<u8>> = sqlx::query_scalar("SELECT parent FROM link WHERE child = $1 ORDER BY parent")
            .bind(child.as_bytes())
            .fetch_all(self.db())
            .await
            .map_err(|error| self.failed(error))?;
        Ok(found.iter().filter_map(|bytes| Digest::from_bytes(bytes)).collect())
    }

    /// The entries that name exactly this digest.
    pub async fn entries_of(&self, digest: &Digest) -> Result<Vec<Hit>> {
        let found: Vec<HitRow> = sqlx::query_as(
            "SELECT kind, host, repository.name, entry.name, digest, size, seen, origin, trust FROM entry \
             JOIN repository ON repository.id = repository WHERE digest = $1 ORDER BY kind, host, repository.name, entry.name",
        )
        .bind(digest.as_bytes())
        .fetch_all(self.db())
        .await
        .map_err(|error| self.failed(error))?;
        Ok(found.into_iter().filter_map(hit_of).collect())
    }

    /// Entries whose repository, name or digest has `text` in it (a substring, any case of ASCII letters), sorted.
    pub async fn search(&self, text: &str, limit: u32) -> Result<Vec<Hit>> {
        let found: Vec<HitRow> = sqlx::query_as(
            "SELECT kind, host, repository.name, entry.name, digest, size, seen, origin, trust FROM entry \
             JOIN repository ON repository.id = repository \
             WHERE instr(lower(host || '/' || repository.name || CASE kind WHEN 'image' THEN ':' ELSE '/' END || entry.name), $1) > 0 \
             OR ($1 <> '' AND instr(lower(hex(digest)), replace($1, 'sha256:', '')) > 0) \
             ORDER BY length(repository.name), kind, host, repository.name, entry.name LIMIT $2",
        )
        .bind(text.to_ascii_lowercase())
        .bind(i64::from(limit))
        .fetch_all(self.db())
        .await
        .map_err(|error| self.failed(error))?;
        Ok(found.into_iter().filter_map(hit_of).collect())
    }

    /// How much there is.
    pub async fn usage(&self) -> Result<Usage> {
        let (repositories, entries, manifests, blobs, bytes): (i64, i64, i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM repository), (SELECT count(*) FROM entry), (SELECT count(*) FROM manifest), \
             (SELECT count(*) FROM blob), (SELECT coalesce(sum(size), 0) FROM blob)",
        )
        .fetch_one(self.db())
        .await
        .map_err(|error| self.failed(error))?;
        Ok(Usage { repositories, entries, manifests, blobs, bytes })
    }

    /// A document of the site (CA, keys, token hashes, bundle records), by name.
    pub async fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        sqlx::query_scalar("SELECT bytes FROM document WHERE name = $1")
            .bind(name)
            .fetch_optional(self.db())
            .await
            .map_err(|error| self.failed(error))
    }

    /// Names of documents that begin with `prefix`, sorted.
    pub async fn documents(&self, prefix: &str) -> Result<Vec<String>> {
        sqlx::query_scalar("SELECT name FROM document WHERE substr(name, 1, length($1)) = $1 ORDER BY name")
            .bind(prefix)
            .fetch_all(self.db())
            .await
            .map_err(|error| self.failed(error))
    }

    /// Puts a document unless there is one, and returns the one that is there now: two replicas that start together
    /// agree on one CA.
    pub async fn document_once(&self, name: &str, bytes: &[u8]) -> Result<Vec<u8>> {
        self.may_write()?;
        sqlx::query("INSERT INTO document (name, bytes) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(name)
            .bind(bytes)
            .execute(self.inner.catalog.writer())
            .await
            .map_err(|error| self.failed(error))?;
        Ok(self.document(name).await?.unwrap_or_else(|| bytes.to_vec()))
    }

    /// Puts a document in the place of whatever was there; `None` removes it.
    pub async fn set_document(&self, name: &str, bytes: Option<&[u8]>) -> Result<()> {
        self.may_write()?;
        write_document(name, bytes)
            .execute(self.inner.catalog.writer())
            .await
            .map(drop)
            .map_err(|error| self.failed(error))
    }

    /// Makes a document out of what it is, with nobody writing in between; `None` is none.
    pub async fn revise_document(
        &self,
        name: &str,
        revise: impl FnOnce(Option<Vec<u8>>) -> Option<Vec<u8>> + Send,
    ) -> Result<()> {
        self.may_write()?;
        let revised = catalog::transaction(self.inner.catalog.writer(), async |db| {
            let there = sqlx::query_scalar("SELECT bytes FROM document WHERE name = $1").bind(name);
            let there: Option<Vec<u8>> = there.fetch_optional(&mut *db).await?;
            write_document(name, revise(there).as_deref()).execute(&mut *db).await.map(drop)
        });
        revised.await.map_err(|error| self.failed(error))
    }

    /// Generations, newest first.
    pub async fn history(&self, limit: u32) -> Result<Vec<Generation>> {
        let found: Vec<(i64, i64, String, String, String, i64)> = sqlx::query_as(
            "SELECT number, at, action, subject, by, (SELECT count(*) FROM change WHERE generation = number) \
             FROM generation ORDER BY number DESC LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(self.db())
        .await
        .map_err(|error| self.failed(error))?;
        let generations = found.into_iter().map(|(number, at, action, subject, by, changed)| Generation {
            number,
            at,
            cause: Cause { action, subject, by },
            changed,
        });
        Ok(generations.collect())
    }

    /// What generation `number` changed, in the order in which it did.
    ///
    /// # Errors
    /// [`Error::NoGeneration`].
    pub async fn changes(&self, number: i64) -> Result<Vec<Replaced>> {
        let found: Vec<ChangeRow> = sqlx::query_as(
            "SELECT kind, host, repository.name, change.name, old, new FROM change \
             JOIN repository ON repository.id = repository WHERE generation = $1 ORDER BY change.id",
        )
        .bind(number)
        .fetch_all(self.db())
        .await
        .map_err(|error| self.failed(error))?;
        if found.is_empty() {
            return Err(Error::NoGeneration(number));
        }
        let digest = |text: Option<String>| Some(serde_json::from_str::<Entry>(&text?).ok()?.digest);
        let changes = found.into_iter().filter_map(|(kind, host, repository, name, old, new)| {
            let repository = Arc::new(repository_of(&kind, host, repository)?);
            Some(Replaced { repository, name, old: digest(old), new: digest(new) })
        });
        Ok(changes.collect())
    }

    /// Puts every entry back to what it was after generation `number` (0: before the first), as a new generation. Local
    /// repositories are this side's own, whatever was loaded since: they stay, unless `local` says that they go back too.
    ///
    /// # Errors
    /// [`Error::NoGeneration`]; [`Error::Missing`] when the bytes of an entry are gone since.
    pub async fn restore(&self, number: i64, local: bool, by: &str) -> Result<Applied> {
        let cause = Cause { action: "restore".to_owned(), subject: format!("generation {number}"), by: by.to_owned() };
        let mut change = Change::because(cause);
        change.force().back_to(number, local);
        self.apply(change).await
    }

    pub(crate) fn db(&self) -> &sqlx::SqlitePool {
        self.inner.catalog.readers()
    }

    pub(crate) fn failed(&self, error: sqlx::Error) -> Error {
        let is_failed_write = crate::error::is_failed_write(&error);
        let error = self.inner.catalog.error(error);
        if is_failed_write {
            self.stop(&error);
        }
        error
    }
}

fn write_document<'a>(name: &'a str, bytes: Option<&'a [u8]>) -> Query<'a, Sqlite, SqliteArguments> {
    match bytes {
        Some(bytes) => sqlx::query(
            "INSERT INTO document (name, bytes) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET bytes = excluded.bytes",
        )
        .bind(name)
        .bind(bytes),
        None => sqlx::query("DELETE FROM document WHERE name = $1").bind(name),
    }
}

fn stored(digest: &Digest, (bytes, media_type, complete): (Vec<u8>, String, bool)) -> StoredManifest {
    StoredManifest { digest: *digest, bytes: bytes.into(), media_type, complete }
}

pub(crate) fn referrer_of((digest, size, media_type, artifact_type, annotations): ReferrerRow) -> Option<Referrer> {
    Some(Referrer {
        digest: Digest::from_bytes(&digest)?,
        size: size.cast_unsigned(),
        media_type,
        artifact_type,
        annotations: annotations.and_then(|text| serde_json::from_str(&text).ok()),
    })
}

pub(crate) fn repository_of(kind: &str, host: String, name: String) -> Option<Repository> {
    Some(Repository { kind: kind.parse().ok()?, host, name })
}

fn hit_of((kind, host, repository, name, digest, size, seen, origin, trust): HitRow) -> Option<Hit> {
    let entry = entry_of(name, &digest, size, seen, origin, &trust)?;
    Some(Hit { repository: repository_of(&kind, host, repository)?, entry })
}

pub(crate) fn entry_of_row((name, digest, size, seen, origin, trust): EntryRow) -> Option<Entry> {
    entry_of(name, &digest, size, seen, origin, &trust)
}

/// An entry from its columns.
pub(crate) fn entry_of(
    name: String,
    digest: &[u8],
    size: i64,
    seen: i64,
    origin: String,
    trust: &str,
) -> Option<Entry> {
    let trust = Trust::ALL.into_iter().find(|known| known.as_str() == trust)?;
    Some(Entry { name, digest: Digest::from_bytes(digest)?, size: size.cast_unsigned(), seen, origin, trust })
}
