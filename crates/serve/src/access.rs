//! The access log: one JSON object a line, for those who want it (`--access-log`).
//!
//! Lines go through a bounded channel to one thread that writes them in batches: a slow disk drops lines, and says
//! how many, instead of slowing pulls.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use serde::Serialize;

use crate::metrics::Metrics;
use crate::{Error, Result};

/// Lines that may wait.
const WAITING: usize = 8192;

/// What is known of a request when its answer begins.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Line {
    /// RFC 3339, in UTC.
    pub(crate) time: String,
    pub(crate) remote: String,
    pub(crate) tls: bool,
    pub(crate) method: String,
    /// Path and query, as they came.
    pub(crate) uri: String,
    pub(crate) host: String,
    pub(crate) status: u16,
    /// Bytes of the body that were handed to the kernel.
    pub(crate) bytes: u64,
    /// Until the last byte was handed over.
    pub(crate) milliseconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ns: Option<String>,
    pub(crate) agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) repository: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<String>,
}

/// Told when an answer has ended: counts its bytes, and writes its line where one is wanted.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) line: Option<(Log, Line, Instant)>,
}

impl Pending {
    pub(crate) fn done(self, bytes: u64) {
        self.metrics.sent(bytes);
        if let Some((log, mut line, began)) = self.line {
            line.bytes = bytes;
            line.milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            if log.sender.try_send(line).is_err() {
                self.metrics.log_line_dropped();
            }
        }
    }
}

/// Where lines go.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    sender: SyncSender<Line>,
}

impl Log {
    /// Opens `path` to append to it; `-` is standard output.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::Io { path: path.to_owned(), source };
        let to: Box<dyn Write + Send> = if path == Path::new("-") {
            Box::new(std::io::stdout())
        } else {
            Box::new(std::fs::OpenOptions::new().append(true).create(true).open(path).map_err(failed)?)
        };
        let (sender, receiver) = sync_channel(WAITING);
        let name = path.to_owned();
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write(&receiver, to, &name))
            .map_err(failed)?;
        Ok(Self { sender })
    }
}

/// Writes what waits, all of it at once, until every sender is gone.
fn write(lines: &Receiver<Line>, mut to: Box<dyn Write + Send>, path: &Path) {
    let mut batch = Vec::new();
    while let Ok(first) = lines.recv() {
        batch.clear();
        for line in std::iter::once(first).chain(lines.try_iter().take(WAITING)) {
            if serde_json::to_writer(&mut batch, &line).is_ok() {
                batch.push(b'\n');
            }
        }
        if let Err(error) = to.write_all(&batch).and_then(|()| to.flush()) {
            tracing::warn!("the access log {} cannot be written: {error}", path.display());
        }
    }
}
