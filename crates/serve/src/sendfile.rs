//! Blobs over plain HTTP go from the page cache to the socket without passing through us.
//!
//! hyper knows no `sendfile`, but hands the pieces of a body to the connection untouched. So a body yields slices of a
//! *mapping* of the blob's file, as tokens; the connection ([`Wire`]) recognises them by their addresses and has the
//! kernel send those bytes of the file instead. Headers go out just before with `MSG_MORE`, in the same packet. The
//! mapping is a real one: whoever reads a slice after all reads the right bytes.

#![expect(unsafe_code, reason = "a mapping of a file is made and read here, and nowhere else")]

use std::fs::File;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::body::OpenBlob;

/// Most of one slice: between two of them it is looked whether the next bytes are in memory.
const WINDOW: u64 = 1024 * 1024;

/// A file's bytes as addresses. Nothing is read into memory by making one.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// Of the first byte that is meant.
    address: NonNull<u8>,
    length: usize,
    /// Bytes before it: a mapping begins with a page, a blob in a volume may not.
    before: usize,
    /// Where in the file the first byte is.
    offset: u64,
}

// SAFETY: the mapping is read-only and lives until it is dropped; its address belongs to no thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing in it changes.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `size` bytes of a file from `offset`; `None` where the kernel will not (no address space left), or there is
    /// nothing to map.
    pub(crate) fn new(file: &File, offset: u64, size: u64) -> Option<Self> {
        let length = usize::try_from(size).ok().filter(|length| *length > 0)?;
        let before = usize::try_from(offset).ok()? % rustix::param::page_size();
        let (whole, from) = (length.checked_add(before)?, offset - before as u64);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that anybody has.
        let start = unsafe { mmap(std::ptr::null_mut(), whole, ProtFlags::READ, MapFlags::SHARED, file, from) };
        // SAFETY: `before` is less than the mapping's length.
        let address = unsafe { start.ok()?.cast::<u8>().add(before) };
        Some(Self { address: NonNull::new(address)?, length, before, offset })
    }

    /// Where in the file this slice lies, if it is one of this mapping's.
    fn offset_of(&self, slice: &[u8]) -> Option<u64> {
        let within = (slice.as_ptr() as usize).checked_sub(self.address.as_ptr() as usize)?;
        let is_mine = !slice.is_empty() && within.checked_add(slice.len())? <= self.length;
        is_mine.then_some(self.offset + within as u64)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is what `new` mapped; slices of it hold the blob, and with it the mapping.
        let _ = unsafe { munmap(self.address.as_ptr().sub(self.before).cast(), self.length + self.before) };
    }
}

/// A slice of a blob's mapping.
struct Token {
    blob: Arc<OpenBlob>,
    start: usize,
    length: usize,
}

impl AsRef<[u8]> for Token {
    fn as_ref(&self) -> &[u8] {
        let Some(mapping) = self.blob.mapping() else { return &[] };
        let end = self.start.saturating_add(self.length).min(mapping.length);
        let start = self.start.min(end);
        // SAFETY: start and end are inside the mapping, which lives as long as the blob that `self` holds. Blobs are
        // never written again once they are named, so the bytes do not change. A read of a page whose disk fails
        // would be a SIGBUS; the connection only passes the address to the kernel, which answers EFAULT instead.
        unsafe { std::slice::from_raw_parts(mapping.address.as_ptr().add(start), end - start) }
    }
}

/// The blob that a connection is sending, told by its body.
#[derive(Debug, Default)]
pub(crate) struct Sending(Mutex<Option<Arc<OpenBlob>>>);

impl Sending {
    fn blob(&self) -> Option<Arc<OpenBlob>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The next slice of `blob` from `offset` towards `end`, which the connection will recognise. `None`: there is no
    /// mapping, read instead.
    pub(crate) fn token(&self, blob: &Arc<OpenBlob>, offset: u64, end: u64) -> Option<Bytes> {
        blob.mapping()?;
        let (start, length) = (usize::try_from(offset).ok()?, usize::try_from((end - offset).min(WINDOW)).ok()?);
        let mut sending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !sending.as_ref().is_some_and(|now| Arc::ptr_eq(now, blob)) {
            *sending = Some(Arc::clone(blob));
        }
        Some(Bytes::from_owner(Token { blob: Arc::clone(blob), start, length }))
    }
}

