//! Accounts, as commands make and end them. A running server reads them again afterwards ([`crate::Server::reload_secrets`]).

use std::collections::HashSet;

use artifact::Digest;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use store::{Account, AccountKind, Store};

pub use crate::auth::{InvalidScope, Scope, Verb, hash_password, read_htpasswd};
use crate::auth::{new_token, valid_account_name};
use crate::{Error, Result};

/// What a person shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A password, by its hash ([`hash_password`]).
    Password(String),
    /// A client certificate, by its SHA-256.
    Certificate(Digest),
}

/// Makes a token with these scopes, and returns it: nobody can be told it again.
///
/// # Errors
/// [`Error::AccountName`], [`Error::AccountExists`]; the store's refusals.
pub async fn add_token(store: &Store, name: &str, scopes: &[Scope], expires: Option<i64>) -> Result<String> {
    let token = new_token()?;
    let mut account = account(store, AccountKind::Token, name, scopes)?;
    account.secret = Digest::of(token.as_bytes()).hex();
    account.expires = expires;
    add(store, &account).await?;
    Ok(token)
}

/// Makes a person's account.
///
/// # Errors
/// As [`add_token`]; [`Error::CertificateTaken`].
pub async fn add_user(store: &Store, name: &str, proof: &Proof, scopes: &[Scope], expires: Option<i64>) -> Result<()> {
    let mut account = account(store, AccountKind::User, name, scopes)?;
    prove(&mut account, proof, &store.accounts().await?)?;
    account.expires = expires;
    add(store, &account).await
}

/// Gives a person another password, or another certificate.
///
/// # Errors
/// [`Error::NoAccount`], [`Error::CertificateTaken`]; the store's refusals.
pub async fn set_proof(store: &Store, name: &str, proof: &Proof) -> Result<()> {
    let known = store.accounts().await?;
    let found = known.iter().find(|account| account.kind == AccountKind::User && account.name == name);
    let missing = || Error::NoAccount { kind: AccountKind::User, name: name.to_owned() };
    let mut account = found.cloned().ok_or_else(missing)?;
    prove(&mut account, proof, &known)?;
    Ok(store.put_accounts(&[account]).await?)
}

/// Takes over what [`read_htpasswd`] read; who is here already gets that password and these scopes. Returns
/// the names of the people who were here before.
///
/// # Errors
/// The store's refusals; then nobody was taken over.
pub async fn import(
    store: &Store,
    users: &[(String, String)],
    scopes: &[Scope],
    expires: Option<i64>,
) -> Result<HashSet<String>> {
    let known = store.accounts().await?.into_iter().filter(|account| account.kind == AccountKind::User);
    let known = known.map(|account| account.name).collect();
    let taken = users.iter().map(|(name, hash)| {
        let mut account = account(store, AccountKind::User, name, scopes)?;
        account.secret.clone_from(hash);
        account.expires = expires;
        Ok(account)
    });
    store.put_accounts(&taken.collect::<Result<Vec<_>>>()?).await?;
    Ok(known)
}

/// Ends an account, and every short token that it brought.
///
/// # Errors
/// [`Error::NoAccount`]; the store's refusals.
pub async fn remove(store: &Store, kind: AccountKind, name: &str) -> Result<()> {
    if store.remove_account(kind, name).await? {
        return Ok(());
    }
    Err(Error::NoAccount { kind, name: name.to_owned() })
}

/// The SHA-256 of the first certificate in a PEM text; or `text` as that itself, with or without colons.
///
/// # Errors
/// [`Error::Fingerprint`].
pub fn fingerprint(text: &str) -> Result<Digest> {
    if let Ok(certificate) = CertificateDer::from_pem_slice(text.as_bytes()) {
        return Ok(Digest::of(&certificate));
    }
    let hex: String = text.trim().chars().filter(|c| *c != ':').collect::<String>().to_ascii_lowercase();
    // What it is instead is not repeated: it may be a key.
    format!("sha256:{}", hex.trim_start_matches("sha256")).parse().map_err(|_| Error::Fingerprint)
}

fn account(store: &Store, kind: AccountKind, name: &str, scopes: &[Scope]) -> Result<Account> {
    valid_account_name(name)?;
    let written = scopes.iter().map(Scope::to_string).collect::<Vec<_>>().join(" ");
    let (name, secret) = (name.to_owned(), String::new());
    Ok(Account { kind, name, secret, certificate: None, scopes: written, expires: None, made: store.now() })
}

/// A certificate is one person's: of two that show the same, one would act in the other's name.
fn prove(account: &mut Account, proof: &Proof, known: &[Account]) -> Result<()> {
    match proof {
        Proof::Password(hash) => account.secret.clone_from(hash),
        Proof::Certificate(digest) => {
            let is_this = |other: &Account| (other.kind, &other.name) == (account.kind, &account.name);
            if let Some(other) = known.iter().find(|other| other.certificate == Some(*digest) && !is_this(other)) {
                return Err(Error::CertificateTaken { kind: other.kind, name: other.name.clone() });
            }
            account.certificate = Some(*digest);
        }
    }
    Ok(())
}

async fn add(store: &Store, account: &Account) -> Result<()> {
    if store.add_account(account).await? {
        return Ok(());
    }
    Err(Error::AccountExists { kind: account.kind, name: account.name.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_written_in_several_ways() {
        let digest = Digest::of(b"x");
        let pairs = digest.as_bytes().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":");
        for text in [digest.hex(), digest.to_string(), pairs] {
            assert_eq!(fingerprint(&text).unwrap(), digest, "{text}");
        }
        assert!(fingerprint("alice").is_err() && fingerprint("").is_err());
        // Nothing of a file that may be a key is shown to anybody.
        let error =
            fingerprint("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw\n-----END PRIVATE KEY-----\n").unwrap_err();
        assert!(!format!("{error} {error:?} {:?}", error.hint()).contains("MC4C"), "{error}");
    }
}
