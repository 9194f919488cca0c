//! What answers are made of: bytes in memory, or a stretch of an open file.

use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use artifact::{Digest, Hasher};
use bundle::Extent;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::task::JoinHandle;

use crate::access::Pending;
use crate::proxy::Growth;
use crate::room::Busy;
use crate::sendfile::{self, Mapping, Sending};

/// Bytes of one read. More buys nothing under TLS, whose records have 16 KiB, and a thousand slow clients hold one each.
const CHUNK: usize = 64 * 1024;

/// The end of a blob that nobody has hashed yet is held back until the hash is right.
const TAIL: u64 = 64 * 1024;

/// A blob's bytes, open for as long as somebody reads or the cache keeps them. Blobs never change.
///
/// A store's were hashed when they came. Those of a bundle that is served where it lies are hashed by the first who reads
/// them whole: until then no answer is completed, and none is begun once they were found wrong.
#[derive(Debug)]
pub(crate) struct OpenBlob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pieces: Vec<Extent>,
    /// Whether it lies in a bundle: then its medium may be slow.
    pub(crate) is_on_medium: bool,
    proof: AtomicU8,
    proving: Mutex<()>,
    mapping: OnceLock<Option<Mapping>>,
    /// Of a blob that is still on its way here.
    growth: Option<Arc<Growth>>,
}

/// What was read, and how far its hash is.
type Chunk = io::Result<(Bytes, Option<Hasher>)>;

const UNPROVEN: u8 = 0;
const RIGHT: u8 = 1;
const WRONG: u8 = 2;

impl OpenBlob {
    /// A store's.
    pub(crate) fn of_store(digest: Digest, piece: Extent) -> Self {
        Self::new(digest, vec![piece], false)
    }

    /// A bundle's, unproven.
    pub(crate) fn on_medium(digest: Digest, pieces: Vec<Extent>) -> Self {
        Self::new(digest, pieces, true)
    }

    /// One that is on its way here, unproven: a file that grows.
    pub(crate) fn growing(digest: Digest, piece: Extent, growth: Arc<Growth>) -> Self {
        let growing = Self::new(digest, vec![piece], false);
        growing.proof.store(UNPROVEN, Ordering::Release);
        Self { growth: Some(growth), ..growing }
    }

    /// Takes note that all its bytes are there, and right.
    pub(crate) fn proven(&self) {
        self.proof.store(RIGHT, Ordering::Release);
    }

    fn new(digest: Digest, pieces: Vec<Extent>, is_on_medium: bool) -> Self {
        let proof = AtomicU8::new(if is_on_medium { UNPROVEN } else { RIGHT });
        let size = pieces.iter().map(|piece| piece.size).sum();
        let (proving, mapping) = (Mutex::default(), OnceLock::new());
        Self { digest, size, pieces, is_on_medium, proof, proving, mapping, growth: None }
    }

    fn is_proven(&self) -> bool {
        self.proof.load(Ordering::Acquire) == RIGHT
    }

    /// What is wrong with it, when somebody has found that out.
    pub(crate) fn damage(&self) -> Option<io::Error> {
        (self.proof.load(Ordering::Acquire) == WRONG).then(|| self.wrong())
    }

    /// The file that has byte `at`, where in it that is, and how many bytes of the blob follow there.
    pub(crate) fn place(&self, at: u64) -> io::Result<(&Extent, u64, u64)> {
        let mut before = 0;
        for piece in &self.pieces {
            if at - before < piece.size {
                return Ok((piece, piece.offset + (at - before), piece.size - (at - before)));
            }
            before += piece.size;
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    /// Reads some bytes from `at`.
    pub(crate) fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let (piece, offset, rest) = self.place(at)?;
        let length = usize::try_from(rest).unwrap_or(usize::MAX).min(buffer.len());
        piece.file.read_at(buffer.get_mut(..length).unwrap_or_default(), offset)
    }

    /// The same from the page cache only.
    pub(crate) fn read_cached(&self, buffer: &mut [u8], at: u64) -> Result<usize, Errno> {
        let (piece, offset, rest) = self.place(at).map_err(|_| Errno::IO)?;
        let length = usize::try_from(rest).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..length).unwrap_or_default();
        preadv2(&piece.file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT)
    }

