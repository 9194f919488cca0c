//! Tokens (distribution spec, "Token Authentication": `token/` and `oauth2/`).

use std::time::{Duration, Instant};

use http::{HeaderValue, Method, StatusCode};
use serde::Deserialize;
use url::Url;

use super::credentials::Credential;
use crate::body::Body;
use crate::error::{Error, Result, shown};
use crate::page;
use crate::retry::retried;
use crate::transport::{Ask, Transport};

/// A token's answer may have so many bytes.
const LIMIT: usize = 512 * 1024;
/// What holds where the server does not say (distribution spec: "For compatibility with older clients").
const LIFETIME: u64 = 60;

/// A header that authorizes, and until when.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) header: HeaderValue,
    pub(super) until: Option<Instant>,
}

impl Held {
    pub(super) fn is_fresh(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }
}

#[derive(Deserialize)]
struct Said {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// What a token is wanted for.
pub(super) struct Wanted<'a> {
    /// The registry that asks for it, for the error.
    pub(super) host: &'a str,
    pub(super) realm: Url,
    pub(super) service: Option<&'a str>,
    pub(super) scope: Option<&'a str>,
}

/// Fetches a token: anonymously, with user and password, or for an identity token.
pub(super) async fn fetch(transport: &Transport, wanted: &Wanted<'_>, credential: Option<&Credential>) -> Result<Held> {
    let fields = [("service", wanted.service), ("scope", wanted.scope), ("client_id", Some("naru"))];
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let mut ask = Ask::new(Method::GET, wanted.realm.clone());
    match credential {
        Some(Credential::Identity(token)) => {
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", token).extend_pairs(fields);
            ask.method = Method::POST;
            ask.body = Body::Form(form.finish());
        }
        Some(Credential::Password { username, .. }) => {
            ask.url.query_pairs_mut().extend_pairs(fields).append_pair("account", username);
            ask.authorization = credential.and_then(Credential::basic);
        }
        None => {
            ask.url.query_pairs_mut().extend_pairs(fields);
        }
    }
    retried(transport.attempts(), || once(transport, &ask, wanted.host)).await
}

async fn once(transport: &Transport, ask: &Ask, host: &str) -> Result<Held> {
    let asked = Instant::now();
    let answer = transport.send(ask).await?;
    if answer.status() != StatusCode::OK {
        return Err(match answer.into_error(host).await {
            // A realm that is not there is no sign that the image is not.
            Error::NotFound { url } => {
                Error::Protocol { url, why: "the registry's token server is not there".to_owned() }
            }
            error => error,
        });
    }
    let url = shown(&answer.url);
    let body = answer.body(LIMIT, None).await?;
    if page::is_page(&body) {
        return Err(Error::BlockPage { url, words: page::words(&body) });
    }
    let malformed = |why: &str| Error::Protocol { url: url.clone(), why: format!("no token in the answer: {why}") };
    // Its text is not quoted: it may be half a token.
    let said: Said = serde_json::from_slice(&body).map_err(|_| malformed("not the JSON of one"))?;
    let token = said.token.or(said.access_token).filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| malformed("neither `token` nor `access_token`"))?;
    let mut header =
        HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| malformed("not fit for a header"))?;
    header.set_sensitive(true);
    // Clocks differ, so only our own is read; a tenth is left for the way.
    let lifetime = Duration::from_secs(said.expires_in.unwrap_or(LIFETIME).clamp(1, 24 * 3600)) * 9 / 10;
    Ok(Held { header, until: asked.checked_add(lifetime) })
}
