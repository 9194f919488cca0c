//! A catalog that was lost or damaged, put together again: from the copy that is kept of it ([`Store::keep_catalog`]), or
//! else from nothing, and from the blobs, which say themselves what they are.
//!
//! ```text
//! STORE/naru.db.damaged-SECONDS       the catalog as it was found (-wal and -shm beside it, when they were there)
//! STORE/naru.db.rebuilding            what takes its place, until it does
//! ```
//!
//! A blob that no row names is hashed and, when it is right, gets a row that nobody shows: whoever loads or pulls again
//! brings names to it, and no bytes. What is cut short is simply begun again: the damaged file is out of the way before
//! another has its name, its log first, so that no log is ever read into a catalog that it is not of.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use artifact::{Digest, Progress};
use sqlx::sqlite::{SqliteConnectOptions, SqliteLockingMode, SqlitePool, SqlitePoolOptions};

use crate::sum::Arriving;
use crate::{Change, Error, NewBlob, Result, Store, blobs, catalog, clock, error, fsck, kept, lock, writer};

/// Of what the catalog was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The one that is there is sound, and stays.
    Sound,
    /// The copy that was kept at that time, in seconds since 1970.
    Kept(i64),
    /// Nothing: there is no copy, or it is damaged too.
    Nothing,
}

/// What was put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// Of what.
    pub origin: Origin,
    /// What was wrong with the catalog that was there.
    pub why: Option<String>,
    /// Where that lies now.
    pub aside: Option<PathBuf>,
    /// Blobs without a row that are what their names say, and have one now; their bytes.
    pub adopted: (u64, u64),
    /// Files that are not what their names say. They stay where they are.
    pub wrong: u64,
}

/// What a database's file is like.
enum Health {
    Sound,
    /// In words.
    Damaged(String),
}

/// A blob's file that no row names.
struct Stray {
    key: String,
    digest: Digest,
    sum: Option<u64>,
    size: u64,
}

impl Store {
    /// Opens the store in `folder` with a catalog that is sound, whatever has become of the one that is there.
    ///
    /// # Errors
    /// [`Error::Held`] when another process holds it: a catalog in use is not exchanged. [`Error::NoStore`] where nothing of
    /// a store is left; as [`Store::open`], when it was written by a newer Naru or another program.
    pub async fn rebuild(folder: &Path, progress: Arc<dyn Progress>) -> Result<(Self, Rebuilt)> {
        let path = folder.join("naru.db");
        if !path.exists() && !blobs::was_a_store(folder) {
            return Err(Error::NoStore { path: folder.to_owned() });
        }
        let shared = blobs::is_shared(folder);
        let lock = lock::Lock::take(folder)?;
        let mut rebuilt = Rebuilt { origin: Origin::Sound, why: None, aside: None, adopted: (0, 0), wrong: 0 };
        if let Health::Damaged(why) = health(folder, &path, shared).await? {
            rebuilt.why = Some(why);
            rebuilt.origin = prepare(folder, shared, progress.as_ref()).await?;
            rebuilt.aside = put_aside(folder)?;
            fs::rename(rebuilding(folder), &path).map_err(Error::io(&path))?;
            sync(folder)?;
        }
        blobs::lay_folders(folder)?;
        let store = Self::open_locked(folder, shared, lock).await?;
        store.adopt(&mut rebuilt, &progress).await?;
        Ok((store, rebuilt))
    }

