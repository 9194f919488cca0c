//! A blob on its way in from the network: a thread of its own hashes and writes, so that neither holds up the other.

use std::fs::File;
use std::io;

use artifact::Digest;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::{BlobWriter, Error, NewBlob, Result, Store};

/// Pieces that may wait for the disk, a blob. A connection hands out at most some 400 KiB at once (hyper's buffer), so
/// that sixteen blobs under way hold less than 64 MiB.
const WAITING: usize = 8;

enum Order {
    Write(Bytes),
    Restart,
}

/// Bytes that are being received. Dropped unfinished, what has come stays for the next run.
#[derive(Debug)]
pub struct Incoming {
    len: u64,
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<Result<BlobWriter>>,
}

/// What has become of the file that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// So many bytes of it are there.
    UpTo(u64),
    /// It begins again from nothing.
    Anew,
}

impl Incoming {
    /// Goes on where an earlier run stopped, or begins.
    ///
    /// # Errors
    /// As [`Store::resume`].
    pub async fn resume(store: &Store, digest: &Digest) -> Result<Self> {
        let (store, digest) = (store.clone(), *digest);
        let writer = spawn_blocking(move || store.resume(&digest)).await.map_err(ended)??;
        Ok(Self::begin(writer, |_| (), false))
    }

    /// The same, for who reads meanwhile: `hear` is told, on the thread that writes, of what is in the file; with it comes
    /// the file itself. Where it fills the disk, nothing of it stays: nobody may ever ask for it again, and what is pushed
    /// needs the room.
    ///
    /// # Errors
    /// As [`Store::resume`].
    pub async fn followed(
        store: &Store,
        digest: &Digest,
        hear: impl Fn(Written) + Send + 'static,
    ) -> Result<(Self, File)> {
        let (store, digest) = (store.clone(), *digest);
        let opened = spawn_blocking(move || {
            let mut writer = store.resume(&digest)?;
            let file = writer.reader()?;
            Ok::<_, Error>((writer, file))
        });
        let (writer, file) = opened.await.map_err(ended)??;
        Ok((Self::begin(writer, hear, true), file))
    }

    fn begin(mut writer: BlobWriter, hear: impl Fn(Written) + Send + 'static, gives_way: bool) -> Self {
        let len = writer.len();
        let (orders, receiver) = mpsc::channel(WAITING);
        let thread = spawn_blocking(move || match write(&mut writer, receiver, &hear) {
            Ok(()) => Ok(writer),
            Err(error) => {
                if gives_way && error.is_no_space() {
                    writer.discard();
                }
                Err(error)
            }
        });
        Self { len, orders, thread }
    }

    /// How many bytes are there, or under way to the disk.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing has come yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// When the store takes no more; [`Incoming::stop`] says why.
    pub async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        let count = bytes.len() as u64;
        self.orders.send(Order::Write(bytes)).await.map_err(|_| io::Error::other("the store takes no more"))?;
        self.len += count;
        Ok(())
    }

    /// Begins again from nothing.
    ///
    /// # Errors
    /// As [`Incoming::write`].
    pub async fn restart(&mut self) -> io::Result<()> {
        self.orders.send(Order::Restart).await.map_err(|_| io::Error::other("the store takes no more"))?;
        self.len = 0;
        Ok(())
    }

    /// Proves the digest, and makes the blob durable.
    ///
    /// # Errors
    /// As [`BlobWriter::finish`], and when the store took no more.
    pub async fn finish(self) -> Result<NewBlob> {
        self.finish_telling(|| ()).await
    }

    /// The same, and tells when the digest is proven: what follows then is the disk's affair alone.
    ///
    /// # Errors
    /// As [`Incoming::finish`].
    pub async fn finish_telling(self, proven: impl FnOnce() + Send + 'static) -> Result<NewBlob> {
        let writer = self.put_down().await?;
        spawn_blocking(move || writer.finish_telling(proven)).await.map_err(ended)?
    }

    /// Leaves what has come for the next run.
    ///
    /// # Errors
    /// When it was the store that would take no more.
    pub async fn stop(self) -> Result<()> {
        self.put_down().await?.keep();
        Ok(())
    }

    /// Waits until everything is written.
    async fn put_down(self) -> Result<BlobWriter> {
        let Self { orders, thread, .. } = self;
        drop(orders);
        thread.await.map_err(ended)?
    }
}

fn write(writer: &mut BlobWriter, mut orders: mpsc::Receiver<Order>, hear: &impl Fn(Written)) -> Result<()> {
    while let Some(order) = orders.blocking_recv() {
        match order {
            Order::Write(bytes) => {
                writer.write(&bytes)?;
                hear(Written::UpTo(writer.len()));
            }
            Order::Restart => {
                hear(Written::Anew);
                writer.restart()?;
            }
        }
    }
    Ok(())
}

/// The thread ended before its work did: the process is ending.
fn ended(error: tokio::task::JoinError) -> Error {
    Error::Io { path: "partial".into(), source: io::Error::other(error) }
}
