//! Who asks, and what they may. Reading is open unless the site closed it; everything else is allowed to the admin, and
//! to accounts by their scopes.
//!
//! The admin token is made at the first start, shown once and kept in `STORE/admin.token` (0600). Tokens of accounts come
//! like it: as the password of any user (Basic), as a Bearer token, or first to `/token`, which answers with a short-lived
//! token that says who. A person has a password, or a client certificate. The catalog has hashes alone. Short tokens carry
//! no rights: those are asked of the *resolved* repository, at each request, since a client's scope names no upstream.
//! They are signed with what the account's own secret is known by, so that they end with it.

mod caller;
mod header;
mod password;
mod scope;

pub(crate) use caller::Caller;
#[cfg(fuzzing)]
pub(crate) use header::tried;
pub(crate) use password::Passwords;
pub use password::{hash as hash_password, read_htpasswd};
pub use scope::{InvalidScope, Scope, Verb};

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use artifact::Digest;
use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, StatusCode};
use store::{AccountKind, Store};
use subtle::ConstantTimeEq as _;

use crate::auth::caller::Accounts;
use crate::auth::header::{Claim, Sent};
use crate::config::Settings;
use crate::refusal::Refusal;
use crate::{Error, Result};

/// How long a token of `/token` is good, in seconds. A pull of many large layers asks again.
pub(crate) const TOKEN_SECONDS: i64 = 900;

const ADMIN_DOCUMENT: &str = "site/admin-token";
const KEY_DOCUMENT: &str = "site/token-key";
/// The command that a refusal names.
const ANOTHER: &str =
    "on the server `naru token add` makes one, `naru token new` another admin token (STORE/admin.token)";

/// The connection that a request came by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) remote: SocketAddr,
    /// The server's end of it.
    pub(crate) local: SocketAddr,
    pub(crate) tls: bool,
    /// The SHA-256 of the certificate that the client showed, when it is by the CA of `client_ca`.
    pub(crate) certificate: Option<Digest>,
}

impl Peer {
    /// Whether what it sends can be read by nobody else.
    fn is_private(&self) -> bool {
        self.tls || self.remote.ip().to_canonical().is_loopback()
    }
}

