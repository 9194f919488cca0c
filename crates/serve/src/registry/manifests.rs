//! `end-7` and `end-9`: manifests that are pushed, and tags that are removed.

use std::collections::HashSet;

use artifact::{Digest, Entry, MANIFEST_LIMIT, Manifest, Shape, Trust};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde_json::json;
use store::{Cause, Change};

use crate::arriving::Arriving;
use crate::body::Body;
use crate::content::DOCKER_CONTENT_DIGEST;
use crate::refusal::Refusal;
use crate::registry::{Call, located, name_the_namespace, unsupported};
use crate::resolve;
use crate::router::{Asked, Reference};

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// Stores a manifest. Its config and layers must be *this repository's*: else one would name another's secret layer
/// by its digest, and get it. An index's children may be absent; those that are, are left out on purpose.
pub(crate) async fn put(
    call: &Call<'_>,
    asked: &Asked,
    reference: &Reference,
    body: Arriving,
) -> Result<Response<Body>, Refusal> {
    let invalid = |message: String| Refusal::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", message);
    let meant = resolve::to_write(call.site, asked).await?;
    let bytes = read(body).await?;
    call.site.metrics.received(bytes.len() as u64);
    let content_type = call.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let manifest = Manifest::parse(&bytes, content_type).map_err(|error| invalid(error.to_string()))?;
    let digest = Digest::of(&bytes);
    match reference {
        Reference::Digest(named) if *named != digest => {
            let message = format!("the manifest has digest {digest}, not {named}");
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message));
        }
        _ => {}
    }
    let (store, repository) = (call.site.store(), &meant.repository);
    for blob in manifest.blobs().filter(|blob| !blob.is_foreign()) {
        if !store.granted_blob(repository, &blob.digest).await?.is_some_and(|blob| store.holds(&blob)) {
            let message = format!("{repository} has no blob {}; push it there first", blob.digest);
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN", message)
                .about(json!({ "digest": blob.digest })));
        }
    }
    let mut omitted = HashSet::new();
    for foreign in manifest.blobs().filter(|blob| blob.is_foreign()) {
        if store.granted_blob(repository, &foreign.digest).await?.is_none() {
            omitted.insert(foreign.digest);
        }
    }
    for child in &manifest.manifests {
        // One of which a part is still to be loaded is not offered, and not counted on.
        if !store.granted_manifest(repository, &child.digest).await?.is_some_and(|child| child.complete) {
            omitted.insert(child.digest);
        }
    }
    // An index of nothing that is here would be answered, and nobody could pull it.
    if manifest.shape == Shape::Index && !omitted.is_empty() && omitted.len() == manifest.manifests.len() {
        let message = format!("{repository} has none of this index's manifests; push at least one first");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN", message));
    }
    let size = bytes.len() as u64;
    let mut change = match reference {
        Reference::Tag(tag) => Change::because(Cause {
            action: "push".to_owned(),
            subject: format!("{}:{tag}", resolve::shown(repository)),
            by: call.by(),
        }),
        Reference::Digest(_) => Change::new(),
    };
    change.manifest(repository, &digest, bytes, &manifest.media_type, omitted);
    if let Reference::Tag(tag) = reference {
        let (name, seen) = (tag.clone(), store.now());
        change
            .entry(repository, Entry { name, digest, size, seen, origin: String::new(), trust: Trust::Local })
            .force();
    }
    store.apply(change).await?;
    let mut response = located(StatusCode::CREATED, call, asked, &format!("manifests/{digest}"));
    name_the_namespace(&mut response, &meant);
    let headers = response.headers_mut();
    headers.extend(HeaderValue::try_from(digest.to_string()).ok().map(|value| (DOCKER_CONTENT_DIGEST, value)));
    let subject = manifest.subject.and_then(|subject| HeaderValue::try_from(subject.digest.to_string()).ok());
    headers.extend(subject.map(|value| (OCI_SUBJECT, value)));
    Ok(response)
}

/// The whole body, if it is not longer than a manifest may be.
async fn read(body: Arriving) -> Result<Bytes, Refusal> {
    let too_large = || {
        let message = "the manifest has more than 4 MiB";
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "MANIFEST_INVALID", message)
    };
    match Limited::new(body, MANIFEST_LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Err(error) => Err(Refusal::cut("MANIFEST_INVALID", "the manifest", error.as_ref())),
    }
}

/// Removes a tag; what it named stays until nothing needs it.
pub(crate) async fn delete(call: &Call<'_>, asked: &Asked, reference: &Reference) -> Result<Response<Body>, Refusal> {
    let Reference::Tag(tag) = reference else {
        return Err(unsupported("delete its tags; manifests go when nothing needs them any more"));
    };
    let meant = resolve::to_write(call.site, asked).await?;
    let (store, repository) = (call.site.store(), &meant.repository);
    if store.entry(repository, tag).await?.is_none() {
        return Err(Refusal::manifest_unknown(&repository.to_string(), tag));
    }
    let mut change = Change::because(Cause {
        action: "rm".to_owned(),
        subject: format!("{}:{tag}", resolve::shown(repository)),
        by: call.by(),
    });
    change.remove(repository, tag);
    store.apply(change).await?;
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}
