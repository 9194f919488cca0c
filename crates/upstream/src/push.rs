//! The registry's side of the distribution spec that pushes need: blobs (end-4 to end-6, end-11, end-13) and manifests
//! (end-7).
//!
//! A blob that is not there is mounted where that is possible, and else sent into an upload session: a small one with the
//! request that ends the session, a large one in one PATCH, as docker does it. Where a PATCH breaks off, the session is
//! asked how far it came, and another goes on from there.

use std::sync::Arc;
use std::time::Duration;

use artifact::{Descriptor, Digest, MANIFEST_LIMIT, Repository, media_type};
use bytes::Bytes;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use url::Url;

use crate::body::{Body, Outgoing, Piece};
use crate::error::{Error, Result, shown};
use crate::mirror::{self, Endpoint};
use crate::registry::{self, Target};
use crate::retry::{ATTEMPTS, Patience, retried};
use crate::transport::{Answer, Ask};
use crate::{Fetched, Inner};

/// A blob up to here goes with the request that ends its session: one round trip less, and little to send again.
const SMALL: u64 = 1024 * 1024;
/// A registry may hash all that it got before it answers the end of an upload.
const HASHING: Duration = Duration::from_mins(10);

/// How a blob came to be where it was to be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It was there.
    There,
    /// The registry has it from another repository of its own.
    Mounted,
    /// It was sent.
    Sent,
}

