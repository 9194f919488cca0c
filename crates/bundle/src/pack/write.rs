//! One volume, from the store onto the medium: in one pass, checked and hashed on the way.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};

use artifact::{Digest, Hasher, Progress};
use store::direct::{Buffer, Disk};
use store::{Check, Store};

use super::PackedVolume;
use crate::document::{MEMBERS, SIGNATURE};
use crate::plan::{Item, LaidVolume, Source};
use crate::volume::CHUNK;
use crate::{Error, Result, document, open_file, tar};

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
    if let Some(sha256) = kept(&path, volume) {
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
                progress.advance(buffer.bytes().len() as u64);
                let _ = written.send(buffer);
            }
            disk.finish()
        });
        let mut filling = Filling { buffer: Buffer::default(), full: read, empty, at: 0 };
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
        let mut next = self.empty.try_recv().unwrap_or_default();
        next.clear();
        let full = std::mem::replace(&mut self.buffer, next);
        // Nobody takes it any more: whoever that was says why.
        self.full.send(full).map_err(|_| Error::io(Path::new("the volume"))(std::io::ErrorKind::BrokenPipe.into()))
    }

    fn filled(&mut self, length: usize) -> Result<()> {
        self.buffer.filled(length);
        self.at += length as u64;
        if self.buffer.is_full() { self.pass_on() } else { Ok(()) }
    }

    fn put_bytes(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let rest = self.buffer.take(bytes);
            self.at += (bytes.len() - rest.len()) as u64;
            bytes = rest;
            if self.buffer.is_full() {
                self.pass_on()?;
            }
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

/// The hash of a volume that an earlier run finished, when every byte of it is still what would be written. A medium
/// that cannot read it has it written again.
fn kept(path: &Path, volume: &LaidVolume) -> Option<Digest> {
    let file = open_file(path).ok()?;
    if file.metadata().ok()?.len() != volume.size {
        return None;
    }
    Rereading { file, hasher: Hasher::sha256(), buffer: vec![0; CHUNK], at: 0 }.volume(volume).ok()?
}

/// A volume that lies there already, held against what would be written.
struct Rereading {
    file: File,
    hasher: Hasher,
    buffer: Vec<u8>,
    at: u64,
}

impl Rereading {
    /// Its hash, when it is the same.
    fn volume(mut self, volume: &LaidVolume) -> io::Result<Option<Digest>> {
        for (name, bytes) in [(document::HEAD, &volume.head), (SIGNATURE, &volume.signature), (MEMBERS, &volume.list)] {
            if !self.document(name, bytes)? {
                return Ok(None);
            }
        }
        for Item { member, source } in &volume.items {
            let is_same = match source {
                Source::Bytes(bytes) => self.document(&member.name, bytes)?,
                Source::Blob(..) => {
                    self.bytes(&tar::header(&member.name, member.size, self.at))?
                        && self.hash(member.size)? == member.sha256
                        && self.padding()?
                }
            };
            if !is_same {
                return Ok(None);
            }
        }
        let is_same = self.bytes(&[0; 1024])? && self.at == volume.size;
        Ok(is_same.then(|| self.hasher.finish()))
    }

    fn document(&mut self, name: &str, bytes: &[u8]) -> io::Result<bool> {
        Ok(self.bytes(&tar::header(name, bytes.len() as u64, self.at))? && self.bytes(bytes)? && self.padding()?)
    }

    fn padding(&mut self) -> io::Result<bool> {
        let length = usize::try_from(tar::padded(self.at) - self.at).unwrap_or_default();
        self.bytes([0; 512].get(..length).unwrap_or_default())
    }

    /// Whether the next bytes are these.
    fn bytes(&mut self, expected: &[u8]) -> io::Result<bool> {
        for expected in expected.chunks(CHUNK) {
            if self.next(expected.len())? != expected {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What the next bytes hash to.
    fn hash(&mut self, size: u64) -> io::Result<Digest> {
        let (mut hasher, mut rest) = (Hasher::sha256(), size);
        while rest > 0 {
            let bytes = self.next(usize::try_from(rest).unwrap_or(CHUNK).min(CHUNK))?;
            hasher.update(bytes);
            rest -= bytes.len() as u64;
        }
        Ok(hasher.finish())
    }

    fn next(&mut self, length: usize) -> io::Result<&[u8]> {
        let room = self.buffer.get_mut(..length).unwrap_or_default();
        self.file.read_exact(room)?;
        self.hasher.update(room);
        self.at += room.len() as u64;
        Ok(room)
    }
}
