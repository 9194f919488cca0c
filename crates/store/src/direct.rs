//! Writing past the kernel's cache: for what is much, and is written once, in order.
//!
//! What is written so is on the medium when the write has ended. It costs no copy, throws nothing else out of memory, and
//! leaves the sync at the end little to wait for.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

/// Bytes of a buffer.
pub const CHUNK: usize = 1 << 20;
/// What direct writes have to lie on, in memory and on the disk: the sector of every disk of today.
const ALIGNED: usize = 4096;
/// Where the kernel keeps what is written, it is set to write each time there is so much of it.
const EAGER: u64 = 128 << 20;
/// Blobs that are written so at a time: each has up to three buffers.
const MOST: usize = 4;

/// Some bytes that begin where a direct write may.
#[derive(Debug)]
pub struct Buffer {
    memory: Vec<u8>,
    begin: usize,
    length: usize,
}

impl Default for Buffer {
    fn default() -> Self {
        let memory = vec![0; CHUNK + ALIGNED];
        let begin = memory.as_ptr().align_offset(ALIGNED).min(ALIGNED);
        Self { memory, begin, length: 0 }
    }
}

impl Buffer {
    /// What is in it.
    pub fn bytes(&self) -> &[u8] {
        self.memory.get(self.begin..self.begin + self.length).unwrap_or_default()
    }

    /// What is still free of it; [`Buffer::filled`] says how much of that was taken.
    pub fn room(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.begin + self.length..self.begin + CHUNK).unwrap_or_default()
    }

    /// So many bytes of its room are in it now.
    pub fn filled(&mut self, length: usize) {
        self.length = self.length.saturating_add(length).min(CHUNK);
    }

    /// Whether there is no room.
    pub fn is_full(&self) -> bool {
        self.length == CHUNK
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.length = 0;
    }

    /// Takes as much of these bytes as there is room for, and answers the rest.
    pub fn take<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let room = self.room();
        let (now, rest) = bytes.split_at(room.len().min(bytes.len()));
        room.get_mut(..now.len()).unwrap_or_default().copy_from_slice(now);
        self.filled(now.len());
        rest
    }
}

/// A file that is written past the kernel's cache, where that can be.
#[derive(Debug)]
pub struct Disk {
    file: File,
    is_direct: bool,
    written: u64,
}

impl Disk {
    /// Makes a file, or empties one.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn create(path: &Path, size: u64) -> io::Result<Self> {
        let disk = Self::open(path, OpenOptions::new().write(true).create(true).truncate(true))?;
        // Room is taken at once where the file system can: writing is quicker, and what lies on the disk less in pieces.
        let _ = rustix::fs::fallocate(&disk.file, rustix::fs::FallocateFlags::empty(), 0, size);
        Ok(disk)
    }

    /// Goes on in a file at `offset`.
    fn behind(path: &Path, offset: u64) -> io::Result<Self> {
        let mut disk = Self::open(path, OpenOptions::new().write(true))?;
        disk.file.seek(SeekFrom::Start(offset))?;
        Ok(disk)
    }

    fn open(path: &Path, options: &OpenOptions) -> io::Result<Self> {
        let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap_or_default();
        let (file, is_direct) = match options.clone().custom_flags(direct).open(path) {
            Ok(file) => (file, true),
            // A file system in memory, and some that a program makes, cannot.
            Err(error) if error.kind() == ErrorKind::InvalidInput => (options.open(path)?, false),
            Err(error) => return Err(error),
        };
        Ok(Self { file, is_direct, written: 0 })
    }

    /// Writes what a buffer holds.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.is_direct && !bytes.len().is_multiple_of(ALIGNED) {
            self.by_the_cache()?;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            match (&self.file).write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    rest = rest.get(written..).unwrap_or_default();
                    if self.is_direct && !rest.len().is_multiple_of(ALIGNED) {
                        self.by_the_cache()?;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Some say so only now.
                Err(error) if self.is_direct && error.kind() == ErrorKind::InvalidInput => self.by_the_cache()?,
                Err(error) => return Err(error),
            }
        }
        let before = self.written / EAGER;
        self.written += bytes.len() as u64;
        if !self.is_direct && self.written / EAGER > before {
            self.file.sync_data()?;
        }
        Ok(())
    }

    /// From here on the kernel keeps what is written, until it is told to write.
    fn by_the_cache(&mut self) -> io::Result<()> {
        let flags = rustix::fs::fcntl_getfl(&self.file)?;
        rustix::fs::fcntl_setfl(&self.file, flags - rustix::fs::OFlags::DIRECT)?;
        self.is_direct = false;
        Ok(())
    }

    /// Makes all of it durable.
    ///
    /// # Errors
    /// When the disk refuses: nothing of it may be relied on then.
    pub fn finish(self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// A stretch of a blob on its way: a thread of its own gives it to the disk while the next bytes are hashed.
#[derive(Debug)]
pub(crate) struct Stretch {
    buffer: Buffer,
    full: SyncSender<Buffer>,
    empty: Receiver<Buffer>,
    writing: JoinHandle<(u64, io::Result<()>)>,
    /// Where in the file it begins.
    begin: u64,
    _place: Place,
}

/// What a stretch left behind.
pub(crate) struct Left {
    /// Where in the file its last bytes belong.
    pub(crate) at: u64,
    /// Those that fill no buffer.
    pub(crate) rest: Buffer,
}

impl Stretch {
    /// Where in a file a stretch may begin, that has so many bytes.
    pub(crate) fn next_after(length: u64) -> u64 {
        length.next_multiple_of(ALIGNED as u64)
    }

    /// Begins one at `offset` of the file. `None` where that cannot be now: then it is written as ever.
    pub(crate) fn begin(path: &Path, offset: u64, places: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Place::take(places)?;
        let mut disk = Disk::behind(path, offset).ok().filter(|disk| disk.is_direct)?;
        let (full, to_write) = sync_channel::<Buffer>(1);
        let (written, empty) = channel();
        let write = move || {
            let mut length = 0;
            for buffer in to_write {
                let buffer: Buffer = buffer;
                if let Err(error) = disk.write(buffer.bytes()) {
                    return (length, Err(error));
                }
                length += buffer.bytes().len() as u64;
                let _ = written.send(buffer);
            }
            (length, Ok(()))
        };
        let writing = std::thread::Builder::new().name("disk".to_owned()).spawn(write).ok()?;
        Some(Self { buffer: Buffer::default(), full, empty, writing, begin: offset, _place: place })
    }

    /// Takes the next bytes. `false`: the disk has refused, and [`Stretch::end`] says why.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            bytes = self.buffer.take(bytes);
            if self.buffer.is_full() {
                let mut next = self.empty.try_recv().unwrap_or_default();
                next.clear();
                if self.full.send(std::mem::replace(&mut self.buffer, next)).is_err() {
                    return false;
                }
            }
        }
        true
    }

    /// Waits for the disk. With an error comes how long the file is then, as far as it is known to be right.
    pub(crate) fn end(self) -> Result<Left, (u64, io::Error)> {
        let Self { buffer, full, writing, begin, .. } = self;
        drop(full);
        let (length, written) = writing.join().unwrap_or_else(|_| (0, Err(io::Error::other("a thread ended early"))));
        match written {
            Ok(()) => Ok(Left { at: begin + length, rest: buffer }),
            Err(error) => Err((begin + length, error)),
        }
    }
}

/// One of the few that may write so at a time.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(places: &Arc<AtomicUsize>) -> Option<Self> {
        let more = |taken| (taken < MOST).then_some(taken + 1);
        places.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Self(Arc::clone(places)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
