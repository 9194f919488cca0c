//! Where downloads go: into a hash, into memory, into the store.

use std::io;

use artifact::{Digest, Hasher, Progress};
use bytes::Bytes;
use store::{Incoming, NewBlob, Store};
use upstream::Sink;

use crate::error::Result;

/// Bytes of which only the digest and the length are wanted.
pub(crate) struct Hashing {
    hasher: Hasher,
    len: u64,
}

impl Default for Hashing {
    fn default() -> Self {
        Self { hasher: Hasher::sha256(), len: 0 }
    }
}

impl Hashing {
    pub(crate) fn finish(self) -> (Digest, u64) {
        (self.hasher.finish(), self.len)
    }
}

impl Sink for Hashing {
    fn len(&self) -> u64 {
        self.len
    }

    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        self.hasher.update(&bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    async fn restart(&mut self) -> io::Result<()> {
        *self = Self::default();
        Ok(())
    }
}

/// A small blob; the client refuses more bytes than its descriptor says.
#[derive(Default)]
pub(crate) struct Memory(Vec<u8>);

impl Memory {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Sink for Memory {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        self.0.extend_from_slice(&bytes);
        Ok(())
    }

    async fn restart(&mut self) -> io::Result<()> {
        self.0.clear();
        Ok(())
    }
}

/// A blob on its way into the store; dropped unfinished, what has come stays for the next run.
pub(crate) struct Storing<'a> {
    incoming: Incoming,
    progress: &'a dyn Progress,
}

impl<'a> Storing<'a> {
    /// Goes on where an earlier run stopped, or begins.
    pub(crate) async fn open(store: &Store, digest: &Digest, progress: &'a dyn Progress) -> Result<Self> {
        let incoming = Incoming::resume(store, digest).await?;
        progress.advance(incoming.len());
        Ok(Self { incoming, progress })
    }

    /// Proves the digest, and makes the blob durable.
    pub(crate) async fn finish(self) -> Result<NewBlob> {
        Ok(self.incoming.finish().await?)
    }

    /// Leaves what has come for the next run.
    ///
    /// # Errors
    /// When it was the store that would take no more.
    pub(crate) async fn stop(self) -> Result<()> {
        Ok(self.incoming.stop().await?)
    }
}

impl Sink for Storing<'_> {
    fn len(&self) -> u64 {
        self.incoming.len()
    }

    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        let count = bytes.len() as u64;
        self.incoming.write(bytes).await?;
        self.progress.advance(count);
        Ok(())
    }

    async fn restart(&mut self) -> io::Result<()> {
        self.incoming.restart().await
    }
}
