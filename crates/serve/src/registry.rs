//! `/v2`: the OCI distribution API, version 1.1. Clauses are cited by the spec's own numbers (`end-2`).

pub(crate) mod lists;
mod manifests;
mod pull;
mod uploads;

pub(crate) use uploads::{Uploads, expire_uploads};

use std::sync::Arc;

use artifact::Algorithm;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::Event;
use crate::arriving::Arriving;
use artifact::Repository;

use crate::auth::{Caller, Gate, Peer, Verb, may_carry};
use crate::body::Body;
use crate::content::{DOCKER_CONTENT_DIGEST, DOCKER_VERSION, OCI_NAMESPACE};
use crate::metrics::Route;
use crate::refusal::Refusal;
use crate::resolve::{self, Meant, Sought};
use crate::router::{Asked, Operation, Reference};
use crate::site::Site;

/// A request, as far as every operation needs it.
pub(crate) struct Call<'a> {
    pub(crate) site: &'a Arc<Site>,
    pub(crate) caller: Caller,
    /// Which told who that is.
    pub(crate) gate: Arc<Gate>,
    pub(crate) peer: &'a Peer,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) head: bool,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    /// The key under which a pull's answer is remembered.
    pub(crate) key: Option<String>,
}

impl Call<'_> {
    /// Whether the caller may do that there.
    pub(crate) fn may(&self, verb: Verb, repository: &Repository) -> bool {
        self.caller.may(verb, &repository.to_string(), &self.site.settings())
    }

    /// Whether the caller may read from there.
    pub(crate) fn may_read(&self, repository: &Repository) -> bool {
        self.may(Verb::Read, repository)
    }

    /// Whether there can be anything that the caller may see.
    ///
    /// # Errors
    /// The refusal to answer with.
    pub(crate) fn may_look(&self, what: &str) -> Result<(), Refusal> {
        if self.caller.is_known() || !self.site.settings().anonymous.is_empty() {
            return Ok(());
        }
        Err(Gate::refuse(self.headers, self.peer, Some(&format!("repository:{what}:pull"))))
    }

    /// What stands in the place of what the caller may not see, be it there or not: nobody is asked who he is, and who
    /// is known hears `missing`.
    pub(crate) fn hidden(&self, written: &str, missing: impl FnOnce() -> Refusal) -> Refusal {
        if !self.caller.is_known() {
            let mut refusal = Gate::refuse(self.headers, self.peer, Some(&format!("repository:{written}:pull")));
            // To be asked who one is, is how the protocol begins.
            refusal.denied = false;
            return refusal;
        }
        let mut refusal = missing();
        refusal.denied = true;
        refusal
    }

    /// Who asks, for the history.
    pub(crate) fn by(&self) -> String {
        format!("{} from {}", self.caller, self.peer.remote.ip())
    }

    /// The repository that a change is meant for, when the caller may make it.
    ///
    /// # Errors
    /// The refusal to answer with.
    async fn to_change(&self, asked: &Asked, verb: Verb) -> Result<Meant, Refusal> {
        if !self.caller.is_known() {
            // Asking for credentials here would have them sent in the clear.
            may_carry(self.peer, &self.site.settings())?;
            let actions = if verb == Verb::Delete { "delete" } else { "pull,push" };
            let scope = format!("repository:{}:{actions}", asked.written);
            let mut refusal = Gate::refuse(self.headers, self.peer, Some(&scope));
            refusal.denied = true;
            return Err(refusal);
        }
        let meant = resolve::to_write(self.site, asked).await?;
        let repository = &meant.repository;
        if !self.may(verb, repository) {
            return Err(self.lacks(verb, repository, ""));
        }
        let clashes = verb == Verb::Write && repository.is_local() && !self.may(Verb::Admin, repository);
        if clashes && self.is_mirrored(&repository.name).await? {
            return Err(self.lacks(Verb::Admin, repository, ", since an upstream has a repository of that name here"));
        }
        match self.site.stock().is_fixed() {
            Some(why) => Err(unsupported(why)),
            None => Ok(meant),
        }
    }

    /// Asks once more whether the caller may push there, when its body has come: that may have taken hours, and who has
    /// lost the right meanwhile changes nothing any more.
    ///
    /// # Errors
    /// The refusal to answer with.
    async fn may_still_push(&self, asked: &Asked) -> Result<(), Refusal> {
        let gate = self.site.gate.load_full();
        let Some(caller) = gate.again(&self.gate, &self.caller) else {
            let mut refusal = Gate::refuse(self.headers, self.peer, None);
            refusal.denied = true;
            return Err(refusal);
        };
        if caller == self.caller {
            return Ok(());
        }
        Call { caller, gate, key: None, ..*self }.to_change(asked, Verb::Write).await.map(drop)
    }

    /// Whether who names no host could mean an upstream's repository by this name.
    async fn is_mirrored(&self, name: &str) -> Result<bool, Refusal> {
        let store = self.site.store();
        Ok(store.is_mirrored(name).await?
            || (!name.contains('/') && store.is_mirrored(&format!("library/{name}")).await?))
    }

    fn lacks(&self, verb: Verb, repository: &Repository, why: &str) -> Refusal {
        let message =
            format!("{} may not do this in {repository}: it needs the scope {verb}:{repository}{why}", self.caller);
        let mut refusal = Refusal::new(StatusCode::FORBIDDEN, "DENIED", message);
        refusal.denied = true;
        refusal
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

/// Carries an operation out, and has the audit know of a change.
pub(crate) async fn answer(
    call: Call<'_>,
    asked: &Asked,
    operation: Operation,
    body: Arriving,
) -> Result<Response<Body>, Refusal> {
    let verb = match &operation {
        Operation::ReadManifest(reference) => return pull::manifest(call, asked, reference).await,
        Operation::ReadBlob(digest) => return pull::blob(call, asked, digest).await,
        Operation::Tags(page) => {
            let meant = resolve::to_read(&call, asked, Sought::Anything).await?;
            return lists::tags(&call, asked, &meant, page).await;
        }
        Operation::Referrers { subject, artifact_type, last } => {
            return lists::referrers(&call, asked, subject, artifact_type.as_deref(), last.as_ref()).await;
        }
        Operation::DeleteManifest(_) | Operation::DeleteBlob(_) => Verb::Delete,
        Operation::PutManifest(..)
        | Operation::StartUpload { .. }
        | Operation::PatchUpload(_)
        | Operation::FinishUpload { .. }
        | Operation::UploadStatus(_)
        | Operation::CancelUpload(_) => Verb::Write,
    };
    let (action, digest) = match &operation {
        Operation::DeleteManifest(Reference::Digest(digest)) => ("delete", Some(digest.to_string())),
        // The tag is in the path.
        Operation::DeleteManifest(Reference::Tag(_)) => ("delete", None),
        Operation::DeleteBlob(digest) => ("delete", Some(digest.to_string())),
        _ => ("push", None),
    };
    let meant = call.to_change(asked, verb).await?;
    let response = change(&call, asked, operation, body).await?;
    // Of a push, what is there now; an upload that goes on is nothing yet.
    if verb == Verb::Delete || response.status() == StatusCode::CREATED {
        let answered = response.headers().get(DOCKER_CONTENT_DIGEST).and_then(|value| value.to_str().ok());
        call.site.audit.record(&Event {
            by: call.caller.to_string(),
            from: Some(call.peer.remote.ip().to_string()),
            action,
            subject: call.path,
            repository: Some(resolve::shown(&meant.repository)),
            digest: digest.or_else(|| answered.map(str::to_owned)),
            outcome: "done",
        });
    }
    Ok(response)
}

/// Carries out what changes something, for who may.
async fn change(
    call: &Call<'_>,
    asked: &Asked,
    operation: Operation,
    body: Arriving,
) -> Result<Response<Body>, Refusal> {
    match operation {
        Operation::PutManifest(reference, tags) => manifests::put(call, asked, &reference, &tags, body).await,
        Operation::DeleteManifest(reference) => manifests::delete(call, asked, &reference).await,
        Operation::DeleteBlob(digest) => manifests::delete_blob(call, asked, &digest).await,
        Operation::StartUpload { digest: Some(digest), .. } => uploads::in_one(call, asked, &digest, body).await,
        Operation::StartUpload { mount: Some(mount), from, algorithm, .. } => {
            uploads::mount(call, asked, &mount, from.as_deref(), algorithm).await
        }
        Operation::StartUpload { algorithm, .. } => {
            uploads::start(call, asked, algorithm.unwrap_or(Algorithm::Sha256)).await
        }
        Operation::PatchUpload(id) => uploads::patch(call, asked, &id, body).await,
        Operation::FinishUpload { id, digest } => uploads::finish(call, asked, &id, &digest, body).await,
        Operation::UploadStatus(id) => uploads::status(call, asked, &id).await,
        Operation::CancelUpload(id) => uploads::cancel(call, asked, &id).await,
        // Reading changes nothing.
        Operation::ReadManifest(_) | Operation::ReadBlob(_) | Operation::Tags(_) | Operation::Referrers { .. } => {
            Err(unsupported("this changes nothing"))
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
