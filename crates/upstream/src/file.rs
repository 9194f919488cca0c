//! Files of web servers.

use artifact::Digest;
use bytes::Bytes;
use http::header::ACCEPT_ENCODING;
use http::{HeaderValue, Method, StatusCode};
use url::Url;

use crate::auth::Access;
use crate::error::{Error, Result, shown};
use crate::retry::{ATTEMPTS, ATTEMPTS_BEFORE_NEXT, retried};
use crate::transfer::{self, Source, content_length, first_words, remote};
use crate::transport::{Answer, Ask, host_of};
use crate::{Inner, Remote, Sink, mirror, page};

/// A file at its own URL.
pub(crate) fn source(url: &Url, size: Option<u64>) -> Source {
    let path = url.path().to_ascii_lowercase();
    Source {
        url: url.clone(),
        access: Access { host: host_of(url), name: None, pushes: false },
        probe: false,
        digest: None,
        size,
        page_is_right: [".html", ".htm", ".xhtml"].iter().any(|ending| path.ends_with(ending)),
    }
}

pub(crate) async fn head(inner: &Inner, url: &Url) -> Result<Remote> {
    check(url)?;
    let mut places = mirror::of_file(&inner.transport, url);
    places.pop();
    let attempts = if places.is_empty() { ATTEMPTS } else { ATTEMPTS_BEFORE_NEXT };
    let error = match headers(inner, url, attempts).await {
        Err(error) if error.is_unreachable() => error,
        answer => return answer,
    };
    for mirror in places {
        match headers(inner, &mirror, ATTEMPTS_BEFORE_NEXT).await {
            Err(next) => tracing::warn!("{next}; asking the next"),
            answer => return answer,
        }
    }
    Err(error)
}

async fn headers(inner: &Inner, url: &Url, attempts: u32) -> Result<Remote> {
    let source = source(url, None);
    retried(attempts, async || {
        let answer = ask(inner, &source, Method::HEAD).await?;
        let is_page = page::is_declared(answer.headers()) && !source.page_is_right;
        match answer.status() {
            StatusCode::OK if !is_page => return Ok(remote(&source, &answer, content_length(answer.headers()))),
            // Presigned URLs are signed for GET alone, and some servers know no HEAD. A page's words need a GET too.
            StatusCode::OK
            | StatusCode::BAD_REQUEST
            | StatusCode::FORBIDDEN
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_IMPLEMENTED => {}
            _ => return Err(answer.into_error(&source.access.host).await),
        }
        drop(answer);
        let answer = got(ask(inner, &source, Method::GET).await?, &source).await?;
        Ok(remote(&source, &answer, content_length(answer.headers())))
    })
    .await
}

pub(crate) async fn document(inner: &Inner, url: &Url, limit: usize) -> Result<Bytes> {
    check(url)?;
    let source = source(url, None);
    retried(ATTEMPTS, async || {
        let answer = got(ask(inner, &source, Method::GET).await?, &source).await?;
        let shown_url = shown(&answer.url);
        let body = answer.body(limit, None).await?;
        if page::is_page(&body) && !source.page_is_right {
            return Err(Error::BlockPage { url: shown_url, words: page::words(&body) });
        }
        Ok(body)
    })
    .await
}

/// Without a digest nothing proves a mirror's bytes, so only the origin is asked.
pub(crate) async fn file(
    inner: &Inner,
    url: &Url,
    size: Option<u64>,
    digest: Option<&Digest>,
    sink: &mut impl Sink,
) -> Result<Remote> {
    check(url)?;
    let sources: Vec<Source> = match digest {
        None => vec![source(url, size)],
        Some(digest) => mirror::of_file(&inner.transport, url)
            .iter()
            .map(|url| Source { digest: Some(*digest), ..source(url, size) })
            .collect(),
    };
    transfer::from_any(inner, &sources, sink).await
}

async fn ask(inner: &Inner, source: &Source, method: Method) -> Result<Answer> {
    let mut ask = Ask::new(method, source.url.clone());
    ask.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    inner.request(&source.access, ask).await
}

/// The answer to a GET, unless it is an error or a page.
async fn got(mut answer: Answer, source: &Source) -> Result<Answer> {
    if answer.status() != StatusCode::OK {
        return Err(answer.into_error(&source.access.host).await);
    }
    if page::is_declared(answer.headers()) && !source.page_is_right {
        let words = first_words(&mut answer).await;
        return Err(Error::BlockPage { url: shown(&answer.url), words });
    }
    Ok(answer)
}

fn check(url: &Url) -> Result<()> {
    if matches!(url.scheme(), "http" | "https") && url.has_host() {
        return Ok(());
    }
    Err(Error::Config { what: url.to_string(), why: "only https:// and http:// are known".to_owned() })
}
