//! A client that does what the specification says and nothing else.

use anyhow::{Context as _, Result, ensure};
use journeys::{Naru, Serving, http};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha512};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// What was tried, and what of it failed.
#[derive(Default)]
pub(crate) struct Clauses {
    tried: usize,
    failed: Vec<String>,
}

impl Clauses {
    /// Tries one clause; the next one is tried whatever comes of it.
    pub(crate) fn clause(&mut self, clause: &str, check: impl FnOnce() -> Result<()>) {
        self.tried += 1;
        match check() {
            Ok(()) => eprintln!("ok    {clause}"),
            Err(error) => {
                eprintln!("FAIL  {clause}: {error:#}");
                self.failed.push(format!("{clause}: {error:#}"));
            }
        }
    }

    pub(crate) fn end(self) -> Result<()> {
        eprintln!("{} clauses, {} failed", self.tried, self.failed.len());
        ensure!(self.failed.is_empty(), "{}", self.failed.join("\n"));
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    pub(crate) fn of(self, bytes: &[u8]) -> String {
        let (name, hash) = match self {
            Self::Sha256 => ("sha256", Sha256::digest(bytes).to_vec()),
            Self::Sha512 => ("sha512", Sha512::digest(bytes).to_vec()),
        };
        let hex: Vec<String> = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{name}:{}", hex.concat())
    }
}

/// Bytes that no other name has.
pub(crate) fn bytes(name: &str, size: usize) -> Vec<u8> {
    name.bytes().chain([b'\n']).cycle().take(size).collect()
}

pub(crate) struct Client {
    address: String,
    user: String,
}

impl Client {
    pub(crate) fn new(naru: &Naru, serving: &Serving) -> Result<Self> {
        let token = std::fs::read_to_string(naru.store().join("admin.token"))?;
        Ok(Self { address: serving.address().to_owned(), user: format!("anyone:{}", token.trim()) })
    }

    /// What the server calls itself: a `ns` that means its local repositories.
    pub(crate) fn own_name(&self) -> &str {
        &self.address
    }

    /// A request, with credentials where something is written. What is asked for is a path or a `Location`.
    pub(crate) fn send(
        &self,
        method: &str,
        place: &str,
        headers: &[&str],
        body: Option<&[u8]>,
    ) -> Result<http::Answer> {
        let mut arguments = match method {
            "GET" => vec![],
            "HEAD" => vec!["--head"],
            other => vec!["--request", other, "--user", &self.user],
        };
        for header in headers {
            arguments.extend(["--header", *header]);
        }
        let url = if place.starts_with("http") { place.to_owned() } else { format!("http://{}{place}", self.address) };
        let answer = http::request(&url, &arguments, body)?;
        if answer.status >= 400 && method != "HEAD" && !(method == "GET" && answer.status == 416) {
            is_refusal(&answer).with_context(|| format!("{method} {place}"))?;
        }
        Ok(answer)
    }

    /// The token as a Bearer's, for what is read with credentials.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.user.split_once(':').map_or("", |(_, token)| token))
    }

    pub(crate) fn get(&self, place: &str) -> Result<http::Answer> {
        self.send("GET", place, &[], None)
    }

    pub(crate) fn head(&self, place: &str) -> Result<http::Answer> {
        self.send("HEAD", place, &[], None)
    }

    pub(crate) fn delete(&self, place: &str) -> Result<http::Answer> {
        self.send("DELETE", place, &[], None)
    }

    /// `end-4a`, perhaps with parameters.
    pub(crate) fn start(&self, name: &str, query: &str) -> Result<String> {
        let answer = self.send("POST", &format!("/v2/{name}/blobs/uploads/{query}"), &["Content-Length: 0"], None)?;
        expect(&answer, 202)?;
        location(&answer)
    }

    /// `end-5`.
    pub(crate) fn patch(&self, place: &str, first: usize, bytes: &[u8]) -> Result<http::Answer> {
        let range = format!("Content-Range: {first}-{}", first + bytes.len() - 1);
        self.send("PATCH", place, &["Content-Type: application/octet-stream", &range], Some(bytes))
    }

    /// `end-13`.
    pub(crate) fn status(&self, place: &str) -> Result<http::Answer> {
        let answer = self.send("GET", place, &[&format!("Authorization: {}", self.bearer())], None)?;
        expect(&answer, 204)?;
        Ok(answer)
    }

    /// `end-6`, without a range.
    pub(crate) fn put(&self, place: &str, digest: &str, bytes: &[u8]) -> Result<http::Answer> {
        self.send("PUT", &with(place, "digest", digest), &["Content-Type: application/octet-stream"], Some(bytes))
    }

    /// Pushes a blob by `end-4a` and `end-6`, and finds it.
    pub(crate) fn push(&self, name: &str, bytes: &[u8], algorithm: Algorithm) -> Result<String> {
        let digest = algorithm.of(bytes);
        let answer = self.put(&self.start(name, "")?, &digest, bytes)?;
        self.is_stored(&answer, &digest, bytes)?;
        Ok(digest)
    }

