//! How bytes get in: hashed while they are written, and nowhere visible before they are whole.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use artifact::{Algorithm, Digest};

use crate::direct::{Left, Stretch};
use crate::sum::Arriving;
use crate::{Error, Result, Store, blobs};

/// A blob that has more than this is written past the kernel's cache from here on.
const LARGE: u64 = 1 << 20;
/// Bytes read at a time when a partial file is hashed again.
const CHUNK: usize = 1 << 20;

/// A blob that is whole, durable and in its place, and that no change has named yet. Dropped unused, its file goes.
#[derive(Debug)]
pub struct NewBlob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) key: String,
    /// The file to remove when nobody names it; `None` once a change has taken it over.
    pub(crate) unnamed: Option<PathBuf>,
    /// The file of pieces that it was made of; it stays until a change has named the blob.
    pub(crate) partial: Option<PathBuf>,
}

impl NewBlob {
    /// Its digest, proven.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Opens its bytes: they can be read before anybody has named them.
    ///
    /// # Errors
    /// When a change has taken it over, or its file cannot be opened.
    pub fn open(&self) -> Result<File> {
        let missing = || Error::io(Path::new(&self.key))(std::io::ErrorKind::NotFound.into());
        let path = self.unnamed.as_ref().ok_or_else(missing)?;
        File::open(path).map_err(Error::io(path))
    }
}

impl Drop for NewBlob {
    fn drop(&mut self) {
        if let Some(path) = self.unnamed.take() {
            let _ = fs::remove_file(path);
        }
    }
}

/// Writes one blob, in order. Blocking: for blocking threads.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    file: File,
    path: PathBuf,
    expected: Option<Digest>,
    arriving: Arriving,
    len: u64,
    /// What is under way past the kernel's cache.
    stretch: Option<Stretch>,
    /// So long is it not tried.
    cached_until: u64,
    stays: Stays,
}

/// What becomes of a writer's file when the writer is dropped.
#[derive(Debug)]
pub(crate) enum Stays {
    /// It goes.
    No,
    /// The next run of a pull or a load goes on with it.
    Partial(Digest),
    /// The client that sends it goes on with it ([`Store::continue_upload`]).
    Upload,
}

