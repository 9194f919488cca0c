//! What the paths mean that shall be loaded. Bytes decide, not names.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::archive::Tape;
use super::contents::beginning;
use super::stream::{Look, look, open};
use crate::beside::BESIDE;
use crate::{Error, Result, is_named_parity, is_named_volume, open_file};

/// A file that shall be loaded; who loads it may not be allowed to open it, so the file itself travels beside this.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Piece {
    /// Where it was found.
    pub path: PathBuf,
    /// What it is.
    pub sort: Sort,
}

/// What a file is that can be loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sort {
    /// A volume of a bundle.
    Volume,
    /// An archive, compressed or not; named by the user, or found in a folder.
    Archive {
        /// Its path was given, so that nothing in it is worth an error.
        named: bool,
    },
    /// A file of the layout that lies in this folder.
    Layout(PathBuf),
    /// A file that cannot be opened or read, beside others that can; why, in words.
    Unread(String),
}

/// What these paths mean, each file once: files as they are; of a folder the volumes and the archives in it, or the
/// layout that it is.
///
/// # Errors
/// When a path names nothing that can be loaded, or nothing can be read.
pub fn pieces(paths: &[PathBuf]) -> Result<Vec<Piece>> {
    let mut found = Found::default();
    let mut strange = Vec::new();
    for path in paths {
        if std::fs::metadata(path).map_err(Error::io(path))?.is_dir() {
            found.folder(path)?;
            continue;
        }
        match sort(path) {
            Ok(Ok(sort)) => found.pieces.push(Piece { path: path.clone(), sort }),
            Ok(Err(what)) => strange.push((path, what)),
            Err(error @ Error::Io { .. }) => found.unread(path, error),
            Err(error) => return Err(error),
        }
    }
    let Found { mut pieces, failed } = found;
    // A volume whose beginning is damaged is named beside the others, and does not keep them out.
    let has_volume = pieces.iter().any(|piece| piece.sort == Sort::Volume);
    for (path, what) in strange {
        if !has_volume {
            return Err(Error::Strange { path: path.clone(), what: what.to_owned() });
        }
        pieces.push(Piece { path: path.clone(), sort: Sort::Volume });
    }
    if let Some(error) = failed.filter(|_| pieces.iter().all(|piece| matches!(piece.sort, Sort::Unread(_)))) {
        return Err(error);
    }
    let mut seen = HashSet::new();
    pieces.retain(|Piece { path, .. }| seen.insert(std::fs::canonicalize(path).unwrap_or_else(|_| path.clone())));
    Ok(pieces)
}

/// What was found, and the first file that could not be read.
#[derive(Default)]
struct Found {
    pieces: Vec<Piece>,
    failed: Option<Error>,
}

impl Found {
    fn unread(&mut self, path: &Path, error: Error) {
        self.pieces.push(Piece { path: path.to_owned(), sort: Sort::Unread(error.to_string()) });
        self.failed.get_or_insert(error);
    }

    fn folder(&mut self, path: &Path) -> Result<()> {
        let before = self.pieces.len();
        if is_layout(path) {
            return layout(path, path, &mut self.pieces);
        }
        for entry in entries(path)? {
            if entry.is_dir() {
                if is_layout(&entry) {
                    layout(&entry, &entry, &mut self.pieces)?;
                }
                continue;
            }
            if entry.extension().is_some_and(|extension| extension == "partial") || !entry.is_file() {
                continue;
            }
            // The images in the archive are in the volumes, too; the rest is for people.
            if entry.file_name().is_some_and(|name| BESIDE.iter().any(|beside| name == *beside)) {
                continue;
            }
            match sort(&entry) {
                Ok(Ok(Sort::Archive { .. })) => {
                    self.pieces.push(Piece { path: entry, sort: Sort::Archive { named: false } });
                }
                Ok(Ok(sort)) => self.pieces.push(Piece { path: entry, sort }),
                // Its beginning is damaged: whoever loads it says so.
                Ok(Err(_)) if is_named_volume(&entry) || is_named_parity(&entry) => {
                    self.pieces.push(Piece { path: entry, sort: Sort::Volume });
                }
                Ok(Err(_)) => {}
                Err(error) => self.unread(&entry, error),
            }
        }
        if self.pieces.len() == before {
            return Err(Error::NothingToLoad { path: path.to_owned() });
        }
        Ok(())
    }
}

/// What a file is; the inner error is what it is instead.
fn sort(path: &Path) -> Result<Result<Sort, &'static str>> {
    let file = open_file(path)?;
    let end = file.metadata().map_err(Error::io(path))?.len();
    let tape = |file: &File| {
        let file = file.try_clone().map_err(Error::io(path))?;
        Ok::<_, Error>(Tape::Range { file: std::sync::Arc::new(file), at: 0, end })
    };
    let start = beginning(tape(&file)?).map_err(Error::io(path))?;
    Ok(match look(&start) {
        Look::Volume => Ok(Sort::Volume),
        Look::Tar => Ok(Sort::Archive { named: true }),
        Look::Other(what) => Err(what),
        Look::Compressed(compression) => {
            let unpacked = open(tape(&file)?, compression).and_then(beginning);
            match unpacked.map(|start| look(&start)) {
                Ok(Look::Tar) => Ok(Sort::Archive { named: true }),
                Ok(Look::Volume) => Err("a volume that something has compressed: unpack it first"),
                Ok(_) => Err("compressed, and no archive when unpacked"),
                Err(_) => Err("compressed, and damaged"),
            }
        }
    })
}

/// Whether a folder is an OCI layout, or an archive of docker's that somebody has unpacked.
fn is_layout(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    (has("index.json") && has("oci-layout")) || begins_a_list(&folder.join("manifest.json"))
}

/// Whether a file holds a JSON array, by its beginning. Anything may lie there: a device is not read.
fn begins_a_list(path: &Path) -> bool {
    let mut bytes = Vec::new();
    let is_file = std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    is_file
        && File::open(path).and_then(|file| file.take(512).read_to_end(&mut bytes)).is_ok()
        && bytes.trim_ascii_start().starts_with(b"[")
}

/// Every regular file below `folder`, links not followed.
fn layout(root: &Path, folder: &Path, pieces: &mut Vec<Piece>) -> Result<()> {
    for entry in entries(folder)? {
        let kind = std::fs::symlink_metadata(&entry).map_err(Error::io(&entry))?;
        if kind.is_dir() {
            layout(root, &entry, pieces)?;
        } else if kind.is_file() {
            pieces.push(Piece { path: entry, sort: Sort::Layout(root.to_owned()) });
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(Error::io(folder))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()
        .map_err(Error::io(folder))?;
    entries.sort();
    Ok(entries)
}
