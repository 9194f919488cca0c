//! One pass of a request: who, what, which repository, the answer, and what is counted and written down of it.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, TRANSFER_ENCODING, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::json;
use tokio::time::timeout;

use crate::Event;
use crate::access::{Line, Pending};
use crate::arriving::Arriving;
use crate::auth::{Caller, Gate, Peer, TOKEN_SECONDS, may_carry};
use crate::body::Body;
use crate::content::DOCKER_CONTENT_DIGEST;
use crate::metrics::Route;
use crate::refusal::Refusal;
use crate::registry::{self, Call};
use crate::router::{self, Action};
use crate::site::Site;
use crate::{files, page, setup};

/// A form's length: a name and a token, and some scopes.
const FORM_LIMIT: usize = 16 * 1024;

/// Answers a request. Never fails: what goes wrong is an answer too.
pub(crate) async fn answer(site: &Arc<Site>, peer: &Peer, request: Request<Incoming>) -> Response<Body> {
    let logged = site.log.as_ref().map(|log| (log.clone(), line(peer, &request), Instant::now()));
    let head = request.method() == Method::HEAD;
    let unread = (!hyper::body::Body::is_end_stream(request.body())).then(Arc::<AtomicBool>::default);
    let well_formed = well_formed(&request);
    let is_last = well_formed.is_err();
    let answered = match well_formed {
        Ok(()) => identified(site, peer, request, unread.clone()).await,
        Err(refusal) => Err((Route::Other, refusal)),
    };
    let (route, mut response, repository) = match answered {
        Ok(Answered { route, response, repository }) => (route, response, repository),
        Err((route, refusal)) => {
            let mut response = refusal.into_response();
            if head {
                *response.body_mut() = Body::default();
            }
            (route, response, None)
        }
    };
    if is_last || unread.is_some_and(|unread| unread.load(Ordering::Acquire)) {
        // Another request behind what nobody read would never be answered.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    site.metrics.request(route, response.status().as_u16());
    let line = logged.map(|(log, mut line, began)| {
        line.status = response.status().as_u16();
        line.repository = repository;
        line.digest =
            response.headers().get(DOCKER_CONTENT_DIGEST).and_then(|value| value.to_str().ok()).map(str::to_owned);
        (log, line, began)
    });
    let pending = Pending { metrics: Arc::clone(&site.metrics), line };
    response.body_mut().then(Box::new(pending));
    response
}

/// The answer to a request that came as its connection was closed for another's.
pub(crate) fn too_late() -> Response<Body> {
    let message = "the server has no room for more connections; try again";
    let mut response = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "TOOMANYREQUESTS", message).into_response();
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

struct Answered {
    route: Route,
    response: Response<Body>,
    /// For the log.
    repository: Option<String>,
}

async fn identified(
    site: &Arc<Site>,
    peer: &Peer,
    request: Request<Incoming>,
    unread: Option<Arc<AtomicBool>>,
) -> Result<Answered, (Route, Refusal)> {
    let (mut head, body) = request.into_parts();
    // What stands in the request line counts alone (RFC 9112, section 3.2.2).
    if let Some(named) = head.uri.authority().and_then(|named| HeaderValue::from_str(named.as_str()).ok()) {
        head.headers.insert(HOST, named);
    }
    let body = Arriving::new(body, &head, site.patience.body, unread);
    let settings = site.settings();
    let other = |refusal| (Route::Other, refusal);
    let (gate, path) = (site.gate.load_full(), head.uri.path());
    let identified = gate.identify(&head.headers, peer, &settings, &site.passwords).await;
    let caller = identified.map_err(|refusal| {
        denied(site, None, peer, &head.method, path, &refusal);
        other(refusal)
    })?;
    let reading = matches!(head.method, Method::GET | Method::HEAD);
    let host = head.headers.get(HOST).and_then(|value| value.to_str().ok());
    // Who may push asks so for what need not be sent, and that is noted each time: until the push it is not collected.
    let before_a_push = head.method == Method::HEAD && caller.is_known() && path.contains("/blobs/");
    // The warm path: what was asked in these words before, by who may do as much, is in memory.
    let key = (reading && !before_a_push).then(|| {
        let mut key = String::with_capacity(160);
        caller.mark(&mut key);
        let _ = write!(key, "{} {}", host.unwrap_or_default(), head.uri);
        key
    });
    if let Some(warm) = key.as_deref().and_then(|key| site.warm(key)) {
        site.metrics.warm();
        let route = if head.uri.path().contains("/manifests/") { Route::Manifest } else { Route::Blob };
        let route = if warm.meant.repository.kind == artifact::Kind::File { Route::File } else { route };
        if matches!(route, Route::Manifest) && head.method == Method::GET {
            site.pulled(&warm);
        }
        let repository = site.log.as_ref().map(|_| warm.meant.repository.to_string());
        return Ok(Answered {
            route,
            response: warm.thing.answer(head.method == Method::HEAD, &head.headers),
            repository,
        });
    }
    let action = router::parse(&head.method, head.uri.path(), head.uri.query(), host).map_err(other)?;
    drop(settings);
    let call = Call {
        site,
        caller: caller.clone(),
        gate,
        peer,
        headers: &head.headers,
        head: head.method == Method::HEAD,
        path,
        query: head.uri.query(),
        key,
    };
    let answered = carry_out(call, action, &head.method, path, host, body).await;
    answered.inspect_err(|(_, refusal)| denied(site, Some(&caller), peer, &head.method, path, refusal))
}

/// That there is one way to read a request. What a proxy before this server may read otherwise (RFC 9112, sections 3.2 and
/// 6.1) is refused: it would have one request where there are two here, or another's.
fn well_formed(request: &Request<Incoming>) -> Result<(), Refusal> {
    let refused = |message| Err(Refusal::new(StatusCode::BAD_REQUEST, "UNSUPPORTED", message));
    let hosts = request.headers().get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return refused("a request has one `Host`");
    }
    // Of what is no host, each would make another one (RFC 9110, section 7.2).
    let is_host = |host: &HeaderValue| {
        let is_known = |byte: &u8| byte.is_ascii_graphic() && !b"/?#@\\,".contains(byte);
        !host.is_empty() && host.as_bytes().iter().all(is_known)
    };
    if request.headers().get(HOST).is_some_and(|host| !is_host(host)) {
        return refused("`Host` is not a host");
    }
    if !hyper::body::Body::is_end_stream(request.body()) {
        let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
        let is_known = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
        if codings.next().is_some_and(|coding| !is_known(coding)) || codings.next().is_some() {
            return refused("of `Transfer-Encoding` only `chunked` is read here, once");
        }
    }
    Ok(())
}