/// Whether the bytes of the next slice seem to be in memory: `sendfile` waits for the disk where they are not, and a
/// whole worker with it. What cannot be told (overlayfs, tmpfs, FAT, kernels before 4.14) is taken to be, but for media,
/// which are slow.
pub(crate) fn is_cached(blob: &OpenBlob, offset: u64, end: u64) -> bool {
    let last = end.min(offset + WINDOW) - 1;
    [offset, last].into_iter().all(|at| match blob.read_cached(&mut [0], at) {
        Ok(_) => true,
        Err(Errno::AGAIN) => false,
        Err(_) => !blob.is_on_medium,
    })
}

/// Brings the bytes of the next slice into memory; blocks.
pub(crate) fn warm(blob: &OpenBlob, offset: u64, end: u64) -> io::Result<()> {
    let end = end.min(offset + WINDOW);
    let mut at = offset;
    let mut buffer = vec![0; 64 * 1024];
    while at < end {
        match blob.read(&mut buffer, at)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => at += read as u64,
        }
    }
    Ok(())
}

/// A plain connection.
pub(crate) struct Wire {
    stream: TcpStream,
    sending: Arc<Sending>,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream, sending: Arc<Sending>) -> Self {
        Self { stream, sending }
    }

    fn poll_send(
        &self,
        context: &mut Context<'_>,
        mut send: impl FnMut() -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(context))?;
            match self.stream.try_io(Interest::WRITABLE, || send().map_err(io::Error::from)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let blob = self.sending.blob();
        let mapping = blob.as_ref().and_then(|blob| blob.mapping());
        let tokens = mapping.and_then(|mapping| {
            slices.iter().enumerate().find_map(|(index, slice)| Some((index, mapping.offset_of(slice)?, slice.len())))
        });
        let file = blob.as_ref().and_then(|blob| blob.place(0).ok()).map(|(piece, ..)| &piece.file);
        let (Some(file), Some((index, offset, length))) = (file, tokens) else {
            return Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        };
        let before = slices.get(..index).unwrap_or_default();
        if !before.is_empty() {
            let flags = SendFlags::MORE | SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            return self
                .poll_send(context, || sendmsg(&self.stream, before, &mut SendAncillaryBuffer::default(), flags));
        }
        let sent = ready!(self.poll_send(context, || {
            let mut from = offset;
            rustix::fs::sendfile(&self.stream, file, Some(&mut from), length)
        }));
        Poll::Ready(match sent {
            // The file ends before the blob does: cut the connection rather than wait for more.
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            other => other,
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use artifact::Digest;
    use bundle::Extent;

    use super::*;

    #[test]
    fn a_token_is_the_files_bytes() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
        file.write_all(&bytes).unwrap();
        // It lies behind something else, and not at the beginning of a page.
        let lying = bytes[4608..].to_vec();
        let piece = Extent { path: "volume".into(), file: Arc::new(file), offset: 4608, size: lying.len() as u64 };
        let (bytes, blob) = (lying, Arc::new(OpenBlob::of_store(Digest::of(b"proven"), piece)));
        let sending = Sending::default();
        let token = sending.token(&blob, 5, blob.size).unwrap();
        assert_eq!(token, bytes[5..5 + 1024 * 1024]);
        assert_eq!(blob.mapping().unwrap().offset_of(&token), Some(4608 + 5));
        assert_eq!(blob.mapping().unwrap().offset_of(&token.slice(7..9)), Some(4608 + 12));
        assert_eq!(blob.mapping().unwrap().offset_of(&bytes), None);
        drop(blob);
        // The slice keeps what it shows.
        assert_eq!(token.last(), Some(&bytes[5 + 1024 * 1024 - 1]));
        assert!(is_cached(&sending.blob().unwrap(), 0, bytes.len() as u64));
    }
}
