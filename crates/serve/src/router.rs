//! Which thing a request means, told from its method, path, query and `Host` alone: pure, and in one place.
//!
//! Clients spell one repository in seven ways (`L1` to `L7`); all of them end as one [`Asked`], of which
//! [`resolve`](crate::resolve) makes a repository.
//!
//! | | request | who |
//! |---|---|---|
//! | L1 | `/v2/NAME/manifests/REF?ns=HOST` | containerd, k3s, Talos, dockerd 29 |
//! | L2 | `/v2/HOST/NAME/…` | podman, CRI-O, skopeo, `override_path` |
//! | L3 | `/v2/NAME/…` | dockerd with `registry-mirrors`, flat private registries |
//! | L4 | `/v2/NAMESPACE/NAME/…?ns=HOST` | Anthos |
//! | L5 | `/PREFIX/v2/NAME/…[?ns=HOST]` | containerd endpoints with a path, dockerd 25 mirrors with one |
//! | L6 | `/NAME/…?ns=HOST` | containerd `mirrors` endpoints that end in a slash |
//! | L7 | `Host: HOST` | a DNS take-over |

use std::borrow::Cow;

use artifact::{Algorithm, Digest, normalise_host, valid_name, valid_tag};
use http::{Method, StatusCode};

use crate::refusal::Refusal;

/// Tags that one PUT of a manifest may give it.
const TAGS: usize = 100;

/// What a request asks for: the route table, the metrics' label and what the access log says.
#[derive(Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and it is moved once")]
pub(crate) enum Action {
    /// `end-1`.
    Ping,
    /// An anonymous or a known caller's token.
    Token,
    /// Names of repositories.
    Catalog(Page),
    /// Something of one image repository.
    Registry(Asked, Operation),
    /// Which hosts there are files of.
    FileHosts,
    /// A file, or (ending in a slash, or empty) a folder.
    File { host: String, path: String },
    /// The page.
    Home,
    /// A client's configuration.
    Setup(String),
    /// Alive.
    Health,
    /// Able to answer.
    Ready,
    /// Prometheus' text.
    Metrics,
    /// The site's CA.
    Authority,
    /// No route of ours; may still be a file by its `Host`.
    Other,
}

/// What of a repository is asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// `end-3`: GET or HEAD.
    ReadManifest(Reference),
    /// `end-7`, with further tags (`tag=…`, of the spec's main branch).
    PutManifest(Reference, Vec<String>),
    /// `end-9`.
    DeleteManifest(Reference),
    /// `end-2`: GET or HEAD.
    ReadBlob(Digest),
    /// `end-10`.
    DeleteBlob(Digest),
    /// `end-8`.
    Tags(Page),
    /// `end-12`.
    Referrers { subject: Digest, artifact_type: Option<String>, last: Option<Digest> },
    /// `end-4a`, `end-4b` (`digest`), `end-4c` (`digest-algorithm`), `end-11` (`mount`, `from`).
    StartUpload { digest: Option<Digest>, algorithm: Option<Algorithm>, mount: Option<Digest>, from: Option<String> },
    /// `end-5`.
    PatchUpload(String),
    /// `end-6`.
    FinishUpload { id: String, digest: Digest },
    /// `end-13`.
    UploadStatus(String),
    /// `end-14`.
    CancelUpload(String),
}

/// A tag or a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    Tag(String),
    Digest(Digest),
}

impl Reference {
    pub(crate) fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Tag(tag) => Cow::Borrowed(tag),
            Self::Digest(digest) => Cow::Owned(digest.to_string()),
        }
    }
}

/// Which part of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// At most so many.
    pub(crate) n: Option<u32>,
    /// Names that sort after this one.
    pub(crate) last: String,
}

/// A repository as a client spelled it, taken apart but not yet decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// What follows `/v2/`, as it came.
    pub(crate) written: String,
    /// The whole as a name, where it can be one.
    pub(crate) name: Option<String>,
    /// Its first segment as a host (normalised), and the rest as a name.
    pub(crate) hosted: Option<(String, String)>,
    /// `ns`, normalised.
    pub(crate) ns: Option<String>,
    /// `Host`, normalised.
    pub(crate) host: Option<String>,
    /// The path before what was written, with which `Location` must begin too: `/v2/`, `/PREFIX/v2/` or `/`.
    pub(crate) base: String,
}

