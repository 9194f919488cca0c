//! Files and folders of this machine.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use artifact::{Digest, Hasher, valid_path};

use crate::error::{Error, Result};
use crate::list::LocalWish;

/// A file that a local wish means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where it lies, seen from the packing list's folder.
    pub(crate) source: PathBuf,
    /// The path under which it is served.
    pub(crate) path: String,
}

/// The files that a wish means, and what was left out of its folder: links, devices, sockets. Blocking.
pub(crate) fn find(folder: &Path, wish: &LocalWish) -> Result<(Vec<Found>, Vec<PathBuf>)> {
    let name = wish.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let (mut found, mut skipped) = (Vec::new(), Vec::new());
    // What the user named may be a link; what lies in a folder may not, since it could point anywhere.
    let top = folder.join(&wish.path);
    let kind = std::fs::metadata(&top).map_err(Error::io(&top))?;
    if !kind.is_file() && !kind.is_dir() {
        return Err(Error::NotAFile { path: top, why: "this is neither a file nor a folder" });
    }
    if kind.is_file() {
        found.push(Found { source: wish.path.clone(), path: name.to_owned() });
        return Ok((found, skipped));
    }
    let mut folders = vec![(wish.path.clone(), name.to_owned())];
    while let Some((at, path)) = folders.pop() {
        let place = folder.join(&at);
        for item in std::fs::read_dir(&place).map_err(Error::io(&place))? {
            let item = item.map_err(Error::io(&place))?;
            let (file_name, source) = (item.file_name(), at.join(item.file_name()));
            let kind = item.file_type().map_err(Error::io(&item.path()))?;
            let path = file_name.to_str().map(|name| format!("{path}/{name}")).filter(|path| valid_path(path));
            match path {
                _ if !kind.is_file() && !kind.is_dir() => skipped.push(source),
                None => return Err(Error::NotAFile { path: item.path(), why: "this name cannot be served" }),
                Some(path) if kind.is_dir() => folders.push((source, path)),
                Some(path) => found.push(Found { source, path }),
            }
        }
    }
    if found.is_empty() {
        return Err(Error::NotAFile { path: top, why: "there is no file in it" });
    }
    found.sort_by(|one, two| one.path.cmp(&two.path));
    skipped.sort();
    Ok((found, skipped))
}

/// Digest and size of a file. Blocking.
pub(crate) fn hash(path: &Path) -> Result<(Digest, u64)> {
    let mut hasher = Hasher::sha256();
    let size = read(path, |bytes| {
        hasher.update(bytes);
        Ok(())
    })?;
    Ok((hasher.finish(), size))
}

/// Reads a file piece by piece; how many bytes it had. Blocking.
pub(crate) fn read(path: &Path, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<u64> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut piece = vec![0; 256 * 1024];
    let mut size = 0;
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(size),
            Ok(count) => {
                take(piece.get(..count).unwrap_or_default())?;
                size += count as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::Io { path: path.to_owned(), source }),
        }
    }
}
