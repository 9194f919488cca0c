//! `end-2` and `end-3`: manifests and blobs. `Accept` selects nothing: an index is answered as the index it is, and
//! the client chooses from it.

use std::time::Instant;

use artifact::Digest;
use http::{Response, StatusCode};
use store::Blob;

use crate::auth::Verb;
use crate::body::Body;
use crate::content::{Source, Thing};
use crate::proxy::Failure;
use crate::refusal::Refusal;
use crate::registry::Call;
use crate::resolve::{self, Meant, Sought};
use crate::router::{Asked, Reference};
use crate::site::Moment;

pub(crate) async fn manifest(
    mut call: Call<'_>,
    asked: &Asked,
    reference: &Reference,
) -> Result<Response<Body>, Refusal> {
    let stock = call.site.stock();
    let moment = call.site.moment();
    let meant = match resolve::to_read(&call, asked, Sought::Manifest(reference)).await {
        Err(refusal) if refusal.code == "MANIFEST_UNKNOWN" => {
            // Rule 4 found nobody who has it; somebody may have its parent.
            return Err(match reference {
                Reference::Digest(digest) => explain_flat(&call, asked, digest).await?.unwrap_or(refusal),
                Reference::Tag(_) => refusal,
            });
        }
        other => other?,
    };
    let repository = &meant.repository;
    let missing = || Refusal::manifest_unknown(&repository.to_string(), &reference.text());
    let proxied = call.site.proxied(repository);
    let mut until = None;
    let digest = match (reference, &proxied) {
        (Reference::Digest(digest), _) => *digest,
        (Reference::Tag(tag), None) => stock.entry(repository, tag).await?.ok_or_else(missing)?.digest,
        (Reference::Tag(tag), Some((proxy, policy))) => {
            let asked = proxy.tag(policy, repository, tag).await;
            // What a tag is may be another thing then, without any change here.
            until = proxy.fresh_until(policy, repository, tag);
            call.key = call.key.filter(|_| until.is_some());
            asked.map_err(|failure| failure.refusal(missing()))?
        }
    };
    let found = match (stock.granted_manifest(repository, &digest).await?, &proxied) {
        (Some(found), _) => found,
        (None, None) => return Err(left_out(&call, &meant, &digest).await?.unwrap_or_else(missing)),
        (None, Some((proxy, policy))) => {
            let asked = proxy.manifest(policy, repository, &digest).await;
            asked.map_err(|failure| failure.refusal(missing()))?
        }
    };
    // What its upstream still has is as good as here.
    if !found.complete && proxied.is_none() {
        let mut refusal = missing();
        refusal.message =
            format!("{repository} {} is not whole here yet: parts of it are still to be loaded", reference.text());
        return Err(refusal);
    }
    if !call.head {
        call.site.note_pull(repository, &digest);
    }
    let thing =
        Thing::new(digest, &found.media_type, Source::Memory(found.bytes)).of_registry(meant.namespace.as_deref());
    Ok(remembered(call, until, moment, meant, thing))
}

