//! The registry's side of the distribution spec that pulls need: manifests (end-3), blobs (end-2), referrers (end-12).

use std::collections::HashSet;

use artifact::{
    Descriptor, Digest, Hasher, InvalidManifest, MANIFEST_LIMIT, Manifest, Reference, Repository, Trust, media_type,
    valid_tag,
};
use http::header::{ACCEPT, ACCEPT_ENCODING, LINK};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use url::Url;

use crate::error::{Error, Result, shown};
use crate::mirror::{self, Endpoint};
use crate::retry::{ATTEMPTS_BEFORE_NEXT, retried};
use crate::transfer::{self, Source};
use crate::transport::{Answer, Ask, host_of};
use crate::{Fetched, Inner, Resolved, Sink, file, link, page};

const DIGEST_HEADER: &str = "docker-content-digest";
/// A list of referrers may have so many pages and so many descriptors.
const PAGES: usize = 100;
const REFERRERS: usize = 10_000;

/// What a manifest is asked for by.
#[derive(Clone, Copy)]
pub(crate) enum Target<'a> {
    Tag(&'a str),
    Digest(&'a Digest),
}

impl std::fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

pub(crate) async fn resolve(inner: &Inner, reference: &Reference) -> Result<Resolved> {
    let repository = &reference.repository();
    let Some(digest) = reference.digest() else {
        return resolve_tag(inner, repository, reference.tag().unwrap_or("latest")).await;
    };
    // A digest proves itself, so anybody may tell what it is.
    let asked = first(inner, repository, |endpoint, attempts| async move {
        settle(inner, &endpoint, &repository.name, Target::Digest(digest), attempts).await
    });
    let (digest, media_type) = asked.await?;
    Ok(Resolved { digest, media_type, trust: Trust::Digest })
}

pub(crate) async fn manifest(inner: &Inner, repository: &Repository, digest: &Digest) -> Result<Fetched> {
    first(inner, repository, |endpoint, attempts| async move {
        get(inner, &endpoint, &repository.name, Target::Digest(digest), attempts).await
    })
    .await
}

pub(crate) async fn tagged(inner: &Inner, repository: &Repository, tag: &str) -> Result<Option<Fetched>> {
    // Most of these tags do not exist, and a HEAD that says so costs nothing at Docker Hub.
    match resolve_tag(inner, repository, tag).await {
        Ok(resolved) => manifest(inner, repository, &resolved.digest).await.map(Some),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) async fn blob(
    inner: &Inner,
    repository: &Repository,
    blob: &Descriptor,
    sink: &mut impl Sink,
) -> Result<()> {
    let source = |endpoint: &Endpoint| Source {
        url: endpoint.registry(&repository.name, "blobs", &blob.digest.to_string()),
        access: endpoint.access(Some(&repository.name)),
        probe: endpoint.probe,
        digest: Some(blob.digest),
        size: Some(blob.size),
        page_is_right: blob.media_type.starts_with("text/html"),
    };
    let places = mirror::of_repository(&inner.transport, repository)?;
    let sources: Vec<Source> = places.mirrors.iter().chain([&places.origin]).map(source).collect();
    match transfer::from_any(inner, &sources, sink).await {
        // Foreign layers lie elsewhere, where this registry's credentials have no business.
        Err(error @ Error::NotFound { .. }) if !blob.urls.is_empty() => {
            let sources: Vec<Source> = blob
                .urls
                .iter()
                .filter_map(|url| Url::parse(url).ok())
                .filter(|url| matches!(url.scheme(), "http" | "https"))
                .map(|url| Source { digest: Some(blob.digest), ..file::source(&url, Some(blob.size)) })
                .collect();
            if sources.is_empty() {
                return Err(error);
            }
            transfer::from_any(inner, &sources, sink).await?;
        }
        done => {
            done?;
        }
    }
    Ok(())
}

pub(crate) async fn blob_size(inner: &Inner, repository: &Repository, digest: &Digest) -> Result<u64> {
    first(inner, repository, |endpoint, attempts| async move {
        retried(attempts, async || {
            let mut ask = Ask::new(Method::HEAD, endpoint.registry(&repository.name, "blobs", &digest.to_string()));
            ask.probe = endpoint.probe;
            ask.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            let answer = inner.request(&endpoint.access(Some(&repository.name)), ask).await?;
            if answer.status() != StatusCode::OK {
                return Err(answer.into_error(&endpoint.access(None).host).await);
            }
            let unknown = || Error::Protocol { url: shown(&answer.url), why: "it does not tell its length".to_owned() };
            transfer::content_length(answer.headers()).ok_or_else(unknown)
        })
        .await
    })
    .await
}

pub(crate) async fn referrers(inner: &Inner, repository: &Repository, subject: &Digest) -> Result<Vec<Descriptor>> {
    let mut found = with_word_of(inner, repository, |endpoint, attempts| async move {
        listed(inner, &endpoint, repository, subject, attempts).await
    })
    .await?
    .0;
    let mut seen = HashSet::new();
    found.retain(|descriptor| seen.insert(descriptor.digest));
    Ok(found)
}

pub(crate) async fn resolve_tag(inner: &Inner, repository: &Repository, tag: &str) -> Result<Resolved> {
    if !valid_tag(tag) {
        return Err(Error::Config { what: format!("{repository}:{tag}"), why: "not a tag".to_owned() });
    }
    let ((digest, media_type), trust) = with_word_of(inner, repository, |endpoint, attempts| async move {
        settle(inner, &endpoint, &repository.name, Target::Tag(tag), attempts).await
    })
    .await?;
    Ok(Resolved { digest, media_type, trust })
}

/// Asks the endpoints in turn until one answers with what proves itself; the error is the origin's.
async fn first<T, F: Future<Output = Result<T>>>(
    inner: &Inner,
    repository: &Repository,
    ask: impl Fn(Endpoint, u32) -> F,
) -> Result<T> {
    let places = mirror::of_repository(&inner.transport, repository)?;
    for mirror in places.mirrors {
        match ask(mirror, ATTEMPTS_BEFORE_NEXT).await {
            Err(error) => tracing::warn!("{error}; asking the next"),
            done => return done,
        }
    }
    ask(places.origin, inner.transport.attempts()).await
}

/// Asks for what cannot prove itself: the origin, and where that cannot be reached, mirrors whose word counts.
async fn with_word_of<T, F: Future<Output = Result<T>>>(
    inner: &Inner,
    repository: &Repository,
    ask: impl Fn(Endpoint, u32) -> F,
) -> Result<(T, Trust)> {
    let places = mirror::of_repository(&inner.transport, repository)?;
    let trusted: Vec<Endpoint> = places.mirrors.into_iter().filter(|mirror| mirror.is_trusted).collect();
    let attempts = if trusted.is_empty() { inner.transport.attempts() } else { ATTEMPTS_BEFORE_NEXT };
    let error = match ask(places.origin, attempts).await {
        Ok(answer) => return Ok((answer, Trust::Tag)),
        Err(error) if error.is_unreachable() => error,
        Err(error) => return Err(error),
    };
    let mut word = error;
    for mirror in trusted {
        match ask(mirror, ATTEMPTS_BEFORE_NEXT).await {
            Ok(answer) => {
                tracing::warn!("{word}; a mirror is believed in its place");
                return Ok((answer, Trust::Mirror));
            }
            // That there is none is an answer too: most signatures that are looked for do not exist.
            Err(next @ Error::NotFound { .. }) => word = next,
            Err(next) => tracing::warn!("{next}; asking the next"),
        }
    }
    Err(word)
}

/// Digest and media type: by HEAD (rate limits count GETs), or by GET where a HEAD does not tell both.
pub(crate) async fn settle(
    inner: &Inner,
    endpoint: &Endpoint,
    name: &str,
    target: Target<'_>,
    attempts: u32,
) -> Result<(Digest, String)> {
    let told = retried(attempts, async || head(inner, endpoint, name, target).await).await?;
    if let Some(told) = told {
        return Ok(told);
    }
    let fetched = get(inner, endpoint, name, target, attempts).await?;
    Ok((fetched.digest, fetched.media_type))
}

async fn head(inner: &Inner, endpoint: &Endpoint, name: &str, target: Target<'_>) -> Result<Option<(Digest, String)>> {
    let answer = ask(inner, endpoint, name, target, Method::HEAD).await?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => return Ok(None),
        _ => return Err(answer.into_error(&endpoint.access(None).host).await),
    }
    let url = shown(&answer.url);
    let media_type = page::content_type(answer.headers()).unwrap_or_default().to_owned();
    if media_type::is_schema1(&media_type) {
        return Err(Error::Manifest { url, source: InvalidManifest::Schema1 });
    }
    if !media_type::is_manifest(&media_type) {
        return Ok(None);
    }
    let said = said_digest(answer.headers());
    match (target, said) {
        (Target::Digest(expected), Some(found)) if found != *expected => Err(Error::mismatch(url, *expected, found)),
        (Target::Digest(digest), _) => Ok(Some((*digest, media_type))),
        (Target::Tag(_), Some(digest)) => Ok(Some((digest, media_type))),
        (Target::Tag(_), None) => Ok(None),
    }
}

pub(crate) async fn get(
    inner: &Inner,
    endpoint: &Endpoint,
    name: &str,
    target: Target<'_>,
    attempts: u32,
) -> Result<Fetched> {
    retried(attempts, async || {
        let answer = ask(inner, endpoint, name, target, Method::GET).await?;
        if answer.status() != StatusCode::OK {
            return Err(answer.into_error(&endpoint.access(None).host).await);
        }
        let url = shown(&answer.url);
        let content_type = page::content_type(answer.headers()).unwrap_or_default().to_owned();
        let said = said_digest(answer.headers());
        let expected = match target {
            Target::Digest(digest) => Some(*digest),
            Target::Tag(_) => said,
        };
        let bytes = answer.body(MANIFEST_LIMIT, expected.as_ref()).await?;
        if page::is_page(&bytes) {
            return Err(Error::BlockPage { url, words: page::words(&bytes) });
        }
        let parsed = Manifest::parse(&bytes, &content_type);
        // The digest of a signed schema 1 manifest is not that of its bytes, so this is said first.
        if let Err(source @ InvalidManifest::Schema1) = parsed {
            return Err(Error::Manifest { url, source });
        }
        let digest = prove(&url, &bytes, expected)?;
        let media_type = parsed.map_err(|source| Error::Manifest { url, source })?.media_type;
        Ok(Fetched { digest, bytes, media_type })
    })
    .await
}

fn prove(url: &str, bytes: &[u8], expected: Option<Digest>) -> Result<Digest> {
    let Some(expected) = expected else { return Ok(Digest::of(bytes)) };
    let mut hasher = Hasher::new(expected.algorithm());
    hasher.update(bytes);
    let found = hasher.finish();
    if found == expected { Ok(found) } else { Err(Error::mismatch(url, expected, found)) }
}

async fn ask(inner: &Inner, endpoint: &Endpoint, name: &str, target: Target<'_>, method: Method) -> Result<Answer> {
    let mut ask = Ask::new(method, endpoint.registry(name, "manifests", &target.to_string()));
    ask.probe = endpoint.probe;
    ask.headers.insert(ACCEPT, HeaderValue::from_static(media_type::ACCEPT_MANIFESTS));
    inner.request(&endpoint.access(Some(name)), ask).await
}

pub(crate) fn said_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(DIGEST_HEADER)?.to_str().ok()?.trim().parse().ok()
}

