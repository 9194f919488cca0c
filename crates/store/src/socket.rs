//! The holder's socket: how a command reaches a store that a server holds.
//!
//! The server listens on `STORE/naru.sock`; who may write to that file may command. A call is
//!
//! ```text
//! u32 length of the request, u32 number of files (big-endian)
//! the request, JSON
//! one byte for every 64 files or fewer, with their descriptors (SCM_RIGHTS)
//! ```
//!
//! and is answered by JSON lines: `taken`, then progress and answers while it lasts, `done` or `failed` at its end. The caller opens the files:
//! the server's own user may not read what the caller may (a stick under /media).

use std::fs::File;
use std::io::{BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use artifact::Progress;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Result, Store};

const NAME: &str = "naru.sock";
/// Descriptors in one message; Linux takes 253.
const FILES_A_MESSAGE: usize = 64;
const FILES_LIMIT: u32 = 4096;
const REQUEST_LIMIT: u32 = 64 << 20;
/// A caller that does not take its answers for so long is gone.
const PATIENCE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// What the server says while a call lasts, one JSON line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    /// The call was understood: it may be carried out from here on.
    Taken,
    Say(String),
    Warn(String),
    Begin(String, u64),
    Advance(u64),
    End,
    Answer(Value),
    Done(Value),
    Failed(Value),
}

/// The listening end, held by the server. Its file goes when it is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: tokio::net::UnixListener,
    path: PathBuf,
}

/// Somebody who has called and said nothing yet.
#[derive(Debug)]
pub struct Caller(UnixStream);

/// One call of a command.
#[derive(Debug)]
pub struct Call {
    /// What is asked for.
    pub request: Value,
    /// The caller's files, in the order of the request.
    pub files: Vec<File>,
    /// Who calls: the process and its user, as the kernel knows them.
    pub by: String,
    lines: Lines,
    watch: tokio::net::UnixStream,
}

#[derive(Clone, Debug)]
struct Lines(Arc<Mutex<UnixStream>>);

impl Store {
    /// Listens for commands of other processes. One that a killed server left is replaced: the lock says that nobody
    /// else listens.
    pub fn listen(&self) -> Result<Socket> {
        let path = self.folder().join(NAME);
        let _ = std::fs::remove_file(&path);
        let folder = open_folder(self.folder())?;
        let listener = tokio::net::UnixListener::bind(short(&path, &folder)).map_err(Error::io(&path))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(Error::io(&path))?;
        Ok(Socket { listener, path })
    }
}

