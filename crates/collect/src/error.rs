//! What can go wrong between a wish and the store.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use artifact::{Digest, InvalidManifest};

use crate::readable;
use crate::yaml::snippet;

/// An answer of this crate.
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
    /// A list or lock is larger than is read.
    #[error("{path} has more than {limit} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How many bytes it may have.
        limit: u64,
    },
    /// YAML that is malformed, has keys that are not known, or says something that cannot be done.
    #[error("{path}:{line}:{column}: {why}{snippet}")]
    Document {
        /// The file.
        path: PathBuf,
        /// Counted from 1; 0: unknown.
        line: u64,
        /// Counted from 1.
        column: u64,
        /// What is wrong.
        why: String,
        /// The lines around it.
        snippet: String,
        /// The key that was meant, when one is near.
        meant: Option<&'static str>,
    },
    /// Two wishes for one name that want different things.
    #[error("{path}: lines {first} and {second} disagree about {name}: {difference}")]
    Disagree {
        /// The packing list.
        path: PathBuf,
        /// The line of the first.
        first: u64,
        /// The line of the second.
        second: u64,
        /// What both name.
        name: String,
        /// What each of them says.
        difference: String,
    },
    /// A document could not be written as YAML.
    #[error("{path} cannot be written: {why}")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the writer says.
        why: String,
    },
    /// The lock was written by a newer Naru.
    #[error("{path} has version {found}; this naru knows {known}")]
    NewerLock {
        /// The lock.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest that this binary knows.
        known: u64,
    },
    /// The lock is not as `naru lock` wrote it.
    #[error("{path} was edited by hand, or merged: its checksum does not match")]
    EditedLock {
        /// The lock.
        path: PathBuf,
    },
    /// `--update` names nothing that is in the list.
    #[error("`{name}` is nothing that the packing list has")]
    UnknownUpdate {
        /// What was given.
        name: String,
    },
    /// The upstream refused, or could not be reached.
    #[error(transparent)]
    Upstream(#[from] upstream::Error),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A manifest cannot be read.
    #[error("the manifest {digest}: {source}")]
    Manifest {
        /// Its digest.
        digest: Digest,
        /// Why not.
        #[source]
        source: InvalidManifest,
    },
    /// Indexes within indexes, or referrers of referrers, without end.
    #[error("{what} of {digest}: more than {limit}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The manifest where it was given up.
        digest: Digest,
        /// How many are followed.
        limit: usize,
    },
    /// The image is not made for a platform that was wished for.
    #[error("it has no {wanted}; it has {}", .has.join(", "))]
    NoPlatform {
        /// What was wished for.
        wanted: String,
        /// What there is.
        has: Vec<String>,
    },
    /// A checksum document does not name the file.
    #[error("{url}: {why}")]
    Checksum {
        /// The document.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file is not what its sum says.
    #[error("{name} has sha256 {}, not {}", .found.hex(), .expected.hex())]
    WrongFile {
        /// A URL, or a path of this machine.
        name: String,
        /// What it should have.
        expected: Digest,
        /// What it has.
        found: Digest,
    },
    /// A file of a web server has grown since it was locked.
    #[error("it is larger than the {size} bytes that were locked")]
    Larger {
        /// How many it had.
        size: u64,
    },
    /// A file of this machine is not what it was when it was locked.
    #[error("{path} has changed since it was locked")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Something that is not a file, where only files can be carried.
    #[error("{path}: {why}")]
    NotAFile {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The store's disk cannot hold it.
    #[error("{folder} has {} free; {} are needed", readable(*.free), readable(*.needed))]
    NoSpace {
        /// The store's folder.
        folder: PathBuf,
        /// Bytes that must be written.
        needed: u64,
        /// Bytes that may be.
        free: u64,
    },
    /// A thread of this process ended without an answer.
    #[error("a thread of naru broke off")]
    Thread {
        /// What is known of it.
        #[source]
        source: tokio::task::JoinError,
    },
    /// Several things failed; everything else was done.
    #[error("{}", list(.failures, *.total, .action))]
    Failed {
        /// The verb: `lock`, `pull`.
        action: &'static str,
        /// How many things were tried.
        total: usize,
        /// Those that failed, in the lock's order.
        failures: Vec<Failure>,
    },
}

/// One thing that failed.
#[derive(Debug)]
pub struct Failure {
    /// A reference, a URL or a path.
    pub name: String,
    /// Why.
    pub error: Error,
}

fn list(failures: &[Failure], total: usize, action: &str) -> String {
    let mut text = format!("{} of {total} could not be {action}ed", failures.len());
    for Failure { name, error } in failures {
        let said = error.to_string();
        // Many errors begin with the URL or path that they are about.
        let _ = if said.starts_with(name.as_str()) {
            write!(text, "\n  {said}")
        } else {
            write!(text, "\n  {name}: {said}")
        };
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            let said = cause.to_string();
            if !text.ends_with(&said) {
                let _ = write!(text, ": {said}");
            }
            source = cause.source();
        }
    }
    text
}

