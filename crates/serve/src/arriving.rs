//! A request's body, as it arrives. One that stops coming is cut; one that nobody wants to the end is read for a moment
//! more, since a connection that is closed over unread bytes is reset, and the client never reads why it was refused.

use std::future::{Future as _, pending};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::EXPECT;
use http::request::Parts;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep, timeout};

/// How long a refused client has for reading the answer while it still sends.
const LINGER: Duration = Duration::from_secs(1);
/// How much of what it still sends is taken; the rest waits in the kernel until it stops.
const LINGER_BYTES: usize = 1024 * 1024;

/// A request's body.
pub(crate) struct Arriving {
    /// `None` only while it is dropped.
    body: Option<Incoming>,
    /// How long it may bring nothing.
    patience: Duration,
    silence: Option<Pin<Box<Sleep>>>,
    /// The client sends nothing before it is told to (`Expect: 100-continue`), which the first reading does.
    waits: bool,
    /// All of it came.
    whole: bool,
    /// It was cut off.
    cut: bool,
    /// Told when it was not read to its end, and the connection is good for nothing else.
    unread: Option<Arc<AtomicBool>>,
}

impl Arriving {
    /// `unread` is told when it was not read to its end.
    pub(crate) fn new(body: Incoming, head: &Parts, patience: Duration, unread: Option<Arc<AtomicBool>>) -> Self {
        let waits = head.headers.contains_key(EXPECT);
        Self { body: Some(body), patience, silence: None, waits, whole: false, cut: false, unread }
    }
}

/// Reads what a client still sends that was refused before its request could be read, for as long as a refused body.
pub(crate) async fn linger(stream: &mut (impl AsyncRead + Unpin)) {
    let (mut buffer, mut left) = ([0; 4096], LINGER_BYTES);
    let reading = async {
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            left = left.saturating_sub(read);
            if left == 0 {
                pending::<()>().await;
            }
        }
    };
    // How it ends is the same to us.
    let _ = timeout(LINGER, reading).await;
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        this.waits = false;
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(context) {
            this.silence = None;
            this.whole = frame.is_none();
            this.cut = matches!(frame, Some(Err(_)));
            return Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)));
        }
        let patience = this.patience;
        ready!(this.silence.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(context));
        this.cut = true;
        let message = format!("nothing came for {} s", patience.as_secs_f32());
        Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, message))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take() else { return };
        if self.whole || body.is_end_stream() {
            return;
        }
        if let Some(unread) = &self.unread {
            unread.store(true, Ordering::Release);
        }
        if self.cut || self.waits {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(timeout(LINGER, async move {
            let mut left = LINGER_BYTES;
            while let Some(Ok(frame)) = body.frame().await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if left == 0 {
                    pending::<()>().await;
                }
            }
        }));
    }
}