    /// Gives rows to the blobs that have none.
    async fn adopt(&self, rebuilt: &mut Rebuilt, progress: &Arc<dyn Progress>) -> Result<()> {
        let places = places(&self.folder().join("blobs"))?;
        let mut total = 0;
        for place in &places {
            total += self.strays(place).await?.iter().map(|stray| stray.size).sum::<u64>();
        }
        progress.begin("adopt", total);
        // A folder at a time: a store may have millions.
        for place in &places {
            let strays = Arc::new(self.strays(place).await?);
            let next = Arc::new(AtomicUsize::new(0));
            let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(strays.len());
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    let (store, strays, next, progress) =
                        (self.clone(), Arc::clone(&strays), Arc::clone(&next), Arc::clone(progress));
                    tokio::task::spawn_blocking(move || {
                        let mut right = Vec::new();
                        while let Some(stray) = strays.get(next.fetch_add(1, Ordering::Relaxed)) {
                            right.extend(store.prove(stray));
                            progress.advance(stray.size);
                        }
                        right
                    })
                })
                .collect();
            let mut change = Change::new();
            let (mut adopted, mut bytes) = (0, 0);
            for worker in workers {
                for blob in worker.await.unwrap_or_default() {
                    (adopted, bytes) = (adopted + 1, bytes + blob.size);
                    change.blob(None, blob);
                }
            }
            self.apply(change).await?;
            rebuilt.wrong += strays.len() as u64 - adopted;
            rebuilt.adopted = (rebuilt.adopted.0 + adopted, rebuilt.adopted.1 + bytes);
        }
        progress.end();
        Ok(())
    }

    /// The blobs of a folder that no row names, one of each.
    async fn strays(&self, place: &Path) -> Result<Vec<Stray>> {
        let root = self.folder().join("blobs");
        let mut strays: Vec<Stray> = Vec::new();
        for path in fsck::files_below(place)? {
            let Ok(key) = path.strip_prefix(&root) else { continue };
            let Some((digest, sum)) = blobs::named(key) else { continue };
            let key = key.to_string_lossy().into_owned();
            let known: Option<i64> =
                sqlx::query_scalar("SELECT 1 FROM blob WHERE key = $1 UNION SELECT 1 FROM condemned WHERE key = $1")
                    .bind(&key)
                    .fetch_optional(self.db())
                    .await
                    .map_err(|error| self.failed(error))?;
            // Where there are right bytes already, as far as a look tells, these are a spare copy.
            let is_spare = strays.iter().any(|stray| stray.digest == digest) || self.blob(&digest).await?.is_some();
            if known.is_none() && !is_spare {
                let size = fs::metadata(&path).map_err(Error::io(&path))?.len();
                strays.push(Stray { key, digest, sum, size });
            }
        }
        Ok(strays)
    }

    /// Hashes a file; `None`: it is not what its name says.
    fn prove(&self, stray: &Stray) -> Option<NewBlob> {
        let mut arriving = Arriving::new(stray.digest.algorithm());
        let file = File::open(self.path_of(&stray.key)).ok()?;
        let size = writer::read_file(&file, |bytes| arriving.update(bytes)).ok()?;
        let (digest, sum) = arriving.finish();
        let is_right = digest == stray.digest && stray.sum.is_none_or(|expected| expected == sum);
        is_right.then(|| NewBlob { digest, size, key: stray.key.clone(), unnamed: None, partial: None })
    }
}

/// `blobs/ALGORITHM/XX`, each.
fn places(root: &Path) -> Result<Vec<PathBuf>> {
    let below = |folder: &Path| -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(folder).map_err(Error::io(folder))?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let mut paths: Vec<PathBuf> = paths.collect::<std::io::Result<_>>().map_err(Error::io(folder))?;
        paths.retain(|path| path.is_dir());
        paths.sort();
        Ok(paths)
    };
    let mut all = Vec::new();
    for algorithm in below(root)? {
        all.extend(below(&algorithm)?);
    }
    Ok(all)
}

fn rebuilding(folder: &Path) -> PathBuf {
    folder.join("naru.db.rebuilding")
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|opened| opened.sync_all()).map_err(Error::io(path))
}