impl BlobWriter {
    /// How many bytes are there already: more than none when a partial file of an earlier run was found.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing is there yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes the next bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let begins = Stretch::next_after(self.len);
        if self.stretch.is_none() && begins >= self.cached_until && begins - self.len < bytes.len() as u64 {
            let (here, there) = bytes.split_at(usize::try_from(begins - self.len).unwrap_or_default());
            self.write_cached(here)?;
            self.stretch = Stretch::begin(&self.path, begins, &self.store.inner.direct);
            // When all places are taken, or the file system cannot: asked again a good deal later.
            self.cached_until = begins + LARGE;
            return self.write_next(there);
        }
        self.write_next(bytes)
    }

    fn write_next(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(stretch) = &mut self.stretch else { return self.write_cached(bytes) };
        self.arriving.update(bytes);
        self.len += bytes.len() as u64;
        if stretch.write(bytes) { Ok(()) } else { self.pour() }
    }

    fn write_cached(&mut self, bytes: &[u8]) -> Result<()> {
        if let Err(error) = self.file.write_all(bytes) {
            // What went in of it was not hashed: nobody may go on behind it.
            let _ = self.file.set_len(self.len).and_then(|()| self.file.seek(SeekFrom::Start(self.len)));
            return Err(Error::io(&self.path)(error));
        }
        self.arriving.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Has everything that was taken be in the file.
    fn pour(&mut self) -> Result<()> {
        let Some(stretch) = self.stretch.take() else { return Ok(()) };
        self.cached_until = self.len + LARGE;
        let poured = stretch.end().and_then(|Left { at, rest }| {
            let written = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.write_all(rest.bytes()));
            written.map_err(|error| (at, error))
        });
        let Err((right, error)) = poured else { return Ok(()) };
        // What was hashed is not all in the file: it is what the file has up to where it is right.
        let again = self.file.set_len(right).and_then(|()| self.file.rewind()).and_then(|()| {
            let mut arriving = Arriving::new(self.arriving.algorithm());
            self.len = read_file(&self.file, |bytes| arriving.update(bytes))?;
            self.arriving = arriving;
            Ok(())
        });
        again.map_err(Error::io(&self.path))?;
        Err(Error::io(&self.path)(error))
    }

    /// Its file, to read what was written so far; it stays readable wherever the blob goes. All that is written from now on
    /// is in it at once.
    ///
    /// # Errors
    /// When it cannot be opened a second time, or what was written before is not in it.
    pub fn reader(&mut self) -> Result<File> {
        self.pour()?;
        self.cached_until = u64::MAX;
        File::open(&self.path).map_err(Error::io(&self.path))
    }

    /// Begins again from nothing (the upstream would not continue where we were).
    pub fn restart(&mut self) -> Result<()> {
        drop(self.stretch.take().map(Stretch::end));
        self.file.set_len(0).map_err(Error::io(&self.path))?;
        self.file.rewind().map_err(Error::io(&self.path))?;
        self.arriving = arriving(self.expected.as_ref());
        self.len = 0;
        if self.cached_until != u64::MAX {
            self.cached_until = LARGE;
        }
        Ok(())
    }

    /// Checks the digest against what was expected, makes the bytes durable and puts them in their place. Wrong bytes
    /// are removed: a partial file never survives a mismatch.
    pub fn finish(self) -> Result<NewBlob> {
        self.finish_telling(|| ())
    }

    /// As [`BlobWriter::finish`], and tells when the bytes are known to be right, before the disk has them for good.
    pub(crate) fn finish_telling(mut self, proven: impl FnOnce()) -> Result<NewBlob> {
        self.store.may_write()?;
        self.pour()?;
        let (found, sum) = std::mem::replace(&mut self.arriving, arriving(None)).finish();
        if let Some(expected) = self.expected.filter(|expected| *expected != found) {
            let _ = fs::remove_file(&self.path);
            return Err(Error::Mismatch { expected, found });
        }
        proven();
        blobs::sync_or_remove(&self.store, &self.file, &self.path)?;
        let key = blobs::new_key(&found, sum);
        let place = blobs::put_in_place(&self.store, &self.path, &key)?;
        Ok(NewBlob { digest: found, size: self.len, key, unnamed: Some(place), partial: None })
    }

    /// As [`BlobWriter::finish`], by a name that was not known before the end. By another hash than the one that ran
    /// along, the bytes are read once more.
    pub fn finish_as(mut self, name: &Digest) -> Result<NewBlob> {
        self.pour()?;
        if name.algorithm() != self.arriving.algorithm() {
            let mut again = arriving(Some(name));
            self.file.rewind().map_err(Error::io(&self.path))?;
            read_file(&self.file, |bytes| again.update(bytes)).map_err(Error::io(&self.path))?;
            self.arriving = again;
        }
        self.expected = Some(*name);
        self.finish()
    }

    /// Makes what is there durable, its file's name too.
    pub fn sync(&mut self) -> Result<()> {
        self.store.may_write()?;
        self.pour()?;
        blobs::sync_or_remove(&self.store, &self.file, &self.path)?;
        blobs::sync_folder(&self.store, &self.store.partial_path(""))
    }

    /// Removes what is there.
    pub fn discard(mut self) {
        drop(self.stretch.take().map(Stretch::end));
        let _ = fs::remove_file(&self.path);
    }

    /// Leaves what is there for a later run to continue (only a writer made by [`Store::resume`]; another's is removed).
    pub fn keep(self) {}
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        match &self.stays {
            // After `finish` the name is gone already.
            Stays::No => {
                drop(self.stretch.take().map(Stretch::end));
                drop(fs::remove_file(&self.path));
            }
            // What cannot be poured now is brought again.
            Stays::Partial(_) | Stays::Upload => drop(self.pour()),
        }
        if let Stays::Partial(digest) = &self.stays {
            self.store.put_down(digest);
        }
    }
}

/// A blob whose bytes arrive in pieces, in any order (a blob cut over several volumes). Blocking.
#[derive(Debug)]
pub struct Patchwork {
    store: Store,
    file: File,
    path: PathBuf,
    digest: Digest,
    size: u64,
}

impl Patchwork {
    /// Writes a piece at its offset. Pieces survive a crash only after [`Patchwork::keep`].
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(Error::io(&self.path))
    }

    /// Makes the pieces written so far durable and leaves them for a later [`Store::patchwork`] of the same digest.
    pub fn keep(self) -> Result<()> {
        self.store.may_write()?;
        blobs::sync_or_remove(&self.store, &self.file, &self.path)?;
        blobs::sync_folder(&self.store, &self.store.partial_path(""))
    }

    /// Re-reads the whole, checks its digest, and puts it in its place. Wrong bytes are removed.
    pub fn finish(self) -> Result<NewBlob> {
        self.store.may_write()?;
        let mut arriving = arriving(Some(&self.digest));
        let length = read_file(&self.file, |bytes| arriving.update(bytes)).map_err(Error::io(&self.path))?;
        let (found, sum) = arriving.finish();
        if found != self.digest || length != self.size {
            let _ = fs::remove_file(&self.path);
            return Err(Error::Mismatch { expected: self.digest, found });
        }
        blobs::sync_or_remove(&self.store, &self.file, &self.path)?;
        let key = blobs::new_key(&found, sum);
        // A second name rather than a move: if nobody comes to name the blob, the pieces are still there.
        let second = self.path.with_extension("whole");
        let _ = fs::remove_file(&second);
        let (from, partial) = match fs::hard_link(&self.path, &second) {
            Ok(()) => (second, Some(self.path.clone())),
            Err(_) => (self.path.clone(), None),
        };
        let place = blobs::put_in_place(&self.store, &from, &key)?;
        Ok(NewBlob { digest: found, size: length, key, unnamed: Some(place), partial })
    }
}

