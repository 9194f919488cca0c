//! Whom a request is from, and what that one may do.

use std::collections::HashMap;
use std::sync::Arc;

use artifact::{Digest, Pattern};
use store::AccountKind;

use super::{Scope, Verb, now};
use crate::config::Settings;

/// Whom a request is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Nobody said who.
    Anonymous,
    /// A token of ours said that nobody said who: what docker and podman send after they were challenged.
    AnonymousWithToken,
    /// The holder of the admin token.
    Admin,
    /// Somebody with an account.
    Account(Arc<Account>),
}

impl Caller {
    /// Whether it may do that in a repository that is shown as `name`.
    pub(crate) fn may(&self, verb: Verb, name: &str, settings: &Settings) -> bool {
        let anybody = || verb == Verb::Read && settings.anonymous.iter().any(|pattern| pattern.matches(name));
        match self {
            Self::Anonymous | Self::AnonymousWithToken => anybody(),
            Self::Admin => true,
            Self::Account(account) => anybody() || account.scopes.iter().any(|scope| scope.allows(verb, name)),
        }
    }

    /// Whether there is nothing that it may not read.
    pub(crate) fn may_read_everything(&self, settings: &Settings) -> bool {
        let anybody = || settings.anonymous.iter().any(Pattern::is_everything);
        match self {
            Self::Anonymous | Self::AnonymousWithToken => anybody(),
            Self::Admin => true,
            Self::Account(account) => anybody() || account.scopes.iter().any(Scope::reads_everything),
        }
    }

    /// Whether it said who it is.
    pub(crate) fn is_known(&self) -> bool {
        matches!(self, Self::Admin | Self::Account(_))
    }

    /// What tells its rights from others', before a key under which an answer is remembered: by characters that no
    /// header can hold. Whoever may do the same gets the same answers.
    pub(crate) fn mark(&self, key: &mut String) {
        match self {
            Self::Anonymous | Self::AnonymousWithToken => {}
            Self::Admin => key.push('\u{1}'),
            Self::Account(account) => {
                key.push('\u{2}');
                key.push_str(&account.written);
                key.push('\u{2}');
            }
        }
    }
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Anonymous | Self::AnonymousWithToken => f.write_str("anonymous"),
            Self::Admin => f.write_str("admin"),
            Self::Account(account) => write!(f, "{} {}", account.kind, account.name),
        }
    }
}

/// An account, as requests need it.
#[derive(PartialEq, Eq)]
pub(crate) struct Account {
    pub(super) kind: AccountKind,
    pub(super) name: String,
    /// What its secret is known by; empty: it has none.
    pub(super) secret: String,
    pub(super) certificate: Option<Digest>,
    scopes: Vec<Scope>,
    /// The scopes as they are written.
    written: String,
    /// In seconds since 1970.
    pub(super) expires: Option<i64>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

impl From<store::Account> for Account {
    fn from(account: store::Account) -> Self {
        let store::Account { kind, name, secret, certificate, scopes: written, expires, .. } = account;
        // What a newer Naru wrote and this one does not know allows nothing.
        let scopes = written.split_whitespace().filter_map(|scope| scope.parse().ok()).collect();
        Self { kind, name, secret, certificate, scopes, written, expires }
    }
}

/// Every account, by what it is known by.
#[derive(Default)]
pub(super) struct Accounts {
    /// By the SHA-256 of the token.
    tokens: HashMap<String, Arc<Account>>,
    named: HashMap<(AccountKind, String), Arc<Account>>,
    certificates: HashMap<Digest, Arc<Account>>,
}

impl Accounts {
    pub(super) fn new(accounts: Vec<store::Account>) -> Self {
        let mut all = Self::default();
        for account in accounts {
            let account = Arc::new(Account::from(account));
            if account.kind == AccountKind::Token {
                all.tokens.insert(account.secret.clone(), Arc::clone(&account));
            }
            if let Some(certificate) = account.certificate {
                all.certificates.insert(certificate, Arc::clone(&account));
            }
            all.named.insert((account.kind, account.name.clone()), account);
        }
        all
    }

    /// Whose token has this SHA-256.
    pub(super) fn by_token(&self, digest: &Digest) -> Option<Caller> {
        self.tokens.get(&digest.hex()).and_then(known)
    }

    /// Whose certificate has this SHA-256.
    pub(super) fn by_certificate(&self, digest: &Digest) -> Option<Caller> {
        self.certificates.get(digest).and_then(known)
    }

    /// The same account with the rights that it has now. One of its name that shows another secret is not the same.
    pub(super) fn again(&self, before: &Account) -> Option<Caller> {
        let now = self.named.get(&(before.kind, before.name.clone()))?;
        let is_same = now.secret == before.secret && now.certificate == before.certificate;
        known(now).filter(|_| is_same)
    }

    pub(super) fn named(&self, kind: AccountKind, name: &str) -> Option<Caller> {
        self.named.get(&(kind, name.to_owned())).and_then(known)
    }
}

/// Nobody, when the account has ended.
fn known(account: &Arc<Account>) -> Option<Caller> {
    let is_over = account.expires.is_some_and(|end| end <= now());
    (!is_over).then(|| Caller::Account(Arc::clone(account)))
}
