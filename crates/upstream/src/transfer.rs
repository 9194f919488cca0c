//! Bytes into a sink: resumed where a connection broke, begun again where the server cannot continue, stopped where
//! more comes than there may be.

use std::io;

use artifact::{Digest, Hasher};
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName, IF_RANGE, LAST_MODIFIED, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use url::Url;

use crate::auth::Access;
use crate::error::{Error, Result, shown};
use crate::retry::{ATTEMPTS, ATTEMPTS_BEFORE_NEXT, Patience};
use crate::transport::{Answer, Ask};
use crate::{Inner, Remote, Sink, page};

/// Of a page that came instead, so much is read to be quoted.
const PAGE: usize = 16 * 1024;

/// What is fetched, and what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) url: Url,
    pub(crate) access: Access,
    pub(crate) probe: bool,
    pub(crate) digest: Option<Digest>,
    pub(crate) size: Option<u64>,
    /// A page for people is what is wanted.
    pub(crate) page_is_right: bool,
}

/// Fetches from the first source that has it, the origin being the last. Where there are several, the whole is proven
/// here, so that a mirror's wrong bytes lead to the next one. Bytes of an earlier run are their owner's to prove.
pub(crate) async fn from_any<S: Sink>(inner: &Inner, sources: &[Source], sink: &mut S) -> Result<Remote> {
    let [mirrors @ .., origin] = sources else {
        return Err(Error::Config { what: "sources".to_owned(), why: "none".to_owned() });
    };
    let Some(digest) = origin.digest.filter(|_| !mirrors.is_empty()) else {
        return transfer(inner, origin, ATTEMPTS, sink).await;
    };
    let hasher = (sink.len() == 0).then(|| Hasher::new(digest.algorithm()));
    let mut sink = Proving { sink, digest, hasher };
    for mirror in mirrors {
        match sink.take(inner, mirror, ATTEMPTS_BEFORE_NEXT).await {
            Err(error @ Error::Sink(_)) => return Err(error),
            Err(error) => tracing::warn!("{error}; asking the next"),
            done => return done,
        }
    }
    sink.take(inner, origin, ATTEMPTS).await
}

/// A sink that hashes what passes.
struct Proving<'a, S> {
    sink: &'a mut S,
    digest: Digest,
    /// None while bytes are there that were not seen.
    hasher: Option<Hasher>,
}

impl<S: Sink> Proving<'_, S> {
    async fn take(&mut self, inner: &Inner, source: &Source, attempts: u32) -> Result<Remote> {
        loop {
            let is_alone = self.len() == 0;
            let remote = transfer(inner, source, attempts, self).await?;
            let Some(found) = self.hasher.clone().map(Hasher::finish).filter(|found| *found != self.digest) else {
                return Ok(remote);
            };
            self.restart().await?;
            if is_alone {
                return Err(Error::mismatch(shown(&source.url), self.digest, found));
            }
            // Part of it came from somebody else, whose fault it may be.
        }
    }
}

impl<S: Sink> Sink for Proving<'_, S> {
    fn len(&self) -> u64 {
        self.sink.len()
    }

    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes);
        }
        self.sink.write(bytes).await
    }

    async fn restart(&mut self) -> io::Result<()> {
        self.hasher = Some(Hasher::new(self.digest.algorithm()));
        self.sink.restart().await
    }
}

/// Fetches from one source, going on after each cut as long as something comes.
async fn transfer(inner: &Inner, source: &Source, attempts: u32, sink: &mut impl Sink) -> Result<Remote> {
    if source.size.is_some_and(|size| sink.len() > size) {
        sink.restart().await?;
    }
    let mut patience = Patience::new(attempts);
    let mut farthest = sink.len();
    let mut validator = None;
    loop {
        // All of it is there, from an earlier run or because the cut came after the last byte.
        if source.size.is_some_and(|size| sink.len() == size) {
            return Ok(Remote { size: source.size, url: shown(&source.url), last_modified: None });
        }
        match attempt(inner, source, &mut validator, sink).await {
            Err(error) if error.is_transient() => {
                if sink.len() > farthest {
                    farthest = sink.len();
                    patience.restore();
                }
                if !patience.has_more(&error) {
                    return Err(error);
                }
                patience.wait(&error).await;
            }
            done => return done,
        }
    }
}

