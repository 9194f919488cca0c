//! What can go wrong with a store.

use std::io;
use std::path::{Path, PathBuf};

use artifact::{Digest, InvalidManifest, Repository};

/// An answer of the store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with the thing it went wrong with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The catalog's database refused.
    #[error("the catalog {path}: {source}")]
    Catalog {
        /// The database's file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: sqlx::Error,
    },
    /// Another process has the store open.
    #[error("the store {path} is held by {holder}")]
    Held {
        /// The store's folder.
        path: PathBuf,
        /// Who, as far as the lock file tells: process and command.
        holder: String,
    },
    /// The store was written by a newer Naru.
    #[error("the store {path} has format {found}, made by {wrote}; this naru {version} knows formats up to {known}")]
    Newer {
        /// The store's folder.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// Which Naru made it so.
        wrote: String,
        /// The newest that this binary knows.
        known: i64,
        /// This binary's own version.
        version: &'static str,
    },
    /// The catalog of an older Naru could not be brought to this one's format.
    #[error(
        "the catalog {path} has format {found} and could not be brought to {known}: {source}; it is as it was, and {copy} \
         is a copy of it"
    )]
    Migration {
        /// The database's file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The one it should have got.
        known: i64,
        /// The copy that was made before.
        copy: PathBuf,
        /// What the database said.
        #[source]
        source: sqlx::Error,
    },
    /// There is no store where one is read.
    #[error("there is no store in {path}")]
    NoStore {
        /// The folder.
        path: PathBuf,
    },
    /// There are bytes, and no catalog to say what they are.
    #[error("the store {path} has lost its catalog, naru.db")]
    NoCatalog {
        /// The folder.
        path: PathBuf,
    },
    /// The folder has something else in it.
    #[error("{path} is not a store: {why}")]
    NotAStore {
        /// The folder.
        path: PathBuf,
        /// What was found or missing.
        why: String,
    },
    /// Bytes are not what their name says.
    #[error("the bytes have digest {found}, not {expected}")]
    Mismatch {
        /// What they should have had.
        expected: Digest,
        /// What they have.
        found: Digest,
    },
    /// A change names a blob or manifest that the store has not, or that the repository may not show.
    #[error("{repository} has no {digest}")]
    Missing {
        /// The repository.
        repository: Repository,
        /// What it lacks.
        digest: Digest,
    },
    /// A blob cannot be taken from a repository that shows a manifest which names it.
    #[error("{repository} needs {digest} for {by}")]
    Needed {
        /// The repository.
        repository: Repository,
        /// The blob.
        digest: Digest,
        /// The manifest.
        by: Digest,
    },
    /// An entry would offer something with a hole in it.
    #[error("{repository}: {digest} is not complete: {missing} is not there")]
    Incomplete {
        /// The repository.
        repository: Repository,
        /// What the entry names.
        digest: Digest,
        /// The first thing that is missing.
        missing: Digest,
    },
    /// A name that no repository or entry has.
    #[error("`{0}` is not a name that a repository or an entry can have")]
    Name(String),
    /// Two parts of one process write the same blob from pieces.
    #[error("{digest} is being put together already")]
    Busy {
        /// The blob.
        digest: Digest,
    },
    /// There is no such generation.
    #[error("there is no generation {0}")]
    NoGeneration(i64),
    /// A manifest cannot be read.
    #[error("{digest}: {source}")]
    Manifest {
        /// Its digest.
        digest: Digest,
        /// Why not.
        #[source]
        source: InvalidManifest,
    },
    /// Writing was stopped, because an fsync failed: what the kernel dropped cannot be written again.
    #[error("writing to the store {path} has stopped after a failed fsync: {why}")]
    Stopped {
        /// The store's folder.
        path: PathBuf,
        /// The first failure.
        why: String,
    },
}

