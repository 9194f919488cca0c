//! One request and its answer: which connection, which redirects, which waits. Nothing here knows what is asked for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::error::Error as StdError;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use artifact::{Digest, normalise_host};
use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use url::Url;

use crate::body::Body;
use crate::error::{Error, Result, Unreachable, shown};
use crate::resolver::{Guarded, Resolver, Unresolved};
use crate::retry::{ATTEMPTS, ATTEMPTS_BEFORE_NEXT, wait_of};
use crate::{Surroundings, Upstream, Upstreams, page, tls};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// The same for a host that may speak plain HTTP: such a server may wait for more of a TLS hello, and say nothing. It is
/// near.
const CONNECT_TIMEOUT_NEAR: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });
/// A transfer may take for ever, silence may not.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);
const REDIRECTS: usize = 10;
const CONCURRENCY: usize = 4;
/// So long a host's word about its limit is taken for true; then it is asked again.
const ALLOWANCE: Duration = Duration::from_mins(1);
/// Of an answer that is an error, so much is read to be quoted.
const EXCERPT: usize = 16 * 1024;

/// Connections to everybody.
pub(crate) struct Transport {
    upstreams: BTreeMap<String, Upstream>,
    resolver: Resolver,
    offline: bool,
    /// Whether a proxy is set for hosts that are not this machine.
    proxied: bool,
    guard: Option<Guard>,
    common: reqwest::Client,
    /// For this machine itself.
    near: reqwest::Client,
    /// Hosts with a CA, certificate or leniency of their own.
    own: HashMap<String, reqwest::Client>,
    seats: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// Hosts that turned out to speak plain HTTP.
    plain: Mutex<HashSet<String>>,
    /// How many requests a host has said that it will still answer, and when.
    allowances: Mutex<HashMap<String, (u64, Instant)>>,
}

/// What is asked on behalf of others goes to whom our user named, or out into the world.
struct Guard {
    /// Whom our user named.
    named: HashSet<String>,
    /// For everybody else.
    outside: reqwest::Client,
}

/// What is asked.
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    /// For the URL's own origin only: a redirect elsewhere does not carry it.
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) body: Body,
    /// How long nothing may move before it is given up.
    pub(crate) silence: Duration,
    /// The scheme was not said by the user, so plain HTTP may be tried where the host may speak it.
    pub(crate) probe: bool,
}

impl Ask {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            authorization: None,
            body: Body::Nothing,
            silence: IDLE_TIMEOUT,
            probe: false,
        }
    }
}

/// An answer whose body has not been read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: reqwest::Response,
    /// Who answered, after redirects.
    pub(crate) url: Url,
    /// Whether it is still the origin that was asked, and not where it pointed.
    pub(crate) same_origin: bool,
    /// The upstream's seat, taken until the body is read.
    pub(crate) seat: Option<OwnedSemaphorePermit>,
}

impl Transport {
    pub(crate) fn new(upstreams: Upstreams, surroundings: &Surroundings) -> Result<Self> {
        Self::with(upstreams, surroundings, false)
    }

    /// One that keeps others from what only this machine can reach.
    pub(crate) fn guarded(upstreams: Upstreams, surroundings: &Surroundings) -> Result<Self> {
        Self::with(upstreams, surroundings, true)
    }

    fn with(upstreams: Upstreams, surroundings: &Surroundings, for_others: bool) -> Result<Self> {
        let resolver = Resolver::system();
        let roots = tls::roots(surroundings)?;
        let named = upstreams.named();
        let Upstreams(upstreams) = upstreams;
        let usual = Upstream::default();
        let common = client(&roots, &usual, surroundings, &resolver, CONNECT_TIMEOUT)?;
        let near = client(&roots, &usual, surroundings, &resolver, CONNECT_TIMEOUT_NEAR)?;
        let mut own = HashMap::new();
        for (host, upstream) in &upstreams {
            if upstream.insecure || upstream.ca.is_some() || upstream.cert.is_some() {
                let timeout = if upstream.insecure { CONNECT_TIMEOUT_NEAR } else { CONNECT_TIMEOUT };
                own.insert(host.clone(), client(&roots, upstream, surroundings, &resolver, timeout)?);
            }
        }
        let guard = if for_others {
            let proxies = [&surroundings.http_proxy, &surroundings.https_proxy].into_iter().flatten();
            let proxies = proxies.filter_map(|url| Some(Url::parse(url).ok()?.host_str()?.to_owned())).collect();
            let guarded = Guarded::new(resolver.clone(), proxies);
            Some(Guard { named, outside: client(&roots, &usual, surroundings, &guarded, CONNECT_TIMEOUT)? })
        } else {
            None
        };
        let (seats, plain, allowances) = (Mutex::default(), Mutex::default(), Mutex::default());
        let offline = surroundings.offline;
        let is_set = |proxy: &Option<String>| proxy.as_ref().is_some_and(|proxy| !proxy.is_empty());
        let proxied = is_set(&surroundings.http_proxy) || is_set(&surroundings.https_proxy);
        Ok(Self { upstreams, resolver, offline, proxied, guard, common, near, own, seats, plain, allowances })
    }

