//! `end-4` to `end-6`, `end-11`, `end-13` and `end-14`: blobs that are pushed.
//!
//! Bytes go from the connection, some pieces at a time, to a blocking thread that hashes and writes them. The thread
//! holds the session while it writes, so a client that is cut off leaves what was written, and may ask where to go on.
//! What the store keeps of an upload outlives the server ([`Store::begin_upload`]): a session that is not in memory is
//! looked for there.

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use artifact::{Algorithm, Digest, Repository};
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::{CONTENT_RANGE, HeaderName, RANGE};
use http::{HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt as _;
use store::{BlobWriter, Change, Store};
use tokio::sync::OwnedMutexGuard;

use crate::arriving::Arriving;
use crate::body::Body;
use crate::content::DOCKER_CONTENT_DIGEST;
use crate::range::chunk;
use crate::refusal::Refusal;
use crate::registry::{Call, located, name_the_namespace};
use crate::resolve::{self, Meant, Sought};
use crate::router::Asked;
use crate::site::Site;

const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// Sessions that are held open.
const MOST: usize = 1024;
/// A session that nobody has asked about for so many seconds is dropped with its bytes.
const IDLE: i64 = 24 * 60 * 60;
/// Bytes of bodies that are written at once, while as many more may come: what all uploads may take together, and the
/// least and the most of one. To wake a thread costs as much as to hash some kilobytes.
const TOGETHER: usize = 8 * 1024 * 1024;
const LEAST_TOGETHER: usize = 64 * 1024;
const MOST_TOGETHER: usize = 512 * 1024;
/// Pieces of a body that are written at once, which may be tiny.
const PIECES: usize = 256;
/// Repositories that are asked for a blob that is mounted from nowhere in particular.
const SOURCES: u32 = 100;

/// The sessions that somebody of this process writes or has written.
#[derive(Default)]
pub(crate) struct Uploads {
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    /// Bodies that are being received.
    receiving: AtomicUsize,
}

struct Session {
    repository: Repository,
    /// `None` after it was finished or cancelled.
    writer: Arc<tokio::sync::Mutex<Option<BlobWriter>>>,
}

impl Uploads {
    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a session, unless another request has just found the same.
    fn add(&self, id: &str, repository: &Repository, writer: BlobWriter) -> Result<Arc<Session>, Refusal> {
        let mut sessions = self.sessions();
        if let Some(found) = sessions.get(id) {
            return Ok(Arc::clone(found));
        }
        if sessions.len() >= MOST {
            // One that nobody has in hand need not be held open: whoever goes on with it finds its file.
            let is_left = |session: &Session| Arc::strong_count(&session.writer) == 1;
            let left = sessions.iter().find(|(_, session)| Arc::strong_count(session) == 1 && is_left(session));
            let Some(left) = left.map(|(id, _)| id.clone()) else {
                let message = "too many uploads are being written; try again when some have ended";
                return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", message));
            };
            sessions.remove(&left);
        }
        let writer = Arc::new(tokio::sync::Mutex::new(Some(writer)));
        let session = Arc::new(Session { repository: repository.clone(), writer });
        sessions.insert(id.to_owned(), Arc::clone(&session));
        Ok(session)
    }

    /// A session of this repository; another's is as unknown as one that is not.
    async fn get(&self, store: &Store, id: &str, repository: &Repository) -> Result<Arc<Session>, Refusal> {
        let found = self.sessions().get(id).cloned();
        let (store, asked, whose) = (store.clone(), id.to_owned(), repository.clone());
        if let Some(session) = found {
            if session.repository != *repository {
                return Err(unknown());
            }
            let touched = tokio::task::spawn_blocking(move || store.touch_upload(&asked, &whose));
            touched.await.map_err(Refusal::inside)?;
            return Ok(session);
        }
        let continued = tokio::task::spawn_blocking(move || {
            store.touch_upload(&asked, &whose);
            store.continue_upload(&asked, &whose)
        });
        let writer = continued.await.map_err(Refusal::inside)??.ok_or_else(unknown)?;
        self.add(id, repository, writer)
    }

    fn remove(&self, id: &str) {
        self.sessions().remove(id);
    }
}

/// One of those that are being received.
struct Receiving<'a>(&'a AtomicUsize);

impl<'a> Receiving<'a> {
    fn begin(uploads: &'a Uploads) -> Self {
        uploads.receiving.fetch_add(1, Ordering::Relaxed);
        Self(&uploads.receiving)
    }

