//! The catalog: SQLite in the store's folder. One connection writes, a few read; on a network file system one does both.

mod migrate;

pub(crate) use migrate::copy;

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::SqliteConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqliteLockingMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use tokio::sync::{mpsc, oneshot};

use crate::change::{self, Applied, Changed};
use crate::clock::Clock;
use crate::{Change, Error, Result};

/// `PRAGMA application_id`: "naru".
pub(crate) const APPLICATION: i64 = 0x6e61_7275;
/// Changes that share one commit at most.
const GROUP: usize = 256;
/// Connections that read.
const READERS: u32 = 4;

#[derive(Debug)]
pub(crate) struct Catalog {
    path: PathBuf,
    readers: SqlitePool,
    writer: SqlitePool,
    changes: mpsc::Sender<Waiting>,
}

struct Waiting {
    change: Box<Change>,
    answer: oneshot::Sender<Result<Applied>>,
}

impl Catalog {
    /// `version` is counted up at each commit, whoever still waits for its answer.
    /// `stopped` hears of a disk that failed a commit: nobody writes after that.
    pub(crate) async fn open(
        folder: &Path,
        shared: bool,
        version: Arc<AtomicU64>,
        stopped: Arc<OnceLock<String>>,
        clock: Arc<Clock>,
    ) -> Result<Self> {
        let path = folder.join("naru.db");
        keep_private(&path)?;
        let mut options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // Anything less acknowledges commits that a power cut takes back.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(30))
            .statement_cache_capacity(256);
        if shared {
            // Before the first look at its log, exclusive locking does without shared memory (sqlite.org/wal.html §6).
            // The lock is then the fence against another machine, whose own `lock` file may lock nothing here.
            options = options.locking_mode(SqliteLockingMode::Exclusive).busy_timeout(Duration::from_secs(3));
        }
        let writer = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await;
        let writer = writer.map_err(|source| not_a_database(folder, &path, source))?;
        crate::blobs::give_to_owner(folder, &path)?;
        prepare(folder, &path, &writer).await?;
        // SQLite syncs the folder when it has made its log there, and does not look at what comes of it.
        std::fs::File::open(folder).and_then(|opened| opened.sync_all()).map_err(Error::io(folder))?;
        let readers = if shared {
            writer.clone()
        } else {
            let readers = SqlitePoolOptions::new().min_connections(1).max_connections(READERS);
            let opened = readers.connect_with(options.read_only(true)).await;
            opened.map_err(|source| Error::Catalog { path: path.clone(), source })?
        };
        let (changes, waiting) = mpsc::channel(GROUP);
        tokio::spawn(commit_in_groups(
            writer.clone(),
            folder.to_owned(),
            path.clone(),
            waiting,
            version,
            stopped,
            clock,
        ));
        Ok(Self { path, readers, writer, changes })
    }

    /// Where questions are asked.
    pub(crate) fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// Where small documents are written; changes go through [`Catalog::commit`].
    pub(crate) fn writer(&self) -> &SqlitePool {
        &self.writer
    }

    /// Commits a change, together with whatever else waits.
    pub(crate) async fn commit(&self, change: Change) -> Result<Applied> {
        let (answer, answered) = oneshot::channel();
        let closed = || self.error(sqlx::Error::PoolClosed);
        self.changes.send(Waiting { change: Box::new(change), answer }).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    /// The database's file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Names the database in an error.
    pub(crate) fn error(&self, source: sqlx::Error) -> Error {
        Error::Catalog { path: self.path.clone(), source }
    }

    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Keys are in it: nobody but its owner reads it, whoever may enter the folder. SQLite gives its log the same mode.
fn keep_private(path: &Path) -> Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Error::io(path)(error)),
    }
    for name in ["naru.db", "naru.db-wal", "naru.db-shm"] {
        let path = path.with_file_name(name);
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        if metadata.mode() & 0o077 != 0 {
            // Of another owner, it is theirs to do.
            let _ = std::fs::set_permissions(&path, Permissions::from_mode(metadata.mode() & 0o700));
        }
    }
    Ok(())
}

/// A file that is no database is said to be none, rather than shown with SQLite's words.
pub(crate) fn not_a_database(folder: &Path, path: &Path, source: sqlx::Error) -> Error {
    // SQLITE_BUSY (sqlite.org/rescode.html): on a network file system another machine has it.
    if source.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == "5") {
        return Error::Held {
            path: folder.to_owned(),
            holder: "another process, on this or another machine".to_owned(),
        };
    }
    let is_not = source.as_database_error().is_some_and(|error| error.message().contains("not a database"));
    if is_not && !crate::blobs::was_a_store(folder) {
        Error::NotAStore { path: folder.to_owned(), why: "naru.db is not a SQLite database".to_owned() }
    } else {
        Error::Catalog { path: path.to_owned(), source }
    }
}