    /// How often something is tried without any progress: less often when somebody waits.
    pub(crate) fn attempts(&self) -> u32 {
        if self.guard.is_some() { ATTEMPTS_BEFORE_NEXT } else { ATTEMPTS }
    }

    /// The guard, when this is one whom our user did not name.
    fn guard(&self, host: &str) -> Option<&Guard> {
        self.guard.as_ref().filter(|guard| !guard.named.contains(host))
    }

    pub(crate) fn upstream(&self, host: &str) -> Option<&Upstream> {
        self.upstreams.get(host)
    }

    pub(crate) fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// Waits until the upstream has room for one request more.
    pub(crate) async fn seat(&self, host: &str) -> Option<OwnedSemaphorePermit> {
        let seats = {
            let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
            let count = self.upstreams.get(host).and_then(|upstream| upstream.concurrency).unwrap_or(CONCURRENCY);
            Arc::clone(
                seats
                    .entry(host.to_owned())
                    .or_insert_with(|| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)))),
            )
        };
        seats.acquire_owned().await.ok()
    }

    /// What a host has said of how many requests it will still answer, if that is not long ago.
    pub(crate) fn allowance(&self, host: &str) -> Option<u64> {
        let allowances = self.allowances.lock().unwrap_or_else(PoisonError::into_inner);
        allowances.get(host).filter(|(_, said)| said.elapsed() < ALLOWANCE).map(|(left, _)| *left)
    }

    /// Whether plain HTTP is allowed with this host: its user says so, or it is this machine itself (as docker has it).
    pub(crate) fn may_be_plain(&self, url: &Url) -> bool {
        self.upstreams.get(&host_of(url)).is_some_and(|upstream| upstream.insecure)
            || url.host_str().is_some_and(|host| self.resolver.is_loopback(host))
    }

    /// Whether a secret may travel this way.
    pub(crate) fn is_confidential(&self, url: &Url) -> bool {
        url.scheme() == "https" || self.may_be_plain(url)
    }

    /// Asks, following redirects. Any status is an answer; only no answer is an error.
    pub(crate) async fn send(&self, ask: &Ask) -> Result<Answer> {
        let mut url = ask.url.clone();
        let mut authorization = ask.authorization.clone();
        let mut same_origin = true;
        for _ in 0..=REDIRECTS {
            let response = self.dial(ask, &mut url, authorization.as_ref(), same_origin).await?;
            let Some(location) = redirect(&response) else {
                return Ok(Answer { response, url, same_origin, seat: None });
            };
            let next = self.next(&url, location)?;
            if matches!(ask.body, Body::Form(_)) {
                let why = "a form with credentials goes nowhere else";
                return Err(Error::Redirect { url: shown(&ask.url), to: shown(&next), why });
            }
            if next.origin() != url.origin() {
                authorization = None;
                same_origin = false;
            }
            url = next;
        }
        Err(Error::Redirect { url: shown(&ask.url), to: shown(&url), why: "too many redirects" })
    }

    /// Where an answer of `url` points with its `Location`, if that may be followed.
    pub(crate) fn next(&self, url: &Url, location: &str) -> Result<Url> {
        let refused = |to: String, why| Error::Redirect { url: shown(url), to, why };
        let mut next = url.join(location).map_err(|_| refused(location.chars().take(200).collect(), "not a URL"))?;
        if !matches!(next.scheme(), "http" | "https") || !next.has_host() {
            return Err(refused(next.scheme().to_owned(), "neither http nor https"));
        }
        if url.scheme() == "https" && next.scheme() == "http" && !self.may_be_plain(&next) {
            return Err(refused(shown(&next), "it leaves HTTPS for plain HTTP"));
        }
        // User and password in a URL are the ones that our user wrote, for that origin.
        let stays = next.origin() == url.origin();
        let _ = next.set_username(if stays { url.username() } else { "" });
        let _ = next.set_password(url.password().filter(|_| stays));
        Ok(next)
    }

    async fn dial(
        &self,
        ask: &Ask,
        url: &mut Url,
        authorization: Option<&HeaderValue>,
        same_origin: bool,
    ) -> Result<reqwest::Response> {
        let host = host_of(url);
        if self.offline {
            return Err(Error::Offline { host });
        }
        // However it is spelt: `0x7f.1` and `2130706433` are addresses by the time they stand in a URL.
        if self.guard(&host).is_some() && !matches!(url.host(), Some(url::Host::Domain(_))) {
            return Err(Error::Unreachable { url: shown(url), host, reason: Unreachable::Private, library: None });
        }
        let probe = ask.probe && same_origin && url.scheme() == "https" && self.may_be_plain(url);
        if probe && self.plain.lock().unwrap_or_else(PoisonError::into_inner).contains(&host) {
            let _ = url.set_scheme("http");
            return self.once(ask, url, authorization).await;
        }
        match self.once(ask, url, authorization).await {
            // A wrong certificate is no sign of plain HTTP: the port does speak TLS.
            Err(
                error @ Error::Unreachable {
                    reason: Unreachable::Tls | Unreachable::Connect | Unreachable::Broken | Unreachable::Timeout,
                    ..
                },
            ) if probe => {
                let mut in_clear = url.clone();
                let _ = in_clear.set_scheme("http");
                let Ok(response) = self.once(ask, &in_clear, authorization).await else { return Err(error) };
                *url = in_clear;
                self.plain.lock().unwrap_or_else(PoisonError::into_inner).insert(host);
                Ok(response)
            }
            answer => answer,
        }
    }

    fn unreachable(&self, url: &Url, error: reqwest::Error) -> Error {
        let mut error = unreachable(url, error);
        let is_near = url.host_str().is_some_and(|host| self.resolver.is_loopback(host));
        if let Error::Unreachable { reason: reason @ Unreachable::Refused, .. } = &mut error
            && self.proxied
            && !is_near
        {
            *reason = Unreachable::RefusedOrProxy;
        }
        error
    }

    async fn once(&self, ask: &Ask, url: &Url, authorization: Option<&HeaderValue>) -> Result<reqwest::Response> {
        let host = host_of(url);
        let client = match self.guard(&host) {
            Some(guard) => &guard.outside,
            None if self.may_be_plain(url) => self.own.get(&host).unwrap_or(&self.near),
            None => self.own.get(&host).unwrap_or(&self.common),
        };
        let mut request = client.request(ask.method.clone(), url.clone()).headers(ask.headers.clone());
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request = match &ask.body {
            Body::Nothing => request,
            Body::Form(form) => request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.clone()),
            Body::Bytes(bytes) => request.header(CONTENT_LENGTH, bytes.len()).body(bytes.clone()),
            Body::File(piece) => {
                let body = reqwest::Body::wrap_stream(piece.stream());
                request.header(CONTENT_LENGTH, piece.len()).body(body)
            }
        };
        tracing::debug!(method = %ask.method, url = %shown(url), "asking upstream");
        let mut sending = std::pin::pin!(request.send());
        let response = loop {
            // The library's own limit would count the time that a body takes on its way up.
            let moved = ask.body.moved();
            match timeout(ask.silence, &mut sending).await {
                Ok(answer) => break answer.map_err(|error| self.unreachable(url, error))?,
                Err(_) if ask.body.moved() != moved => {}
                Err(_) => {
                    let reason = Unreachable::Timeout;
                    return Err(Error::Unreachable { url: shown(url), host: host_of(url), reason, library: None });
                }
            }
        };
        if let Some(left) = allowance_of(response.headers()) {
            let mut allowances = self.allowances.lock().unwrap_or_else(PoisonError::into_inner);
            allowances.insert(host, (left, Instant::now()));
        }
        tracing::debug!(status = response.status().as_u16(), url = %shown(url), "upstream answered");
        Ok(response)
    }
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").field("upstreams", &self.upstreams).finish_non_exhaustive()
    }
}

