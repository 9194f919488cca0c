//! A file that a command writes where its user wants it.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// A file being written; it gets its name when it is whole and durable. A device, a pipe or another thing that has no
/// bytes of its own is written into, and never replaced.
pub(crate) struct Output {
    path: PathBuf,
    place: Place,
}

enum Place {
    Beside(NamedTempFile),
    Straight(File),
}

impl Output {
    /// Begins; what lies there stays until the end.
    ///
    /// # Errors
    /// When nothing may be written there.
    pub(crate) fn begin(path: &Path) -> io::Result<Self> {
        if path.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        // A link stays one: what it leads to is written.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            let file = File::options().write(true).open(&path)?;
            return Ok(Self { path, place: Place::Straight(file) });
        }
        let file = tempfile::Builder::new().permissions(Permissions::from_mode(0o644)).tempfile_in(folder(&path))?;
        Ok(Self { path, place: Place::Beside(file) })
    }

    /// The file to write into.
    pub(crate) fn file(&self) -> &File {
        match &self.place {
            Place::Beside(file) => file.as_file(),
            Place::Straight(file) => file,
        }
    }

    /// Gives it its name. What is dropped before leaves nothing behind.
    ///
    /// # Errors
    /// When it cannot be made durable or get its name.
    pub(crate) fn finish(self) -> io::Result<()> {
        let Place::Beside(file) = self.place else { return Ok(()) };
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        match File::open(folder(&self.path)).and_then(|folder| folder.sync_all()) {
            // Some file systems cannot (FAT in some kernels, network shares); the file was synced.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
            other => other,
        }
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn what_is_half_written_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::write(&path, b"before").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        Output::begin(&link).unwrap().file().write_all(b"half").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"before");
        let output = Output::begin(&link).unwrap();
        output.file().write_all(b"whole").unwrap();
        output.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert!(link.is_symlink());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_no_file_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let reader = std::thread::spawn({
            let path = path.clone();
            move || {
                let mut bytes = Vec::new();
                File::open(path).unwrap().read_to_end(&mut bytes).map(|_| bytes).unwrap()
            }
        });
        let output = Output::begin(&path).unwrap();
        output.file().write_all(b"through").unwrap();
        output.finish().unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        assert!(!fs::metadata(&path).unwrap().is_file());
    }
}
