//! Lists of what may be a million: each page begins where the last one ended, by an index, and costs as much as it has.

use artifact::{Digest, Entry, Kind, Repository};

use crate::read::{EntryRow, ReferrerRow, entry_of_row, referrer_of, repository_of};
use crate::{Referrer, Result, Store};

const ENTRIES: &str = "SELECT entry.name, digest, size, seen, origin, trust FROM entry JOIN repository ON repository.id = repository \
     WHERE kind = $1 AND host = $2 AND repository.name = $3 AND entry.name > $4 ORDER BY entry.name LIMIT $5";

const REPOSITORIES: &str = "SELECT kind, host, name FROM repository WHERE ($1 = '' OR kind = $1) AND (kind, host, name) > ($2, $3, $4) \
     ORDER BY kind, host, name LIMIT $5";

/// In the very words of the index `repository_shown`: in others, SQLite would sort them all for each page. A repository of
/// which all was deleted keeps its row, for the history, and is not listed.
const NAMES: &str = "SELECT DISTINCT CASE host WHEN '' THEN name ELSE host || '/' || name END FROM repository \
     WHERE kind = $1 AND CASE host WHEN '' THEN name ELSE host || '/' || name END > $2 AND ( \
     EXISTS (SELECT 1 FROM entry WHERE repository = id) OR \
     EXISTS (SELECT 1 FROM repository_manifest WHERE repository = id) OR \
     EXISTS (SELECT 1 FROM repository_blob WHERE repository = id)) \
     ORDER BY CASE host WHEN '' THEN name ELSE host || '/' || name END LIMIT $3";

/// From each host to the next: a million repositories of ten hosts are ten steps.
const HOSTS: &str = "WITH RECURSIVE known (host) AS (SELECT min(host) FROM repository WHERE kind = $1 UNION ALL \
     SELECT (SELECT min(host) FROM repository WHERE kind = $1 AND host > known.host) FROM known \
     WHERE known.host IS NOT NULL) SELECT host FROM known WHERE host IS NOT NULL";

const SHOWS: &str = "SELECT EXISTS (SELECT 1 FROM repository WHERE kind = $1 AND host = $2 AND name = $3 AND ( \
     EXISTS (SELECT 1 FROM entry WHERE repository = id) OR \
     EXISTS (SELECT 1 FROM repository_manifest WHERE repository = id) OR \
     EXISTS (SELECT 1 FROM repository_blob WHERE repository = id)))";

/// The plus keeps SQLite from beginning with all repositories of a kind.
const SHOWING: &str = "SELECT kind, host, name FROM repository_blob JOIN repository ON id = repository \
     WHERE digest = $1 AND +kind = 'image' ORDER BY repository LIMIT $2";

/// Descriptors in one page of referrers.
const REFERRERS: u32 = 1000;
/// Bytes of annotations in one: each manifest may bring 4 MiB of them.
const ANNOTATIONS: i64 = 4 * 1024 * 1024;

/// Their order, and how much each brings, before any of it is read.
const REFERRING: &str = "SELECT digest, coalesce(length(annotations), 0) FROM manifest \
     JOIN repository_manifest USING (digest) JOIN repository ON repository.id = repository \
     WHERE subject = $1 AND complete = 1 AND kind = $2 AND host = $3 AND name = $4 \
     AND ($5 IS NULL OR artifact_type = $5) AND digest > $6 ORDER BY digest LIMIT $7";

impl Store {
    /// What refers to `subject` in this repository, after `after` in the order of digests, and whether there is more;
    /// with an artifact type, of that alone.
    pub async fn referrers_after(
        &self,
        repository: &Repository,
        subject: &Digest,
        artifact_type: Option<&str>,
        after: Option<&Digest>,
    ) -> Result<(Vec<Referrer>, bool)> {
        let listed: Vec<(Vec<u8>, i64)> = sqlx::query_as(REFERRING)
            .bind(subject.as_bytes())
            .bind(repository.kind.as_str())
            .bind(&repository.host)
            .bind(&repository.name)
            .bind(artifact_type)
            .bind(after.map_or(&[][..], Digest::as_bytes))
            .bind(i64::from(REFERRERS) + 1)
            .fetch_all(self.db())
            .await
            .map_err(|error| self.failed(error))?;
        let (mut found, mut bytes) = (Vec::new(), 0);
        for (digest, length) in &listed {
            bytes += length;
            if !found.is_empty() && (bytes > ANNOTATIONS || found.len() == REFERRERS as usize) {
                return Ok((found, true));
            }
            // One that was deleted meanwhile is not there.
            found.extend(self.referrer(digest).await?);
        }
        Ok((found, false))
    }

    async fn referrer(&self, digest: &[u8]) -> Result<Option<Referrer>> {
        let row =
            "SELECT digest, length(bytes), media_type, artifact_type, annotations FROM manifest WHERE digest = $1";
        let row: Option<ReferrerRow> =
            sqlx::query_as(row).bind(digest).fetch_optional(self.db()).await.map_err(|error| self.failed(error))?;
        Ok(row.and_then(referrer_of))
    }

    /// Entries whose names sort (bytewise) after `after`, at most `limit`.
    pub async fn entries(&self, repository: &Repository, after: &str, limit: u32) -> Result<Vec<Entry>> {
        let found: Vec<EntryRow> = sqlx::query_as(ENTRIES)
            .bind(repository.kind.as_str())
            .bind(&repository.host)
            .bind(&repository.name)
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(self.db())
            .await
            .map_err(|error| self.failed(error))?;
        Ok(found.into_iter().filter_map(entry_of_row).collect())
    }