    fn read_exact(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.read(rest, at + done as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Its bytes as addresses, for [`sendfile`](crate::sendfile); made when it is first wanted. None of what lies in
    /// several pieces, or was not proven yet.
    pub(crate) fn mapping(&self) -> Option<&Mapping> {
        let [piece] = self.pieces.as_slice() else { return None };
        if !self.is_proven() {
            return None;
        }
        self.mapping.get_or_init(|| Mapping::new(&piece.file, piece.offset, self.size)).as_ref()
    }

    /// Reads all of it, unless somebody has; an error when it is not what its name says.
    fn prove(&self) -> io::Result<()> {
        let _one = self.proving.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_proven() {
            return Ok(());
        }
        let mut hasher = Hasher::new(self.digest.algorithm());
        let mut buffer = vec![0; CHUNK];
        let mut at = 0;
        while at < self.size {
            let length = usize::try_from(self.size - at).unwrap_or(CHUNK).min(CHUNK);
            let chunk = buffer.get_mut(..length).unwrap_or_default();
            self.read_exact(chunk, at)?;
            hasher.update(chunk);
            at += length as u64;
        }
        self.judge(hasher)
    }

    /// What follows from the hash of all its bytes.
    fn judge(&self, hasher: Hasher) -> io::Result<()> {
        if hasher.finish() == self.digest {
            self.proof.store(RIGHT, Ordering::Release);
            return Ok(());
        }
        self.proof.store(WRONG, Ordering::Release);
        Err(self.wrong())
    }

    fn wrong(&self) -> io::Error {
        let places: Vec<String> = self.pieces.iter().map(|piece| piece.path.display().to_string()).collect();
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("blob {} is damaged in {}, and is not handed out", self.digest, places.join(" or ")),
        )
    }
}

/// An answer's body. Whoever waits for its end is told how many bytes went out.
#[derive(Debug, Default)]
pub(crate) struct Body {
    content: Content,
    sent: u64,
    pending: Option<Box<Pending>>,
    /// Its connection's.
    busy: Option<Busy>,
}

#[derive(Debug, Default)]
enum Content {
    #[default]
    Empty,
    Bytes(Bytes),
    Stretch(Stretch),
}

#[derive(Debug)]
struct Stretch {
    blob: Arc<OpenBlob>,
    offset: u64,
    end: u64,
    reading: Option<JoinHandle<Chunk>>,
    /// Of what came before, when this began at the blob's first byte and nobody has proven the blob.
    hasher: Option<Hasher>,
    /// The connection's, when the kernel is to send the bytes itself.
    sending: Option<Arc<Sending>>,
    /// Of a blob that grows: which of its beginnings the bytes are of that were handed over.
    since: Option<u64>,
}

impl Body {
    fn of(content: Content) -> Self {
        Self { content, sent: 0, pending: None, busy: None }
    }

    /// `length` bytes of a blob from `start`; both inside it.
    pub(crate) fn stretch(blob: Arc<OpenBlob>, start: u64, length: u64) -> Self {
        let end = start.saturating_add(length).min(blob.size);
        let is_hashed = start == 0 && !blob.is_proven() && blob.growth.is_none();
        let hasher = is_hashed.then(|| Hasher::new(blob.digest.algorithm()));
        let (reading, sending, since) = (None, None, None);
        Self::of(Content::Stretch(Stretch { blob, offset: start, end, reading, hasher, sending, since }))
    }

    /// Has the kernel send a stretch of a file itself, over the connection that this belongs to.
    pub(crate) fn by_sendfile(&mut self, sending: &Arc<Sending>) {
        if let Content::Stretch(stretch) = &mut self.content {
            stretch.sending = Some(Arc::clone(sending));
        }
    }

    /// Keeps the connection from being closed for another until this was handed over.
    pub(crate) fn keeps(&mut self, busy: Busy) {
        self.busy = Some(busy);
    }

