//! Reading from the medium itself. What was just written lies in the page cache, and reading it there proves nothing.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, OFlags};

use crate::volume::CHUNK;
use crate::{Error, Result};

/// Opens what must be a file: parts of it are read at any place. A pipe is refused and not waited for.
///
/// # Errors
/// [`Error::NoFile`], or what the file system says.
pub fn open_file(path: &Path) -> Result<File> {
    let file = open_with(path, OFlags::NONBLOCK).map_err(Error::io(path))?;
    let kind = file.metadata().map_err(Error::io(path))?.file_type();
    let what = match kind {
        _ if kind.is_file() => return Ok(file),
        _ if kind.is_fifo() => "a pipe",
        _ if kind.is_dir() => "a folder",
        _ => "a device",
    };
    Err(Error::NoFile { path: path.to_owned(), what })
}

fn open_with(path: &Path, flags: OFlags) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(i32::try_from(flags.bits()).unwrap_or_default()).open(path)
}

/// Direct reads want memory, offsets and lengths in multiples of the device's block; 4 KiB is one everywhere.
const BLOCK: usize = 4096;

/// How the page cache is kept out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Past {
    /// `O_DIRECT`: the cache is not asked.
    Bypassed,
    /// Its pages of this file were given up first; a file system may keep some (tmpfs keeps all).
    Dropped,
}

/// A file, read past the page cache.
pub(crate) struct Medium {
    path: PathBuf,
    file: File,
    pub(crate) past: Past,
    buffer: Vec<u8>,
}

impl Medium {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let buffer = vec![0; CHUNK + 2 * BLOCK];
        if let Ok(file) = open_with(path, OFlags::DIRECT | OFlags::NONBLOCK) {
            let mut medium = Self { path: path.to_owned(), file, past: Past::Bypassed, buffer };
            // Some file systems take the flag and refuse the read.
            if medium.fill(0, BLOCK).is_ok() {
                return Ok(medium);
            }
        }
        let file = open_file(path)?;
        // Only clean pages can be given up.
        let _ = rustix::fs::fdatasync(&file);
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        Ok(Self { path: path.to_owned(), file, past: Past::Dropped, buffer: vec![0; CHUNK + 2 * BLOCK] })
    }

    /// Streams `size` bytes from `offset`.
    pub(crate) fn stream(&mut self, offset: u64, size: u64, mut take: impl FnMut(&[u8])) -> Result<()> {
        let mut done = 0;
        while done < size {
            let at = offset + done;
            let before = usize::try_from(at % BLOCK as u64).unwrap_or_default();
            let wanted = usize::try_from(size - done).unwrap_or(CHUNK).min(CHUNK - before);
            let length = (before + wanted).div_ceil(BLOCK) * BLOCK;
            let path = self.path.clone();
            let read = self.fill(at - before as u64, length).map_err(Error::io(&path))?;
            let usable = read.get(before..).unwrap_or_default();
            let usable = usable.get(..wanted.min(usable.len())).unwrap_or_default();
            if usable.is_empty() {
                return Err(Error::io(&path)(std::io::ErrorKind::UnexpectedEof.into()));
            }
            take(usable);
            done += usable.len() as u64;
        }
        Ok(())
    }

    /// Reads up to `length` bytes into memory that begins on a block.
    fn fill(&mut self, at: u64, length: usize) -> std::io::Result<&[u8]> {
        let skip = self.buffer.as_ptr().align_offset(BLOCK);
        let buffer = self.buffer.get_mut(skip..skip + length).unwrap_or_default();
        let mut filled = 0;
        while filled < length {
            let rest = buffer.get_mut(filled..).unwrap_or_default();
            match self.file.read_at(rest, at + filled as u64) {
                Ok(0) => break,
                // A short read ends at the file's end; from an offset that is not whole there is no reading on.
                Ok(read) if read % BLOCK != 0 => {
                    filled += read;
                    break;
                }
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.buffer.get(skip..skip + filled).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_range_of_any_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let bytes: Vec<u8> = (0..3_000_001_u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let mut medium = Medium::open(&path).unwrap();
        for (offset, size) in [(0, 0), (0, 1), (1, 4096), (4095, 2), (0, 3_000_001), (2_999_999, 2), (512, 2_000_000)] {
            let mut read = Vec::new();
            medium.stream(offset as u64, size as u64, |chunk| read.extend_from_slice(chunk)).unwrap();
            assert!(read == bytes[offset..offset + size], "{offset} {size}");
        }
        assert!(medium.stream(3_000_000, 2, |_| ()).is_err());
    }
}