/// Has the audit know of a refusal that kept somebody from something.
fn denied(site: &Site, caller: Option<&Caller>, peer: &Peer, method: &Method, path: &str, refusal: &Refusal) {
    if !refusal.denied {
        return;
    }
    site.audit.record(&Event {
        // Who sent a wrong word is not known, whatever name came with it.
        by: caller.map_or_else(|| "unknown".to_owned(), Caller::to_string),
        from: Some(peer.remote.ip().to_string()),
        action: method.as_str(),
        subject: path,
        outcome: "denied",
        ..Event::default()
    });
}

async fn carry_out(
    call: Call<'_>,
    action: Action,
    method: &Method,
    path: &str,
    host: Option<&str>,
    body: Arriving,
) -> Result<Answered, (Route, Refusal)> {
    let route = route(&action);
    let answered = |response: Result<Response<Body>, Refusal>| match response {
        Ok(response) => Ok(Answered { route, response, repository: None }),
        Err(refusal) => Err((route, refusal)),
    };
    // A DNS take-over: the files of an upstream answer under its own name, whatever the path.
    if let Some(host) = taken_over(&call, &action, method, host).await.map_err(|refusal| (route, refusal))? {
        let decoded = router::decode(path).map_err(|refusal| (Route::File, refusal))?;
        let below = decoded.strip_prefix('/').unwrap_or(&decoded);
        match files::answer(&call, &host, below, "/").await {
            // The CA, a token or the health of this server are asked under that name too.
            Err(refusal)
                if matches!(refusal.status, StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED)
                    && action != Action::Other => {}
            Err(refusal) => return Err((Route::File, refusal)),
            Ok(response) => return Ok(Answered { route: Route::File, response, repository: Some(host) }),
        }
    }
    if let Action::Registry(asked, operation) = action {
        call.site.metrics.cold();
        let repository = call.site.log.as_ref().map(|_| asked.written.clone());
        return match registry::answer(call, &asked, operation, body).await {
            Ok(response) => Ok(Answered { route, response, repository }),
            Err(refusal) => Err((route, refusal)),
        };
    }
    answered(own(call, action, body).await)
}

/// The upstream whose files `Host` means; `/v2` is the registry's.
async fn taken_over(
    call: &Call<'_>,
    action: &Action,
    method: &Method,
    host: Option<&str>,
) -> Result<Option<String>, Refusal> {
    if matches!(action, Action::Registry(..) | Action::Ping | Action::Catalog(_))
        || !matches!(*method, Method::GET | Method::HEAD)
    {
        return Ok(None);
    }
    let Some(host) = host.and_then(artifact::normalise_host) else { return Ok(None) };
    if call.site.settings().own.contains(&host) {
        return Ok(None);
    }
    let known = call.site.known().await?;
    Ok(Some(host).filter(|host| known.files.contains(host)))
}