/// The referrers that one endpoint knows of.
pub(crate) async fn listed(
    inner: &Inner,
    endpoint: &Endpoint,
    repository: &Repository,
    subject: &Digest,
    attempts: u32,
) -> Result<Vec<Descriptor>> {
    let access = endpoint.access(Some(&repository.name));
    let mut url = endpoint.registry(&repository.name, "referrers", &subject.to_string());
    let mut found = Vec::new();
    for page in 0..PAGES {
        let next = retried(attempts, async || {
            let mut ask = Ask::new(Method::GET, url.clone());
            ask.probe = endpoint.probe;
            ask.headers.insert(ACCEPT, HeaderValue::from_static(media_type::OCI_INDEX));
            one_page(inner.request(&access, ask).await?, &access.host).await
        });
        let Some((descriptors, next)) = next.await? else {
            if page > 0 {
                return Err(Error::Protocol { url: shown(&url), why: "the list of referrers breaks off".to_owned() });
            }
            return by_tag(inner, endpoint, repository, subject, attempts).await;
        };
        found.extend(descriptors);
        if found.len() > REFERRERS {
            break;
        }
        let Some(next) = next else { return Ok(found) };
        // Each page is asked for where the first was: a link that leads elsewhere leads nowhere.
        if host_of(&next) != host_of(&url) {
            return Err(Error::Protocol { url: shown(&url), why: format!("its next page is at {}", shown(&next)) });
        }
        url = next;
    }
    Err(Error::Protocol { url: shown(&url), why: format!("more than {REFERRERS} referrers or {PAGES} pages of them") })
}

