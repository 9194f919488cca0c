//! Who asks, and what they may: reading is open unless the site closed it, writing needs the admin token.
//!
//! The token is made at the first start, shown once and kept in `STORE/admin.token` (0600); the catalog has its hash
//! alone. It comes as the password of any user (Basic), as a Bearer token, or first to `/token`, which answers with a
//! short-lived token that says who. Tokens carry no rights: those are asked of the *resolved* repository, at each
//! request, since a client's scope names no upstream.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use artifact::Digest;
use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, StatusCode};
use store::Store;
use subtle::ConstantTimeEq as _;

use crate::config::Settings;
use crate::refusal::Refusal;
use crate::{Error, Result};

/// How long a token of `/token` is good, in seconds. A pull of many large layers asks again.
pub(crate) const TOKEN_SECONDS: i64 = 900;

const ADMIN_DOCUMENT: &str = "site/admin-token";
const KEY_DOCUMENT: &str = "site/token-key";
/// The command that a refusal names.
const ANOTHER: &str = "`naru token new` on the server makes another, STORE/admin.token has the newest";

/// Whom a request is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Nobody said who.
    Anonymous,
    /// A token of ours said that nobody said who: what docker and podman send after they were challenged.
    AnonymousWithToken,
    /// The holder of the admin token.
    Admin,
}

impl Caller {
    pub(crate) fn may_read(self, settings: &Settings) -> bool {
        settings.anonymous || self == Self::Admin
    }
}

/// The connection that a request came by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) remote: SocketAddr,
    /// The server's end of it.
    pub(crate) local: SocketAddr,
    pub(crate) tls: bool,
}

impl Peer {
    /// Whether what it sends can be read by nobody else.
    fn is_private(&self) -> bool {
        self.tls || self.remote.ip().to_canonical().is_loopback()
    }
}

/// Knows the admin token's hash, and signs and reads tokens.
pub(crate) struct Gate {
    admin: Digest,
    key: hmac::Key,
}

impl Gate {
    /// Reads the site's secrets, making those that are not there. The token is returned only when it was made now.
    pub(crate) async fn open(store: &Store) -> Result<(Self, Option<String>)> {
        let mut made = None;
        let hash = if let Some(hash) = store.document(ADMIN_DOCUMENT).await? {
            hash
        } else {
            let token = new_token()?;
            write_token(store.folder(), &token)?;
            let hash = store.document_once(ADMIN_DOCUMENT, Digest::of(token.as_bytes()).as_bytes()).await?;
            made = Some(token).filter(|token| Digest::of(token.as_bytes()).as_bytes() == hash);
            hash
        };
        let mut fresh = [0; 32];
        rand::fill(&mut fresh).map_err(|_| Error::Random)?;
        let key = store.document_once(KEY_DOCUMENT, &fresh).await?;
        let admin = Digest::from_bytes(&hash).ok_or(Error::Config {
            key: ADMIN_DOCUMENT,
            value: format!("{} bytes", hash.len()),
            why: "the catalog's document is damaged; make another token",
        })?;
        Ok((Self { admin, key: hmac::Key::new(hmac::HMAC_SHA256, &key) }, made))
    }

