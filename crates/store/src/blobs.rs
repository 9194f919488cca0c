//! Blobs on a file system: `blobs/sha256/ab/abcd….KEY-SUM`, and the order of syncs that makes them durable.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use artifact::{Algorithm, Digest};

use crate::{Error, Result, Store};

/// Names that a store's folder may hold before it is one: a mount point's own, and what an operator put there first.
const HARMLESS: [&str; 5] = ["lost+found", "serve.yaml", "naru.yaml", "naru.lock", ".snapshot"];

/// Names that a store's making leaves in its folder when it is cut short before there is a catalog.
const BEGUN: [&str; 4] = ["blobs", "partial", "lock", "naru.db-journal"];

/// Makes the store's folders, durably. A folder full of something else is refused rather than strewn with ours.
pub(crate) fn lay_folders(folder: &Path) -> Result<()> {
    if folder.to_str().is_none() {
        let why = "its path is not UTF-8, and SQLite, which keeps the catalog, takes no other".to_owned();
        return Err(Error::NotAStore { path: folder.to_owned(), why });
    }
    let make = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::io(path));
    let sync = |path: &Path| File::open(path).and_then(|opened| opened.sync_all()).map_err(Error::io(path));
    let is_new = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let missing: Vec<&Path> = folder.ancestors().take_while(is_new).collect();
    make(folder)?;
    for made in missing {
        let above = made.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync(above)?;
    }
    if !folder.join("naru.db").exists() {
        if was_a_store(folder) {
            return Err(Error::NoCatalog { path: folder.to_owned() });
        }
        let entries = fs::read_dir(folder).map_err(Error::io(folder))?.filter_map(std::result::Result::ok);
        let foreign = entries.map(|entry| entry.file_name()).find(|name| {
            let ours = BEGUN.iter().any(|begun| name == begun) && holds_no_blob(&folder.join(name), 0);
            !ours && !HARMLESS.iter().any(|harmless| name == harmless)
        });
        if let Some(name) = foreign {
            let why = format!("there is no naru.db in it, but `{}`", name.to_string_lossy());
            return Err(Error::NotAStore { path: folder.to_owned(), why });
        }
    }
    for part in ["blobs", "partial"].map(|name| folder.join(name)) {
        if !part.exists() {
            make(&part)?;
            sync(folder)?;
        }
        give_to_owner(folder, &part)?;
    }
    // All at once and before anybody writes: whoever finds its folder there may count on that folder's name to last.
    let places = folder.join("blobs").join(Algorithm::Sha256.as_str());
    if fs::read_dir(&places).map_or(0, Iterator::count) < 256 {
        for first in 0..=u8::MAX {
            let place = places.join(format!("{first:02x}"));
            make(&place)?;
            give_to_owner(folder, &place)?;
        }
        give_to_owner(folder, &places)?;
    }
    // A run that was cut short may have made them and not come to this.
    sync(&places)?;
    sync(&folder.join("blobs"))
}

/// Whether there is nothing but folders, as deep as ours are: bytes without a catalog are somebody's, and not ours to
/// begin anew on.
fn holds_no_blob(path: &Path, depth: usize) -> bool {
    if !path.is_dir() {
        return depth == 0;
    }
    let Ok(mut entries) = fs::read_dir(path) else { return false };
    depth < 4 && entries.all(|entry| entry.is_ok_and(|entry| holds_no_blob(&entry.path(), depth + 1)))
}

/// Whether a folder has what is left of a store: a copy of its catalog, or one file that has the name of a blob.
pub(crate) fn was_a_store(folder: &Path) -> bool {
    if folder.join(crate::kept::NAME).exists() {
        return true;
    }
    let root = folder.join("blobs");
    let mut folders = vec![(root.clone(), 0)];
    while let Some((below, depth)) = folders.pop() {
        for entry in fs::read_dir(&below).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.strip_prefix(&root).is_ok_and(|key| named(key).is_some()) {
                return true;
            }
            // Ours are two deep.
            if depth < 2 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push((path, depth + 1));
            }
        }
    }
    false
}

/// The digest that a blob's file is named by, and the sum that its key ends in; `None`: a file of that name is no blob.
pub(crate) fn named(key: &Path) -> Option<(Digest, Option<u64>)> {
    let mut parts = key.iter().map(std::ffi::OsStr::to_str);
    let (algorithm, first, name) = (parts.next()??, parts.next()??, parts.next()??);
    let (hex, unique) = name.split_once('.')?;
    let digest: Digest = format!("{algorithm}:{hex}").parse().ok()?;
    // A build before sums left none in the name; what is put aside has another ending.
    let (unique, sum) = match unique.split_once('-') {
        Some((unique, sum)) => (unique, Some(u64::from_str_radix(sum, 16).ok()?)),
        None => (unique, None),
    };
    let is_ours = hex.starts_with(first) && first.len() == 2 && unique.chars().all(|c| c.is_ascii_hexdigit());
    (is_ours && parts.next().is_none()).then_some((digest, sum))
}

/// A key for new bytes: never used before, so that no reader of an old key ever meets new bytes. It ends in their sum,
/// for [`Blob::check`](crate::Blob::check).
pub(crate) fn new_key(digest: &Digest, sum: u64) -> String {
    let hex = digest.hex();
    let unique = uuid::Uuid::new_v4().simple().to_string();
    format!("{}/{}/{hex}.{}-{sum:016x}", digest.algorithm().as_str(), &hex[..2], &unique[..12])
}

/// Where the bytes of a key are.
pub(crate) fn place(folder: &Path, key: &str) -> PathBuf {
    folder.join("blobs").join(key)
}

/// Whether a key's bytes are there, as far as a look at their length tells.
pub(crate) fn is_there(folder: &Path, key: &str, size: u64) -> bool {
    fs::metadata(place(folder, key)).is_ok_and(|file| file.is_file() && file.len() == size)
}

/// As [`sync_file`], and a file that could not be synced goes: its pages may be marked clean now, so that a later run,
/// which would go on from it, would believe them.
pub(crate) fn sync_or_remove(store: &Store, file: &File, path: &Path) -> Result<()> {
    sync_file(store, file, path).inspect_err(|_| drop(fs::remove_file(path)))
}

/// File systems that other machines may reach too, by the magic number of `statfs(2)`: NFS, SMB in three spellings, 9p,
/// AFS, Ceph, Coda, and whatever a FUSE daemon brings.
const SHARED: [u64; 9] =
    [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x0102_1997, 0x5346_414f, 0x00c3_6400, 0x7375_7245, 0x6573_5546];

/// Whether a folder lies on such a file system.
pub(crate) fn is_shared(folder: &Path) -> bool {
    // The width and the sign of the number differ between architectures; 32 bits of it count.
    rustix::fs::statfs(folder).is_ok_and(|found| SHARED.contains(&(found.f_type.cast_unsigned() & 0xffff_ffff)))
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
    // sha256 has its folders since the store was opened.
    if !key.starts_with(Algorithm::Sha256.as_str()) {
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(Error::io(&folder))?;
        give_to_owner(&store.inner.folder, &folder)?;
        // The new folder's own name must survive too, whoever has just made it.
        for parent in folder.ancestors().skip(1).take(2) {
            give_to_owner(&store.inner.folder, parent)?;
            sync_folder(store, parent)?;
        }
    }
    fs::rename(from, &to).map_err(Error::io(&to))?;
    sync_folder(store, &folder)?;
    Ok(to)
}

impl Store {
    /// Where the bytes of a key are.
    pub(crate) fn path_of(&self, key: &str) -> PathBuf {
        place(&self.inner.folder, key)
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
