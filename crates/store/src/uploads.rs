//! Uploads: blobs that a client sends piece by piece, over hours, and over the end of the server that it began with.
//!
//! An upload is one file and nothing else, so that whoever holds the store goes on with it:
//!
//! ```text
//! STORE/partial/upload-4f0c….sha256.9a3b…    its id, the hash that runs along, and whose it is
//! ```
//!
//! How far it came is the file's length, and when somebody last asked for it the file's time. The hash is not kept: who
//! goes on with an upload that another process began hashes its bytes again. No row of the catalog speaks of it, so that
//! beginning one costs no commit.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use artifact::{Algorithm, Digest, Repository};
use uuid::Uuid;

use crate::writer::Stays;
use crate::{BlobWriter, Error, Result, Store};

const PREFIX: &str = "upload-";

impl Store {
    /// Begins an upload to a repository: its id, and its writer. Dropped, the writer leaves the file as it is. Blocking.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn begin_upload(&self, repository: &Repository, algorithm: Algorithm) -> Result<(String, BlobWriter)> {
        self.may_write()?;
        let id = Uuid::new_v4().to_string();
        let path = self.partial_path(&name(&id, algorithm, repository));
        let writer = self.writer_behind(path, algorithm, None, Stays::Upload)?;
        // Not synced: what a power cut takes of an upload without bytes is nothing.
        Ok((id, writer))
    }

    /// Goes on with an upload to this repository where its bytes end; `None` where there is none. Blocking: its bytes are
    /// hashed again. Two writers of one upload would spoil it; the caller sees to it that there is one.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn continue_upload(&self, id: &str, repository: &Repository) -> Result<Option<BlobWriter>> {
        let Some((path, algorithm)) = self.upload(id, repository) else { return Ok(None) };
        self.may_write()?;
        self.writer_behind(path, algorithm, None, Stays::Upload).map(Some)
    }

    /// Remembers that somebody asked for an upload just now.
    pub fn touch_upload(&self, id: &str, repository: &Repository) {
        if let Some((path, _)) = self.upload(id, repository) {
            // At worst it expires early.
            let _ = File::options().write(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
        }
    }

    /// Removes the uploads that nobody asked for since `before` (seconds since 1970), unless `busy` says of an id that
    /// it is being written. Their ids. Blocking.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn expire_uploads(&self, before: i64, busy: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let mut gone = Vec::new();
        let before = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(before).unwrap_or(0));
        let folder = self.partial_path("");
        for entry in fs::read_dir(&folder).map_err(Error::io(&folder))? {
            let path = entry.map_err(Error::io(&folder))?.path();
            let Some(id) = id_of(&path).filter(|id| !busy(id)) else { continue };
            let asked = fs::metadata(&path).and_then(|file| file.modified());
            if asked.is_ok_and(|asked| asked < before) && fs::remove_file(&path).is_ok() {
                tracing::info!(id, "the upload {id} was left alone for too long, and is removed");
                gone.push(id.to_owned());
            }
        }
        Ok(gone)
    }

    /// Removes an upload with its bytes, if it is there.
    pub fn forget_upload(&self, id: &str, repository: &Repository) {
        if let Some((path, _)) = self.upload(id, repository) {
            let _ = fs::remove_file(path);
        }
    }

    /// The file of an upload, and the hash that runs along.
    fn upload(&self, id: &str, repository: &Repository) -> Option<(PathBuf, Algorithm)> {
        // What is no id of ours names no file.
        Uuid::try_parse(id).ok().filter(|parsed| parsed.to_string() == id)?;
        let found = [Algorithm::Sha256, Algorithm::Sha512].map(|algorithm| {
            let path = self.partial_path(&name(id, algorithm, repository));
            path.is_file().then_some((path, algorithm))
        });
        found.into_iter().flatten().next()
    }
}

/// The file's name. Whose it is, is a part of it: to another repository the upload is unknown.
fn name(id: &str, algorithm: Algorithm, repository: &Repository) -> String {
    let whose = Digest::of(format!("{}\0{}\0{}", repository.kind, repository.host, repository.name).as_bytes()).hex();
    format!("{PREFIX}{id}.{}.{}", algorithm.as_str(), &whose[..32])
}

fn id_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.strip_prefix(PREFIX)?.split('.').next()
}
