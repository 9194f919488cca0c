//! Connections: one port on which the first byte tells TLS from plain HTTP, and one (if wanted) for plain HTTP alone.
//!
//! What a client may cost is bounded here: how many connections ([`Room`]), how long its headers take and how large they
//! are, how long nothing happens.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use artifact::Digest;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::arriving::linger;
use crate::auth::Peer;
use crate::dispatch;
use crate::room::{Place, Room};
use crate::sendfile::{Sending, Wire};
use crate::site::Site;
use crate::{Error, Result};

/// Until a peer that says nothing is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_mins(1);
/// How long a client may take none of the bytes that are there for it.
const STALLED: Duration = Duration::from_mins(10);
/// A request's line and headers.
const HEADER_BYTES: usize = 32 * 1024;
/// Handshakes and requests that may wait for us.
const BACKLOG: u32 = 4096;
/// What is said to a client that begins with HTTP/2.
const NOT_HTTP_2: &[u8] =
    b"HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Type: text/plain\r\nConnection: close\r\n\
    Content-Length: 25\r\n\r\nthis port speaks HTTP/1.1";
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
    room: &Arc<Room>,
    closing: &watch::Sender<bool>,
) {
    loop {
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
        // One waits here for room; those behind it wait in the kernel.
        let place = room.enter().await;
        let (site, speaks, mut closing) = (Arc::clone(site), speaks.clone(), closing.subscribe());
        tokio::spawn(async move {
            site.metrics.connected();
            let _counted = Counted(&site);
            if let Err(error) = converse(&site, stream, remote, speaks, &place, &mut closing).await {
                tracing::debug!(%remote, "connection from {remote}: {error}");
            }
        });
    }
}

struct Counted<'a>(&'a Site);

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
    place: &Place,
    closing: &mut watch::Receiver<bool>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Who is gone without a word, or takes nothing for so long, does not keep its place. A kernel that lacks one of
    // these keeps it longer.
    let _ = sockopt::set_socket_keepalive(&stream, true);
    let _ = sockopt::set_tcp_keepidle(&stream, KEEPALIVE);
    let _ = sockopt::set_tcp_user_timeout(&stream, u32::try_from(STALLED.as_millis()).unwrap_or(u32::MAX));
    let local = stream.local_addr()?;
    let mut first = [0];
    let peeked = tokio::select! {
        peeked = timeout(site.patience.handshake, stream.peek(&mut first)) => peeked??,
        () = told_to_go(site, place, closing) => 0,
    };
    if peeked == 0 {
        return Ok(());
    }
    let hello = first == [TLS_HANDSHAKE];
    match speaks {
        Speaks::Both(acceptor) if hello => {
            let stream = tokio::select! {
                accepted = timeout(site.patience.handshake, acceptor.accept(stream)) => accepted??,
                () = told_to_go(site, place, closing) => return Ok(()),
            };
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let certificate = shown.map(|certificate| Digest::of(certificate));
            serve(site, stream, Peer { remote, local, tls: true, certificate }, None, place, closing).await
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
            serve(site, wire, Peer { remote, local, tls: false, certificate: None }, Some(sending), place, closing)
                .await
        }
    }
}

/// Returns when the server ends, or another connection needs the place.
async fn told_to_go(site: &Site, place: &Place, closing: &mut watch::Receiver<bool>) {
    tokio::select! {
        // An error says that the server is gone altogether.
        ended = closing.wait_for(|closing| *closing) => drop(ended),
        () = place.is_wanted() => site.metrics.made_room(),
    }
}

async fn serve<S>(
    site: &Arc<Site>,
    stream: S,
    peer: Peer,
    sending: Option<Arc<Sending>>,
    place: &Place,
    closing: &mut watch::Receiver<bool>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let begun = AtomicBool::new(false);
    let service = service_fn(|request| async {
        begun.store(true, Ordering::Relaxed);
        // What came too late is not begun: nobody would be told of it.
        let Some(busy) = place.answering() else { return Ok(dispatch::too_late()) };
        let mut response = dispatch::answer(site, &peer, request).await;
        if let Some(sending) = &sending {
            response.body_mut().by_sendfile(sending);
        }
        response.body_mut().keeps(busy);
        Ok::<_, Infallible>(response)
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(site.patience.headers)
        .max_header_size(HEADER_BYTES)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        () = told_to_go(site, place, closing) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        // hyper would wait for the rest of a first request.
        None if !begun.load(Ordering::Relaxed) => return Ok(()),
        None => {
            // The answer that is under way is finished, and no other begun.
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    let Err(error) = ended else { return Ok(()) };
    if error.is_parse() {
        // hyper has said what is wrong, but to who speaks HTTP/2 without having been asked to.
        let mut stream = connection.into_parts().io.into_inner();
        if error.is_parse_version_h2() {
            stream.write_all(NOT_HTTP_2).await?;
            stream.shutdown().await?;
        }
        linger(&mut stream).await;
    }
    Err(io::Error::other(error))
}
