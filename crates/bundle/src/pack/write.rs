//! One volume, from the store onto the medium: in one pass, checked and hashed on the way.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};

use artifact::{Digest, Hasher, Progress};
use store::{Check, Store};

use super::PackedVolume;
use crate::document::{MEMBERS, SIGNATURE};
use crate::plan::{Item, LaidVolume, Source};
use crate::volume::CHUNK;
use crate::{Error, Result, document, tar};

pub(super) fn hash_piece(
    store: &Store,
    blob: &store::Blob,
    at: u64,
    size: u64,
    mut also: impl FnMut(&[u8]),
) -> Result<Digest> {
    let mut hasher = Hasher::sha256();
    let mut piece = Piece::open(store, blob, at, size)?;
    let mut buffer = vec![0; CHUNK];
    while let Some(bytes) = piece.read(&mut buffer)? {
        hasher.update(bytes);
        also(bytes);
    }
    Ok(hasher.finish())
}

/// A range of a blob, read from its beginning to its end.
struct Piece<'a> {
    blob: &'a store::Blob,
    file: File,
    rest: u64,
}

impl<'a> Piece<'a> {
    fn open(store: &Store, blob: &'a store::Blob, at: u64, size: u64) -> Result<Self> {
        let mut file = store.open_blob(blob)?;
        let _ = rustix::fs::fadvise(&file, at, std::num::NonZeroU64::new(size), rustix::fs::Advice::Sequential);
        file.seek(SeekFrom::Start(at)).map_err(Error::io(Path::new(&blob.key)))?;
        Ok(Self { blob, file, rest: size })
    }

    /// The next bytes, as many as the buffer takes; `None` at the end.
    fn read<'b>(&mut self, buffer: &'b mut [u8]) -> Result<Option<&'b [u8]>> {
        if self.rest == 0 {
            return Ok(None);
        }
        let length = usize::try_from(self.rest).unwrap_or(usize::MAX).min(buffer.len());
        let room = buffer.get_mut(..length).unwrap_or_default();
        let read = self.file.read(room).map_err(Error::io(Path::new(&self.blob.key)))?;
        if read == 0 {
            return Err(Error::StoreDamaged { digest: self.blob.digest });
        }
        self.rest -= read as u64;
        Ok(buffer.get(..read))
    }
}

/// What the pieces of blobs summed to when they were hashed, by where they begin.
pub(super) type Sums = HashMap<(Digest, u64), u64>;

/// Writes a volume, head first, in one pass; under another name until it is whole and durable.
pub(super) fn write_volume(
    store: &Store,
    volume: &LaidVolume,
    sums: &Sums,
    out: &Path,
    progress: &dyn Progress,
) -> Result<PackedVolume> {
    let path = out.join(&volume.name);
    if let Some(sha256) = kept(&path, volume)? {
        progress.advance(volume.size);
        return Ok(PackedVolume { path, size: volume.size, sha256, kept: true });
    }
    let partial = out.join(format!("{}.partial", volume.name));
    let written = on_medium(store, volume, sums, &partial, progress);
    let sha256 = written.inspect_err(|_| drop(std::fs::remove_file(&partial)))?;
    std::fs::rename(&partial, &path).map_err(Error::io(&path))?;
    Ok(PackedVolume { path, size: volume.size, sha256, kept: false })
}