pub(crate) async fn blob(mut call: Call<'_>, asked: &Asked, digest: &Digest) -> Result<Response<Body>, Refusal> {
    let stock = call.site.stock();
    let moment = call.site.moment();
    // Whoever may write asks before a push what need not be sent: that is what the repository has to which the push
    // goes. Another's blob of the same path would be skipped, and then be missing for the manifest.
    let target = if call.caller.is_known() { resolve::to_write(call.site, asked).await.ok() } else { None };
    let target = target.filter(|meant| call.may(Verb::Write, &meant.repository) && call.may_read(&meant.repository));
    if let Some(meant) = target {
        let blob = stock.granted_blob(&meant.repository, digest).await?;
        // What is lost here and whose upstream is asked is fetched again by who downloads it.
        let fetched = !call.head && call.site.proxied(&meant.repository).is_some();
        if let Some(blob) = blob.filter(|blob| !fetched || call.site.store().holds(blob)) {
            // What need not be sent will be named by a manifest in a moment: until then it is not collected.
            stock.renew(&meant.repository, digest).await?;
            return found(call, moment, meant, &blob).await;
        }
        if call.head {
            return Err(Refusal::blob_unknown(&resolve::shown(&meant.repository), digest));
        }
        // Whoever downloads it is pulling. That answer is not remembered: a HEAD would get it.
        call.key = None;
    }
    let meant = resolve::to_read(&call, asked, Sought::Blob(digest)).await?;
    let repository = &meant.repository;
    if let Some(blob) = stock.granted_blob(repository, digest).await? {
        // Its upstream still has what is lost here.
        if call.site.proxied(repository).is_none() || call.site.store().holds(&blob) {
            return found(call, moment, meant, &blob).await;
        }
        tracing::error!(%digest, "the blob {digest} is lost: it is fetched again");
    }
    let missing = || Refusal::blob_unknown(&repository.to_string(), digest);
    let Some((proxy, _)) = call.site.proxied(repository) else {
        return Err(left_out(&call, &meant, digest).await?.unwrap_or_else(missing));
    };
    let source = async {
        let size = proxy.size(repository, digest).await?;
        // Who only looks is told, and nothing is fetched for that: another cache may stand before this one.
        if call.head {
            return Ok(Source::Elsewhere(size));
        }
        Ok(Source::File(proxy.blob(repository, digest, size).await?))
    };
    let source = source.await.map_err(|failure: Failure| failure.refusal(missing()))?;
    let thing = Thing::new(*digest, "application/octet-stream", source).of_registry(meant.namespace.as_deref());
    Ok(thing.answer(call.head, call.headers))
}

async fn found(call: Call<'_>, moment: Moment, meant: Meant, blob: &Blob) -> Result<Response<Body>, Refusal> {
    let opened = call.site.open(blob).await;
    let source = Source::File(opened.map_err(|refusal| lost(refusal, &meant, &blob.digest))?);
    let thing = Thing::new(blob.digest, "application/octet-stream", source).of_registry(meant.namespace.as_deref());
    Ok(remembered(call, None, moment, meant, thing))
}

/// A blob whose file is gone is one that is not here: a client then pushes it again, or asks another server.
fn lost(mut refusal: Refusal, meant: &Meant, digest: &Digest) -> Refusal {
    let Some(error) = refusal.inside.take_if(|error| is_not_found(error.as_ref())) else { return refusal };
    tracing::error!(%digest, %error, "the blob {digest} is lost: load, pull or push it again");
    Refusal::blob_unknown(&resolve::shown(&meant.repository), digest)
}

fn is_not_found(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    error.downcast_ref::<store::Error>().is_some_and(store::Error::is_not_found)
}

fn remembered(call: Call<'_>, until: Option<Instant>, moment: Moment, meant: Meant, thing: Thing) -> Response<Body> {
    let response = thing.answer(call.head, call.headers);
    if let Some(key) = call.key {
        call.site.remember_until(until, key, moment, meant, thing);
    }
    response
}

/// Why something is not here although a manifest of this repository names it: it was left out on purpose.
async fn left_out(call: &Call<'_>, meant: &Meant, digest: &Digest) -> Result<Option<Refusal>, Refusal> {
    let Some((parent, is_manifest)) = call.site.stock().left_out(&meant.repository, digest).await? else {
        return Ok(None);
    };
    let what = if is_manifest { "another platform's image" } else { "a layer" };
    let code = if is_manifest { "MANIFEST_UNKNOWN" } else { "BLOB_UNKNOWN" };
    let message = format!(
        "{} names {digest} in {parent}, but it was not carried here ({what}, left out on purpose); \
         name it in the packing list to bring it",
        meant.repository
    );
    Ok(Some(Refusal::new(StatusCode::NOT_FOUND, code, message)))
}

async fn explain_flat(call: &Call<'_>, asked: &Asked, digest: &Digest) -> Result<Option<Refusal>, Refusal> {
    for parent in call.site.stock().parents(digest).await? {
        let sought = Reference::Digest(parent);
        if let Ok(meant) = resolve::to_read(call, asked, Sought::Manifest(&sought)).await {
            if let Some(refusal) = left_out(call, &meant, digest).await? {
                return Ok(Some(refusal));
            }
        }
    }
    Ok(None)
}