impl Socket {
    /// The next caller.
    pub async fn accept(&self) -> Caller {
        loop {
            match self.listener.accept().await.and_then(|(stream, _)| stream.into_std()) {
                Ok(stream) => return Caller(stream),
                Err(error) => {
                    // Out of descriptors, most likely: that passes, and the server goes on.
                    tracing::warn!(%error, "a call on the store's socket could not be taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Caller {
    /// What it calls for. Blocking: a caller may take its time, and others shall not wait for it.
    ///
    /// # Errors
    /// When it says nothing for half a minute, talks nonsense, or goes away.
    pub fn call(self) -> std::io::Result<Call> {
        receive(self.0)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Call {
    /// Where the work reports to: the caller's terminal.
    pub fn progress(&self) -> Arc<dyn Progress> {
        Arc::new(self.lines.clone())
    }

    /// Where a part of the answer goes at once: a list may be longer than what fits into memory.
    pub fn answers(&self) -> impl Fn(Value) + Send + Sync + 'static {
        let lines = self.lines.clone();
        move |value| lines.write(&Line::Answer(value))
    }

    /// Ends when the caller has gone (Ctrl-C): the work should stop then.
    pub async fn gone(&self) {
        let mut unasked = [0; 64];
        while self.watch.readable().await.is_ok() {
            match self.watch.try_read(&mut unasked) {
                Ok(0) => return,
                Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return,
                _ => {}
            }
        }
    }

    /// Answers and hangs up.
    pub fn answer(self, outcome: std::result::Result<Value, Value>) {
        self.lines.write(&match outcome {
            Ok(value) => Line::Done(value),
            Err(value) => Line::Failed(value),
        });
    }
}

impl Lines {
    fn write(&self, line: &Line) {
        let Ok(mut text) = serde_json::to_vec(line) else { return };
        text.push(b'\n');
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rest = text.as_slice();
        // A caller that has gone is noticed by `gone`; its lines go nowhere.
        while !rest.is_empty() {
            match (&*stream).write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    let mut writable = [PollFd::new(&*stream, PollFlags::OUT)];
                    if !matches!(rustix::event::poll(&mut writable, Some(&PATIENCE)), Ok(1..)) {
                        // Half a line went out; a caller that wakes up must not take what follows for the whole.
                        let _ = stream.shutdown(std::net::Shutdown::Both);
                        return;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

impl Progress for Lines {
    fn say(&self, line: &str) {
        self.write(&Line::Say(line.to_owned()));
    }
    fn warn(&self, line: &str) {
        self.write(&Line::Warn(line.to_owned()));
    }
    fn begin(&self, phase: &str, total: u64) {
        self.write(&Line::Begin(phase.to_owned(), total));
    }
    fn advance(&self, bytes: u64) {
        self.write(&Line::Advance(bytes));
    }
    fn end(&self) {
        self.write(&Line::End);
    }
}

/// Calls the server that holds the store in `folder`, and reports its progress until it answers. Blocking. Parts of
/// the answer that come before its end go to `part`.
///
/// `Ok(None)`: nobody listens there, or hung up before the call was taken: nothing was done. The inner result is the server's answer or its refusal.
pub fn call(
    folder: &Path,
    request: &Value,
    files: &[File],
    progress: &dyn Progress,
    part: &mut dyn FnMut(Value),
) -> Result<Option<std::result::Result<Value, Value>>> {
    let path = folder.join(NAME);
    let opened = match open_folder(folder) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let stream = match UnixStream::connect(short(&path, &opened)) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(Error::Io { path, source: error }),
    };
    let is_hung_up = |error: &std::io::Error| {
        matches!(error.kind(), std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset)
    };
    let mut taken = false;
    match send(&stream, request, files) {
        Err(error) if is_hung_up(&error) => return Ok(None),
        sent => sent.map_err(Error::io(&path))?,
    }
    for line in BufReader::new(&stream).lines() {
        let line = match line {
            Err(error) if is_hung_up(&error) && !taken => return Ok(None),
            line => line.map_err(Error::io(&path))?,
        };
        match serde_json::from_str(&line) {
            Ok(Line::Taken) => taken = true,
            Ok(Line::Say(text)) => progress.say(&text),
            Ok(Line::Warn(text)) => progress.warn(&text),
            Ok(Line::Begin(phase, total)) => progress.begin(&phase, total),
            Ok(Line::Advance(bytes)) => progress.advance(bytes),
            Ok(Line::End) => progress.end(),
            Ok(Line::Answer(value)) => part(value),
            Ok(Line::Done(value)) => return Ok(Some(Ok(value))),
            Ok(Line::Failed(value)) => return Ok(Some(Err(value))),
            Err(error) => return Err(Error::Io { path, source: std::io::Error::other(error) }),
        }
    }
    if !taken {
        // It was ending, and heard nothing of it.
        return Ok(None);
    }
    let source = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the server ended before it answered");
    Err(Error::Io { path, source })
}

fn open_folder(folder: &Path) -> Result<File> {
    let flags = i32::try_from(rustix::fs::OFlags::DIRECTORY.bits()).unwrap_or_default();
    std::fs::OpenOptions::new().read(true).custom_flags(flags).open(folder).map_err(Error::io(folder))
}

/// Paths of sockets end at 107 bytes; a store's may be longer. Those that are not need no /proc.
fn short(path: &Path, folder: &File) -> PathBuf {
    if path.as_os_str().len() <= 107 {
        return path.to_owned();
    }
    PathBuf::from(format!("/proc/self/fd/{}/{NAME}", folder.as_raw_fd()))
}

fn send(mut stream: &UnixStream, request: &Value, files: &[File]) -> std::io::Result<()> {
    let text = serde_json::to_vec(request)?;
    let too_many = || std::io::Error::other("too much for one call");
    let length = u32::try_from(text.len()).map_err(|_| too_many())?;
    let count = u32::try_from(files.len()).map_err(|_| too_many())?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(&count.to_be_bytes())?;
    stream.write_all(&text)?;
    for group in files.chunks(FILES_A_MESSAGE) {
        let descriptors: Vec<BorrowedFd<'_>> = group.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_A_MESSAGE))];
        let mut buffer = SendAncillaryBuffer::new(&mut space);
        if !buffer.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(too_many());
        }
        rustix::net::sendmsg(stream, &[IoSlice::new(b"F")], &mut buffer, SendFlags::empty())?;
    }
    Ok(())
}

fn receive(stream: UnixStream) -> std::io::Result<Call> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let number = || {
        let mut bytes = [0; 4];
        (&stream).read_exact(&mut bytes).map(|()| u32::from_be_bytes(bytes))
    };
    let (length, count) = (number()?, number()?);
    if length > REQUEST_LIMIT || count > FILES_LIMIT {
        return Err(std::io::Error::other("too much for one call"));
    }
    let mut text = Vec::new();
    (&stream).take(u64::from(length)).read_to_end(&mut text)?;
    let mut files = Vec::new();
    while files.len() < count as usize {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_A_MESSAGE))];
        let mut buffer = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = rustix::net::recvmsg(&stream, &mut [IoSliceMut::new(&mut byte)], &mut buffer, flags)?;
        let before = files.len();
        for message in buffer.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                files.extend(descriptors.map(|descriptor: OwnedFd| File::from(descriptor)));
            }
        }
        if received.bytes == 0 || files.len() == before {
            return Err(std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                "files were announced, but did not come",
            ));
        }
    }
    let by = rustix::net::sockopt::socket_peercred(&stream).map_or_else(
        |_| "unknown".to_owned(),
        |peer| format!("uid {} (process {})", peer.uid.as_raw(), peer.pid.as_raw_nonzero()),
    );
    // From here on neither end blocks: a clone shares its flags.
    stream.set_nonblocking(true)?;
    let watch = tokio::net::UnixStream::from_std(stream.try_clone()?)?;
    let request = serde_json::from_slice(&text)?;
    let lines = Lines(Arc::new(Mutex::new(stream)));
    lines.write(&Line::Taken);
    Ok(Call { request, files, by, lines, watch })
}