/// Everything but the registry.
async fn own(call: Call<'_>, action: Action, body: Arriving) -> Result<Response<Body>, Refusal> {
    match action {
        Action::Ping => registry::ping(&call),
        Action::Token => token(&call, body).await,
        Action::Catalog(page) => registry::catalog(&call, &page).await,
        Action::FileHosts => files::hosts(&call).await,
        Action::File { host, path } => {
            let base = format!("/files/{host}/");
            files::answer(&call, &host, &path, &base).await
        }
        Action::Home => page::home(&call).await,
        Action::Setup(client) => setup::answer(&call, &client).await,
        Action::Health => Ok(text("ok\n")),
        Action::Ready => {
            // The catalog answers, or this does not.
            call.site.store().document("site/ready").await?;
            Ok(text("ready\n"))
        }
        Action::Metrics => {
            // Whoever pushes bytes would read from the totals whether another repository has them.
            let sees_all = call.caller.may_read_everything(&call.site.settings());
            let usage = if sees_all { Some(call.site.stock().usage().await?) } else { None };
            let mut response = text(call.site.metrics.render(call.site.store().has_stopped(), usage.as_ref()));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"));
            Ok(response)
        }
        Action::Authority => match call.site.certificates.authority_pem() {
            Some(pem) => {
                let mut response = text(pem);
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-pem-file"));
                Ok(response)
            }
            None => {
                Err(Refusal::not_found("this server's certificate was given to it (--cert); its CA is its owner's"))
            }
        },
        Action::Registry(..) | Action::Other => Err(Refusal::not_found("there is nothing at this address")),
    }
}

fn route(action: &Action) -> Route {
    match action {
        Action::Ping => Route::Ping,
        Action::Token => Route::Token,
        Action::Catalog(_) => Route::Catalog,
        Action::Registry(_, operation) => registry::route(operation),
        Action::FileHosts | Action::File { .. } => Route::File,
        Action::Home | Action::Setup(_) | Action::Authority => Route::Page,
        Action::Health | Action::Ready | Action::Metrics => Route::Health,
        Action::Other => Route::Other,
    }
}

/// `/token`: by GET with Basic (Docker's token authentication), or by POST with a form (its OAuth 2 form).
async fn token(call: &Call<'_>, body: Arriving) -> Result<Response<Body>, Refusal> {
    let mut caller = call.caller.clone();
    let gate = call.site.gate.load_full();
    if !hyper::body::Body::is_end_stream(&body) {
        let form = form(body, call.site.patience.headers).await?;
        let field = |names: &[&str]| {
            url::form_urlencoded::parse(&form)
                .find(|(key, _)| names.contains(&&**key))
                .map(|(_, text)| text.into_owned())
        };
        if let Some(word) = field(&["password", "refresh_token"]) {
            may_carry(call.peer, &call.site.settings())?;
            let name = field(&["username"]).unwrap_or_default();
            caller = gate.by_word(&name, &word, call.peer, &call.site.passwords).await?.ok_or_else(|| {
                let mut headers = HeaderMap::new();
                headers.insert(http::header::AUTHORIZATION, HeaderValue::from_static("form"));
                Gate::refuse(&headers, call.peer, None)
            })?;
        }
    }
    let now = jiff::Timestamp::now();
    let token = gate.token(&caller, now.as_second());
    let issued = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let answer = json!({ "token": token, "access_token": token, "expires_in": TOKEN_SECONDS, "issued_at": issued });
    let mut response = Response::new(Body::from(answer.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The whole of a form. Anybody may send one: it has an end in bytes and in time, as headers have.
async fn form(body: Arriving, patience: Duration) -> Result<Bytes, Refusal> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it took too long").into();
    let collected =
        timeout(patience, Limited::new(body, FORM_LIMIT).collect()).await.unwrap_or_else(|error| Err(late(error)));
    match collected {
        Ok(form) => Ok(form.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let message = format!("the form has more than {} KiB", FORM_LIMIT / 1024);
            Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "UNSUPPORTED", message))
        }
        Err(error) => Err(Refusal::cut("UNSUPPORTED", "the form", error.as_ref())),
    }
}

fn text(text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Body::from(text.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn line(peer: &Peer, request: &Request<Incoming>) -> Line {
    let header = |name| {
        request.headers().get(name).map(|value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    Line {
        time: jiff::Timestamp::now().to_string(),
        remote: peer.remote.to_string(),
        tls: peer.tls,
        method: request.method().to_string(),
        uri: request.uri().to_string(),
        host: header(HOST).unwrap_or_default(),
        ns: router::parameter(request.uri().query(), "ns"),
        agent: header(USER_AGENT).unwrap_or_default(),
        ..Line::default()
    }
}
