//! `end-7`: manifests that are pushed. `end-9` and `end-10`: tags, manifests and blobs that are deleted.

use std::collections::HashSet;

use artifact::{Algorithm, Descriptor, Digest, Entry, MANIFEST_LIMIT, Manifest, Repository, Shape, Trust};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, WARNING};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde_json::json;
use store::{Cause, Change, Store};

use crate::arriving::Arriving;
use crate::body::Body;
use crate::content::DOCKER_CONTENT_DIGEST;
use crate::refusal::Refusal;
use crate::registry::{Call, located, name_the_namespace};
use crate::resolve;
use crate::router::{Asked, Reference};

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");

/// Stores a manifest. What it names counts as there when *this repository* shows it: else one would name another's
/// secret layer by its digest, and get it. Some of an index's children, and some of an image's layers, may be absent: a
/// sparse push leaves them out on purpose. One of which nothing is here would be answered, and nobody could use it.
pub(crate) async fn put(
    call: &Call<'_>,
    asked: &Asked,
    reference: &Reference,
    tags: &[String],
    body: Arriving,
) -> Result<Response<Body>, Refusal> {
    let invalid = |message: String| Refusal::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", message);
    let meant = resolve::to_write(call.site, asked).await?;
    let bytes = read(body).await?;
    call.site.metrics.received(bytes.len() as u64);
    let content_type = call.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let manifest = Manifest::parse(&bytes, content_type).map_err(|error| invalid(error.to_string()))?;
    // By the hash that the client named it by; a tag names none.
    let (algorithm, tag) = match reference {
        Reference::Digest(named) => (named.algorithm(), None),
        Reference::Tag(tag) => (Algorithm::Sha256, Some(tag)),
    };
    let digest = Digest::by(algorithm, &bytes);
    if let Reference::Digest(named) = reference {
        if *named != digest {
            let message = format!("the manifest has digest {digest}, not {named}");
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message));
        }
    }
    let (store, repository) = (call.site.store(), &meant.repository);
    let (here, omitted, absent) = present(store, repository, &manifest).await?;
    let names: Vec<&String> = tag.into_iter().chain(tags).collect();
    let size = bytes.len() as u64;
    let mut change = match names.as_slice() {
        [] => Change::new(),
        names => Change::because(Cause {
            action: "push".to_owned(),
            subject: names
                .iter()
                .map(|tag| format!("{}:{tag}", resolve::shown(repository)))
                .collect::<Vec<_>>()
                .join(", "),
            by: call.by(),
        }),
    };
    for blob in &here {
        change.require_blob(repository, blob);
    }
    change.manifest(repository, &digest, bytes, &manifest.media_type, omitted);
    for name in names {
        let (name, seen) = (name.clone(), store.now());
        change
            .entry(repository, Entry { name, digest, size, seen, origin: String::new(), trust: Trust::Local })
            .force();
    }
    call.may_still_push(asked).await?;
    store.apply(change).await?;
    let mut response = located(StatusCode::CREATED, call, asked, &format!("manifests/{digest}"));
    name_the_namespace(&mut response, &meant);
    let headers = response.headers_mut();
    headers.extend(HeaderValue::try_from(digest.to_string()).ok().map(|value| (DOCKER_CONTENT_DIGEST, value)));
    let subject = manifest.subject.and_then(|subject| HeaderValue::try_from(subject.digest.to_string()).ok());
    headers.extend(subject.map(|value| (OCI_SUBJECT, value)));
    for tag in tags.iter().filter_map(|tag| HeaderValue::from_str(tag).ok()) {
        headers.append(OCI_TAG, tag);
    }
    if let Some(layer) = absent.filter(|_| manifest.shape == Shape::Manifest) {
        // "Warnings": clients show it to whoever pushes.
        let text =
            format!("299 - \"{repository} has no {layer}: nobody can run this image from here before it is pushed\"");
        headers.extend(HeaderValue::try_from(text).ok().map(|value| (WARNING, value)));
    }
    Ok(response)
}

