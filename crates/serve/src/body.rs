//! What answers are made of: bytes in memory, or a stretch of an open file.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use artifact::Digest;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::task::JoinHandle;

use crate::access::Pending;
use crate::sendfile::{self, Mapping, Sending};

/// Bytes of one read. More buys nothing under TLS, whose records have 16 KiB, and a thousand slow clients hold one each.
const CHUNK: usize = 64 * 1024;

/// A blob's bytes, open for as long as somebody reads or the cache keeps them. Blobs never change.
#[derive(Debug)]
pub(crate) struct OpenBlob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    file: File,
    mapping: OnceLock<Option<Mapping>>,
}

impl OpenBlob {
    pub(crate) fn new(digest: Digest, size: u64, file: File) -> Self {
        Self { digest, size, file, mapping: OnceLock::new() }
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Its bytes as addresses, for [`sendfile`](crate::sendfile); made when it is first wanted.
    pub(crate) fn mapping(&self) -> Option<&Mapping> {
        self.mapping.get_or_init(|| Mapping::new(&self.file, self.size)).as_ref()
    }
}

/// An answer's body. Whoever waits for its end is told how many bytes went out.
#[derive(Debug, Default)]
pub(crate) struct Body {
    content: Content,
    sent: u64,
    pending: Option<Box<Pending>>,
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
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    /// The connection's, when the kernel is to send the bytes itself.
    sending: Option<Arc<Sending>>,
}

impl Body {
    fn of(content: Content) -> Self {
        Self { content, sent: 0, pending: None }
    }

    /// `length` bytes of a blob from `start`; both inside it.
    pub(crate) fn stretch(blob: Arc<OpenBlob>, start: u64, length: u64) -> Self {
        let end = start.saturating_add(length).min(blob.size);
        Self::of(Content::Stretch(Stretch { blob, offset: start, end, reading: None, sending: None }))
    }

    /// Has the kernel send a stretch of a file itself, over the connection that this belongs to.
    pub(crate) fn by_sendfile(&mut self, sending: &Arc<Sending>) {
        if let Content::Stretch(stretch) = &mut self.content {
            stretch.sending = Some(Arc::clone(sending));
        }
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
            self.reading =
                Some(tokio::task::spawn_blocking(move || sendfile::warm(&blob, offset, end).map(|()| Bytes::new())));
        }
        if self.reading.is_none() {
            let mut buffer = vec![0; want];
            match preadv2(&self.blob.file, &mut [IoSliceMut::new(&mut buffer)], self.offset, ReadWriteFlags::NOWAIT) {
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
                        let read = blob.file.read_at(&mut buffer, offset)?;
                        buffer.truncate(read);
                        Ok(buffer.into())
                    }));
                }
                Err(error) => return Poll::Ready(Err(self.failed(&error.into()))),
            }
        }
        let Some(reading) = &mut self.reading else { return Poll::Pending };
        let read = ready!(Pin::new(reading).poll(context));
        self.reading = None;
        Poll::Ready(match read.map_err(io::Error::from).and_then(|read| read) {
            Ok(bytes) if bytes.is_empty() => {
                let sending = self.sending.as_ref();
                match sending.and_then(|sending| sending.token(&self.blob, self.offset, self.end)) {
                    Some(bytes) => {
                        self.offset += bytes.len() as u64;
                        Ok(bytes)
                    }
                    None => Err(self.short()),
                }
            }
            Ok(bytes) => {
                self.offset += bytes.len() as u64;
                Ok(bytes)
            }
            Err(error) => Err(self.failed(&error)),
        })
    }

    fn short(&self) -> io::Error {
        self.failed(&io::ErrorKind::UnexpectedEof.into())
    }

    /// The connection is cut by this error: an answer is never completed with what is not the blob's.
    fn failed(&self, error: &io::Error) -> io::Error {
        tracing::error!(digest = %self.blob.digest, "cannot read blob {} at {}: {error}", self.blob.digest, self.offset);
        io::Error::new(error.kind(), format!("blob {} at {}: {error}", self.blob.digest, self.offset))
    }
}
