//! Scopes: what an account may do, and where.

use std::fmt;
use std::str::FromStr;

use artifact::Pattern;
use serde::{Deserialize, Serialize};

/// What can be allowed. None of them includes another: `all` is the four together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// To pull, and to see that something is there.
    Read,
    /// To push, and to mount into.
    Write,
    /// To delete tags, manifests and blobs.
    Delete,
    /// To push where it changes what others mean: to a local name that a mirrored repository has too.
    Admin,
}

impl Verb {
    const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Delete, Self::Admin];

    /// As it is written in a scope.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `VERB[:PATTERN]`: a verb, or all of them, in the repositories of a pattern, or in all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope {
    /// `None`: all.
    verb: Option<Verb>,
    pattern: Pattern,
}

/// The text is no scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a scope: {1}")]
pub struct InvalidScope(String, &'static str);

/// What one is.
const WRITTEN: &str = "write read, write, delete, admin or all, and a pattern behind a colon, as write:team/*";

impl Scope {
    /// Whether it allows that in a repository that is shown as `name`.
    pub(crate) fn allows(&self, verb: Verb, name: &str) -> bool {
        self.verb.is_none_or(|own| own == verb) && self.pattern.matches(name)
    }

    /// Whether it allows to read everything.
    pub(crate) fn reads_everything(&self) -> bool {
        self.verb.is_none_or(|own| own == Verb::Read) && self.pattern.is_everything()
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        let wrong = |why| InvalidScope(text.chars().take(200).collect(), why);
        let invalid = || wrong(WRITTEN);
        let (word, pattern) = match text.split_once(':') {
            Some((word, pattern)) => (word, pattern.parse().map_err(|_| invalid())?),
            None => (text, Pattern::everything()),
        };
        if let Some(why) = pattern.why_never() {
            return Err(wrong(why));
        }
        let verb = match word {
            "all" => None,
            word => Some(Verb::ALL.into_iter().find(|verb| verb.as_str() == word).ok_or_else(invalid)?),
        };
        Ok(Self { verb, pattern })
    }
}

impl TryFrom<String> for Scope {
    type Error = InvalidScope;

    fn try_from(text: String) -> Result<Self, InvalidScope> {
        text.parse()
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.to_string()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb.map_or("all", Verb::as_str))?;
        if self.pattern.is_everything() { Ok(()) } else { write!(f, ":{}", self.pattern) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_scope_allows() {
        let scope: Scope = "write:team/*".parse().unwrap();
        assert!(scope.allows(Verb::Write, "team/app"));
        assert!(!scope.allows(Verb::Read, "team/app") && !scope.allows(Verb::Write, "other/app"));
        let all: Scope = "all".parse().unwrap();
        assert!(Verb::ALL.into_iter().all(|verb| all.allows(verb, "quay.io/x/y")));
        let host: Scope = "read:host:5000/**".parse().unwrap();
        assert!(host.allows(Verb::Read, "host:5000/x"));
    }

    #[test]
    fn a_scope_is_shown_as_it_was_written() {
        for text in ["read", "all", "write:team/*", "delete:host:5000/**", "admin:docker.io/**"] {
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "reed",
            "read:",
            ":team",
            "read,write",
            "write:a b",
            "READ",
            "read:team/app:1",
            "read:Team/*",
            "read:[::1/**",
        ] {
            assert!(bad.parse::<Scope>().is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[a-z:*/ ]{0,20}") {
            let _ = text.parse::<Scope>();
        }
    }
}
