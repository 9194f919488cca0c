//! Where downloads go: into a hash, into memory, into the store.

use std::io;

use artifact::{Digest, Hasher, Progress};
use bytes::Bytes;
use store::{BlobWriter, NewBlob, Store};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use upstream::Sink;

use crate::error::{Error, Result};

/// Pieces that may wait for the disk, a blob. A connection hands out at most some 400 KiB at once (hyper's buffer), so
/// that all blobs under way hold less than 64 MiB.
const WAITING: usize = 8;

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

enum Order {
    Write(Bytes),
    Restart,
}

/// A blob on its way into the store. A thread of its own hashes and writes, so that neither holds up the network;
/// dropped unfinished, what has come stays for the next run.
pub(crate) struct Storing<'a> {
    len: u64,
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<store::Result<BlobWriter>>,
    progress: &'a dyn Progress,
}

impl<'a> Storing<'a> {
    /// Goes on where an earlier run stopped, or begins.
    pub(crate) async fn open(store: &Store, digest: &Digest, progress: &'a dyn Progress) -> Result<Self> {
        let (store, digest) = (store.clone(), *digest);
        let writer = spawn_blocking(move || store.resume(&digest)).await.map_err(Error::thread)??;
        let len = writer.len();
        progress.advance(len);
        let (orders, receiver) = mpsc::channel(WAITING);
        let thread = spawn_blocking(move || write(writer, receiver));
        Ok(Self { len, orders, thread, progress })
    }

    /// Proves the digest, and makes the blob durable.
    pub(crate) async fn finish(self) -> Result<NewBlob> {
        let writer = self.put_down().await?;
        Ok(spawn_blocking(move || writer.finish()).await.map_err(Error::thread)??)
    }

    /// Leaves what has come for the next run.
    ///
    /// # Errors
    /// When it was the store that would take no more.
    pub(crate) async fn stop(self) -> Result<()> {
        self.put_down().await?.keep();
        Ok(())
    }

    /// Waits until everything is written.
    async fn put_down(self) -> Result<BlobWriter> {
        let Self { orders, thread, .. } = self;
        drop(orders);
        Ok(thread.await.map_err(Error::thread)??)
    }
}

fn write(mut writer: BlobWriter, mut orders: mpsc::Receiver<Order>) -> store::Result<BlobWriter> {
    while let Some(order) = orders.blocking_recv() {
        match order {
            Order::Write(bytes) => writer.write(&bytes)?,
            Order::Restart => writer.restart()?,
        }
    }
    Ok(writer)
}

impl Sink for Storing<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        let count = bytes.len() as u64;
        self.orders.send(Order::Write(bytes)).await.map_err(|_| io::Error::other("the store takes no more"))?;
        self.len += count;
        self.progress.advance(count);
        Ok(())
    }

    async fn restart(&mut self) -> io::Result<()> {
        self.orders.send(Order::Restart).await.map_err(|_| io::Error::other("the store takes no more"))?;
        self.len = 0;
        Ok(())
    }
}
