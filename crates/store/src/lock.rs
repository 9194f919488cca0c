//! One holder: the process that has the store open holds `STORE/lock` until it ends, however it ends.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::{Error, Result};

/// The lock, held. The kernel releases it with the file, also after `kill -9`.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    pub(crate) fn take(folder: &Path) -> Result<Self> {
        let path = folder.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io(&path))?;
        crate::blobs::give_to_owner(folder, &path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                // What the holder wrote names it for people; the lock itself is the truth.
                let mut holder = String::new();
                let _ = file.take(200).read_to_string(&mut holder);
                let holder = if holder.trim().is_empty() { "another process" } else { holder.trim() };
                return Err(Error::Held { path: folder.to_owned(), holder: holder.to_owned() });
            }
            Err(error) => return Err(Error::Io { path, source: error.into() }),
        }
        let arguments: Vec<String> =
            std::env::args_os().take(2).map(|argument| argument.to_string_lossy().into_owned()).collect();
        let named = format!("process {} ({})\n", std::process::id(), arguments.join(" "));
        // Best effort: a full disk must not keep anyone from reading what is here.
        let _ =
            file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).and_then(|_| file.write_all(named.as_bytes()));
        Ok(Self { _file: file })
    }
}