/// Knows the admin token's hash and the accounts, and signs and reads tokens.
pub(crate) struct Gate {
    admin: Digest,
    key: hmac::Key,
    accounts: Accounts,
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
        let accounts = Accounts::new(store.accounts().await?);
        Ok((Self { admin, key: hmac::Key::new(hmac::HMAC_SHA256, &key), accounts }, made))
    }

    /// Who sent these headers.
    ///
    /// # Errors
    /// A refusal of credentials that are wrong, expired, came where others could read them, or came too often.
    pub(crate) async fn identify(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        settings: &Settings,
        passwords: &Passwords,
    ) -> Result<Caller, Refusal> {
        let sent = headers.get(AUTHORIZATION).map(|value| header::read(value.to_str().unwrap_or_default()));
        let sent = match sent {
            // Clients that were given no credentials may send empty ones.
            Some(Sent::Basic(Some((name, word)))) if name.is_empty() && word.is_empty() => None,
            sent => sent,
        };
        let Some(sent) = sent else {
            return Ok(self.by_certificate(peer).unwrap_or(Caller::Anonymous));
        };
        let caller = match sent {
            Sent::Basic(sent) => {
                // Sent in the clear, even a wrong password has been told.
                may_carry(peer, settings)?;
                match sent {
                    Some((name, word)) => self.by_word(&name, &word, peer, passwords).await?,
                    None => None,
                }
            }
            Sent::Bearer(token) => self.read_token(token),
            Sent::Unknown => None,
        };
        match caller {
            Some(caller) if caller.is_known() => may_carry(peer, settings).map(|()| caller),
            Some(caller) => Ok(caller),
            None => Err(Self::refuse(headers, peer, None)),
        }
    }

    /// Whose password this is: a token under any name, or that person's own.
    ///
    /// # Errors
    /// 429, when too many were wrong lately. A token is no guess, and never has to wait.
    pub(crate) async fn by_word(
        &self,
        name: &str,
        word: &str,
        peer: &Peer,
        passwords: &Passwords,
    ) -> Result<Option<Caller>, Refusal> {
        if let Some(caller) = self.by_token(word) {
            return Ok(Some(caller));
        }
        let user = self.accounts.named(AccountKind::User, name);
        let hash = match &user {
            Some(Caller::Account(user)) if !user.secret.is_empty() => Some(user.secret.as_str()),
            _ => None,
        };
        let is_right = passwords.is_right(hash, name, word, peer.remote.ip()).await?;
        Ok(user.filter(|_| is_right))
    }

    /// The same caller as it is now, who was known by the gate `before`; `None`: it has ended since, or what it showed has.
    pub(crate) fn again(&self, before: &Self, caller: &Caller) -> Option<Caller> {
        match caller {
            Caller::Account(known) => self.accounts.again(known),
            Caller::Admin if self.admin != before.admin => None,
            same => Some(same.clone()),
        }
    }

    fn by_token(&self, word: &str) -> Option<Caller> {
        let digest = Digest::of(word.as_bytes());
        if digest.as_bytes().ct_eq(self.admin.as_bytes()).into() {
            return Some(Caller::Admin);
        }
        // Looked up by its hash: how long that takes tells nothing of the token.
        self.accounts.by_token(&digest)
    }

    fn by_certificate(&self, peer: &Peer) -> Option<Caller> {
        self.accounts.by_certificate(&peer.certificate?)
    }

    /// A token that says who, until `now` + [`TOKEN_SECONDS`], or until the account ends.
    pub(crate) fn token(&self, caller: &Caller, now: i64) -> String {
        let mut until = now + TOKEN_SECONDS;
        if let Caller::Account(account) = caller {
            until = account.expires.map_or(until, |end| end.min(until));
        }
        let claim = format!("{caller}:{until}");
        let signature = hmac::sign(&self.key, self.signed(&claim, caller).as_bytes());
        header::token(&claim, signature.as_ref())
    }

    /// What is signed: with what the caller's own secret is known by, so that another one ends what this one brought.
    fn signed(&self, claim: &str, caller: &Caller) -> String {
        match caller {
            Caller::Account(account) => {
                let certificate = account.certificate.map(|digest| digest.hex()).unwrap_or_default();
                format!("{claim}:{}:{certificate}", account.secret)
            }
            _ => format!("{claim}:{}", self.admin),
        }
    }

    fn read_token(&self, token: &str) -> Option<Caller> {
        if let Some(caller) = self.by_token(token) {
            return Some(caller);
        }
        let Claim { text, signature, who, until } = header::claim(token)?;
        let caller = match who.split_once(' ') {
            None if who == "admin" => Caller::Admin,
            None if who == "anonymous" => Caller::AnonymousWithToken,
            Some(("token", name)) => self.accounts.named(AccountKind::Token, name)?,
            Some(("user", name)) => self.accounts.named(AccountKind::User, name)?,
            _ => return None,
        };
        hmac::verify(&self.key, self.signed(&text, &caller).as_bytes(), &signature).ok()?;
        (until >= now()).then_some(caller)
    }

    /// 401 with a Bearer challenge and no other: docker and skopeo send credentials for pushes only after that.
    pub(crate) fn refuse(headers: &HeaderMap, peer: &Peer, scope: Option<&str>) -> Refusal {
        let message = if headers.contains_key(AUTHORIZATION) {
            format!("these credentials are wrong or have expired; {ANOTHER}")
        } else {
            format!("this needs a token (as the password of any user) or a password; {ANOTHER}")
        };
        let mut refusal = Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message);
        refusal.denied = headers.contains_key(AUTHORIZATION);
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
    let message = "credentials are not accepted over plain HTTP from another machine; use https:// (the CA is at /ca.crt), \
        or start the server with --plain-auth";
    let mut refusal = Refusal::new(StatusCode::FORBIDDEN, "DENIED", message);
    refusal.denied = true;
    Err(refusal)
}

/// Seconds since 1970.
fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Names of accounts stand in logs, in tokens and before a colon: letters, digits, and `. _ - @`.
pub(crate) fn valid_account_name(name: &str) -> Result<()> {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
    if (1..=64).contains(&name.len()) && name.bytes().all(is_known) {
        return Ok(());
    }
    Err(Error::AccountName(name.chars().take(100).collect()))
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
pub(crate) fn new_token() -> Result<String> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(format!("naru_{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// Root looks after a store that is another user's: its server must read and replace what lies there.
pub(crate) fn give_to_owner(folder: &Path, path: &Path) -> std::io::Result<()> {
    let owner = fs::metadata(folder)?;
    if fs::metadata(path)?.uid() != owner.uid() {
        std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
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
        give_to_owner(folder, &partial)?;
        fs::rename(&partial, &path)?;
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(failed)
}

#[cfg(test)]
mod tests;