impl Drop for Patchwork {
    fn drop(&mut self) {
        self.store.put_down(&self.digest);
    }
}

impl Store {
    /// A writer for bytes whose digest is known (`expected`), or will be what it is.
    pub fn writer(&self, expected: Option<&Digest>) -> Result<BlobWriter> {
        self.may_write()?;
        let path = self.partial_path(&format!("new-{}", uuid::Uuid::new_v4().simple()));
        let file = self.open_partial(OpenOptions::new().read(true).write(true).create_new(true), &path)?;
        let arriving = arriving(expected);
        Ok(BlobWriter {
            store: self.clone(),
            file,
            path,
            expected: expected.copied(),
            arriving,
            len: 0,
            stretch: None,
            cached_until: LARGE,
            stays: Stays::No,
        })
    }

    /// A writer behind what a file has already, which is hashed first; where there is no file, it begins one.
    pub(crate) fn writer_behind(
        &self,
        path: PathBuf,
        algorithm: Algorithm,
        expected: Option<Digest>,
        stays: Stays,
    ) -> Result<BlobWriter> {
        let mut options = OpenOptions::new();
        let mut file = self.open_partial(options.read(true).write(true).create(true).truncate(false), &path)?;
        let mut arriving = Arriving::new(algorithm);
        let len = read_file(&file, |bytes| arriving.update(bytes)).map_err(Error::io(&path))?;
        file.seek(SeekFrom::Start(len)).map_err(Error::io(&path))?;
        let (store, stretch, cached_until) = (self.clone(), None, len + LARGE);
        Ok(BlobWriter { store, file, path, expected, arriving, len, stretch, cached_until, stays })
    }

    /// A writer that goes on where an earlier run stopped (its bytes are hashed again first), or begins. Where another
    /// writer of this process has that file in hand, a fresh one is made instead.
    pub fn resume(&self, expected: &Digest) -> Result<BlobWriter> {
        if !self.pick_up(expected) {
            return self.writer(Some(expected));
        }
        self.may_write()?;
        let path = self.partial_path(&partial_name(expected));
        self.writer_behind(path, expected.algorithm(), Some(*expected), Stays::Partial(*expected))
            .inspect_err(|_| self.put_down(expected))
    }

    /// How many bytes of this blob an earlier run has left for [`Store::resume`].
    pub fn partial(&self, digest: &Digest) -> u64 {
        fs::metadata(self.partial_path(&partial_name(digest))).map_or(0, |file| file.len())
    }

    /// The file of a blob that is put together from pieces; kept across runs.
    ///
    /// # Errors
    /// [`Error::Busy`] when another part of this process has it in hand.
    pub fn patchwork(&self, digest: &Digest, size: u64) -> Result<Patchwork> {
        self.may_write()?;
        if !self.pick_up(digest) {
            return Err(Error::Busy { digest: *digest });
        }
        let path = self.partial_path(&format!("{}.pieces", partial_name(digest)));
        let opened = self
            .open_partial(OpenOptions::new().read(true).write(true).create(true).truncate(false), &path)
            .and_then(|file| {
                // Of another size it is not this blob's: begin again.
                let length = file.metadata().map_err(Error::io(&path))?.len();
                if length != size {
                    file.set_len(0).and_then(|()| file.set_len(size)).map_err(Error::io(&path))?;
                }
                Ok(file)
            })
            .inspect_err(|_| self.put_down(digest));
        Ok(Patchwork { store: self.clone(), file: opened?, path, digest: *digest, size })
    }

    fn open_partial(&self, options: &mut OpenOptions, path: &Path) -> Result<File> {
        let file = options.mode(0o600).open(path).map_err(Error::io(path))?;
        blobs::give_to_owner(&self.inner.folder, path)?;
        Ok(file)
    }

    pub(crate) fn pick_up(&self, digest: &Digest) -> bool {
        self.in_hand().insert(*digest)
    }

    pub(crate) fn put_down(&self, digest: &Digest) {
        self.in_hand().remove(digest);
    }

    fn in_hand(&self) -> std::sync::MutexGuard<'_, std::collections::HashSet<Digest>> {
        // Nothing panics while it is held.
        self.inner.in_hand.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn partial_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().as_str(), digest.hex())
}

/// Whose partial file has this name; `None`: it is of another kind, as pieces and uploads are.
pub(crate) fn partial_of(name: &str) -> Option<Digest> {
    name.replacen('-', ":", 1).parse().ok()
}

fn arriving(expected: Option<&Digest>) -> Arriving {
    Arriving::new(expected.map_or(Algorithm::Sha256, Digest::algorithm))
}

/// Reads a file from its start; answers its length.
pub(crate) fn read_file(mut file: &File, mut take: impl FnMut(&[u8])) -> std::io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut length = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(length);
        }
        take(&buffer[..read]);
        length += read as u64;
    }
}