/// Which of a manifest's blobs this repository shows, what of all that it names is left out, and of that a layer which
/// whoever pushes should have brought.
async fn present(
    store: &Store,
    repository: &Repository,
    manifest: &Manifest,
) -> Result<(Vec<Digest>, HashSet<Digest>, Option<Digest>), Refusal> {
    let unknown = |digest: &Digest, message: String| {
        Refusal::new(StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN", message).about(json!({ "digest": digest }))
    };
    // What is said to be of another length, clients refuse when they have pulled it.
    let agree = |named: &Descriptor, size: u64| {
        let message = format!("the manifest says that {} has {} bytes, and it has {size}", named.digest, named.size);
        let refusal = Refusal::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", message);
        if named.size == size { Ok(()) } else { Err(refusal.about(json!({ "digest": named.digest, "size": size }))) }
    };
    let (mut here, mut omitted) = (Vec::new(), HashSet::new());
    for blob in manifest.blobs().filter(|blob| !blob.is_foreign()) {
        match store.granted_blob(repository, &blob.digest).await? {
            Some(there) if store.holds(&there) => {
                agree(blob, there.size)?;
                here.push(there.digest);
            }
            Some(lost) => {
                let message = format!("the bytes of {} were lost here; push it again first", lost.digest);
                return Err(unknown(&lost.digest, message));
            }
            None => drop(omitted.insert(blob.digest)),
        }
    }
    let config = manifest.config.as_ref().filter(|config| omitted.contains(&config.digest));
    let first = manifest.layers.iter().find(|layer| omitted.contains(&layer.digest));
    let any_layer = manifest.layers.iter().any(|layer| here.contains(&layer.digest));
    if let Some(absent) = config.or(first.filter(|_| !any_layer)) {
        let message = format!("{repository} has no blob {}; push it there first", absent.digest);
        return Err(unknown(&absent.digest, message));
    }
    let absent = first.map(|layer| layer.digest);
    for foreign in manifest.blobs().filter(|blob| blob.is_foreign()) {
        // Another repository may show it: that is nothing to this one.
        if store.granted_blob(repository, &foreign.digest).await?.is_none() {
            omitted.insert(foreign.digest);
        }
    }
    for child in &manifest.manifests {
        // One of which a part is still to be loaded is not offered, and not counted on.
        match store.granted_manifest(repository, &child.digest).await? {
            Some(there) if there.complete => agree(child, there.bytes.len() as u64)?,
            _ => drop(omitted.insert(child.digest)),
        }
    }
    match manifest.manifests.first() {
        Some(child) if manifest.manifests.iter().all(|child| omitted.contains(&child.digest)) => {
            let message = format!("{repository} has none of this index's manifests; push at least one first");
            Err(unknown(&child.digest, message))
        }
        _ => Ok((here, omitted, absent)),
    }
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

/// `end-9`. A tag: that entry; what it named stays until nothing needs it. A manifest: what this repository may show of
/// it, and every tag that names it.
pub(crate) async fn delete(call: &Call<'_>, asked: &Asked, reference: &Reference) -> Result<Response<Body>, Refusal> {
    let meant = resolve::to_write(call.site, asked).await?;
    let (store, repository) = (call.site.store(), &meant.repository);
    let unknown = || Refusal::manifest_unknown(&repository.to_string(), &reference.text());
    let separator = if matches!(reference, Reference::Tag(_)) { ':' } else { '@' };
    let mut change = Change::because(Cause {
        action: "rm".to_owned(),
        subject: format!("{}{separator}{}", resolve::shown(repository), reference.text()),
        by: call.by(),
    });
    match reference {
        Reference::Tag(tag) => {
            store.entry(repository, tag).await?.ok_or_else(unknown)?;
            change.remove(repository, tag);
        }
        Reference::Digest(digest) => {
            change.revoke_manifest(repository, digest);
        }
    }
    match store.apply(change).await {
        Err(store::Error::Missing { .. }) => Err(unknown()),
        other => other.map(|_| accepted()).map_err(Refusal::from),
    }
}

/// `end-10`: what this repository may show, unless a manifest of it needs the blob.
pub(crate) async fn delete_blob(call: &Call<'_>, asked: &Asked, digest: &Digest) -> Result<Response<Body>, Refusal> {
    let meant = resolve::to_write(call.site, asked).await?;
    let mut change = Change::new();
    change.revoke_blob(&meant.repository, digest);
    match call.site.store().apply(change).await {
        Err(store::Error::Missing { .. }) => Err(Refusal::blob_unknown(&resolve::shown(&meant.repository), digest)),
        other => other.map(|_| accepted()).map_err(Refusal::from),
    }
}

fn accepted() -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}