    /// Who sent these headers.
    ///
    /// # Errors
    /// A refusal of credentials that are wrong, expired, or came where others could read them.
    pub(crate) fn identify(&self, headers: &HeaderMap, peer: &Peer, settings: &Settings) -> Result<Caller, Refusal> {
        let Some(value) = headers.get(AUTHORIZATION) else { return Ok(Caller::Anonymous) };
        let value = value.to_str().unwrap_or_default();
        let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
        let caller = if scheme.eq_ignore_ascii_case("basic") {
            // Sent in the clear, even a wrong password has been told.
            may_carry(peer, settings)?;
            let decoded = STANDARD.decode(rest.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let right =
                decoded.as_deref().and_then(|text| text.split_once(':')).is_some_and(|(_, word)| self.is_admin(word));
            right.then_some(Caller::Admin)
        } else if scheme.eq_ignore_ascii_case("bearer") {
            self.read_token(rest.trim())
        } else {
            None
        };
        match caller {
            Some(Caller::Admin) => may_carry(peer, settings).map(|()| Caller::Admin),
            Some(caller) => Ok(caller),
            None => Err(Self::refuse(headers, peer, None)),
        }
    }

    /// Whether this is the admin token.
    pub(crate) fn is_admin(&self, word: &str) -> bool {
        Digest::of(word.as_bytes()).as_bytes().ct_eq(self.admin.as_bytes()).into()
    }

    /// A token that says who, until `now` + [`TOKEN_SECONDS`].
    pub(crate) fn token(&self, caller: Caller, now: i64) -> String {
        let who = if caller == Caller::Admin { "admin" } else { "anonymous" };
        let claim = format!("{who}:{}", now + TOKEN_SECONDS);
        let signature = hmac::sign(&self.key, self.signed(&claim).as_bytes());
        format!("{}.{}", URL_SAFE_NO_PAD.encode(&claim), URL_SAFE_NO_PAD.encode(signature))
    }

    /// What is signed: with the admin token's hash, so that a new admin token ends what the old one brought.
    fn signed(&self, claim: &str) -> String {
        format!("{claim}:{}", self.admin)
    }

    fn read_token(&self, token: &str) -> Option<Caller> {
        if self.is_admin(token) {
            return Some(Caller::Admin);
        }
        let (claim, signature) = token.split_once('.')?;
        let claim = String::from_utf8(URL_SAFE_NO_PAD.decode(claim).ok()?).ok()?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        hmac::verify(&self.key, self.signed(&claim).as_bytes(), &signature).ok()?;
        let (who, until) = claim.split_once(':')?;
        if until.parse::<i64>().ok()? < jiff::Timestamp::now().as_second() {
            return None;
        }
        match who {
            "admin" => Some(Caller::Admin),
            "anonymous" => Some(Caller::AnonymousWithToken),
            _ => None,
        }
    }

    /// 401 with a Bearer challenge and no other: docker and skopeo send credentials for pushes only after that.
    pub(crate) fn refuse(headers: &HeaderMap, peer: &Peer, scope: Option<&str>) -> Refusal {
        let message = if headers.contains_key(AUTHORIZATION) {
            format!("these credentials are wrong or have expired; {ANOTHER}")
        } else {
            format!("this needs the admin token (as the password of any user); {ANOTHER}")
        };
        let mut refusal = Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message);
        let scheme = if peer.tls { "https" } else { "http" };
        let host = headers
            .get(HOST)
            .and_then(|value| value.to_str().ok())
            .filter(|host| artifact::normalise_host(host).is_some());
        let host = host.map_or_else(|| peer.local.to_string(), str::to_owned);
        let scope = scope.map(|scope| format!(",scope=\"{scope}\"")).unwrap_or_default();
        let challenge = format!("Bearer realm=\"{scheme}://{host}/token\",service=\"naru\"{scope}");
        refusal.challenge = Some(challenge);
        refusal
    }
}

/// # Errors
/// When credentials on this connection could be read by others, and the site did not allow that.
pub(crate) fn may_carry(peer: &Peer, settings: &Settings) -> Result<(), Refusal> {
    if settings.plain_auth || peer.is_private() {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::FORBIDDEN,
        "DENIED",
        "credentials are not accepted over plain HTTP from another machine; use https:// (the CA is at /ca.crt), \
         or start the server with --plain-auth",
    ))
}

/// Makes another admin token; the one before, and every token it brought, ends when the server next starts or reloads.
///
/// # Errors
/// When the store refuses or the file `admin.token` cannot be written.
pub async fn renew_admin_token(store: &Store) -> Result<String> {
    // Two at once: the file and the store must come to have the same.
    static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _one = ONE.lock().await;
    let token = new_token()?;
    write_token(store.folder(), &token)?;
    store.set_document(ADMIN_DOCUMENT, Some(Digest::of(token.as_bytes()).as_bytes())).await?;
    Ok(token)
}

/// 256 random bits; its hash needs no salt and no slow hashing.
fn new_token() -> Result<String> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(format!("naru_{}", URL_SAFE_NO_PAD.encode(bytes)))
}

