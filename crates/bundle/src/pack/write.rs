//! One volume, from the store onto the medium: in one pass, checked and hashed on the way.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
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
    let file =
        OpenOptions::new().write(true).create(true).truncate(true).open(&partial).map_err(Error::io(&partial))?;
    // Room is taken at once where the file system can: writing is quicker, and what lies on the disk less in pieces.
    let _ = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, volume.size);
    // Three threads: one reads and writes, one hashes what was written, and one has the disk begin early, so that the
    // last sync finds little left to do.
    let written = std::thread::scope(|scope| {
        let (full, filled) = sync_channel::<(Vec<u8>, usize)>(AHEAD);
        let (empty, free) = channel();
        let hashing = scope.spawn(move || {
            let mut hasher = Hasher::sha256();
            for (buffer, length) in filled {
                hasher.update(buffer.get(..length).unwrap_or_default());
                let _ = empty.send(buffer);
            }
            hasher.finish()
        });
        let (due, syncs) = sync_channel::<()>(1);
        let disk = &file;
        let syncing = scope.spawn(move || {
            // The kernel tells a failed write once: whoever hears it must pass it on.
            let mut all = Ok(());
            for () in syncs {
                all = all.and(disk.sync_data());
            }
            all
        });
        let mut writing = Writing { file: &file, path: &partial, full, free, due, at: 0, progress };
        let outcome = fill(store, volume, sums, &mut writing);
        drop(writing);
        let digest = hashing.join().map_err(|_| Error::io(&partial)(std::io::Error::other("hashing ended early")));
        let synced = syncing.join().unwrap_or_else(|_| Err(std::io::Error::other("syncing ended early")));
        outcome.and(synced.map_err(Error::io(&partial))).and(digest)
    });
    let sha256 = match written.and_then(|digest| file.sync_all().map_err(Error::io(&partial)).map(|()| digest)) {
        Ok(digest) => digest,
        Err(error) => {
            let _ = std::fs::remove_file(&partial);
            return Err(error);
        }
    };
    std::fs::rename(&partial, &path).map_err(Error::io(&path))?;
    Ok(PackedVolume { path, size: volume.size, sha256, kept: false })
}

/// Buffers that may wait for the hash.
const AHEAD: usize = 8;
/// The disk is set to work each time so many bytes are written.
const EAGER: u64 = 128 << 20;

struct Writing<'a> {
    file: &'a File,
    path: &'a Path,
    /// To the hash, and back from it.
    full: SyncSender<(Vec<u8>, usize)>,
    free: Receiver<Vec<u8>>,
    due: SyncSender<()>,
    at: u64,
    progress: &'a dyn Progress,
}

impl Writing<'_> {
    /// Writes the first `length` bytes of a buffer.
    fn put(&mut self, buffer: Vec<u8>, length: usize) -> Result<()> {
        self.file.write_all(buffer.get(..length).unwrap_or_default()).map_err(Error::io(self.path))?;
        // It ends only after this side has.
        let _ = self.full.send((buffer, length));
        let before = self.at / EAGER;
        self.at += length as u64;
        if self.at / EAGER > before {
            let _ = self.due.try_send(());
        }
        self.progress.advance(length as u64);
        Ok(())
    }

    fn put_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let mut buffer = self.free.try_recv().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(bytes);
        self.put(buffer, bytes.len())
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
        loop {
            let mut buffer = self.free.try_recv().unwrap_or_default();
            buffer.resize(CHUNK, 0);
            let Some(bytes) = piece.read(&mut buffer)? else { break };
            check.update(bytes);
            let length = bytes.len();
            self.put(buffer, length)?;
        }
        if !check.is_right() {
            return Err(Error::StoreDamaged { digest: piece.blob.digest });
        }
        self.pad()
    }
}

fn fill(store: &Store, volume: &LaidVolume, sums: &Sums, writing: &mut Writing<'_>) -> Result<()> {
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