/// Checks whose database this is and of which format; makes the tables of a new one.
async fn prepare(folder: &Path, path: &Path, pool: &SqlitePool) -> Result<()> {
    let failed = |source| not_a_database(folder, path, source);
    let application: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(pool).await.map_err(failed)?;
    let format: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(pool).await.map_err(failed)?;
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(pool).await.map_err(failed)?;
    if (application, format, tables) == (0, 0, 0) {
        // Bytes are somebody's: an empty catalog over them is one that was lost.
        if crate::blobs::was_a_store(folder) {
            return Err(Error::NoCatalog { path: folder.to_owned() });
        }
        return make(pool).await.map_err(failed);
    }
    if application != APPLICATION {
        let why = "its naru.db was made by another program".to_owned();
        return Err(Error::NotAStore { path: folder.to_owned(), why });
    }
    migrate::forward(folder, path, pool, format).await
}

/// Makes the tables of a new catalog.
pub(crate) async fn make(pool: &SqlitePool) -> sqlx::Result<()> {
    let mut transaction = pool.begin().await?;
    sqlx::raw_sql(include_str!("sqlite.sql")).execute(&mut *transaction).await?;
    sqlx::query("PRAGMA application_id = 1851880053").execute(&mut *transaction).await?;
    migrate::mark(&mut transaction, migrate::FORMAT).await?;
    transaction.commit().await
}

/// Takes what waits, makes it true in one transaction with one sync, and answers everybody. A change that is refused
/// is rolled back alone.
async fn commit_in_groups(
    pool: SqlitePool,
    folder: PathBuf,
    path: PathBuf,
    mut waiting: mpsc::Receiver<Waiting>,
    version: Arc<AtomicU64>,
    stopped: Arc<OnceLock<String>>,
    clock: Arc<Clock>,
) {
    let mut group = Vec::new();
    while waiting.recv_many(&mut group, GROUP).await > 0 {
        let mut done = Vec::with_capacity(group.len());
        let mut queue = std::mem::take(&mut group).into_iter();
        let committed = transaction(&pool, async |db: &mut SqliteConnection| {
            for Waiting { mut change, answer } in queue.by_ref() {
                if answer.is_closed() {
                    continue;
                }
                sqlx::query("SAVEPOINT one").execute(&mut *db).await?;
                let result = change::write(db, &mut change, &folder, &path, clock.now()).await;
                let ended = if result.is_ok() { "RELEASE one" } else { "ROLLBACK TO one" };
                let ended = sqlx::query(ended).execute(&mut *db).await;
                // A full disk takes back all of it at once; what this change failed by is then the reason.
                let why = match (&result, ended) {
                    (_, Ok(_)) => None,
                    (Err(Error::Catalog { source, .. }), Err(_)) => Some(same(source)),
                    (_, Err(error)) => Some(error),
                };
                done.push((change, answer, result));
                why.map_or(Ok(()), Err)?;
            }
            // Their files stay from here on: whether the commit arrived is known only to the disk.
            for (change, _, result) in &mut done {
                if result.is_ok() {
                    change.take_over();
                }
            }
            Ok(())
        })
        .await;
        version.fetch_add(1, Ordering::AcqRel);
        match committed {
            Ok(()) => {
                let folder = folder.clone();
                let leaves_files = done.iter().any(|(_, _, result)| result.as_ref().is_ok_and(Changed::leaves_files));
                let answer = move || {
                    for (_, answer, result) in done {
                        let _ = answer.send(result.map(|changed| changed.clear(&folder)));
                    }
                };
                // Files are removed here and not by the caller, who may be gone by now.
                if leaves_files { drop(tokio::task::spawn_blocking(answer)) } else { answer() }
            }
            Err(error) => {
                if crate::error::is_failed_write(&error) {
                    let _ = stopped.set(format!("{}: {error}", path.display()));
                }
                tracing::error!(%error, "the catalog took none of {} changes", done.len());
                let answers = done.into_iter().map(|(_, answer, _)| answer);
                for answer in answers.chain(queue.map(|waiting| waiting.answer)) {
                    let _ = answer.send(Err(Error::Catalog { path: path.clone(), source: same(&error) }));
                }
            }
        }
    }
}

/// The same error for one more who waits.
fn same(error: &sqlx::Error) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(crate::error::kind(error), error.to_string()))
}

/// Has all that `write` does committed together, or none of it.
///
/// By plain statements: where SQLite takes a transaction back by itself, as it does on a full disk
/// (`sqlite.org/lang_transaction.html`, "Response To Errors Within A Transaction"), sqlx's own goes on counting it as open,
/// and never begins another.
pub(crate) async fn transaction(
    pool: &SqlitePool,
    write: impl AsyncFnOnce(&mut SqliteConnection) -> sqlx::Result<()>,
) -> sqlx::Result<()> {
    let mut db = pool.acquire().await?;
    let outcome = async {
        if sqlx::query("BEGIN IMMEDIATE").execute(&mut *db).await.is_err() {
            // Somebody's may be open still, who was dropped in the middle of it.
            let _ = sqlx::query("ROLLBACK").execute(&mut *db).await;
            sqlx::query("BEGIN IMMEDIATE").execute(&mut *db).await?;
        }
        write(&mut db).await?;
        sqlx::query("COMMIT").execute(&mut *db).await.map(drop)
    }
    .await;
    if outcome.is_err() {
        // There may be nothing left to take back.
        let _ = sqlx::query("ROLLBACK").execute(&mut *db).await;
    }
    outcome
}
