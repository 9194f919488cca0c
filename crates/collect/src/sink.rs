//! Where downloads go: into a hash, into memory, into the store.

use std::io;

use artifact::{Digest, Hasher};
use bytes::Bytes;
use store::{BlobWriter, NewBlob, Store};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use upstream::Sink;

use crate::error::{Error, Result};

/// Pieces that may wait for the disk, a blob: with what connections hand out at once (64 KiB at most) some 2 MiB.
const WAITING: usize = 32;

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
    Finish,
}

/// A blob on its way into the store. A thread of its own hashes and writes, so that neither holds up the network;
/// dropped unfinished, what has come stays for the next run.
pub(crate) struct Storing<'a> {
    len: u64,
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<store::Result<Option<NewBlob>>>,
    progress: &'a dyn artifact::Progress,
}

impl<'a> Storing<'a> {
    /// Goes on where an earlier run stopped, or begins.
    pub(crate) async fn open(store: &Store, digest: &Digest, progress: &'a dyn artifact::Progress) -> Result<Self> {
        let (store, digest) = (store.clone(), *digest);
        let writer = tokio::task::spawn_blocking(move || store.resume(&digest)).await.map_err(Error::thread)??;
        let len = writer.len();
        progress.advance(len);
        let (orders, receiver) = mpsc::channel(WAITING);
        let thread = tokio::task::spawn_blocking(move || write(writer, receiver));
        Ok(Self { len, orders, thread, progress })
    }

    /// Proves the digest, and makes the blob durable.
    pub(crate) async fn finish(self) -> Result<NewBlob> {
        let Self { orders, thread, .. } = self;
        // A thread that has stopped says why below.
        let _ = orders.send(Order::Finish).await;
        drop(orders);
        match thread.await.map_err(Error::thread)?? {
            Some(blob) => Ok(blob),
            None => Err(Error::thread("its writer stopped")),
        }
    }

    /// Why the store would not take more, when that is what ended a transfer; what has come is kept.
    pub(crate) async fn stop(self) -> Result<()> {
        let Self { orders, thread, .. } = self;
        drop(orders);
        thread.await.map_err(Error::thread)??;
        Ok(())
    }
}

fn write(mut writer: BlobWriter, mut orders: mpsc::Receiver<Order>) -> store::Result<Option<NewBlob>> {
    while let Some(order) = orders.blocking_recv() {
        match order {
            Order::Write(bytes) => writer.write(&bytes)?,
            Order::Restart => writer.restart()?,
            Order::Finish => return writer.finish().map(Some),
        }
    }
    writer.keep();
    Ok(None)
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
