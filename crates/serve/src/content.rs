//! Answering with a thing that has a digest: validators, conditions and ranges (RFC 9110, sections 13 and 14).
//!
//! A digest never names other bytes, so it is a strong validator as it stands.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use artifact::Digest;
use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::body::{Body, OpenBlob};
use crate::range::{self, Asked};
use crate::refusal::Refusal;

pub(crate) const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub(crate) const DOCKER_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
pub(crate) const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

/// A thing to answer with, its headers made once.
#[derive(Clone, Debug)]
pub(crate) struct Thing {
    pub(crate) digest: Digest,
    pub(crate) bytes: Source,
    headers: HeaderMap,
    etag: HeaderValue,
}

/// Where a thing's bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Memory(Bytes),
    File(Arc<OpenBlob>),
    /// So many bytes that are not here: for HEAD.
    Elsewhere(u64),
}

impl Source {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(blob) => blob.size,
            Self::Elsewhere(size) => *size,
        }
    }
}

impl Thing {
    /// `media_type` as it was stored; one that no header can carry becomes `application/octet-stream`.
    pub(crate) fn new(digest: Digest, media_type: &str, bytes: Source) -> Self {
        let kind = HeaderValue::from_str(media_type).unwrap_or(HeaderValue::from_static("application/octet-stream"));
        // Hex, a colon and quotes are always fit for a header.
        let etag = HeaderValue::try_from(format!("\"{digest}\"")).unwrap_or(HeaderValue::from_static("\"\""));
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(CONTENT_TYPE, kind);
        headers.insert(CONTENT_LENGTH, bytes.len().into());
        headers.insert(ETAG, etag.clone());
        if matches!(bytes, Source::File(_) | Source::Elsewhere(_)) {
            headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        }
        Self { digest, bytes, headers, etag }
    }

    /// For the registry: its digest and API headers, and the namespace that `ns` asked for.
    pub(crate) fn of_registry(mut self, namespace: Option<&str>) -> Self {
        if let Ok(digest) = HeaderValue::try_from(self.digest.to_string()) {
            self.headers.insert(DOCKER_CONTENT_DIGEST, digest);
        }
        self.headers.insert(DOCKER_VERSION, HeaderValue::from_static("registry/2.0"));
        if let Some(value) = namespace.and_then(|namespace| HeaderValue::from_str(namespace).ok()) {
            self.headers.insert(OCI_NAMESPACE, value);
        }
        self
    }

    /// For a file: when its upstream was seen.
    pub(crate) fn of_file(mut self, seen: i64) -> Self {
        let time = UNIX_EPOCH + Duration::from_secs(u64::try_from(seen).unwrap_or(0).min(253_402_300_799));
        if let Ok(value) = HeaderValue::try_from(httpdate::fmt_http_date(time)) {
            self.headers.insert(LAST_MODIFIED, value);
        }
        // A file is somebody else's; no browser shall run it as a page of this server's.
        self.headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
        self
    }

    /// The answer to a request with these headers.
    pub(crate) fn answer(&self, head: bool, request: &HeaderMap) -> Response<Body> {
        if let Some(damage) = self.damage() {
            let mut response = Refusal::inside(damage).into_response();
            if head {
                *response.body_mut() = Body::default();
            }
            return response;
        }
        let mut response = Response::new(Body::default());
        *response.headers_mut() = self.headers.clone();
        if self.not_modified(request) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response.headers_mut().remove(CONTENT_LENGTH);
            return response;
        }
        if head {
            return response;
        }
        match &self.bytes {
            Source::Memory(bytes) => *response.body_mut() = bytes.clone().into(),
            Source::Elsewhere(_) => {}
            Source::File(blob) => match self.asked(request) {
                Asked::Whole => *response.body_mut() = Body::stretch(Arc::clone(blob), 0, blob.size),
                Asked::Part { start, length } => {
                    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                    let range = format!("bytes {start}-{}/{}", start + length - 1, blob.size);
                    response.headers_mut().insert(CONTENT_LENGTH, length.into());
                    if let Ok(value) = HeaderValue::try_from(range) {
                        response.headers_mut().insert(CONTENT_RANGE, value);
                    }
                    *response.body_mut() = Body::stretch(Arc::clone(blob), start, length);
                }
                Asked::Beyond => {
                    *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
                    // Of no bytes there is no kind.
                    response.headers_mut().remove(CONTENT_TYPE);
                    response.headers_mut().insert(CONTENT_LENGTH, 0.into());
                    if let Ok(value) = HeaderValue::try_from(format!("bytes */{}", blob.size)) {
                        response.headers_mut().insert(CONTENT_RANGE, value);
                    }
                }
            },
        }
        response
    }

    fn damage(&self) -> Option<std::io::Error> {
        match &self.bytes {
            Source::Memory(_) | Source::Elsewhere(_) => None,
            Source::File(blob) => blob.damage(),
        }
    }

    fn not_modified(&self, request: &HeaderMap) -> bool {
        if let Some(value) = request.get(IF_NONE_MATCH) {
            let etag = self.etag.as_bytes();
            return value
                .as_bytes()
                .split(|b| *b == b',')
                .map(<[u8]>::trim_ascii)
                .any(|candidate| candidate == b"*" || candidate.strip_prefix(b"W/").unwrap_or(candidate) == etag);
        }
        // Exactly, as the date that was given out: a later one is not a newer copy when an older file was put back
        // (`restore`, `load --force`), whose date is earlier again.
        let date = |value: Option<&HeaderValue>| httpdate::parse_http_date(value?.to_str().ok()?).ok();
        let modified = date(self.headers.get(LAST_MODIFIED));
        modified.is_some() && modified == date(request.get(IF_MODIFIED_SINCE))
    }

    fn asked(&self, request: &HeaderMap) -> Asked {
        let Some(range) = request.get(RANGE).and_then(|value| value.to_str().ok()) else { return Asked::Whole };
        let same = request
            .get(IF_RANGE)
            .is_none_or(|value| *value == self.etag || self.headers.get(LAST_MODIFIED) == Some(value));
        if same { range::parse(range, self.bytes.len()) } else { Asked::Whole }
    }
}