impl Error {
    /// For `map_err`: names the path.
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    /// For `map_err`: what becomes of a thread that panicked or was stopped.
    pub(crate) fn thread(why: tokio::task::JoinError) -> Self {
        Self::Thread { source: why }
    }

    /// What is wrong at one place of a document.
    pub(crate) fn at(
        path: &Path,
        text: &str,
        line: u64,
        column: u64,
        why: String,
        meant: Option<&'static str>,
    ) -> Self {
        Self::Document { path: path.to_owned(), line, column, why, snippet: snippet(text, line, column), meant }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Io { path, source } if source.kind() == io::ErrorKind::NotFound => {
                match path.extension().and_then(|ending| ending.to_str()) {
                    Some("yaml" | "yml") => "`naru init` writes a starter; `-f FILE` names another".to_owned(),
                    Some("lock") => "`naru lock` writes it".to_owned(),
                    _ => "check the path; those in a packing list are seen from its folder".to_owned(),
                }
            }
            Self::Document { meant: Some(meant), .. } => format!("`{meant}` was probably meant"),
            Self::Document { path, .. } if path.extension().is_some_and(|ending| ending == "lock") => {
                "`naru lock` writes it anew".to_owned()
            }
            Self::Document { .. } => {
                "`naru init -f OTHER.yaml` writes an example of everything that it may hold".to_owned()
            }
            Self::TooLarge { .. } => {
                "divide it: a packing list of its own (`-f`) for a part of the things; one store takes them all"
                    .to_owned()
            }
            Self::Disagree { .. } => "keep one of the two".to_owned(),
            Self::NewerLock { .. } => "use the naru that wrote it, or a newer one".to_owned(),
            Self::EditedLock { .. } => "change the packing list instead, and run `naru lock`".to_owned(),
            Self::UnknownUpdate { .. } => {
                "name an image by its reference or repository, a file by its URL or path; `*` means all".to_owned()
            }
            Self::Manifest { .. } => "ask its publisher for a current image".to_owned(),
            Self::TooMany { .. } => "`referrers: false` leaves what refers to an image out".to_owned(),
            Self::NoPlatform { .. } => "give this image its own `platforms:`".to_owned(),
            Self::Checksum { .. } => "give the file its `sha256` instead".to_owned(),
            Self::WrongFile { .. } | Self::Larger { .. } => {
                "if its upstream changed it on purpose, correct the `sha256` in the packing list, or run \
                 `naru lock --update`; otherwise do not trust it"
                    .to_owned()
            }
            Self::NotAFile { .. } => {
                "name a file: the packing list by `-f FILE`, what it carries by `path:`".to_owned()
            }
            Self::Changed { .. } => "run `naru lock` again".to_owned(),
            Self::NoSpace { .. } => "free some room, or use `--store` on a larger disk".to_owned(),
            Self::Upstream(error) => return error.hint(),
            Self::Store(error) => return error.hint(),
            Self::Failed { failures, .. } => return failures.iter().find_map(|failure| failure.error.hint()),
            _ => return None,
        })
    }
}