    /// Bytes of its body that may be written at once.
    fn share(&self) -> usize {
        (TOGETHER / self.0.load(Ordering::Relaxed).max(1)).clamp(LEAST_TOGETHER, MOST_TOGETHER)
    }
}

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Forgets an upload that has filled the disk, with its bytes: kept for a day, they would keep everybody from writing for
/// as long.
async fn give_up(site: &Site, id: &str, repository: &Repository, refusal: Refusal) -> Refusal {
    if refusal.status == StatusCode::INSUFFICIENT_STORAGE {
        let (store, asked, whose) = (site.store().clone(), id.to_owned(), repository.clone());
        let _ = tokio::task::spawn_blocking(move || store.forget_upload(&asked, &whose)).await;
        site.uploads.remove(id);
    }
    refusal
}

/// Drops what nobody has asked about for a day, with its bytes. One that is being written is not idle.
pub(crate) async fn expire_uploads(site: &Arc<Site>, now: i64) {
    let site = Arc::clone(site);
    let expired = tokio::task::spawn_blocking(move || {
        let sessions = || site.uploads.sessions();
        let busy = |id: &str| sessions().get(id).is_some_and(|session| session.writer.try_lock().is_err());
        let gone = site.store().expire_uploads(now.saturating_sub(IDLE), busy)?;
        for id in gone {
            sessions().remove(&id);
        }
        Ok::<_, store::Error>(())
    });
    match expired.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "uploads that were left alone could not be looked for: {error}"),
        Err(error) => tracing::warn!(%error, "uploads that were left alone could not be looked for: {error}"),
    }
}

