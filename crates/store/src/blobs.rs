//! Blobs on a file system: `blobs/sha256/ab/abcd….KEY`, and the order of syncs that makes them durable.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use artifact::Digest;

use crate::{Error, Result, Store};

/// Names that a store's folder may hold before it is one: a mount point's own, and what an operator put there first.
const HARMLESS: [&str; 5] = ["lost+found", "serve.yaml", "naru.yaml", "naru.lock", ".snapshot"];

/// Makes the store's folders. A folder full of something else is refused rather than strewn with ours.
pub(crate) fn lay_folders(folder: &Path) -> Result<()> {
    let make = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::io(path));
    make(folder)?;
    if !folder.join("naru.db").exists() && !folder.join("lock").exists() {
        let foreign = fs::read_dir(folder)
            .map_err(Error::io(folder))?
            .filter_map(std::result::Result::ok)
            .map(|entry| entry.file_name())
            .find(|name| !HARMLESS.iter().any(|harmless| name == harmless));
        if let Some(name) = foreign {
            let why = format!("there is no naru.db in it, but `{}`", name.to_string_lossy());
            return Err(Error::NotAStore { path: folder.to_owned(), why });
        }
    }
    for part in ["blobs", "partial"].map(|name| folder.join(name)) {
        make(&part)?;
        give_to_owner(folder, &part)?;
    }
    Ok(())
}

/// A key for new bytes: never used before, so that no reader of an old key ever meets new bytes.
pub(crate) fn new_key(digest: &Digest) -> String {
    let hex = digest.hex();
    let unique = uuid::Uuid::new_v4().simple().to_string();
    format!("{}/{}/{hex}.{}", digest.algorithm().as_str(), &hex[..2], &unique[..12])
}

/// Makes a file's bytes and its length durable.
pub(crate) fn sync_file(store: &Store, file: &File, path: &Path) -> Result<()> {
    file.sync_all().map_err(Error::io(path)).inspect_err(|error| store.stop(error))
}

/// Makes a folder's names durable.
pub(crate) fn sync_folder(store: &Store, folder: &Path) -> Result<()> {
    let opened = File::open(folder).map_err(Error::io(folder))?;
    opened.sync_all().map_err(Error::io(folder)).inspect_err(|error| store.stop(error))
}

/// Whom new files of a store belong to: when root looks after a store that is another user's (`naru install` makes
/// such), that user must go on reading and writing it. SQLite does the same for its own files.
pub(crate) fn give_to_owner(folder: &Path, new: &Path) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = fs::metadata(folder).map_err(Error::io(folder))?;
    if owner.uid() == 0 {
        return Ok(());
    }
    std::os::unix::fs::lchown(new, Some(owner.uid()), Some(owner.gid())).map_err(Error::io(new))
}

/// Moves a whole, synced file to its key, and makes the move durable.
pub(crate) fn put_in_place(store: &Store, from: &Path, key: &str) -> Result<PathBuf> {
    let to = store.path_of(key);
    let folder = to.parent().unwrap_or(&to).to_owned();
    if !folder.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(Error::io(&folder))?;
        // The new folder's own name must survive too.
        for parent in folder.ancestors().skip(1).take(2) {
            give_to_owner(&store.inner.folder, parent)?;
            sync_folder(store, parent)?;
        }
        give_to_owner(&store.inner.folder, &folder)?;
    }
    fs::rename(from, &to).map_err(Error::io(&to))?;
    sync_folder(store, &folder)?;
    Ok(to)
}

impl Store {
    /// Where the bytes of a key are.
    pub(crate) fn path_of(&self, key: &str) -> PathBuf {
        self.inner.folder.join("blobs").join(key)
    }

    pub(crate) fn partial_path(&self, name: &str) -> PathBuf {
        self.inner.folder.join("partial").join(name)
    }

    /// Bytes that the file system still has for us.
    ///
    /// # Errors
    /// When the file system does not tell.
    pub fn free_space(&self) -> Result<u64> {
        let status = rustix::fs::statvfs(&self.inner.folder)
            .map_err(|error| Error::Io { path: self.inner.folder.clone(), source: error.into() })?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }
}
