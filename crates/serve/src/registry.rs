//! `/v2`: the OCI distribution API, version 1.1. Clauses are cited by the spec's own numbers (`end-2`).

mod lists;
mod manifests;
mod pull;
mod uploads;

pub(crate) use uploads::{Uploads, expire_uploads};

use std::sync::Arc;

use artifact::Algorithm;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::arriving::Arriving;
use crate::auth::{Caller, Gate, Peer, may_carry};
use crate::body::Body;
use crate::content::{DOCKER_VERSION, OCI_NAMESPACE};
use crate::metrics::Route;
use crate::refusal::Refusal;
use crate::resolve::{self, Meant, Sought};
use crate::router::{Asked, Operation};
use crate::site::Site;

/// A request, as far as every operation needs it.
pub(crate) struct Call<'a> {
    pub(crate) site: &'a Arc<Site>,
    pub(crate) caller: Caller,
    pub(crate) peer: &'a Peer,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) head: bool,
    pub(crate) query: Option<&'a str>,
    /// The key under which a pull's answer is remembered.
    pub(crate) key: Option<String>,
}

impl Call<'_> {
    /// Whether the caller may read from what is called so.
    ///
    /// # Errors
    /// The refusal to answer with.
    pub(crate) fn may_read(&self, name: &str) -> Result<(), Refusal> {
        if self.caller.may_read(&self.site.settings()) {
            return Ok(());
        }
        Err(Gate::refuse(self.headers, self.peer, Some(&format!("repository:{name}:pull"))))
    }

    /// Whether the caller may write there.
    ///
    /// # Errors
    /// The refusal to answer with.
    fn may_write(&self, asked: &Asked) -> Result<(), Refusal> {
        if self.caller == Caller::Admin {
            return match self.site.stock().is_fixed() {
                Some(why) => Err(unsupported(why)),
                None => Ok(()),
            };
        }
        // Asking for credentials here would have them sent in the clear.
        may_carry(self.peer, &self.site.settings())?;
        Err(Gate::refuse(self.headers, self.peer, Some(&format!("repository:{}:pull,push", asked.written))))
    }
}

/// The label that an operation is counted under.
pub(crate) fn route(operation: &Operation) -> Route {
    match operation {
        Operation::ReadManifest(_) | Operation::PutManifest(..) | Operation::DeleteManifest(_) => Route::Manifest,
        Operation::ReadBlob(_) | Operation::DeleteBlob(_) => Route::Blob,
        Operation::Tags(_) => Route::Tags,
        Operation::Referrers { .. } => Route::Referrers,
        Operation::StartUpload { .. }
        | Operation::PatchUpload(_)
        | Operation::FinishUpload { .. }
        | Operation::UploadStatus(_)
        | Operation::CancelUpload(_) => Route::Upload,
    }
}

/// `end-1`: 401 with a challenge to whoever says nothing, since docker and skopeo take their cue from here alone.
pub(crate) fn ping(call: &Call<'_>) -> Result<Response<Body>, Refusal> {
    if call.caller == Caller::Anonymous {
        return Err(Gate::refuse(call.headers, call.peer, None));
    }
    Ok(json("{}".to_owned()))
}

/// Carries an operation out.
pub(crate) async fn answer(
    call: Call<'_>,
    asked: &Asked,
    operation: Operation,
    body: Arriving,
) -> Result<Response<Body>, Refusal> {
    // Before anything is looked up: whether it is here must not be told to who may not read.
    if matches!(
        operation,
        Operation::ReadManifest(_) | Operation::ReadBlob(_) | Operation::Tags(_) | Operation::Referrers { .. }
    ) {
        call.may_read(&asked.written)?;
    }
    match operation {
        Operation::ReadManifest(reference) => pull::manifest(call, asked, &reference).await,
        Operation::ReadBlob(digest) => pull::blob(call, asked, &digest).await,
        Operation::Tags(page) => {
            let meant = resolve::to_read(call.site, asked, Sought::Anything).await?;
            call.may_read(&meant.repository.to_string())?;
            lists::tags(&call, asked, &meant, &page).await
        }
        Operation::Referrers { subject, artifact_type, last } => {
            lists::referrers(&call, asked, &subject, artifact_type.as_deref(), last.as_ref()).await
        }
        Operation::PutManifest(reference, tags) => {
            call.may_write(asked)?;
            manifests::put(&call, asked, &reference, &tags, body).await
        }
        Operation::DeleteManifest(reference) => {
            call.may_write(asked)?;
            manifests::delete(&call, asked, &reference).await
        }
        Operation::DeleteBlob(digest) => {
            call.may_write(asked)?;
            manifests::delete_blob(&call, asked, &digest).await
        }
        Operation::StartUpload { digest, algorithm, mount, from } => {
            call.may_write(asked)?;
            match (digest, mount) {
                (Some(digest), _) => uploads::in_one(&call, asked, &digest, body).await,
                (None, Some(mount)) => uploads::mount(&call, asked, &mount, from.as_deref(), algorithm).await,
                (None, None) => uploads::start(&call, asked, algorithm.unwrap_or(Algorithm::Sha256)).await,
            }
        }
        Operation::PatchUpload(id) => {
            call.may_write(asked)?;
            uploads::patch(&call, asked, &id, body).await
        }
        Operation::FinishUpload { id, digest } => {
            call.may_write(asked)?;
            uploads::finish(&call, asked, &id, &digest, body).await
        }
        Operation::UploadStatus(id) => {
            call.may_write(asked)?;
            uploads::status(&call, asked, &id).await
        }
        Operation::CancelUpload(id) => {
            call.may_write(asked)?;
            uploads::cancel(&call, asked, &id).await
        }
    }
}

pub(crate) use lists::catalog;

fn unsupported(why: &str) -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", why)
}

/// A JSON document of the API.
fn json(text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(DOCKER_VERSION, HeaderValue::from_static("registry/2.0"));
    response
}

/// An answer without a body, for something at `path` below the base that the client came by.
fn located(status: StatusCode, call: &Call<'_>, asked: &Asked, path: &str) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(DOCKER_VERSION, HeaderValue::from_static("registry/2.0"));
    let ns = crate::router::parameter(call.query, "ns")
        .map(|ns| format!("?ns={}", url::form_urlencoded::byte_serialize(ns.as_bytes()).collect::<String>()));
    let location = format!("{}{}/{path}{}", asked.base, without_base(asked), ns.unwrap_or_default());
    if let Ok(value) = HeaderValue::try_from(location) {
        headers.insert(LOCATION, value);
    }
    response
}

/// What the client wrote behind its base: with L5 the prefix is in both.
fn without_base(asked: &Asked) -> &str {
    let prefix = asked.base.trim_start_matches('/').strip_suffix("/v2/").unwrap_or_default();
    let rest = asked.written.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/'));
    rest.filter(|_| !prefix.is_empty() && asked.ns.is_none()).unwrap_or(&asked.written)
}

fn name_the_namespace(response: &mut Response<Body>, meant: &Meant) {
    if let Some(value) = meant.namespace.as_deref().and_then(|text| HeaderValue::from_str(text).ok()) {
        response.headers_mut().insert(OCI_NAMESPACE, value);
    }
}
