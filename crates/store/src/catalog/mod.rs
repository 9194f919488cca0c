//! The catalog: SQLite in the store's folder. One connection writes, a few read; on a network file system one does both.

mod migrate;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqliteLockingMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use tokio::sync::{mpsc, oneshot};

use crate::change::{self, Changed};
use crate::{Change, Error, Result};

/// `PRAGMA application_id`: "naru".
const APPLICATION: i64 = 0x6e61_7275;
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
    answer: oneshot::Sender<Result<Changed>>,
}

impl Catalog {
    /// `version` is counted up at each commit, whoever still waits for its answer.
    /// `stopped` hears of a disk that failed a commit: nobody writes after that.
    pub(crate) async fn open(
        folder: &Path,
        shared: bool,
        version: Arc<AtomicU64>,
        stopped: Arc<OnceLock<String>>,
    ) -> Result<Self> {
        let path = folder.join("naru.db");
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
        tokio::spawn(commit_in_groups(writer.clone(), folder.to_owned(), path.clone(), waiting, version, stopped));
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
    pub(crate) async fn commit(&self, change: Change) -> Result<Changed> {
        let (answer, answered) = oneshot::channel();
        let closed = || self.error(sqlx::Error::PoolClosed);
        self.changes.send(Waiting { change: Box::new(change), answer }).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
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

/// A file that is no database is said to be none, rather than shown with SQLite's words.
fn not_a_database(folder: &Path, path: &Path, source: sqlx::Error) -> Error {
    // SQLITE_BUSY (sqlite.org/rescode.html): on a network file system another machine has it.
    if source.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == "5") {
        return Error::Held {
            path: folder.to_owned(),
            holder: "another process, on this or another machine".to_owned(),
        };
    }
    let is_not = source.as_database_error().is_some_and(|error| error.message().contains("not a database"));
    if is_not {
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
        let made = async {
            let mut transaction = pool.begin().await?;
            sqlx::raw_sql(include_str!("sqlite.sql")).execute(&mut *transaction).await?;
            sqlx::query("PRAGMA application_id = 1851880053").execute(&mut *transaction).await?;
            migrate::mark(&mut transaction, migrate::FORMAT).await?;
            transaction.commit().await
        };
        return made.await.map_err(failed);
    }
    if application != APPLICATION {
        let why = "its naru.db was made by another program".to_owned();
        return Err(Error::NotAStore { path: folder.to_owned(), why });
    }
    migrate::forward(folder, path, pool, format).await
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
) {
    let mut group = Vec::new();
    while waiting.recv_many(&mut group, GROUP).await > 0 {
        let mut done = Vec::with_capacity(group.len());
        let committed = async {
            let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
            for Waiting { mut change, answer } in group.drain(..) {
                if answer.is_closed() {
                    continue;
                }
                sqlx::query("SAVEPOINT one").execute(&mut *transaction).await?;
                let result = change::write(&mut transaction, &mut change, &folder, &path).await;
                let end = if result.is_ok() { "RELEASE one" } else { "ROLLBACK TO one" };
                sqlx::query(end).execute(&mut *transaction).await?;
                done.push((change, answer, result));
            }
            // Their files stay from here on: whether the commit arrived is known only to the disk.
            for (change, _, result) in &mut done {
                if result.is_ok() {
                    change.take_over();
                }
            }
            transaction.commit().await
        }
        .await;
        version.fetch_add(1, Ordering::AcqRel);
        match committed {
            Ok(()) => done.into_iter().for_each(|(_, answer, result)| drop(answer.send(result))),
            Err(error) => {
                // Those that were not even begun hear that nobody will answer.
                group.clear();
                let (kind, why) = (crate::error::kind(&error), error.to_string());
                if crate::error::is_failed_write(&error) {
                    let _ = stopped.set(format!("{}: {why}", path.display()));
                }
                for (_, answer, _) in done {
                    let source = sqlx::Error::Io(std::io::Error::new(kind, why.clone()));
                    let _ = answer.send(Err(Error::Catalog { path: path.clone(), source }));
                }
            }
        }
    }
}