    /// 201, and `Location` is a pullable URL of these bytes.
    pub(crate) fn is_stored(&self, answer: &http::Answer, digest: &str, bytes: &[u8]) -> Result<()> {
        expect(answer, 201)?;
        has(answer, "docker-content-digest", digest)?;
        let found = self.get(&location(answer)?)?;
        expect(&found, 200)?;
        ensure!(found.body == bytes, "other bytes");
        has(&found, "docker-content-digest", digest)
    }

    /// `end-7`.
    pub(crate) fn put_manifest(&self, name: &str, reference: &str, document: &Value) -> Result<http::Answer> {
        let media_type = document["mediaType"].as_str().context("a media type")?;
        self.put_bytes(name, reference, media_type, document.to_string().as_bytes())
    }

    pub(crate) fn put_bytes(
        &self,
        name: &str,
        reference: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<http::Answer> {
        let header = format!("Content-Type: {media_type}");
        self.send("PUT", &format!("/v2/{name}/manifests/{reference}"), &[&header], Some(bytes))
    }

    /// Pushes a manifest by a tag or by its digest, and finds it byte for byte under both.
    pub(crate) fn push_manifest(
        &self,
        name: &str,
        tag: Option<&str>,
        document: &Value,
        by: Algorithm,
    ) -> Result<String> {
        let bytes = document.to_string().into_bytes();
        let digest = by.of(&bytes);
        let answer = self.put_manifest(name, tag.unwrap_or(&digest), document)?;
        self.is_stored(&answer, &digest, &bytes)?;
        for reference in tag.into_iter().chain([digest.as_str()]) {
            self.shows(name, reference, document, &digest)?;
        }
        Ok(digest)
    }

    /// `end-3` answers a reference by these bytes, as what they were stored.
    pub(crate) fn shows(&self, name: &str, reference: &str, document: &Value, digest: &str) -> Result<()> {
        let bytes = document.to_string().into_bytes();
        let place = format!("/v2/{name}/manifests/{reference}");
        for method in ["HEAD", "GET"] {
            let answer = self.send(method, &place, &["Accept: text/plain"], None)?;
            expect(&answer, 200)?;
            has(&answer, "content-type", document["mediaType"].as_str().unwrap_or_default())?;
            has(&answer, "content-length", &bytes.len().to_string())?;
            has(&answer, "docker-content-digest", digest)?;
            ensure!(method == "HEAD" || answer.body == bytes, "other bytes");
        }
        Ok(())
    }

    /// An image of two layers of its own, its blobs pushed.
    pub(crate) fn image(&self, name: &str, of: &str, algorithm: Algorithm) -> Result<Value> {
        let config = bytes(&format!("{{\"config\":\"{of}\"}}"), 64);
        let (one, two) = (bytes(&format!("{of} one"), 700), bytes(&format!("{of} two"), 900));
        for blob in [&config, &one, &two] {
            self.push(name, blob, algorithm)?;
        }
        Ok(image(&config, &[&one, &two], algorithm))
    }
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8], algorithm: Algorithm) -> Value {
    json!({ "mediaType": media_type, "digest": algorithm.of(bytes), "size": bytes.len() })
}

pub(crate) fn image(config: &[u8], layers: &[&[u8]], algorithm: Algorithm) -> Value {
    let layers: Vec<Value> = layers.iter().map(|layer| descriptor(LAYER, layer, algorithm)).collect();
    json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor(CONFIG, config, algorithm), "layers": layers,
    })
}

pub(crate) fn index(children: &[&Value], algorithm: Algorithm) -> Value {
    let children: Vec<Value> = children
        .iter()
        .map(|child| {
            let kind = child["mediaType"].as_str().unwrap_or_default();
            descriptor(kind, child.to_string().as_bytes(), algorithm)
        })
        .collect();
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": children })
}

pub(crate) fn with(place: &str, key: &str, value: &str) -> String {
    format!("{place}{}{key}={value}", if place.contains('?') { '&' } else { '?' })
}

pub(crate) fn expect(answer: &http::Answer, status: u16) -> Result<()> {
    ensure!(answer.status == status, "{}, not {status}: {}", answer.status, answer.text());
    Ok(())
}

pub(crate) fn has(answer: &http::Answer, header: &str, value: &str) -> Result<()> {
    let found = answer.header(header);
    ensure!(found == Some(value), "{header} is {found:?}, not {value}");
    Ok(())
}

pub(crate) fn location(answer: &http::Answer) -> Result<String> {
    Ok(answer.header("location").context("no Location")?.to_owned())
}

/// `Range: 0-END`.
pub(crate) fn reached(answer: &http::Answer, end: usize) -> Result<()> {
    has(answer, "range", &format!("0-{end}"))
}

/// A refusal with this status and code.
pub(crate) fn refused(answer: &http::Answer, status: u16, code: &str) -> Result<()> {
    expect(answer, status)?;
    let found = is_refusal(answer)?;
    ensure!(found == code, "{found}, not {code}: {}", answer.text());
    Ok(())
}

/// "Error Codes": a JSON body of the format, whose code the specification has (or Docker had before it).
fn is_refusal(answer: &http::Answer) -> Result<String> {
    has(answer, "content-type", "application/json")?;
    let body: Value = serde_json::from_slice(&answer.body).context("a body of JSON")?;
    let error = &body["errors"][0];
    let code = error["code"].as_str().context("a code")?;
    ensure!(code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'), "{code}");
    ensure!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "no message: {body}");
    Ok(code.to_owned())
}
