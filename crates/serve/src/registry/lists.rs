//! `end-8` tags, `end-12` referrers, and the catalog of the Docker registry API.

use artifact::{Kind, media_type};
use http::header::{CONTENT_TYPE, HeaderName, LINK};
use http::{HeaderValue, Response};
use serde_json::json;

use crate::auth::{Gate, Verb};
use crate::body::Body;
use crate::refusal::Refusal;
use crate::registry::{Call, json as document, name_the_namespace, without_base};
use crate::resolve::{self, Meant, Sought};
use crate::router::{Asked, Page};

/// Names in one answer, whatever is asked for.
const MOST: u32 = 10_000;

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// Tags, sorted bytewise. Entries that are named by a digest are no tags.
pub(crate) async fn tags(
    call: &Call<'_>,
    asked: &Asked,
    meant: &Meant,
    page: &Page,
) -> Result<Response<Body>, Refusal> {
    let stock = call.site.stock();
    let most = page.n.unwrap_or(MOST).min(MOST) as usize;
    let mut tags: Vec<String> = Vec::new();
    let mut after = page.last.clone();
    // One more than asked for tells whether there is another page.
    while tags.len() <= most {
        let entries =
            stock.entries(&meant.repository, &after, u32::try_from(most + 1 - tags.len()).unwrap_or(MOST)).await?;
        let Some(last) = entries.last() else { break };
        after = match last.name.split_once(':') {
            // Digests are no tags. Those of one hash stand together, and `;` sorts right behind `:`.
            Some((hash, _)) => format!("{hash};"),
            None => last.name.clone(),
        };
        tags.extend(entries.into_iter().map(|entry| entry.name).filter(|name| !name.contains(':')));
    }
    if tags.is_empty() && !stock.shows_anything(&meant.repository).await? {
        return Err(Refusal::repository_unknown(&meant.repository));
    }
    let more = tags.len() > most;
    tags.truncate(most);
    let next = tags.last().filter(|_| more).cloned();
    let mut response = document(json!({ "name": asked.written, "tags": tags }).to_string());
    link(&mut response, call, &format!("{}{}/tags/list", asked.base, without_base(asked)), most, next.as_deref());
    name_the_namespace(&mut response, meant);
    Ok(response)
}

/// Every image repository that the caller may read: local ones by their name, others with their host. Sorted bytewise as
/// they are shown, so that `last` means one place, whatever a local name begins with.
pub(crate) async fn catalog(call: &Call<'_>, page: &Page) -> Result<Response<Body>, Refusal> {
    let settings = call.site.settings().clone();
    if !call.caller.is_known() && settings.anonymous.is_empty() {
        return Err(Gate::refuse(call.headers, call.peer, Some("registry:catalog:*")));
    }
    let most = page.n.unwrap_or(MOST).min(MOST) as usize;
    let (names, more) = readable(call, &page.last, most).await?;
    let next = names.last().filter(|_| more).cloned();
    let mut response = document(json!({ "repositories": names }).to_string());
    link(&mut response, call, "/v2/_catalog", most, next.as_deref());
    Ok(response)
}

/// The names of so many image repositories behind `after` that the caller may read, and whether there are more.
pub(crate) async fn readable(call: &Call<'_>, after: &str, most: usize) -> Result<(Vec<String>, bool), Refusal> {
    let settings = call.site.settings().clone();
    // Of those that are asked for, few may be readable.
    let batch = u32::try_from(most).unwrap_or(MOST).clamp(1000, MOST) + 1;
    let mut names = Vec::new();
    let mut after = after.to_owned();
    // One more than asked for tells whether there is another page.
    while names.len() <= most {
        let next = call.site.stock().repository_names(Kind::Image, &after, batch).await?;
        let Some(last) = next.last() else { break };
        after.clone_from(last);
        let is_last = next.len() < batch as usize;
        names.extend(next.into_iter().filter(|name| call.caller.may(Verb::Read, name, &settings)));
        if is_last {
            break;
        }
    }
    let more = names.len() > most;
    names.truncate(most);
    Ok((names, more))
}

/// The next page of names, where there is one.
fn link(response: &mut Response<Body>, call: &Call<'_>, path: &str, most: usize, next: Option<&str>) {
    if let Some(next) = next {
        next_page(response, call, path, &[("n", &most.to_string()), ("last", next)]);
    }
}

/// RFC 8288, as the spec wants it: `Link: <…>; rel="next"`.
fn next_page(response: &mut Response<Body>, call: &Call<'_>, path: &str, parameters: &[(&str, &str)]) {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(parameters);
    if let Some(ns) = crate::router::parameter(call.query, "ns") {
        query.append_pair("ns", &ns);
    }
    if let Ok(value) = HeaderValue::try_from(format!("<{path}?{}>; rel=\"next\"", query.finish())) {
        response.headers_mut().insert(LINK, value);
    }
}

/// An index of what refers to `subject`, which may still be to come (OCI distribution, "Pushing Manifests with Subject").
pub(crate) async fn referrers(
    call: &Call<'_>,
    asked: &Asked,
    subject: &artifact::Digest,
    artifact_type: Option<&str>,
    last: Option<&artifact::Digest>,
) -> Result<Response<Body>, Refusal> {
    let meant = match resolve::to_read(call, asked, Sought::Referrers(subject)).await {
        Ok(meant) => Some(meant),
        // A registry that lists referrers never says that it does not: clients would turn to the fallback tag.
        // But what may not be seen is 404.
        Err(refusal) if !refusal.denied && matches!(refusal.code, "MANIFEST_UNKNOWN" | "NAME_UNKNOWN") => None,
        Err(refusal) => return Err(refusal),
    };
    let (mut manifests, mut next) = (Vec::new(), None);
    if let Some(meant) = &meant {
        let stock = call.site.stock();
        let (referrers, more) = stock.referrers_after(&meant.repository, subject, artifact_type, last).await?;
        next = referrers.last().map(|referrer| referrer.digest.to_string()).filter(|_| more);
        for referrer in referrers {
            let mut descriptor =
                json!({ "mediaType": referrer.media_type, "digest": referrer.digest, "size": referrer.size });
            if let Some(kind) = referrer.artifact_type {
                descriptor["artifactType"] = kind.into();
            }
            if let Some(annotations) = referrer.annotations {
                descriptor["annotations"] = annotations;
            }
            manifests.push(descriptor);
        }
    }
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests });
    let mut response = document(index.to_string());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type::OCI_INDEX));
    if artifact_type.is_some() {
        response.headers_mut().insert(FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
    }
    if let Some(next) = next {
        let path = format!("{}{}/referrers/{subject}", asked.base, without_base(asked));
        let filter = artifact_type.map(|wanted| ("artifactType", wanted));
        let parameters: Vec<_> = filter.into_iter().chain([("last", next.as_str())]).collect();
        next_page(&mut response, call, &path, &parameters);
    }
    if let Some(meant) = &meant {
        name_the_namespace(&mut response, meant);
    }
    Ok(response)
}