/// One page and the URL of the next. `None`: this registry has no such API (its fallback tag may know).
async fn one_page(answer: Answer, host: &str) -> Result<Option<(Vec<Descriptor>, Option<Url>)>> {
    match answer.status() {
        StatusCode::OK => {}
        // 404 is the spec's; the others are what registries in the field answer to an API they do not know.
        StatusCode::NOT_FOUND
        | StatusCode::BAD_REQUEST
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::NOT_ACCEPTABLE
        | StatusCode::NOT_IMPLEMENTED => return Ok(None),
        _ => return Err(answer.into_error(host).await),
    }
    // Some answer 200 to paths they do not know, with a page or a document of theirs. It is then the fallback tag,
    // asked of the same host, that tells a filter's page from a registry's.
    if page::content_type(answer.headers()) != Some(media_type::OCI_INDEX) {
        return Ok(None);
    }
    let next = answer.headers().get_all(LINK).iter().find_map(|link| link::next(link.to_str().ok()?));
    let at = answer.url.clone();
    let next = next.and_then(|next| at.join(&next).ok());
    let body = answer.body(MANIFEST_LIMIT, None).await?;
    let index =
        Manifest::parse(&body, media_type::OCI_INDEX).map_err(|source| Error::Manifest { url: shown(&at), source })?;
    Ok(Some((index.manifests, next)))
}

/// The fallback tag (distribution spec, "Referrers Tag Schema"): `sha256-<hex>`, cut where a tag must end.
pub(crate) fn fallback_tag(subject: &Digest) -> String {
    let hex: String = subject.hex().chars().take(64).collect();
    format!("{}-{hex}", subject.algorithm().as_str())
}

/// The referrers that the fallback tag lists.
async fn by_tag(
    inner: &Inner,
    endpoint: &Endpoint,
    repository: &Repository,
    subject: &Digest,
    attempts: u32,
) -> Result<Vec<Descriptor>> {
    let tag = fallback_tag(subject);
    let fetched = match settle(inner, endpoint, &repository.name, Target::Tag(&tag), attempts).await {
        Ok((digest, _)) => get(inner, endpoint, &repository.name, Target::Digest(&digest), attempts).await?,
        Err(Error::NotFound { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let url = shown(&endpoint.registry(&repository.name, "manifests", &tag));
    let index =
        Manifest::parse(&fetched.bytes, &fetched.media_type).map_err(|source| Error::Manifest { url, source })?;
    Ok(index.manifests)
}