pub(crate) async fn standing(inner: &Inner, repository: &Repository, name: &str) -> Result<Option<Digest>> {
    let endpoint = mirror::to_push(&inner.transport, repository)?;
    let digest = name.parse::<Digest>().ok();
    let target = digest.as_ref().map_or(Target::Tag(name), Target::Digest);
    match registry::settle(inner, &endpoint, &repository.name, target, ATTEMPTS).await {
        Ok((digest, _)) => Ok(Some(digest)),
        // What is there and is no manifest that we know is not ours either.
        Err(Error::NotFound { .. } | Error::Manifest { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) async fn standing_referrers(
    inner: &Inner,
    repository: &Repository,
    subject: &Digest,
) -> Result<Vec<Descriptor>> {
    let endpoint = mirror::to_push(&inner.transport, repository)?;
    registry::listed(inner, &endpoint, repository, subject, ATTEMPTS).await
}

pub(crate) async fn blob(
    inner: &Inner,
    repository: &Repository,
    digest: &Digest,
    bytes: &Arc<Outgoing>,
    from: Option<&Repository>,
) -> Result<Arrival> {
    let endpoint = mirror::to_push(&inner.transport, repository)?;
    let mut upload = Upload { inner, endpoint, repository, digest, bytes, from, session: None };
    let (mut patience, mut farthest) = (Patience::new(ATTEMPTS), 0);
    let arrival = loop {
        match upload.go_on().await {
            Err(error) if error.is_transient() => {
                let offset = upload.session.as_ref().map_or(0, |session| session.offset);
                if offset > farthest {
                    farthest = offset;
                    patience.restore();
                }
                if !patience.has_more(&error) {
                    return Err(error);
                }
                patience.wait(&error).await;
            }
            done => break done?,
        }
    };
    bytes.reach(bytes.size());
    Ok(arrival)
}

/// A blob on its way.
struct Upload<'a> {
    inner: &'a Inner,
    endpoint: Endpoint,
    repository: &'a Repository,
    digest: &'a Digest,
    bytes: &'a Arc<Outgoing>,
    from: Option<&'a Repository>,
    session: Option<Session>,
}

/// An upload session, as far as it is known.
struct Session {
    /// Where it goes on; each answer may name another place.
    place: Url,
    /// Bytes that the registry has.
    offset: u64,
    /// Whether something broke off, and the registry has to be asked how far it came.
    broken: bool,
}

impl Upload<'_> {
    /// Does what is left, from wherever it stands.
    async fn go_on(&mut self) -> Result<Arrival> {
        self.look().await?;
        if self.session.is_none() {
            // The end of an upload whose answer was lost is found here too.
            if self.is_there().await? {
                return Ok(Arrival::There);
            }
            if let Some(arrival) = self.begin().await? {
                return Ok(arrival);
            }
        }
        let size = self.bytes.size();
        let offset = self.session.as_ref().map_or(0, |session| session.offset);
        if offset < size && size > SMALL {
            self.send(offset).await?;
        }
        self.end().await?;
        Ok(Arrival::Sent)
    }

    fn url(&self, what: &str) -> Url {
        self.endpoint.registry(&self.repository.name, "blobs", what)
    }

    /// Asks the session's own host, or without our name whichever host the registry sends us to.
    async fn ask(&self, ask: Ask) -> Result<Answer> {
        let access = self.endpoint.access(Some(&self.repository.name));
        let is_home = crate::transport::host_of(&ask.url) == access.host;
        if is_home { self.inner.request(&access, ask).await } else { self.inner.anonymously(&access.host, &ask).await }
    }

    async fn refused(&self, answer: Answer) -> Error {
        answer.into_refusal(&self.endpoint.access(None).host).await
    }

    async fn is_there(&self) -> Result<bool> {
        let mut ask = Ask::new(Method::HEAD, self.url(&self.digest.to_string()));
        ask.probe = self.endpoint.probe;
        let answer = self.ask(ask).await?;
        match answer.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(answer.into_error(&self.endpoint.access(None).host).await),
        }
    }

    /// Begins a session, or finds that none is needed because the blob could be mounted.
    async fn begin(&mut self) -> Result<Option<Arrival>> {
        // Tried once: what did not work will not work the next time.
        if let Some(from) = self.from {
            let mut url = self.url("uploads/");
            url.query_pairs_mut().append_pair("mount", &self.digest.to_string()).append_pair("from", &from.name);
            let answer = self.post(url).await?;
            self.from = None;
            match answer.status() {
                StatusCode::CREATED => return Ok(Some(Arrival::Mounted)),
                StatusCode::ACCEPTED => return self.opened(&answer).map(|()| None),
                // Who may not read the one may still write the other.
                status => tracing::debug!(%status, digest = %self.digest, "not mounted"),
            }
        }
        let answer = self.post(self.url("uploads/")).await?;
        if answer.status() != StatusCode::ACCEPTED {
            return Err(self.refused(answer).await);
        }
        self.opened(&answer).map(|()| None)
    }

    async fn post(&self, url: Url) -> Result<Answer> {
        let mut ask = Ask::new(Method::POST, url);
        ask.probe = self.endpoint.probe;
        ask.body = Body::Bytes(Bytes::new());
        self.ask(ask).await
    }

    fn opened(&mut self, answer: &Answer) -> Result<()> {
        let place = self.place(answer, None)?;
        self.session = Some(Session { place, offset: 0, broken: false });
        Ok(())
    }

    /// Where an answer says that the session goes on; it need not say it again.
    fn place(&self, answer: &Answer, before: Option<&Url>) -> Result<Url> {
        let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        match (location, before) {
            (Some(location), _) => self.inner.transport.next(&answer.url, location),
            (None, Some(before)) => Ok(before.clone()),
            (None, None) => {
                let why = "it begins an upload and does not say where (no Location)".to_owned();
                Err(Error::Protocol { url: shown(&answer.url), why })
            }
        }
    }

    /// After a break: how far the session came, or that there is none any more.
    async fn look(&mut self) -> Result<()> {
        let Some(session) = self.session.as_ref().filter(|session| session.broken) else { return Ok(()) };
        let answer = self.ask(Ask::new(Method::GET, session.place.clone())).await?;
        let status = answer.status();
        let offset = answer.headers().get(RANGE).and_then(|value| value.to_str().ok()).and_then(received);
        self.session = match offset {
            Some(offset) if status.is_success() && offset <= self.bytes.size() => {
                let place = self.place(&answer, Some(&session.place))?;
                Some(Session { place, offset, broken: false })
            }
            _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(answer.into_error(&self.endpoint.access(None).host).await);
            }
            // A registry that cannot tell has it from the beginning again.
            _ => None,
        };
        Ok(())
    }

    /// Sends what the registry has not.
    async fn send(&mut self, offset: u64) -> Result<()> {
        let Some(place) = self.breaking() else { return Ok(()) };
        let mut ask = Ask::new(Method::PATCH, place.clone());
        ask.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        if offset > 0 {
            ask.headers.insert(CONTENT_RANGE, range(offset, self.bytes.size()));
        }
        ask.body = Body::File(Piece { outgoing: Arc::clone(self.bytes), from: offset });
        let answer = self.ask(ask).await?;
        match answer.status() {
            StatusCode::ACCEPTED | StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT => {
                let place = self.place(&answer, Some(&place))?;
                self.session = Some(Session { place, offset: self.bytes.size(), broken: false });
                Ok(())
            }
            status => Err(self.lost(status, answer).await),
        }
    }

    /// Ends the session, with the bytes of a small blob.
    async fn end(&mut self) -> Result<()> {
        let Some(mut place) = self.breaking() else { return Ok(()) };
        let is_small = self.bytes.size() <= SMALL;
        place.query_pairs_mut().append_pair("digest", &self.digest.to_string());
        let mut ask = Ask::new(Method::PUT, place);
        ask.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        ask.body = Body::Bytes(Bytes::new());
        if is_small {
            ask.body = Body::File(Piece { outgoing: Arc::clone(self.bytes), from: 0 });
            // How much of so little came need not be asked.
            self.session = None;
        }
        ask.silence = HASHING;
        let answer = self.ask(ask).await?;
        match answer.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED | StatusCode::NO_CONTENT => Ok(()),
            status => Err(self.lost(status, answer).await),
        }
    }

    /// Where the session goes on, which is not known any more until the next answer.
    fn breaking(&mut self) -> Option<Url> {
        let session = self.session.as_mut()?;
        session.broken = true;
        Some(session.place.clone())
    }

    /// An answer within a session that is none to go on from.
    async fn lost(&mut self, status: StatusCode, answer: Answer) -> Error {
        let (url, size) = (shown(&answer.url), self.bytes.size());
        let received = self.session.as_ref().map_or(0, |session| session.offset);
        match status {
            // A session ends with the process that held it, or the blob was whole before the last answer was lost.
            StatusCode::NOT_FOUND => self.session = None,
            // Less came than was sent: it says how much when it is asked.
            StatusCode::RANGE_NOT_SATISFIABLE => {}
            _ => return self.refused(answer).await,
        }
        Error::Cut { url, received, expected: Some(size) }
    }
}

