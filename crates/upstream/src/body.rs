//! What a request carries.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream::{self, Stream};

/// So much is read at a time.
const CHUNK: u64 = 512 * 1024;

/// A request's body. It can be sent again.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Nothing,
    /// Of a form, for POST.
    Form(String),
    Bytes(Bytes),
    File(Piece),
}

impl Body {
    /// Changes as long as the body is on its way.
    pub(crate) fn moved(&self) -> u64 {
        match self {
            Self::File(piece) => piece.outgoing.moved.load(Ordering::Relaxed),
            Self::Nothing | Self::Form(_) | Self::Bytes(_) => 0,
        }
    }
}

/// A file that is sent, whole or from where an earlier transfer ended.
pub struct Outgoing {
    file: File,
    size: u64,
    /// Bytes that were handed to the connection, again and again where it broke.
    moved: AtomicU64,
    /// How far it came.
    reached: AtomicU64,
    tell: Box<dyn Fn(u64) + Send + Sync>,
}

impl Outgoing {
    /// The first `size` bytes of a file. `tell` hears of bytes that are on their way, each once.
    pub fn new(file: File, size: u64, tell: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self { file, size, moved: AtomicU64::new(0), reached: AtomicU64::new(0), tell: Box::new(tell) }
    }

    /// Its bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// That it need go no farther than here.
    pub(crate) fn reach(&self, end: u64) {
        let before = self.reached.fetch_max(end, Ordering::Relaxed);
        if end > before {
            (self.tell)(end - before);
        }
    }
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing").field("size", &self.size).finish_non_exhaustive()
    }
}

/// A file from an offset to its end.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) outgoing: Arc<Outgoing>,
    pub(crate) from: u64,
}

impl Piece {
    pub(crate) fn len(&self) -> u64 {
        self.outgoing.size.saturating_sub(self.from)
    }

    /// Its bytes, read as the connection takes them.
    pub(crate) fn stream(&self) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        stream::try_unfold(self.clone(), async |piece| {
            if piece.len() == 0 {
                return Ok(None);
            }
            let (outgoing, from) = (Arc::clone(&piece.outgoing), piece.from);
            let length = usize::try_from(piece.len().min(CHUNK)).unwrap_or_default();
            let bytes = tokio::task::spawn_blocking(move || {
                let mut bytes = vec![0; length];
                outgoing.file.read_exact_at(&mut bytes, from).map(|()| Bytes::from(bytes))
            })
            .await??;
            let from = from + bytes.len() as u64;
            piece.outgoing.moved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            piece.outgoing.reach(from);
            Ok(Some((bytes, Piece { outgoing: piece.outgoing, from })))
        })
    }
}