impl Answer {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The body whole, refused over `limit` bytes before more than that is held.
    pub(crate) async fn body(mut self, limit: usize, digest: Option<&Digest>) -> Result<Bytes> {
        let too_large = |url: &Url| Error::TooLarge { url: shown(url), limit: limit as u64, digest: digest.copied() };
        let expected = self.response.content_length();
        if expected.is_some_and(|size| size > limit as u64) {
            return Err(too_large(&self.url));
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = self.chunk(body.len() as u64, expected).await? {
            if body.len() + chunk.len() > limit {
                return Err(too_large(&self.url));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    /// The next bytes; `received` and `expected` are for the error.
    pub(crate) async fn chunk(&mut self, received: u64, expected: Option<u64>) -> Result<Option<Bytes>> {
        let cut = |url: &Url| Error::Cut { url: shown(url), received, expected };
        let chunk = timeout(IDLE_TIMEOUT, self.response.chunk()).await.map_err(|_| cut(&self.url))?;
        chunk.map_err(|error| {
            tracing::debug!(url = %shown(&self.url), error = %error.without_url(), "body broke off");
            cut(&self.url)
        })
    }

    /// The error that this answer is, its status being none of those that were hoped for.
    pub(crate) async fn into_error(mut self, host: &str) -> Error {
        let body = self.first_bytes().await;
        self.error(host, &body)
    }

    /// The same for what was to be put there: a status that says no to it is the registry's answer.
    pub(crate) async fn into_refusal(mut self, host: &str) -> Error {
        let body = self.first_bytes().await;
        let is_page = page::is_page(&body);
        match self.status().as_u16() {
            code @ (400 | 404..=407 | 409..=428) if !is_page => {
                Error::Refused { url: shown(&self.url), code, detail: excerpt(&body) }
            }
            _ => self.error(host, &body),
        }
    }

    async fn first_bytes(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        while body.len() < EXCERPT {
            let Ok(Some(chunk)) = self.chunk(0, None).await else { break };
            body.extend(chunk.iter().take(EXCERPT - body.len()));
        }
        body
    }

    fn error(&self, host: &str, body: &[u8]) -> Error {
        let (status, url) = (self.status(), shown(&self.url));
        let retry_after = self.headers().get(RETRY_AFTER).and_then(wait_of);
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Error::NotFound { url },
            // Neither registries nor stores of objects write HTML; filters do. Web servers repeat the status in theirs.
            StatusCode::FORBIDDEN if page::is_page(body) && !page::words(body).starts_with("403") => {
                Error::BlockPage { url, words: page::words(body) }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Error::Unauthorized { url, host: host.to_owned(), detail: excerpt(body) }
            }
            StatusCode::TOO_MANY_REQUESTS => Error::RateLimited { url, retry_after },
            _ => Error::Status { url, code: status.as_u16(), body: excerpt(body), retry_after },
        }
    }
}

/// What an error's body says: a registry's own words (distribution spec, "Error Codes"), or whatever stands first.
fn excerpt(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<Complaint>,
    }
    #[derive(serde::Deserialize)]
    struct Complaint {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let first = serde_json::from_slice::<Errors>(body).ok().and_then(|errors| errors.errors.into_iter().next());
    match first {
        Some(Complaint { code, message }) if message.is_empty() => page::words(code.as_bytes()),
        Some(Complaint { message, .. }) => page::words(message.as_bytes()),
        None => page::words(body),
    }
}

/// The host of a URL as `upstreams:` names it: with its port where that is not the scheme's own.
pub(crate) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    normalise_host(&host).unwrap_or(host)
}

/// `RateLimit-Remaining: 97;w=21600`, as Docker Hub writes it: the number before the window.
fn allowance_of(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get("ratelimit-remaining")?.to_str().ok()?;
    text.split([';', ',']).next()?.trim().parse().ok()
}

fn redirect(response: &reqwest::Response) -> Option<&str> {
    match response.status().as_u16() {
        301 | 302 | 303 | 307 | 308 => response.headers().get(LOCATION)?.to_str().ok(),
        _ => None,
    }
}

fn client(
    roots: &rustls::RootCertStore,
    upstream: &Upstream,
    surroundings: &Surroundings,
    resolver: &(impl reqwest::dns::Resolve + Clone + 'static),
    timeout: Duration,
) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls::config(roots, upstream)?)
        .http1_only()
        .dns_resolver(resolver.clone())
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("naru/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(timeout)
        .no_proxy();
    // This machine itself is never behind a proxy. `*.example.com` is how many write `.example.com`.
    let direct = surroundings.no_proxy.as_deref().unwrap_or_default().split(',').map(|entry| {
        let entry = entry.trim();
        entry.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(entry)
    });
    let direct: Vec<&str> =
        direct.chain(["localhost", "127.0.0.0/8", "::1"]).filter(|entry| !entry.is_empty()).collect();
    let direct = reqwest::NoProxy::from_string(&direct.join(","));
    let proxies = [
        ("HTTP_PROXY", &surroundings.http_proxy, reqwest::Proxy::http as fn(String) -> _),
        ("HTTPS_PROXY", &surroundings.https_proxy, reqwest::Proxy::https),
    ];
    for (name, address, proxy) in proxies {
        if let Some(address) = address.as_ref().filter(|address| !address.is_empty()) {
            // The address may hold a password, so the error does not show it.
            let proxy = proxy(address.clone())
                .map_err(|_| Error::Config { what: name.to_owned(), why: "not the URL of a proxy".to_owned() })?;
            builder = builder.proxy(proxy.no_proxy(direct.clone()));
        }
    }
    builder.build().map_err(|error| Error::Config { what: "TLS".to_owned(), why: error.to_string() })
}

/// The error of a request that had no answer, told apart by what lies at its bottom.
fn unreachable(url: &Url, error: reqwest::Error) -> Error {
    let error = error.without_url();
    let mut reason = if error.is_timeout() {
        Unreachable::Timeout
    } else if error.is_connect() {
        Unreachable::Connect
    } else {
        Unreachable::Broken
    };
    let mut next: Option<&(dyn StdError + 'static)> = Some(&error);
    while let Some(link) = next {
        if let Some(tls) = link.downcast_ref::<rustls::Error>() {
            reason = match tls {
                rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer) => {
                    Unreachable::UnknownIssuer
                }
                rustls::Error::InvalidCertificate(_) => Unreachable::Certificate,
                _ => Unreachable::Tls,
            };
        }
        // The type is not ours to name.
        match link.to_string().strip_prefix("tunnel error: ") {
            Some("proxy authorization required") => reason = Unreachable::ProxyAuthorization,
            Some("unsuccessful") => reason = Unreachable::Proxy,
            _ => {}
        }
        if link.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == ErrorKind::ConnectionRefused) {
            reason = Unreachable::Refused;
        }
        match link.downcast_ref::<Unresolved>() {
            Some(Unresolved::NoAddress(_) | Unresolved::NobodyToAsk { .. }) => reason = Unreachable::UnknownName,
            Some(Unresolved::NoAnswer { .. }) => reason = Unreachable::Dns,
            Some(Unresolved::Private(_)) => reason = Unreachable::Private,
            None => {}
        }
        // An I/O error hides what it wraps from `source`.
        let wrapped = link.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => link.source(),
        };
    }
    Error::Unreachable { url: shown(url), host: host_of(url), reason, library: Some(Box::new(error)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowances_as_registries_write_them() {
        let read = |text: &str| {
            allowance_of(&HeaderMap::from_iter([("ratelimit-remaining".parse().unwrap(), text.parse().unwrap())]))
        };
        assert_eq!((read("97;w=21600"), read("0"), read(" 3 , 5;w=1")), (Some(97), Some(0), Some(3)));
        assert_eq!((read("many"), read("-1"), allowance_of(&HeaderMap::new())), (None, None, None));
    }

    #[test]
    fn hosts_as_the_configuration_names_them() {
        for (url, host) in [
            ("https://Registry-1.docker.io/v2/", "docker.io"),
            ("https://a.example:443/", "a.example"),
            ("http://a.example/", "a.example"),
            ("http://a.example:5000/", "a.example:5000"),
            ("http://[::1]:5000/", "[::1]:5000"),
        ] {
            assert_eq!(host_of(&Url::parse(url).unwrap()), host);
        }
    }
}