impl Error {
    /// For `map_err`: names the path.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run as the user that owns the store, or name another one with --store".to_owned()
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::FileTooLarge => {
                "a limit (`ulimit -f`) or that file system takes no file of this size; raise it, or put the store on \
                 another disk with --store"
                    .to_owned()
            }
            _ if self.is_no_space() => {
                "make room on that disk, or put the store on another one with --store; what was loaded so far is kept"
                    .to_owned()
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                "mount it writable, or name another store with --store".to_owned()
            }
            Self::Held { .. } => "wait until it has ended, or end it; one process holds a store at a time".to_owned(),
            Self::Migration { .. } => "the naru that wrote it still reads it; make room on that disk and try again, or report this".to_owned(),
            Self::Newer { .. } => "use the newer naru that wrote it".to_owned(),
            Self::NoStore { .. } => {
                "name the one that is meant with --store or NARU_STORE; `naru pull`, `naru load` and `naru serve` make one"
                    .to_owned()
            }
            Self::NotAStore { .. } => "name an empty folder, or one that naru made, with --store".to_owned(),
            damaged if damaged.is_damaged_catalog() => {
                "`naru fsck --rebuild` makes a catalog again, out of the copy that is kept of it and the bytes that are here"
                    .to_owned()
            }
            Self::Catalog { .. } => "if the disk is sound, `naru fsck` tells what is wrong".to_owned(),
            Self::Mismatch { .. } => "the copy is damaged; fetch or load it again".to_owned(),
            Self::Stopped { .. } => "check the disk, then start naru again; what was acknowledged is kept".to_owned(),
            Self::NoGeneration(_) => "`naru history` lists the generations there are".to_owned(),
            _ => return None,
        })
    }

    /// Whether the disk (or a quota, or a file-size limit) is what was in the way.
    pub fn is_no_space(&self) -> bool {
        let kind = match self {
            Self::Io { source, .. } => source.kind(),
            Self::Catalog { source, .. } | Self::Migration { source, .. } => kind(source),
            _ => return false,
        };
        matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
    }

    /// Whether the disk, or the file system on it, could not read what it has: EIO, EBADMSG, EUCLEAN.
    pub(crate) fn is_bad_sector(&self) -> bool {
        use rustix::io::Errno;
        let Self::Io { source, .. } = self else { return false };
        source.raw_os_error().is_some_and(|code| {
            [Errno::IO, Errno::BADMSG, Errno::UCLEAN].iter().any(|errno| errno.raw_os_error() == code)
        })
    }

    /// Whether the catalog's own file is not what SQLite wrote.
    pub fn is_damaged_catalog(&self) -> bool {
        match self {
            Self::NoCatalog { .. } => true,
            Self::Catalog { source, .. } => is_damage(source),
            _ => false,
        }
    }

    /// Whether a file that should be there is not.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// What the database's error is in the system's words.
pub(crate) fn kind(error: &sqlx::Error) -> io::ErrorKind {
    match error {
        sqlx::Error::Io(error) => error.kind(),
        // SQLITE_FULL (sqlite.org/rescode.html)
        sqlx::Error::Database(error) if error.code().is_some_and(|code| code == "13") => io::ErrorKind::StorageFull,
        _ => io::ErrorKind::Other,
    }
}

/// Whether a database's file is damaged, or none: `SQLITE_CORRUPT` and its kin, `SQLITE_NOTADB`, and sectors that cannot be
/// read (`SQLITE_IOERR_READ`, `SQLITE_IOERR_CORRUPTFS`).
pub(crate) fn is_damage(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    let code: Option<u32> = code.and_then(|code| code.parse().ok());
    code.is_some_and(|code| matches!(code & 0xff, 11 | 26) || matches!(code, 266 | 8458))
}

/// Whether the disk failed to take what SQLite wrote or synced: `SQLITE_IOERR_WRITE`, _FSYNC, _`DIR_FSYNC`
/// (sqlite.org/rescode.html).
pub(crate) fn is_failed_write(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| ["778", "1034", "1290"].contains(&code.as_ref()))
}