/// Lays beside what shall be the catalog: the copy, when that is sound, or one without anything in it.
async fn prepare(folder: &Path, shared: bool, progress: &dyn Progress) -> Result<Origin> {
    let (copy, path) = (folder.join(kept::NAME), rebuilding(folder));
    remove(&path)?;
    let made = fs::metadata(&copy).and_then(|file| file.modified()).ok();
    let made = made.and_then(|made| made.duration_since(UNIX_EPOCH).ok()).map_or(0, |made| made.as_secs());
    if copy.exists() {
        // The copy itself stays as it is: this may be cut short.
        fs::copy(&copy, &path).map_err(Error::io(&path)).inspect_err(|_| drop(fs::remove_file(&path)))?;
        blobs::give_to_owner(folder, &path)?;
        match health(folder, &path, shared).await {
            Ok(Health::Sound) => {
                sync(&path)?;
                return Ok(Origin::Kept(i64::try_from(made).unwrap_or(i64::MAX)));
            }
            Ok(Health::Damaged(why)) => {
                progress.warn(&format!("the copy of the catalog, {}, is damaged too: {why}", copy.display()));
            }
            Err(error) => return Err(error),
        }
        remove(&path)?;
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(Error::io(&path))?;
    blobs::give_to_owner(folder, &path)?;
    let failed = |source| Error::Catalog { path: path.clone(), source };
    let pool = open(&path, shared).await.map_err(failed)?;
    let made = catalog::make(&pool).await;
    pool.close().await;
    made.map_err(failed)?;
    sync(&path)?;
    Ok(Origin::Nothing)
}

/// Takes the damaged catalog out of the way, its log first. Answers where it lies then; `None`: there was none.
fn put_aside(folder: &Path) -> Result<Option<PathBuf>> {
    let mut at = clock::now();
    let aside = loop {
        let aside = folder.join(format!("naru.db.damaged-{at}"));
        if !aside.exists() {
            break aside;
        }
        at += 1;
    };
    for suffix in ["-wal", "-shm", ""] {
        let (from, mut to) = (folder.join(format!("naru.db{suffix}")), aside.clone().into_os_string());
        to.push(suffix);
        match fs::rename(&from, &to) {
            Ok(()) => sync(folder)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(&from)(error)),
        }
    }
    Ok(Some(aside).filter(|aside| aside.exists()))
}

fn remove(path: &Path) -> Result<()> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut path = path.as_os_str().to_owned();
        path.push(suffix);
        let path = PathBuf::from(path);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&path)(error)),
            _ => {}
        }
    }
    Ok(())
}

/// One connection to a database that is there.
async fn open(path: &Path, shared: bool) -> sqlx::Result<SqlitePool> {
    let mut options = SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_secs(3));
    if shared {
        options = options.locking_mode(SqliteLockingMode::Exclusive);
    }
    SqlitePoolOptions::new().max_connections(1).connect_with(options).await
}

/// Looks through a whole database.
async fn health(folder: &Path, path: &Path, shared: bool) -> Result<Health> {
    if !path.exists() {
        return Ok(Health::Damaged("it is not there".to_owned()));
    }
    let looked = async {
        let pool = open(path, shared).await?;
        let looked = look(&pool).await;
        pool.close().await;
        looked
    };
    match looked.await {
        Ok((application, tables, said)) => {
            if tables > 0 && application != catalog::APPLICATION && said == "ok" {
                let why = "its naru.db was made by another program".to_owned();
                return Err(Error::NotAStore { path: folder.to_owned(), why });
            }
            Ok(match said.as_str() {
                "ok" if tables == 0 => Health::Damaged("there is nothing in it".to_owned()),
                "ok" => Health::Sound,
                said => Health::Damaged(said.to_owned()),
            })
        }
        Err(source) if error::is_damage(&source) => Ok(Health::Damaged(source.to_string())),
        Err(source) => Err(catalog::not_a_database(folder, path, source)),
    }
}

async fn look(pool: &SqlitePool) -> sqlx::Result<(i64, i64, String)> {
    let application: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(pool).await?;
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(pool).await?;
    let said: String = sqlx::query_scalar("PRAGMA integrity_check(1)").fetch_one(pool).await?;
    Ok((application, tables, said))
}