    /// Has `pending` told when the last byte is handed over, or the client is gone.
    pub(crate) fn then(&mut self, pending: Box<Pending>) {
        self.pending = Some(pending);
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::of(Content::Bytes(bytes))
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(pending) = self.pending.take() {
            pending.done(self.sent);
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let bytes = match &mut self.content {
            Content::Empty => return Poll::Ready(None),
            Content::Bytes(bytes) => Ok(std::mem::take(bytes)),
            Content::Stretch(stretch) if stretch.offset >= stretch.end => return Poll::Ready(None),
            Content::Stretch(stretch) => ready!(stretch.poll_next(context)),
        };
        if matches!(self.content, Content::Bytes(_)) {
            self.content = Content::Empty;
        }
        Poll::Ready(match bytes {
            Ok(bytes) if bytes.is_empty() => None,
            Ok(bytes) => {
                self.sent += bytes.len() as u64;
                Some(Ok(Frame::data(bytes)))
            }
            Err(error) => Some(Err(error)),
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Bytes(bytes) => bytes.is_empty(),
            Content::Stretch(stretch) => stretch.offset >= stretch.end,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match &self.content {
            Content::Empty => 0,
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Stretch(stretch) => stretch.end - stretch.offset,
        })
    }
}

impl Stretch {
    /// From the page cache where the bytes are, without a change of thread; else a blocking thread fetches them.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        if self.reading.is_none() {
            match &self.blob.growth {
                Some(growth) if !self.blob.is_proven() => self.begin_growing(Arc::clone(growth)),
                // It is whole now; what was handed over must have been of the same.
                Some(growth) => self.since.map_or(Ok(()), |since| growth.is_same(since))?,
                None if !self.blob.is_proven() => self.begin_unproven(),
                None => {}
            }
        }
        if let Some(sending) = self.sending.as_ref().filter(|_| self.reading.is_none()) {
            if sendfile::is_cached(&self.blob, self.offset, self.end) {
                if let Some(bytes) = sending.token(&self.blob, self.offset, self.end) {
                    self.offset += bytes.len() as u64;
                    return Poll::Ready(Ok(bytes));
                }
            }
        }
        let want = usize::try_from(self.end - self.offset).unwrap_or(CHUNK).min(CHUNK);
        if self.reading.is_none() && self.sending.is_some() && self.blob.mapping().is_some() {
            // Empty bytes stand for: now they are in memory.
            let (blob, offset, end) = (Arc::clone(&self.blob), self.offset, self.end);
            self.reading = Some(tokio::task::spawn_blocking(move || {
                sendfile::warm(&blob, offset, end).map(|()| (Bytes::new(), None))
            }));
        }
        if self.reading.is_none() {
            let mut buffer = vec![0; want];
            match self.blob.read_cached(&mut buffer, self.offset) {
                Ok(0) => return Poll::Ready(Err(self.short())),
                Ok(read) => {
                    buffer.truncate(read);
                    self.offset += read as u64;
                    return Poll::Ready(Ok(buffer.into()));
                }
                // Cold, or a file system or kernel that cannot tell (overlayfs, tmpfs, before 4.14).
                Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::INTR) => {
                    let (blob, offset) = (Arc::clone(&self.blob), self.offset);
                    self.reading = Some(tokio::task::spawn_blocking(move || {
                        let read = blob.read(&mut buffer, offset)?;
                        buffer.truncate(read);
                        Ok((buffer.into(), None))
                    }));
                }
                Err(error) => return Poll::Ready(Err(self.failed(&error.into()))),
            }
        }
        let Some(reading) = &mut self.reading else { return Poll::Pending };
        let read = ready!(Pin::new(reading).poll(context));
        self.reading = None;
        Poll::Ready(match read.map_err(io::Error::from).and_then(|read| read) {
            Ok((bytes, _)) if bytes.is_empty() => {
                let sending = self.sending.as_ref();
                match sending.and_then(|sending| sending.token(&self.blob, self.offset, self.end)) {
                    Some(bytes) => {
                        self.offset += bytes.len() as u64;
                        Ok(bytes)
                    }
                    None => Err(self.short()),
                }
            }
            Ok((bytes, hasher)) => {
                self.offset += bytes.len() as u64;
                self.hasher = hasher;
                Ok(bytes)
            }
            Err(error) => Err(self.failed(&error)),
        })
    }

    /// Has the next bytes read and hashed. The blob's last ones come only when all are what they should be: hashed on the
    /// way, or, for who asked for a part, by reading the rest.
    fn begin_unproven(&mut self) {
        let (blob, offset, end, hasher) = (Arc::clone(&self.blob), self.offset, self.end, self.hasher.take());
        self.reading = Some(tokio::task::spawn_blocking(move || {
            let held_back = blob.size.saturating_sub(TAIL);
            let until = if offset < held_back { end.min(held_back).min(offset + CHUNK as u64) } else { end };
            let mut buffer = vec![0; usize::try_from(until - offset).unwrap_or_default()];
            blob.read_exact(&mut buffer, offset)?;
            let hasher = hasher.map(|mut hasher| {
                hasher.update(&buffer);
                hasher
            });
            if until <= held_back {
                return Ok((buffer.into(), hasher));
            }
            match hasher.filter(|_| until == blob.size) {
                Some(hasher) => blob.judge(hasher)?,
                None => blob.prove()?,
            }
            Ok((buffer.into(), None))
        }));
    }

    /// Has the next bytes read when they have come.
    fn begin_growing(&mut self, growth: Arc<Growth>) {
        let (blob, offset, end) = (Arc::clone(&self.blob), self.offset, self.end);
        let since = *self.since.get_or_insert_with(|| growth.beginnings());
        self.reading = Some(tokio::spawn(async move {
            let until = growth.reach(offset, Some(since)).await?.min(end).min(offset + CHUNK as u64);
            let read = tokio::task::spawn_blocking(move || {
                let mut buffer = vec![0; usize::try_from(until - offset).unwrap_or_default()];
                blob.read_exact(&mut buffer, offset)?;
                growth.is_same(since)?;
                Ok((buffer.into(), None))
            });
            read.await?
        }));
    }

    fn short(&self) -> io::Error {
        self.failed(&io::ErrorKind::UnexpectedEof.into())
    }

    /// The connection is cut by this error: an answer is never completed with what is not the blob's.
    fn failed(&self, error: &io::Error) -> io::Error {
        let (digest, offset) = (self.blob.digest, self.offset);
        let place = self.blob.place(offset).map(|(piece, ..)| piece.path.display().to_string()).unwrap_or_default();
        tracing::error!(%digest, "cannot send blob {digest} from byte {offset} ({place}): {error}");
        io::Error::new(error.kind(), format!("blob {digest} from byte {offset}: {error}"))
    }
}

#[cfg(test)]
mod tests;