impl Asked {
    /// Takes a name apart.
    pub(crate) fn new(written: &str, ns: Option<String>, host: Option<String>) -> Result<Self, Refusal> {
        let name = valid_name(written).then(|| written.to_owned());
        let hosted = written
            .split_once('/')
            .and_then(|(first, rest)| Some((host_of_segment(first)?, rest)))
            .filter(|(_, rest)| valid_name(rest))
            .map(|(host, rest)| (host, rest.to_owned()));
        if name.is_none() && hosted.is_none() {
            return Err(Refusal::name(written));
        }
        Ok(Self { written: written.to_owned(), name, hosted, ns, host, base: "/v2/".to_owned() })
    }
}

/// A host as the first segment of a name: `quay.io`, `host:5000`, or `host_5000`, since the grammar of references lets
/// podman write neither a colon there nor containerd's own `host_5000_`, which is taken too.
fn host_of_segment(segment: &str) -> Option<String> {
    let spelled = segment
        .strip_suffix('_')
        .unwrap_or(segment)
        .rsplit_once('_')
        .filter(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    match spelled {
        Some((host, port)) => normalise_host(&format!("{host}:{port}")),
        None => normalise_host(segment),
    }
}

/// What a request means.
///
/// # Errors
/// A refusal for what cannot be meant.
pub(crate) fn parse(method: &Method, path: &str, query: Option<&str>, host: Option<&str>) -> Result<Action, Refusal> {
    let decoded = decode(path)?;
    let path = decoded.strip_prefix('/').unwrap_or(&decoded);
    let reading = matches!(*method, Method::GET | Method::HEAD);
    if path == "v2" || path == "v2/" {
        return if reading { Ok(Action::Ping) } else { Err(Refusal::method("GET, HEAD")) };
    }
    if let Some(rest) = path.strip_prefix("v2/") {
        return registry(method, "/v2/", rest, query, host)?.ok_or_else(|| unknown_route(path));
    }
    if let Some(action) = own(path) {
        return match action {
            action if reading => Ok(action),
            Action::Token if *method == Method::POST => Ok(Action::Token),
            Action::Token => Err(Refusal::method("GET, HEAD, POST")),
            _ => Err(Refusal::method("GET, HEAD")),
        };
    }
    // L5: the prefix may be a host (then it is one of the name's), or anything at all when `ns` tells the host.
    if let Some((prefix, rest)) = split_at_v2(path) {
        if rest.is_empty() {
            return if reading { Ok(Action::Ping) } else { Err(Refusal::method("GET, HEAD")) };
        }
        let base = format!("/{prefix}/v2/");
        if let Some(action) = registry(method, &base, rest, query, host)? {
            return match action {
                Action::Registry(asked, operation) if asked.ns.is_none() => {
                    let written = format!("{prefix}/{}", asked.written);
                    let whole = Asked::new(&written, None, asked.host)?;
                    Ok(Action::Registry(Asked { base, ..whole }, operation))
                }
                other => Ok(other),
            };
        }
    }
    // L6: without `/v2` only `ns` tells it from a file's path.
    if parameter(query, "ns").is_some() && reading {
        if let Some(action) = registry(method, "/", path, query, host)? {
            return Ok(action);
        }
    }
    Ok(Action::Other)
}

/// The routes beside the registry's.
fn own(path: &str) -> Option<Action> {
    Some(match path {
        "" => Action::Home,
        "token" => Action::Token,
        "healthz" => Action::Health,
        "readyz" => Action::Ready,
        "metrics" => Action::Metrics,
        "ca.crt" => Action::Authority,
        "files" | "files/" => Action::FileHosts,
        _ => {
            if let Some(client) = path.strip_prefix("setup/") {
                return Some(Action::Setup(client.to_owned()));
            }
            let (host, path) = path.strip_prefix("files/").map(|rest| rest.split_once('/').unwrap_or((rest, "")))?;
            Action::File { host: normalise_host(host)?, path: path.to_owned() }
        }
    })
}

fn split_at_v2(path: &str) -> Option<(&str, &str)> {
    path.split_once("/v2/").or_else(|| path.strip_suffix("/v2").map(|prefix| (prefix, "")))
}

fn unknown_route(path: &str) -> Refusal {
    let shown: String = path.chars().take(200).collect();
    Refusal::new(StatusCode::NOT_FOUND, "UNSUPPORTED", format!("/{shown} is no address of the distribution API"))
}

/// The distribution API, below its base. `None`: not an address of it.
fn registry(
    method: &Method,
    base: &str,
    rest: &str,
    query: Option<&str>,
    host: Option<&str>,
) -> Result<Option<Action>, Refusal> {
    let reading = matches!(*method, Method::GET | Method::HEAD);
    if rest == "_catalog" {
        return if reading { Ok(Some(Action::Catalog(page(query)?))) } else { Err(Refusal::method("GET, HEAD")) };
    }
    let Some((name, tail)) = split_name(rest) else { return Ok(None) };
    let operation = match tail {
        Tail::Manifest(reference) => manifest(method, name, reference, query)?,
        Tail::Blob(text) => {
            let digest = text.parse().map_err(|_| Refusal::digest(text))?;
            match *method {
                Method::GET | Method::HEAD => Operation::ReadBlob(digest),
                Method::DELETE => Operation::DeleteBlob(digest),
                _ => return Err(Refusal::method("GET, HEAD, DELETE")),
            }
        }
        Tail::Tags if reading => Operation::Tags(page(query)?),
        Tail::Referrers(text) if reading => Operation::Referrers {
            subject: text.parse().map_err(|_| Refusal::digest(text))?,
            artifact_type: parameter(query, "artifactType").filter(|text| !text.is_empty()),
            last: digest_parameter(query, "last")?,
        },
        Tail::Tags | Tail::Referrers(_) => return Err(Refusal::method("GET, HEAD")),
        Tail::Uploads if *method == Method::POST => Operation::StartUpload {
            digest: digest_parameter(query, "digest")?,
            algorithm: algorithm_parameter(query)?,
            mount: digest_parameter(query, "mount")?,
            from: parameter(query, "from").filter(|text| !text.is_empty()),
        },
        Tail::Uploads => return Err(Refusal::method("POST")),
        Tail::Upload(id) => upload(method, id, query)?,
    };
    let ns = match parameter(query, "ns").filter(|text| !text.is_empty()) {
        Some(text) => Some(normalise_host(&text).ok_or_else(|| {
            let shown: String = text.chars().take(200).collect();
            Refusal::new(StatusCode::BAD_REQUEST, "NAME_INVALID", format!("`ns={shown}` is not a host"))
        })?),
        None => None,
    };
    let asked = Asked { base: base.to_owned(), ..Asked::new(name, ns, host.and_then(normalise_host))? };
    Ok(Some(Action::Registry(asked, operation)))
}

fn manifest(method: &Method, name: &str, text: &str, query: Option<&str>) -> Result<Operation, Refusal> {
    let reference = match text.parse::<Digest>() {
        Ok(digest) => Reference::Digest(digest),
        Err(_) if text.contains(':') => return Err(Refusal::digest(text)),
        Err(_) if valid_tag(text) => Reference::Tag(text.to_owned()),
        // What cannot be a tag cannot be here either.
        Err(_) if *method != Method::PUT => {
            let shown: String = text.chars().take(160).collect();
            return Err(Refusal::manifest_unknown(name, &shown));
        }
        Err(_) => return Err(no_tag(text)),
    };
    match *method {
        Method::GET | Method::HEAD => Ok(Operation::ReadManifest(reference)),
        Method::PUT => Ok(Operation::PutManifest(reference, tags(query)?)),
        Method::DELETE => Ok(Operation::DeleteManifest(reference)),
        _ => Err(Refusal::method("GET, HEAD, PUT, DELETE")),
    }
}

fn no_tag(text: &str) -> Refusal {
    let shown: String = text.chars().take(160).collect();
    let message = format!("`{shown}` is neither a tag nor a digest");
    Refusal::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", message)
}

/// The tags that a manifest gets beside its reference.
fn tags(query: Option<&str>) -> Result<Vec<String>, Refusal> {
    let given = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let tags: Vec<String> = given.filter(|(key, _)| key == "tag").map(|(_, tag)| tag.into_owned()).collect();
    match tags.iter().find(|tag| !valid_tag(tag)) {
        Some(wrong) => Err(no_tag(wrong)),
        None if tags.len() > TAGS => {
            let message = format!("a manifest gets {TAGS} tags at a time, not {}", tags.len());
            Err(Refusal::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", message))
        }
        None => Ok(tags),
    }
}

fn upload(method: &Method, id: &str, query: Option<&str>) -> Result<Operation, Refusal> {
    let id = id.to_owned();
    match *method {
        Method::PATCH => Ok(Operation::PatchUpload(id)),
        Method::PUT => {
            let digest = digest_parameter(query, "digest")?.ok_or_else(|| {
                let message = "`digest` is missing: an upload ends with the digest of its bytes, as ?digest=sha256:…";
                Refusal::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message)
            })?;
            Ok(Operation::FinishUpload { id, digest })
        }
        Method::GET | Method::HEAD => Ok(Operation::UploadStatus(id)),
        Method::DELETE => Ok(Operation::CancelUpload(id)),
        _ => Err(Refusal::method("GET, PATCH, PUT, DELETE")),
    }
}

/// What stands behind a repository's name.
enum Tail<'a> {
    Manifest(&'a str),
    Blob(&'a str),
    Tags,
    Referrers(&'a str),
    Uploads,
    Upload(&'a str),
}

/// Names have slashes, and may have segments called `manifests`: only the last words count.
fn split_name(rest: &str) -> Option<(&str, Tail<'_>)> {
    if let Some(name) = rest.strip_suffix("/blobs/uploads/").or_else(|| rest.strip_suffix("/blobs/uploads")) {
        return Some((name, Tail::Uploads));
    }
    if let Some(name) = rest.strip_suffix("/tags/list") {
        return Some((name, Tail::Tags));
    }
    let (before, last) = rest.rsplit_once('/')?;
    if let Some(name) = before.strip_suffix("/blobs/uploads") {
        return Some((name, Tail::Upload(last)));
    }
    let (name, word) = before.rsplit_once('/')?;
    let tail = match word {
        "manifests" => Tail::Manifest(last),
        "blobs" => Tail::Blob(last),
        "referrers" => Tail::Referrers(last),
        _ => return None,
    };
    Some((name, tail))
}

fn page(query: Option<&str>) -> Result<Page, Refusal> {
    let n = match parameter(query, "n").filter(|text| !text.is_empty()) {
        Some(text) => Some(text.parse::<u32>().map_err(|_| {
            Refusal::new(StatusCode::BAD_REQUEST, "PAGINATION_NUMBER_INVALID", "`n` is not a number of names")
        })?),
        None => None,
    };
    Ok(Page { n, last: parameter(query, "last").unwrap_or_default() })
}

/// The first value of a parameter, decoded.
pub(crate) fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    url::form_urlencoded::parse(query?.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

fn digest_parameter(query: Option<&str>, name: &str) -> Result<Option<Digest>, Refusal> {
    match parameter(query, name) {
        Some(text) => text.parse().map(Some).map_err(|_| Refusal::digest(&text)),
        None => Ok(None),
    }
}

fn algorithm_parameter(query: Option<&str>) -> Result<Option<Algorithm>, Refusal> {
    let Some(text) = parameter(query, "digest-algorithm").filter(|text| !text.is_empty()) else { return Ok(None) };
    let refused = |_| {
        let shown: String = text.chars().take(160).collect();
        let message = format!("`{shown}` is not a hash that naru knows: sha256 or sha512");
        Refusal::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message)
    };
    text.parse().map(Some).map_err(refused)
}

/// Percent-decodes a path; most have nothing to decode.
pub(crate) fn decode(path: &str) -> Result<Cow<'_, str>, Refusal> {
    let refused = || Refusal::new(StatusCode::BAD_REQUEST, "NAME_INVALID", "the path is not percent-encoded UTF-8");
    if !path.contains('%') {
        return Ok(Cow::Borrowed(path));
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |b: Option<u8>| char::from(b?).to_digit(16);
                let (high, low) = (digit(rest.next()), digit(rest.next()));
                let value = high.zip(low).map(|(high, low)| high << 4 | low).ok_or_else(refused)?;
                u8::try_from(value).map_err(|_| refused())?
            }
            other => other,
        });
    }
    let text = String::from_utf8(bytes).map_err(|_| refused())?;
    if text.chars().any(char::is_control) { Err(refused()) } else { Ok(Cow::Owned(text)) }
}

#[cfg(test)]
mod tests;
