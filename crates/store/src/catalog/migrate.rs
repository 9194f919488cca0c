//! Forward: a catalog that an older Naru wrote becomes what this one writes. There is no way back but the copy that is
//! made before.
//!
//! ```text
//! STORE/naru.db.format-1.1795250000      the catalog as it was, and when (seconds since 1970)
//! ```

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use sqlx::sqlite::SqlitePool;
use sqlx::{Sqlite, SqliteConnection, Transaction};

use crate::{Error, Result, blobs, clock};

/// What makes each format of the one before: the first makes format 2 of format 1.
const STEPS: [&str; 3] = [
    "CREATE TABLE format (number INTEGER PRIMARY KEY, naru TEXT NOT NULL) STRICT",
    include_str!("format-3.sql"),
    include_str!("format-4.sql"),
];
/// The format that this binary writes (`PRAGMA user_version`).
pub(super) const FORMAT: i64 = 4;
/// This Naru.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Copies that are kept.
const KEPT: usize = 2;

/// Says in the catalog which format it has, and who made it so.
pub(super) async fn mark(db: &mut SqliteConnection, format: i64) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO format (number, naru) VALUES ($1, $2)")
        .bind(format)
        .bind(VERSION)
        .execute(&mut *db)
        .await?;
    // A pragma takes no parameters; this is a number of ours.
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("PRAGMA user_version = {format}"))).execute(db).await.map(drop)
}

/// Brings a catalog of `format` to [`FORMAT`], once it has been copied.
pub(super) async fn forward(folder: &Path, path: &Path, pool: &SqlitePool, format: i64) -> Result<()> {
    if format > FORMAT {
        let wrote = sqlx::query_scalar("SELECT naru FROM format WHERE number = $1").bind(format);
        // A format of far away may keep it elsewhere.
        let wrote: Option<String> = wrote.fetch_optional(pool).await.unwrap_or_default();
        let wrote = wrote.map_or_else(|| "a newer naru".to_owned(), |version| format!("naru {version}"));
        return Err(Error::Newer { path: folder.to_owned(), found: format, wrote, known: FORMAT, version: VERSION });
    }
    let done = usize::try_from(format - 1).ok();
    let Some(steps) = done.and_then(|done| STEPS.get(done..)) else {
        let why = format!("its naru.db says that it has format {format}");
        return Err(Error::NotAStore { path: folder.to_owned(), why });
    };
    if steps.is_empty() {
        return Ok(());
    }
    let copy = folder.join(format!("naru.db.format-{format}.{}", clock::now()));
    self::copy(folder, path, pool, &copy).await?;
    tracing::warn!(copy = %copy.display(), "the catalog has format {format} and becomes {FORMAT}; it was copied to {}", copy.display());
    let migrated = async {
        let mut transaction: Transaction<'_, Sqlite> = pool.begin_with("BEGIN IMMEDIATE").await?;
        for step in steps {
            sqlx::raw_sql(*step).execute(&mut *transaction).await?;
        }
        mark(&mut transaction, FORMAT).await?;
        transaction.commit().await
    };
    let failed =
        |source| Error::Migration { path: path.to_owned(), found: format, known: FORMAT, copy: copy.clone(), source };
    migrated.await.map_err(failed)?;
    remove_older(folder);
    Ok(())
}

/// Copies the catalog beside itself, durably: it gets its name when it is whole.
pub(crate) async fn copy(folder: &Path, path: &Path, pool: &SqlitePool, copy: &Path) -> Result<()> {
    let begun = folder.join("naru.db.copying");
    let _ = fs::remove_file(&begun);
    // SQLite writes into an empty file as into none, and this one nobody else may read: the catalog has secrets.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&begun).map_err(Error::io(&begun))?;
    blobs::give_to_owner(folder, &begun)?;
    let text = begun.to_string_lossy().into_owned();
    let copied = sqlx::query("VACUUM INTO $1").bind(text).execute(pool).await;
    let (folder, copy) = (folder.to_owned(), copy.to_owned());
    let copied = copied.map_err(|source| Error::Catalog { path: path.to_owned(), source });
    // A server goes on while the disk takes it.
    let named = tokio::task::spawn_blocking(move || {
        let named = copied.and_then(|_| {
            fs::File::open(&begun).and_then(|file| file.sync_all()).map_err(Error::io(&begun))?;
            fs::rename(&begun, &copy).map_err(Error::io(&copy))?;
            fs::File::open(&folder).and_then(|folder| folder.sync_all()).map_err(Error::io(&folder))
        });
        named.inspect_err(|_| drop(fs::remove_file(&begun)))
    });
    named.await.map_err(|error| Error::Io { path: path.to_owned(), source: std::io::Error::other(error) })?
}

/// Removes all copies but the newest.
fn remove_older(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let made = |path: &Path| -> Option<u64> {
        let (_, made) = path.file_name()?.to_str()?.strip_prefix("naru.db.format-")?.split_once('.')?;
        made.parse().ok()
    };
    let mut copies: Vec<(u64, PathBuf)> =
        entries.flatten().filter_map(|entry| Some((made(&entry.path())?, entry.path()))).collect();
    copies.sort();
    for (_, old) in copies.iter().rev().skip(KEPT) {
        // It does no harm where it is.
        let _ = fs::remove_file(old);
    }
}
