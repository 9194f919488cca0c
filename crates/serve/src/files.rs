//! `/files/HOST/PATH`: files as they lie at their origin, and folders as lists of them. The same answers any path
//! with `Host: HOST`, so scripts with hard-coded addresses work after a DNS take-over.

use std::fmt::Write as _;

use artifact::{Digest, Repository, valid_path};
use http::header::{ACCEPT, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::body::Body;
use crate::content::{Source, Thing};
use crate::page::{escape, html, url_path};
use crate::refusal::Refusal;
use crate::registry::Call;
use crate::resolve::Meant;

/// Names that one listing shows.
const MOST: usize = 10_000;

/// One line of a listing.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    /// RFC 3339, in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    modified: Option<String>,
}

/// A file, or a folder's list. `base` is the path of the host's root as the client sees it.
pub(crate) async fn answer(call: &Call<'_>, host: &str, path: &str, base: &str) -> Result<Response<Body>, Refusal> {
    let repository = Repository::files(host);
    let is_folder = path.is_empty() || path.ends_with('/');
    let missing = || {
        let what = if is_folder { "folder" } else { "file" };
        Refusal::not_found(format!("there is no {what} {host}/{path} here"))
    };
    if !call.may_read(&repository) {
        return Err(call.hidden(host, missing));
    }
    if is_folder {
        return folder(call, &repository, path, base).await;
    }
    if !valid_path(path) {
        return Err(missing());
    }
    let stock = call.site.stock();
    let moment = call.site.moment();
    let Some(entry) = stock.entry(&repository, path).await? else {
        let folder = format!("{path}/");
        let below = stock.entries(&repository, &folder, 1).await?;
        if below.first().is_some_and(|entry| entry.name.starts_with(&folder)) {
            return Ok(moved(&format!("{base}{}", url_path(&folder))));
        }
        return Err(missing());
    };
    let Some(blob) = stock.granted_blob(&repository, &entry.digest).await? else {
        let message = format!("{host}/{path} is not whole here yet: its bytes are still to be loaded");
        return Err(Refusal::not_found(message));
    };
    let source = Source::File(call.site.open(&blob).await?);
    let thing = Thing::new(entry.digest, media_type(path), source).of_file(entry.seen);
    let response = thing.answer(call.head, call.headers);
    if let Some(key) = call.key.clone() {
        call.site.remember(key, moment, Meant { repository, namespace: None }, thing);
    }
    Ok(response)
}

/// The hosts that there are files of, as far as the caller may read them.
pub(crate) async fn hosts(call: &Call<'_>) -> Result<Response<Body>, Refusal> {
    call.may_look("files")?;
    let known = call.site.known().await?;
    let readable = known.files.iter().filter(|host| call.may_read(&Repository::files(host.as_str())));
    let rows = readable.map(|host| directory(host)).collect::<Vec<_>>();
    Ok(listing(call, "files", rows, "/files/", false))
}

fn directory(name: &str) -> Row {
    Row { name: format!("{name}/"), kind: "directory", size: None, digest: None, modified: None }
}

async fn folder(call: &Call<'_>, repository: &Repository, path: &str, base: &str) -> Result<Response<Body>, Refusal> {
    let missing = || Refusal::not_found(format!("there is no folder {repository}/{path} here"));
    if !path.is_empty() && !valid_path(path.trim_end_matches('/')) {
        return Err(missing());
    }
    let stock = call.site.stock();
    let mut rows: Vec<Row> = Vec::new();
    let mut after = path.to_owned();
    'all: while rows.len() < MOST {
        let entries = stock.entries(repository, &after, 500).await?;
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            let Some(rest) = entry.name.strip_prefix(path) else { break 'all };
            if let Some((folder, _)) = rest.split_once('/') {
                rows.push(directory(folder));
                // Past everything in that folder: names sort bytewise, and nothing sorts after this character.
                after = format!("{path}{folder}/\u{10ffff}");
                continue 'all;
            }
            after.clone_from(&entry.name);
            let modified = jiff::Timestamp::from_second(entry.seen).ok().map(|time| time.to_string());
            let name = rest.to_owned();
            rows.push(Row { name, kind: "file", size: Some(entry.size), digest: Some(entry.digest), modified });
        }
    }
    if rows.is_empty() {
        return Err(missing());
    }
    Ok(listing(call, &format!("{repository}/{path}"), rows, &format!("{base}{}", url_path(path)), true))
}

fn listing(call: &Call<'_>, title: &str, rows: Vec<Row>, base: &str, up: bool) -> Response<Body> {
    let accept = call.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.contains("application/json") && !accept.contains("text/html") {
        let mut response = Response::new(Body::from(serde_json::to_string(&rows).unwrap_or_default()));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        return response;
    }
    let mut text = format!("<h1>{}</h1>\n<table>\n", escape(title));
    if up {
        text.push_str("<tr><td><a href=\"../\">../</a></td></tr>\n");
    }
    for row in rows {
        let size = row.size.map(|size| size.to_string()).unwrap_or_default();
        let digest = row.digest.map(|digest| digest.to_string()).unwrap_or_default();
        let _ = writeln!(
            text,
            "<tr><td><a href=\"{}{}\">{}</a></td><td class=n>{size}</td><td>{}</td><td><code>{digest}</code></td></tr>",
            escape(base),
            escape(&url_path(&row.name)),
            escape(&row.name),
            row.modified.unwrap_or_default(),
        );
    }
    text.push_str("</table>\n");
    html(title, &text)
}

fn moved(to: &str) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().extend(HeaderValue::try_from(to).ok().map(|value| (LOCATION, value)));
    response
}

/// By its ending, for the few that people open in a browser; never a type that a browser would run.
fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map_or("", |(_, ending)| ending) {
        "txt" | "yaml" | "yml" | "sh" | "md" | "sha256" | "sha512" | "asc" | "sig" | "conf" | "toml" => {
            "text/plain; charset=utf-8"
        }
        "json" => "application/json",
        "gz" | "tgz" => "application/gzip",
        "zip" => "application/zip",
        "pdf" => "application/pdf",
        _ => "application/octet-stream",
    }
}