async fn attempt(
    inner: &Inner,
    source: &Source,
    validator: &mut Option<HeaderValue>,
    sink: &mut impl Sink,
) -> Result<Remote> {
    let there = sink.len();
    let mut ask = Ask::new(Method::GET, source.url.clone());
    ask.probe = source.probe;
    // What is compressed on the way has other bytes and another length.
    ask.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if there > 0 {
        if let Ok(range) = HeaderValue::from_str(&format!("bytes={there}-")) {
            ask.headers.insert(RANGE, range);
        }
        if let Some(validator) = validator {
            ask.headers.insert(IF_RANGE, validator.clone());
        }
    }
    let mut answer = inner.request(&source.access, ask).await?;
    let url = shown(&answer.url);
    let range = answer.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).and_then(read_range);
    let total = match answer.status() {
        StatusCode::OK => content_length(answer.headers()),
        StatusCode::PARTIAL_CONTENT => range.and_then(|range| range.total),
        // Only a registry that has the whole can say so; a file of unknown size may simply be whole.
        StatusCode::RANGE_NOT_SATISFIABLE if there > 0 => {
            let total = range.and_then(|range| range.total);
            if source.size.is_none() && total == Some(there) {
                return Ok(remote(source, &answer, total));
            }
            sink.restart().await?;
            return Err(Error::Cut { url, received: there, expected: source.size });
        }
        _ => return Err(answer.into_error(&source.access.host).await),
    };
    // A page of just the right length may well be what is wanted.
    let may_be_page = source.page_is_right || (source.size.is_some() && total == source.size);
    if page::is_declared(answer.headers()) && !may_be_page {
        let words = first_words(&mut answer).await;
        return Err(Error::BlockPage { url, words });
    }
    if let (Some(total), Some(size)) = (total, source.size)
        && total > size
    {
        return Err(Error::TooLarge { url, limit: size, digest: source.digest });
    }
    if answer.status() == StatusCode::OK && there > 0 {
        sink.restart().await?;
    }
    if answer.status() == StatusCode::PARTIAL_CONTENT && range.and_then(|range| range.start) != Some(there) {
        // It sends another part than it was asked for: only a whole answer can be trusted.
        sink.restart().await?;
        return Err(Error::Cut { url, received: there, expected: source.size });
    }
    *validator = strong_validator(answer.headers());
    let remote = remote(source, &answer, total);
    while let Some(chunk) = answer.chunk(sink.len(), source.size.or(total)).await? {
        if sink.len() == 0 && page::is_page(&chunk) && !may_be_page {
            return Err(Error::BlockPage { url, words: page::words(&chunk) });
        }
        if let Some(size) = source.size.filter(|size| sink.len() + chunk.len() as u64 > *size) {
            return Err(Error::TooLarge { url, limit: size, digest: source.digest });
        }
        sink.write(chunk).await?;
    }
    // A server may send less than was asked for, and says of how much it was.
    let size = source.size.or(total);
    if size.is_some_and(|size| sink.len() < size) {
        return Err(Error::Cut { url, received: sink.len(), expected: size });
    }
    Ok(Remote { size: Some(sink.len()), ..remote })
}

/// What the headers say of a file.
pub(crate) fn remote(source: &Source, answer: &Answer, size: Option<u64>) -> Remote {
    let mut url = answer.url.clone();
    if answer.url != source.url {
        // Where a redirect leads is signed for minutes; the signature belongs in no lock.
        url.set_query(None);
    }
    url.set_fragment(None);
    // Neither fails for http and https.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let last_modified = answer.headers().get(LAST_MODIFIED).and_then(|value| value.to_str().ok()).map(str::to_owned);
    Remote { size, url: url.into(), last_modified }
}

/// `Content-Length`, also of an answer to HEAD.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// The title or first words of a page that came instead.
pub(crate) async fn first_words(answer: &mut Answer) -> String {
    let mut body = Vec::new();
    while body.len() < PAGE {
        let Ok(Some(chunk)) = answer.chunk(0, None).await else { break };
        body.extend_from_slice(&chunk);
    }
    page::words(&body)
}

/// What `If-Range` may name (RFC 9110 §13.1.5): a strong entity tag, else a date.
fn strong_validator(headers: &HeaderMap) -> Option<HeaderValue> {
    let strong = |name: HeaderName| headers.get(name).filter(|value| !value.as_bytes().starts_with(b"W/")).cloned();
    strong(ETAG).or_else(|| strong(LAST_MODIFIED))
}

/// `Content-Range` (RFC 9110 §14.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ContentRange {
    start: Option<u64>,
    total: Option<u64>,
}

fn read_range(text: &str) -> Option<ContentRange> {
    let (range, total) = text.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let start = match range.trim() {
        "*" => None,
        range => {
            let (start, end) = range.split_once('-')?;
            let (start, end) = (start.trim().parse::<u64>().ok()?, end.trim().parse::<u64>().ok()?);
            if end < start {
                return None;
            }
            Some(start)
        }
    };
    Some(ContentRange { start, total: total.trim().parse().ok() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        let range = |start, total| Some(ContentRange { start, total });
        assert_eq!(read_range("bytes 5-9/10"), range(Some(5), Some(10)));
        assert_eq!(read_range("bytes 5-9/*"), range(Some(5), None));
        assert_eq!(read_range("bytes */10"), range(None, Some(10)));
        for bad in ["", "bytes", "bytes 9-5/10", "bytes -5/10", "items 1-2/3", "bytes a-b/c"] {
            assert_eq!(read_range(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_range(text in "(bytes )?[0-9*/ -]{0,40}") {
            read_range(&text);
        }
    }
}