fn unknown() -> Refusal {
    let message = "there is no such upload; it was finished, cancelled or left alone for too long: begin again";
    Refusal::new(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", message)
}

/// `end-4a`, `end-4c`: `algorithm` is the hash that runs along; the upload may end by another.
pub(crate) async fn start(call: &Call<'_>, asked: &Asked, algorithm: Algorithm) -> Result<Response<Body>, Refusal> {
    let meant = resolve::to_write(call.site, asked).await?;
    let (store, repository) = (call.site.store().clone(), meant.repository.clone());
    let begun = tokio::task::spawn_blocking(move || store.begin_upload(&repository, algorithm));
    let (id, writer) = begun.await.map_err(Refusal::inside)??;
    call.site.uploads.add(&id, &meant.repository, writer)?;
    Ok(progress(StatusCode::ACCEPTED, call, asked, &id, 0))
}

/// `end-4b`: the blob in one POST.
pub(crate) async fn in_one(
    call: &Call<'_>,
    asked: &Asked,
    digest: &Digest,
    body: Arriving,
) -> Result<Response<Body>, Refusal> {
    let meant = resolve::to_write(call.site, asked).await?;
    let (store, named) = (call.site.store().clone(), *digest);
    let made = tokio::task::spawn_blocking(move || store.writer(Some(&named)));
    let writer = Arc::new(tokio::sync::Mutex::new(Some(made.await.map_err(Refusal::inside)??)));
    let mut guard = receive(call, Arc::clone(&writer).lock_owned().await, body).await?;
    let writer = guard.take().ok_or_else(unknown)?;
    store_blob(call, asked, &meant, writer, digest).await
}

/// `end-11`: a blob that the caller may read elsewhere; else an upload begins, as the spec wants. Without `from` it may be
/// anywhere.
pub(crate) async fn mount(
    call: &Call<'_>,
    asked: &Asked,
    digest: &Digest,
    from: Option<&str>,
    algorithm: Option<Algorithm>,
) -> Result<Response<Body>, Refusal> {
    let meant = resolve::to_write(call.site, asked).await?;
    let store = call.site.store();
    let sources = match from {
        // `from` is spelled like any name, so the same rules find it.
        Some(from) => match Asked::new(from, asked.ns.clone(), asked.host.clone()) {
            Ok(source) => resolve::to_read(call, &source, Sought::Blob(digest)).await.ok(),
            Err(_) => None,
        }
        .map(|source| source.repository)
        .into_iter()
        .collect(),
        None => store.showing_blob(digest, SOURCES).await?,
    };
    for source in sources.iter().filter(|source| call.may_read(source)) {
        if store.granted_blob(source, digest).await?.is_some_and(|blob| store.holds(&blob)) {
            let mut change = Change::new();
            change.grant_blob(&meant.repository, digest);
            match store.apply(change).await {
                Ok(_) => return Ok(created(call, asked, &meant, digest)),
                // It was collected in this very moment: the client brings it.
                Err(store::Error::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    start(call, asked, algorithm.unwrap_or(digest.algorithm())).await
}

/// `end-5`: the next bytes, exactly where the last ones ended.
pub(crate) async fn patch(call: &Call<'_>, asked: &Asked, id: &str, body: Arriving) -> Result<Response<Body>, Refusal> {
    let meant = resolve::to_write(call.site, asked).await?;
    let session = call.site.uploads.get(call.site.store(), id, &meant.repository).await?;
    let guard = Arc::clone(&session.writer).lock_owned().await;
    let before = guard.as_ref().ok_or_else(unknown)?.len();
    let announced = content_range(call, asked, id, before)?;
    agree(announced, hyper::body::Body::size_hint(&body).exact())?;
    let kept = async {
        let mut guard = receive(call, guard, body).await?;
        call.may_still_push(asked).await?;
        let after = guard.as_ref().ok_or_else(unknown)?.len();
        // What is acknowledged is kept. The guard stays here, so that nobody goes on behind bytes that are not.
        let synced =
            tokio::task::spawn_blocking(move || guard.as_mut().map_or(Ok(()), BlobWriter::sync).map(|()| guard));
        Ok((after, synced.await.map_err(Refusal::inside)??))
    };
    let (after, _guard) = match kept.await {
        Ok(kept) => kept,
        Err(refusal) => return Err(give_up(call.site, id, &meant.repository, refusal).await),
    };
    // Of a body that did not say how long it is, this is known only now: its bytes stay, as of one that was cut off.
    agree(announced, Some(after - before))?;
    Ok(progress(StatusCode::ACCEPTED, call, asked, id, after))
}

/// `end-6`: the last bytes, if any, and the digest.
pub(crate) async fn finish(
    call: &Call<'_>,
    asked: &Asked,
    id: &str,
    digest: &Digest,
    body: Arriving,
) -> Result<Response<Body>, Refusal> {
    let meant = resolve::to_write(call.site, asked).await?;
    let session = call.site.uploads.get(call.site.store(), id, &meant.repository).await?;
    let guard = Arc::clone(&session.writer).lock_owned().await;
    let before = guard.as_ref().ok_or_else(unknown)?.len();
    let announced = content_range(call, asked, id, before)?;
    agree(announced, hyper::body::Body::size_hint(&body).exact())?;
    let received = match receive(call, guard, body).await {
        Ok(mut guard) => {
            let writer = guard.take().ok_or_else(unknown)?;
            let stored = store_blob(call, asked, &meant, writer, digest).await;
            // Not before: while its file is there, another request would begin to go on with it.
            call.site.uploads.remove(id);
            stored
        }
        Err(refusal) => Err(refusal),
    };
    match received {
        Ok(response) => Ok(response),
        Err(refusal) => Err(give_up(call.site, id, &meant.repository, refusal).await),
    }
}

/// `end-13`.
pub(crate) async fn status(call: &Call<'_>, asked: &Asked, id: &str) -> Result<Response<Body>, Refusal> {
    let meant = resolve::to_write(call.site, asked).await?;
    let session = call.site.uploads.get(call.site.store(), id, &meant.repository).await?;
    let length = session.writer.lock().await.as_ref().ok_or_else(unknown)?.len();
    Ok(progress(StatusCode::NO_CONTENT, call, asked, id, length))
}

/// `end-14`.
pub(crate) async fn cancel(call: &Call<'_>, asked: &Asked, id: &str) -> Result<Response<Body>, Refusal> {
    let meant = resolve::to_write(call.site, asked).await?;
    let session = call.site.uploads.get(call.site.store(), id, &meant.repository).await?;
    if let Some(writer) = session.writer.lock().await.take() {
        tokio::task::spawn_blocking(move || writer.discard()).await.map_err(Refusal::inside)?;
    }
    call.site.uploads.remove(id);
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// Writes a request's body behind what the session has. Whatever ends it, the session keeps what arrived.
async fn receive(
    call: &Call<'_>,
    guard: OwnedMutexGuard<Option<BlobWriter>>,
    mut body: Arriving,
) -> Result<OwnedMutexGuard<Option<BlobWriter>>, Refusal> {
    if hyper::body::Body::is_end_stream(&body) {
        return Ok(guard);
    }
    // A thread is busy only while there is something to write: threads are few, and clients that send slowly may be many.
    // It is woken for much at once, or when nothing more has come yet.
    let mut guard = Some(guard);
    let receiving = Receiving::begin(&call.site.uploads);
    let (mut writing, mut waiting, mut ended) = (None, Waiting::default(), None);
    loop {
        while ended.is_none() && waiting.has_room(&receiving) {
            let Some(frame) = body.frame().now_or_never() else { break };
            ended = waiting.take(call, frame);
        }
        if let Some(held) = guard.take_if(|_| !waiting.pieces.is_empty()) {
            let pieces = std::mem::take(&mut waiting).pieces;
            writing = Some(tokio::task::spawn_blocking(move || write(held, &pieces)));
        }
        if writing.is_none() && ended.is_some() {
            break;
        }
        let written = async {
            match &mut writing {
                Some(writing) => writing.await,
                None => pending().await,
            }
        };
        tokio::select! {
            written = written => {
                writing = None;
                guard = Some(written.map_err(Refusal::inside)??);
            }
            frame = body.frame(), if ended.is_none() && waiting.has_room(&receiving) => ended = waiting.take(call, frame),
        }
    }
    match ended {
        Some(Err(error)) => Err(Refusal::cut("BLOB_UPLOAD_INVALID", "the upload", &error)),
        _ => guard.ok_or_else(unknown),
    }
}

/// What of a body has come and is not written.
#[derive(Default)]
struct Waiting {
    pieces: Vec<Bytes>,
    size: usize,
}

impl Waiting {
    fn has_room(&self, receiving: &Receiving<'_>) -> bool {
        self.size < receiving.share() && self.pieces.len() < PIECES
    }

    /// Takes what came next. At the body's end it answers how that was.
    fn take(&mut self, call: &Call<'_>, frame: Option<io::Result<Frame<Bytes>>>) -> Option<io::Result<()>> {
        match frame {
            Some(Ok(frame)) => {
                // Trailers say nothing to us.
                if let Ok(bytes) = frame.into_data() {
                    call.site.metrics.received(bytes.len() as u64);
                    self.size += bytes.len();
                    self.pieces.push(bytes);
                }
                None
            }
            Some(Err(error)) => Some(Err(error)),
            None => Some(Ok(())),
        }
    }
}

/// Writes pieces one behind the other. One that fills the disk is given up here: the client may be gone.
fn write(
    mut guard: OwnedMutexGuard<Option<BlobWriter>>,
    pieces: &[Bytes],
) -> store::Result<OwnedMutexGuard<Option<BlobWriter>>> {
    for piece in pieces {
        let written = guard.as_mut().map_or(Ok(()), |writer| writer.write(piece));
        if let Err(error) = written {
            if let Some(writer) = guard.take_if(|_| error.is_no_space()) {
                writer.discard();
            }
            return Err(error);
        }
    }
    Ok(guard)
}

/// Checks `Content-Range: START-END`, and returns how many bytes it announces.
fn content_range(call: &Call<'_>, asked: &Asked, id: &str, at: u64) -> Result<Option<u64>, Refusal> {
    let Some(value) = call.headers.get(CONTENT_RANGE) else { return Ok(None) };
    let range = value.to_str().ok().and_then(chunk);
    match range {
        Some((start, end)) if start == at => Ok(Some(end - start + 1)),
        _ => {
            let message =
                format!("the next byte of this upload is {at}: {}{}/blobs/uploads/{id}", asked.base, asked.written);
            let code = "BLOB_UPLOAD_INVALID";
            Err(Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, code, message)
                .about(serde_json::json!({ "offset": at })))
        }
    }
}

/// Whether a chunk is as long as its `Content-Range` says, as far as both are known.
fn agree(announced: Option<u64>, length: Option<u64>) -> Result<(), Refusal> {
    match (announced, length) {
        (Some(announced), Some(length)) if announced != length => {
            let message = format!("Content-Range is of {announced} bytes, and the body has {length}");
            Err(Refusal::new(StatusCode::BAD_REQUEST, "SIZE_INVALID", message))
        }
        _ => Ok(()),
    }
}

/// Proves the digest, makes the bytes durable, and grants them to the repository.
async fn store_blob(
    call: &Call<'_>,
    asked: &Asked,
    meant: &Meant,
    writer: BlobWriter,
    digest: &Digest,
) -> Result<Response<Body>, Refusal> {
    let named = *digest;
    let blob = tokio::task::spawn_blocking(move || writer.finish_as(&named)).await.map_err(Refusal::inside)??;
    call.may_still_push(asked).await?;
    let mut change = Change::new();
    change.blob(Some(&meant.repository), blob);
    call.site.store().apply(change).await?;
    Ok(created(call, asked, meant, digest))
}

fn created(call: &Call<'_>, asked: &Asked, meant: &Meant, digest: &Digest) -> Response<Body> {
    let mut response = located(StatusCode::CREATED, call, asked, &format!("blobs/{digest}"));
    name_the_namespace(&mut response, meant);
    let value = HeaderValue::try_from(digest.to_string()).ok();
    response.headers_mut().extend(value.map(|value| (DOCKER_CONTENT_DIGEST, value)));
    response
}

/// Where an upload stands. `Range: 0-0` of an empty one is what distribution answers, and clients expect.
fn progress(status: StatusCode, call: &Call<'_>, asked: &Asked, id: &str, length: u64) -> Response<Body> {
    let mut response = located(status, call, asked, &format!("blobs/uploads/{id}"));
    let headers = response.headers_mut();
    headers.extend(HeaderValue::try_from(format!("0-{}", length.saturating_sub(1))).ok().map(|value| (RANGE, value)));
    headers.extend(HeaderValue::from_str(id).ok().map(|value| (UPLOAD_UUID, value)));
    response
}