/// The bytes that a session has, by its `Range: 0-LAST`. `0-0` is what registries say of none.
fn received(range: &str) -> Option<u64> {
    let range = range.trim();
    let last = range.strip_prefix("bytes=").unwrap_or(range).strip_prefix("0-")?.parse::<u64>().ok()?;
    last.checked_add(1).filter(|_| last > 0)
}

fn range(offset: u64, size: u64) -> HeaderValue {
    let text = format!("{offset}-{}", size.saturating_sub(1));
    // Digits and a hyphen are a header's value.
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("0-0"))
}

pub(crate) async fn manifest(inner: &Inner, repository: &Repository, name: &str, manifest: &Fetched) -> Result<()> {
    let endpoint = mirror::to_push(&inner.transport, repository)?;
    let access = endpoint.access(Some(&repository.name));
    let headers = retried(ATTEMPTS, async || {
        let mut ask = Ask::new(Method::PUT, endpoint.registry(&repository.name, "manifests", name));
        ask.probe = endpoint.probe;
        ask.body = Body::Bytes(manifest.bytes.clone());
        let unfit = |_| Error::Config { what: manifest.media_type.clone(), why: "no media type".to_owned() };
        ask.headers.insert(CONTENT_TYPE, HeaderValue::from_str(&manifest.media_type).map_err(unfit)?);
        let answer = inner.request(&access, ask).await?;
        match answer.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED | StatusCode::NO_CONTENT => {
                Ok((shown(&answer.url), answer.headers().clone()))
            }
            _ => Err(answer.into_refusal(&access.host).await),
        }
    });
    let (url, headers): (String, HeaderMap) = headers.await?;
    match registry::said_digest(&headers) {
        Some(found) if found != manifest.digest => Err(Error::mismatch(url, manifest.digest, found)),
        _ => Ok(()),
    }
}

pub(crate) async fn referrers(
    inner: &Inner,
    repository: &Repository,
    subject: &Digest,
    referrers: &[Descriptor],
) -> Result<()> {
    let endpoint = mirror::to_push(&inner.transport, repository)?;
    let tag = registry::fallback_tag(subject);
    let url = shown(&endpoint.registry(&repository.name, "manifests", &tag));
    let mut index = match registry::get(inner, &endpoint, &repository.name, Target::Tag(&tag), ATTEMPTS).await {
        // Verbatim but for what is added: others may have written what we do not read.
        Ok(fetched) => serde_json::from_slice::<Value>(&fetched.bytes)
            .map_err(|error| Error::Protocol { url: url.clone(), why: error.to_string() })?,
        Err(Error::NotFound { .. }) => {
            json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [] })
        }
        Err(error) => return Err(error),
    };
    let Some(listed) = index.get_mut("manifests").and_then(Value::as_array_mut) else {
        return Err(Error::Protocol { url, why: "what stands there is no list of referrers".to_owned() });
    };
    let before = listed.len();
    for referrer in referrers {
        let digest = referrer.digest.to_string();
        if !listed.iter().any(|one| one.get("digest").and_then(Value::as_str) == Some(&digest)) {
            listed.push(json!(referrer));
        }
    }
    if listed.len() == before {
        return Ok(());
    }
    let bytes = Bytes::from(index.to_string());
    if bytes.len() > MANIFEST_LIMIT {
        return Err(Error::TooLarge { url, limit: MANIFEST_LIMIT as u64, digest: None });
    }
    let media_type = media_type::OCI_INDEX.to_owned();
    let index = Fetched { digest: Digest::of(&bytes), bytes, media_type };
    manifest(inner, repository, &tag, &index).await
}

#[cfg(test)]
mod tests {
    use super::received;

    #[test]
    fn what_a_session_has() {
        assert_eq!(received("0-9"), Some(10));
        assert_eq!(received("bytes=0-9"), Some(10));
        assert_eq!(received("0-0"), None);
        for bad in ["", "5-9", "0-", "0-x", "-1", "0-18446744073709551615"] {
            assert_eq!(received(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_range(text in "[0-9=a-z-]{0,30}") {
            received(&text);
        }
    }
}