fn write_token(folder: &Path, token: &str) -> Result<()> {
    let path = folder.join("admin.token");
    let partial = folder.join("admin.token.partial");
    let failed = |source| Error::Io { path: path.clone(), source };
    let write = || {
        // One that a run left which was cut short may be another's.
        let _ = fs::remove_file(&partial);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        writeln!(file, "{token}")?;
        file.sync_all()?;
        let owner = fs::metadata(folder)?;
        if fs::metadata(&partial)?.uid() != owner.uid() {
            // Root looks after a store that is another user's: its server must read and replace it.
            std::os::unix::fs::chown(&partial, Some(owner.uid()), Some(owner.gid()))?;
        }
        fs::rename(&partial, &path)?;
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Gate {
        Gate { admin: Digest::of(b"secret"), key: hmac::Key::new(hmac::HMAC_SHA256, b"key") }
    }

    fn peer(remote: &str, tls: bool) -> Peer {
        Peer { remote: remote.parse().unwrap(), local: "10.0.0.1:5000".parse().unwrap(), tls }
    }

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        headers
    }

    fn basic(word: &str) -> HeaderMap {
        headers(&format!("Basic {}", STANDARD.encode(format!("any:{word}"))))
    }

    #[test]
    fn who_is_who() {
        let (gate, near, settings) = (gate(), peer("127.0.0.1:9", false), Settings::default());
        let who =
            |headers: &HeaderMap| gate.identify(headers, &near, &settings).map_err(|refusal| refusal.status.as_u16());
        let now = jiff::Timestamp::now().as_second();
        assert_eq!(who(&HeaderMap::new()).unwrap(), Caller::Anonymous);
        assert_eq!(who(&basic("secret")).unwrap(), Caller::Admin);
        assert_eq!(who(&basic("wrong")).unwrap_err(), 401);
        assert_eq!(who(&headers("Bearer secret")).unwrap(), Caller::Admin);
        let token = |caller, now| headers(&format!("Bearer {}", gate.token(caller, now)));
        assert_eq!(who(&token(Caller::Admin, now)).unwrap(), Caller::Admin);
        assert_eq!(who(&token(Caller::Anonymous, now)).unwrap(), Caller::AnonymousWithToken);
        assert_eq!(who(&token(Caller::Admin, now - 2 * TOKEN_SECONDS)).unwrap_err(), 401);
        let forged = format!(
            "Bearer {}.{}",
            URL_SAFE_NO_PAD.encode(format!("admin:{}", now + 9)),
            URL_SAFE_NO_PAD.encode([0; 32])
        );
        assert_eq!(who(&headers(&forged)).unwrap_err(), 401);
        assert_eq!(who(&headers("Digest x")).unwrap_err(), 401);
        let other = Gate { admin: Digest::of(b"new"), key: gate.key.clone() };
        let old = token(Caller::Admin, now);
        assert!(other.identify(&old, &near, &settings).is_err(), "a new admin token ends the old one's");
    }

    #[test]
    fn nothing_secret_in_the_clear() {
        let (gate, far) = (gate(), peer("10.0.0.9:9", false));
        let settings = Settings::default();
        assert_eq!(gate.identify(&basic("secret"), &far, &settings).unwrap_err().status, 403);
        assert_eq!(gate.identify(&headers("Bearer secret"), &far, &settings).unwrap_err().status, 403);
        let now = jiff::Timestamp::now().as_second();
        let anonymous = headers(&format!("Bearer {}", gate.token(Caller::Anonymous, now)));
        assert!(gate.identify(&anonymous, &far, &settings).is_ok());
        assert!(gate.identify(&basic("secret"), &peer("10.0.0.9:9", true), &settings).is_ok());
        assert!(gate.identify(&basic("secret"), &peer("[::ffff:127.0.0.1]:9", false), &settings).is_ok());
        let allowed = Settings { plain_auth: true, ..Settings::default() };
        assert!(gate.identify(&basic("secret"), &far, &allowed).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "(Basic |Bearer )?[ -~]{0,60}") {
            let _ = gate().identify(&headers(&text), &peer("127.0.0.1:9", false), &Settings::default());
        }
    }
}
