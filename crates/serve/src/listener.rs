//! Connections: one port on which the first byte tells TLS from plain HTTP, and one (if wanted) for plain HTTP alone.
//!
//! What a client may cost is bounded here: how many connections, how long its headers take and how large they are,
//! how long nothing happens.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::auth::Peer;
use crate::dispatch;
use crate::sendfile::{Sending, Wire};
use crate::site::Site;
use crate::{Error, Result};

/// Until a request's headers are whole; also how long a connection may wait for its next request.
const HEADERS: Duration = Duration::from_secs(75);
/// Until the first byte, and a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// A request's line and headers.
const HEADER_BYTES: usize = 32 * 1024;
/// Handshakes and requests that may wait for us.
const BACKLOG: u32 = 4096;
/// The first byte of a TLS record that begins a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a listener speaks.
#[derive(Clone)]
pub(crate) enum Speaks {
    /// Either, as the first byte tells.
    Both(TlsAcceptor),
    /// Plain HTTP; a TLS hello is told so in the words that make containerd fall back to HTTP.
    Plain,
}

/// Listens on an address.
///
/// # Errors
/// [`Error::InUse`] with who is there, [`Error::Listen`].
pub(crate) fn bind(address: SocketAddr) -> Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let listening = socket.and_then(|socket| {
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    });
    listening.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => Error::InUse { address, by: crate::holder::of_port(address.port()) },
        _ => Error::Listen { address, source },
    })
}

/// Accepts until the future is dropped.
pub(crate) async fn accept(
    site: &Arc<Site>,
    listener: TcpListener,
    speaks: Speaks,
    room: &Arc<Semaphore>,
    graceful: &GracefulShutdown,
) {
    loop {
        // First room, then a connection: what waits for room waits in the kernel.
        let Ok(permit) = Arc::clone(room).acquire_owned().await else { return };
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // A client that went away while it waited is its own affair; out of descriptors is ours, and passes.
                if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                continue;
            }
        };
        let (site, speaks, watcher) = (Arc::clone(site), speaks.clone(), graceful.watcher());
        tokio::spawn(async move {
            site.metrics.connected();
            let _counted = Counted(&site, permit);
            if let Err(error) = converse(&site, stream, remote, speaks, watcher).await {
                tracing::debug!(%remote, "connection from {remote}: {error}");
            }
        });
    }
}

struct Counted<'a>(&'a Site, #[expect(dead_code, reason = "held until the connection ends")] OwnedSemaphorePermit);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.metrics.disconnected();
    }
}

async fn converse(
    site: &Arc<Site>,
    mut stream: TcpStream,
    remote: SocketAddr,
    speaks: Speaks,
    watcher: Watcher,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    let mut first = [0];
    if timeout(HANDSHAKE, stream.peek(&mut first)).await?? == 0 {
        return Ok(());
    }
    let hello = first == [TLS_HANDSHAKE];
    match speaks {
        Speaks::Both(acceptor) if hello => {
            let stream = timeout(HANDSHAKE, acceptor.accept(stream)).await??;
            serve(site, stream, Peer { remote, local, tls: true }, None, watcher).await
        }
        Speaks::Plain if hello => {
            const ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\
                Content-Length: 46\r\n\r\nthis port speaks plain HTTP, and no TLS at all";
            // The hello is read first: closing over unread bytes would reset the connection, and lose the answer.
            let mut hello = [0; 4096];
            let _ = stream.try_read(&mut hello);
            stream.write_all(ANSWER).await?;
            stream.shutdown().await
        }
        Speaks::Both(_) | Speaks::Plain => {
            let sending = Arc::new(Sending::default());
            let wire = Wire::new(stream, Arc::clone(&sending));
            serve(site, wire, Peer { remote, local, tls: false }, Some(sending), watcher).await
        }
    }
}

async fn serve<S>(
    site: &Arc<Site>,
    stream: S,
    peer: Peer,
    sending: Option<Arc<Sending>>,
    watcher: Watcher,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| async {
        let mut response = dispatch::answer(site, &peer, request).await;
        if let Some(sending) = &sending {
            response.body_mut().by_sendfile(sending);
        }
        Ok::<_, Infallible>(response)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    watcher.watch(connection).await.map_err(io::Error::other)
}
