//! `end-2` and `end-3`: manifests and blobs. `Accept` selects nothing: an index is answered as the index it is, and
//! the client chooses from it.

use artifact::Digest;
use http::{Response, StatusCode};
use store::Blob;

use crate::auth::Verb;
use crate::body::Body;
use crate::content::{Source, Thing};
use crate::refusal::Refusal;
use crate::registry::Call;
use crate::resolve::{self, Meant, Sought};
use crate::router::{Asked, Reference};
use crate::site::Moment;

pub(crate) async fn manifest(call: Call<'_>, asked: &Asked, reference: &Reference) -> Result<Response<Body>, Refusal> {
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
    let digest = match reference {
        Reference::Digest(digest) => *digest,
        Reference::Tag(tag) => stock.entry(repository, tag).await?.ok_or_else(missing)?.digest,
    };
    let Some(found) = stock.granted_manifest(repository, &digest).await? else {
        return Err(left_out(&call, &meant, &digest).await?.unwrap_or_else(missing));
    };
    if !found.complete {
        let mut refusal = missing();
        refusal.message =
            format!("{repository} {} is not whole here yet: parts of it are still to be loaded", reference.text());
        return Err(refusal);
    }
    let thing =
        Thing::new(digest, &found.media_type, Source::Memory(found.bytes)).of_registry(meant.namespace.as_deref());
    Ok(remembered(call, moment, meant, thing))
}

pub(crate) async fn blob(mut call: Call<'_>, asked: &Asked, digest: &Digest) -> Result<Response<Body>, Refusal> {
    let stock = call.site.stock();
    let moment = call.site.moment();
    // Whoever may write asks before a push what need not be sent: that is what the repository has to which the push
    // goes. Another's blob of the same path would be skipped, and then be missing for the manifest.
    let target = if call.caller.is_known() { resolve::to_write(call.site, asked).await.ok() } else { None };
    let target = target.filter(|meant| call.may(Verb::Write, &meant.repository) && call.may_read(&meant.repository));
    if let Some(meant) = target {
        if let Some(blob) = stock.granted_blob(&meant.repository, digest).await? {
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
    let Some(blob) = stock.granted_blob(repository, digest).await? else {
        let missing = || Refusal::blob_unknown(&repository.to_string(), digest);
        return Err(left_out(&call, &meant, digest).await?.unwrap_or_else(missing));
    };
    found(call, moment, meant, &blob).await
}

async fn found(call: Call<'_>, moment: Moment, meant: Meant, blob: &Blob) -> Result<Response<Body>, Refusal> {
    let opened = call.site.open(blob).await;
    let source = Source::File(opened.map_err(|refusal| lost(refusal, &meant, &blob.digest))?);
    let thing = Thing::new(blob.digest, "application/octet-stream", source).of_registry(meant.namespace.as_deref());
    Ok(remembered(call, moment, meant, thing))
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

fn remembered(call: Call<'_>, moment: Moment, meant: Meant, thing: Thing) -> Response<Body> {
    let response = thing.answer(call.head, call.headers);
    if let Some(key) = call.key {
        call.site.remember(key, moment, meant, thing);
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
