//! What a request is refused with: a status, a code of the distribution spec ("Error Codes"), and a message that names
//! the thing. Refusals of the server's own making (5xx) tell nothing but a request id; the reason is logged with it.

use std::fmt;
use std::io;

use artifact::{Digest, Repository};
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;

use crate::body::Body;

/// Why a request is not answered with what it asked for.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// One of the distribution spec's codes.
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) detail: serde_json::Value,
    /// `WWW-Authenticate`.
    pub(crate) challenge: Option<String>,
    /// Seconds after which it may be tried again, with 429 and 503.
    pub(crate) wait: u64,
    /// Whether somebody was kept from something, and the audit is to know.
    pub(crate) denied: bool,
    /// What is logged and never sent.
    pub(crate) inside: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        let detail = serde_json::Value::Null;
        Self { status, code, message, detail, challenge: None, wait: 5, denied: false, inside: None }
    }

    pub(crate) fn about(mut self, detail: serde_json::Value) -> Self {
        self.detail = detail;
        self
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", message)
    }

    pub(crate) fn method(allowed: &'static str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", format!("only {allowed} is answered here"))
            .about(json!({ "allow": allowed }))
    }

    pub(crate) fn name(name: &str) -> Self {
        let shown: String = name.chars().take(200).collect();
        Self::new(StatusCode::BAD_REQUEST, "NAME_INVALID", format!("`{shown}` is not the name of a repository"))
    }

    pub(crate) fn digest(text: &str) -> Self {
        let shown: String = text.chars().take(160).collect();
        Self::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", format!("`{shown}` is not a digest that naru knows"))
    }

    pub(crate) fn manifest_unknown(name: &str, reference: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", format!("{name} has no {reference} here"))
            .about(json!({ "name": name, "reference": reference }))
    }

    pub(crate) fn blob_unknown(name: &str, digest: &Digest) -> Self {
        Self::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", format!("{name} has no blob {digest} here"))
            .about(json!({ "name": name, "digest": digest }))
    }

    pub(crate) fn repository_unknown(repository: &Repository) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", format!("there is no repository {repository} here"))
            .about(json!({ "name": repository.to_string() }))
    }

    /// `what` of a request's body did not come whole, or not in time.
    pub(crate) fn cut(code: &'static str, what: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        let is_late = error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut);
        let status = if is_late { StatusCode::REQUEST_TIMEOUT } else { StatusCode::BAD_REQUEST };
        Self::new(status, code, format!("{what} was cut off: {error}"))
    }

    /// Something of ours failed; `error` goes to the log only.
    pub(crate) fn inside(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let mut refusal = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "");
        refusal.inside = Some(error.into());
        refusal
    }

    /// The answer to send.
    pub(crate) fn into_response(self) -> Response<Body> {
        let mut message = self.message;
        if let Some(error) = &self.inside {
            let id = uuid::Uuid::new_v4().simple().to_string();
            tracing::error!(request = %id, error = %Chain(error.as_ref()), "request {id} failed: {}", Chain(error.as_ref()));
            if message.is_empty() {
                "the server failed".clone_into(&mut message);
            }
            message = format!("{message}; its log says why under request {id}");
        }
        let mut error = json!({ "code": self.code, "message": message });
        if !self.detail.is_null() {
            error["detail"] = self.detail.clone();
        }
        let mut response = Response::new(Body::from(json!({ "errors": [error] }).to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(value) = self.challenge.and_then(|challenge| HeaderValue::try_from(challenge).ok()) {
            headers.insert(WWW_AUTHENTICATE, value);
        }
        if let Some(value) =
            self.detail.get("allow").and_then(|v| v.as_str()).and_then(|v| HeaderValue::from_str(v).ok())
        {
            headers.insert(ALLOW, value);
        }
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(RETRY_AFTER, self.wait.into());
        }
        response
    }
}

impl From<store::Error> for Refusal {
    fn from(error: store::Error) -> Self {
        match &error {
            store::Error::Mismatch { expected, found } => Self::new(
                StatusCode::BAD_REQUEST,
                "DIGEST_INVALID",
                format!("the bytes have digest {found}, not {expected}"),
            ),
            store::Error::Missing { repository, digest } => Self::new(
                StatusCode::BAD_REQUEST,
                "MANIFEST_BLOB_UNKNOWN",
                format!("{repository} has no {digest}; push it there first"),
            ),
            // The spec knows 405 for what is not deleted here, and no conflict (`end-10`).
            store::Error::Needed { by, .. } => {
                Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", format!("{error}; delete that manifest first"))
                    .about(json!({ "allow": "GET, HEAD", "manifest": by }))
            }
            store::Error::Incomplete { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN", error.to_string())
            }
            store::Error::Manifest { source, .. } => {
                Self::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", source.to_string())
            }
            _ if error.is_no_space() => {
                let mut refusal =
                    Self::new(StatusCode::INSUFFICIENT_STORAGE, "SIZE_INVALID", "the store's disk has no room left");
                refusal.inside = Some(error.into());
                refusal
            }
            store::Error::Stopped { .. } => {
                let message = "the store takes nothing more, since its disk failed to keep what was written";
                let mut refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message);
                refusal.inside = Some(error.into());
                refusal
            }
            _ => Self::inside(error),
        }
    }
}

impl From<bundle::Error> for Refusal {
    fn from(error: bundle::Error) -> Self {
        match error {
            bundle::Error::Store(error) => error.into(),
            // Another server of the site may have that volume: a client goes on to it after a 404.
            bundle::Error::Elsewhere { digest, .. } => {
                let detail = json!({ "digest": digest });
                Self::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", error.to_string()).about(detail)
            }
            error => Self::inside(error),
        }
    }
}

/// An error with its causes, in one line.
struct Chain<'a>(&'a (dyn std::error::Error + Send + Sync));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