/// Fills a file with a volume, durably, and answers its hash. Three threads pass buffers on: this one reads and checks,
/// one hashes, and one gives them to the disk.
fn on_medium(store: &Store, volume: &LaidVolume, sums: &Sums, path: &Path, progress: &dyn Progress) -> Result<Digest> {
    let mut disk = Disk::create(path, volume.size).map_err(Error::io(path))?;
    std::thread::scope(|scope| {
        let (read, to_hash) = sync_channel::<Buffer>(AHEAD);
        let (hashed, to_write) = sync_channel::<Buffer>(AHEAD);
        let (written, empty) = channel::<Buffer>();
        let hashing = scope.spawn(move || {
            let mut hasher = Hasher::sha256();
            for buffer in to_hash {
                hasher.update(buffer.bytes());
                // Who writes has failed, and tells why.
                if hashed.send(buffer).is_err() {
                    break;
                }
            }
            hasher.finish()
        });
        let writing = scope.spawn(move || {
            for buffer in to_write {
                disk.write(buffer.bytes())?;
                progress.advance(buffer.length as u64);
                let _ = written.send(buffer);
            }
            disk.finish()
        });
        let mut filling = Filling { buffer: Buffer::new(), full: read, empty, at: 0 };
        let outcome = fill(store, volume, sums, &mut filling).and_then(|()| filling.pass_on());
        drop(filling);
        let digest = hashing.join();
        let ended = || std::io::Error::other("a thread ended early");
        let written = writing.join().unwrap_or_else(|_| Err(ended())).map_err(Error::io(path));
        // A disk that fails is why nobody took what was read; a store that is damaged is why the rest never came.
        match (outcome, written) {
            (Err(error @ Error::StoreDamaged { .. }), _) | (_, Err(error)) | (Err(error), Ok(())) => Err(error),
            (Ok(()), Ok(())) => digest.map_err(|_| Error::io(path)(ended())),
        }
    })
}

/// Buffers that may wait for the hash, and as many for the disk.
const AHEAD: usize = 4;
/// What direct writes have to lie on, in memory and on the disk: the sector of every disk of today.
const ALIGNED: usize = 4096;
/// Where the kernel keeps what is written, it is set to write each time there is so much of it.
const EAGER: u64 = 128 << 20;

/// Some bytes that begin where a direct write may.
struct Buffer {
    memory: Vec<u8>,
    begin: usize,
    length: usize,
}

impl Buffer {
    fn new() -> Self {
        let memory = vec![0; CHUNK + ALIGNED];
        let begin = memory.as_ptr().align_offset(ALIGNED).min(ALIGNED);
        Self { memory, begin, length: 0 }
    }

    fn bytes(&self) -> &[u8] {
        self.memory.get(self.begin..self.begin + self.length).unwrap_or_default()
    }

    /// What is still free of it.
    fn room(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.begin + self.length..self.begin + CHUNK).unwrap_or_default()
    }

    fn is_full(&self) -> bool {
        self.length == CHUNK
    }
}

/// The file on the medium. What is written past the kernel's cache is on the medium when the write has ended: it costs no
/// copy, throws nothing else out of memory, and a stick that is slow is seen to be slow while it is, not at the end.
struct Disk {
    file: File,
    is_direct: bool,
    written: u64,
}