    /// Repositories in the order of (kind, host, name) after `after`, at most `limit`.
    pub async fn repositories(
        &self,
        kind: Option<Kind>,
        after: Option<&Repository>,
        limit: u32,
    ) -> Result<Vec<Repository>> {
        let found: Vec<(String, String, String)> = sqlx::query_as(REPOSITORIES)
            .bind(kind.map_or("", Kind::as_str))
            .bind(after.map_or("", |repository| repository.kind.as_str()))
            .bind(after.map_or("", |repository| &repository.host))
            .bind(after.map_or("", |repository| &repository.name))
            .bind(i64::from(limit))
            .fetch_all(self.db())
            .await
            .map_err(|error| self.failed(error))?;
        Ok(found.into_iter().filter_map(|(kind, host, name)| repository_of(&kind, host, name)).collect())
    }

    /// Names of repositories as they are shown, `HOST/NAME` or a local one's `NAME`, that sort (bytewise) after `after`;
    /// at most `limit`, each once.
    pub async fn repository_names(&self, kind: Kind, after: &str, limit: u32) -> Result<Vec<String>> {
        let names = sqlx::query_scalar(NAMES).bind(kind.as_str()).bind(after).bind(i64::from(limit));
        names.fetch_all(self.db()).await.map_err(|error| self.failed(error))
    }

    /// The hosts of which there are repositories of this kind, sorted; a local one's is empty.
    pub async fn hosts(&self, kind: Kind) -> Result<Vec<String>> {
        let hosts = sqlx::query_scalar(HOSTS).bind(kind.as_str());
        hosts.fetch_all(self.db()).await.map_err(|error| self.failed(error))
    }

    /// Whether this repository shows anything: an entry, a manifest or a blob.
    pub async fn shows_anything(&self, repository: &Repository) -> Result<bool> {
        sqlx::query_scalar(SHOWS)
            .bind(repository.kind.as_str())
            .bind(&repository.host)
            .bind(&repository.name)
            .fetch_one(self.db())
            .await
            .map_err(|error| self.failed(error))
    }

    /// Image repositories that may show this blob, the oldest first; at most `limit`.
    pub async fn showing_blob(&self, digest: &Digest, limit: u32) -> Result<Vec<Repository>> {
        let found: Vec<(String, String, String)> = sqlx::query_as(SHOWING)
            .bind(digest.as_bytes())
            .bind(i64::from(limit))
            .fetch_all(self.db())
            .await
            .map_err(|error| self.failed(error))?;
        Ok(found.into_iter().filter_map(|(kind, host, name)| repository_of(&kind, host, name)).collect())
    }
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Row as _};

    use super::*;
    use crate::read::{CANDIDATES_BY_DIGEST, CANDIDATES_BY_TAG, MIRRORED, OF_HOST};

    /// With 100 000 repositories and as many tags of one: nothing is gone through from its beginning, nothing sorted.
    #[tokio::test]
    async fn a_page_costs_as_much_as_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let fill = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) \
             INSERT INTO repository (kind, host, name) SELECT 'image', CASE i % 4 WHEN 0 THEN '' ELSE 'h' || (i % 4) || '.io' END, \
             'team/app-' || i FROM n; \
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) \
             INSERT INTO entry (repository, name, digest, size, seen, origin, trust) SELECT 4, 'v' || i, randomblob(32), 1, 1, '', 'tag' FROM n; \
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) \
             INSERT INTO repository_blob (repository, digest) SELECT i, CASE i % 2 WHEN 0 THEN x'00' ELSE randomblob(32) END FROM n";
        sqlx::raw_sql(fill).execute(store.inner.catalog.writer()).await.unwrap();
        for (query, indexes) in [
            (ENTRIES, &["name=?", "PRIMARY KEY (repository=? AND name>?)"][..]),
            (REPOSITORIES, &["((kind,host,name)>(?,?,?))"]),
            (NAMES, &["repository_shown (kind=? AND <expr>>?)"]),
            (HOSTS, &["(kind=? AND host>?)"]),
            (SHOWS, &["(kind=? AND host=? AND name=?)"]),
            (SHOWING, &["repository_blob_digest (digest=?)"]),
            (CANDIDATES_BY_TAG, &["repository_name (kind=? AND name=?)", "PRIMARY KEY (repository=? AND name=?)"]),
            (CANDIDATES_BY_DIGEST, &["repository_name (kind=? AND name=?)", "(digest=? AND repository=?)"]),
            (MIRRORED, &["repository_name (kind=? AND name=?)"]),
            (OF_HOST, &["repository_blob_digest (digest=?)"]),
        ] {
            let rows = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {query}"))).fetch_all(store.db()).await;
            let plan: Vec<String> = rows.unwrap().iter().map(|row| row.get("detail")).collect();
            for index in indexes {
                assert!(plan.iter().any(|step| step.contains(index)), "{index} in {plan:#?}");
            }
            for step in &plan {
                // What is gone through are the few hosts, and a row without a table.
                let few = ["SCAN known", "SCAN CONSTANT ROW"].contains(&step.as_str());
                assert!(few || !step.contains("SCAN"), "{plan:#?}");
                // Of one name there are as many as hosts.
                let sorts = step.contains("TEMP B-TREE") && query != CANDIDATES_BY_DIGEST;
                assert!(!sorts, "it sorts: {plan:#?}");
            }
        }
        assert_eq!(store.hosts(Kind::Image).await.unwrap(), ["", "h1.io", "h2.io", "h3.io"]);
        let page = store.repository_names(Kind::Image, "h3.io/team/app-9", 2).await.unwrap();
        assert_eq!(page, ["h3.io/team/app-90003", "h3.io/team/app-90007"]);
        let tags = store.entries(&Repository::image("", "team/app-4"), "v9", 2).await.unwrap();
        assert_eq!(tags.iter().map(|tag| tag.name.as_str()).collect::<Vec<_>>(), ["v90", "v900"]);
    }
}