impl Disk {
    fn create(path: &Path, size: u64) -> std::io::Result<Self> {
        let options = || {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true);
            options
        };
        let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap_or_default();
        let (file, is_direct) = match options().custom_flags(direct).open(path) {
            Ok(file) => (file, true),
            // A file system in memory, and some that a program makes, cannot.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => (options().open(path)?, false),
            Err(error) => return Err(error),
        };
        // Room is taken at once where the file system can: writing is quicker, and what lies on the disk less in pieces.
        let _ = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size);
        Ok(Self { file, is_direct, written: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.is_direct && !bytes.len().is_multiple_of(ALIGNED) {
            self.by_the_cache()?;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            match (&self.file).write(rest) {
                Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    rest = rest.get(written..).unwrap_or_default();
                    if self.is_direct && !rest.len().is_multiple_of(ALIGNED) {
                        self.by_the_cache()?;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // Some say so only now.
                Err(error) if self.is_direct && error.kind() == std::io::ErrorKind::InvalidInput => {
                    self.by_the_cache()?;
                }
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
    fn by_the_cache(&mut self) -> std::io::Result<()> {
        let flags = rustix::fs::fcntl_getfl(&self.file)?;
        rustix::fs::fcntl_setfl(&self.file, flags - rustix::fs::OFlags::DIRECT)?;
        self.is_direct = false;
        Ok(())
    }

    fn finish(self) -> std::io::Result<()> {
        self.file.sync_all()
    }
}

/// What a volume holds, buffer by buffer.
struct Filling {
    buffer: Buffer,
    full: SyncSender<Buffer>,
    empty: Receiver<Buffer>,
    at: u64,
}

impl Filling {
    /// Passes on what the buffer holds.
    fn pass_on(&mut self) -> Result<()> {
        let mut next = self.empty.try_recv().unwrap_or_else(|_| Buffer::new());
        next.length = 0;
        let full = std::mem::replace(&mut self.buffer, next);
        // Nobody takes it any more: whoever that was says why.
        self.full.send(full).map_err(|_| Error::io(Path::new("the volume"))(std::io::ErrorKind::BrokenPipe.into()))
    }

    fn filled(&mut self, length: usize) -> Result<()> {
        self.buffer.length += length;
        self.at += length as u64;
        if self.buffer.is_full() { self.pass_on() } else { Ok(()) }
    }

    fn put_bytes(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.buffer.room();
            let length = room.len().min(bytes.len());
            let (now, rest) = bytes.split_at(length);
            room.get_mut(..length).unwrap_or_default().copy_from_slice(now);
            bytes = rest;
            self.filled(length)?;
        }
        Ok(())
    }

    fn pad(&mut self) -> Result<()> {
        let length = usize::try_from(tar::padded(self.at) - self.at).unwrap_or_default();
        self.put_bytes([0; 512].get(..length).unwrap_or_default())
    }

    fn document(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.put_bytes(&tar::header(name, bytes.len() as u64, self.at))?;
        self.put_bytes(bytes)?;
        self.pad()
    }

    fn piece(&mut self, mut piece: Piece<'_>, mut check: Check) -> Result<()> {
        while let Some(bytes) = piece.read(self.buffer.room())? {
            check.update(bytes);
            let length = bytes.len();
            self.filled(length)?;
        }
        if !check.is_right() {
            return Err(Error::StoreDamaged { digest: piece.blob.digest });
        }
        self.pad()
    }
}

fn fill(store: &Store, volume: &LaidVolume, sums: &Sums, writing: &mut Filling) -> Result<()> {
    writing.document(document::HEAD, &volume.head)?;
    writing.document(SIGNATURE, &volume.signature)?;
    writing.document(MEMBERS, &volume.list)?;
    for Item { member, source } in &volume.items {
        match source {
            Source::Bytes(bytes) => writing.document(&member.name, bytes)?,
            Source::Blob(blob, at) => {
                writing.put_bytes(&tar::header(&member.name, member.size, writing.at))?;
                let check = match sums.get(&(blob.digest, *at)) {
                    Some(sum) => Check::by_sum(*sum),
                    None => blob.check(),
                };
                writing.piece(Piece::open(store, blob, *at, member.size)?, check)?;
            }
        }
    }
    writing.put_bytes(&[0; 1024])
}

/// The hash of a volume that an earlier run finished: its size and its head are right, and only whole volumes bear
/// their name.
fn kept(path: &Path, volume: &LaidVolume) -> Result<Option<Digest>> {
    let Ok(mut file) = File::open(path) else { return Ok(None) };
    if file.metadata().map_err(Error::io(path))?.len() != volume.size {
        return Ok(None);
    }
    let mut head = tar::header(document::HEAD, volume.head.len() as u64, 0);
    head.extend_from_slice(&volume.head);
    let mut found = vec![0; head.len()];
    file.read_exact(&mut found).map_err(Error::io(path))?;
    if found != head {
        return Ok(None);
    }
    file.rewind().map_err(Error::io(path))?;
    let mut hasher = Hasher::sha256();
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = file.read(&mut buffer).map_err(Error::io(path))?;
        if read == 0 {
            return Ok(Some(hasher.finish()));
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
    }
}
