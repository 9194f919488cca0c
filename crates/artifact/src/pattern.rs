//! Patterns over the names of repositories.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A pattern over names of repositories as they are shown: `docker.io/**`, `team/*`, `team/app`.
///
/// `*` stands for any part of one segment, and `**` for any number of segments, none too: `docker.io/**` is
/// `docker.io` as well, which is what its files are called.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

/// The text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a pattern of repositories, as `docker.io/**` or `team/*` are")]
pub struct InvalidPattern(pub String);

/// No name of a repository is longer, with its host.
const LONGEST: usize = 512;

impl Pattern {
    /// The pattern of every name.
    pub fn everything() -> Self {
        Self("**".to_owned())
    }

    /// Whether every name matches it.
    pub fn is_everything(&self) -> bool {
        self.0 == "**"
    }

    /// Why no repository can match, where none can: names have small letters, and nothing but the host before them has a
    /// port or brackets.
    pub fn why_never(&self) -> Option<&'static str> {
        let is_of_host = |byte: u8| b":[]".contains(&byte);
        // `**` may be nothing at all.
        let mut behind = self.0.split('/').skip_while(|segment| *segment == "**");
        let host = behind.next().unwrap_or_default();
        match () {
            () if self.0.bytes().any(|byte| byte.is_ascii_uppercase()) => Some("no repository has capital letters"),
            () if behind.any(|segment| segment.bytes().any(is_of_host)) => {
                Some("only a host has a colon or brackets: it is a pattern of repositories, without a tag")
            }
            () if host.matches('[').count() != host.matches(']').count() => Some("a bracket is missing"),
            () => None,
        }
    }

    /// Whether a repository that is shown as `name` matches.
    pub fn matches(&self, name: &str) -> bool {
        let pattern: Vec<&str> = self.0.split('/').collect();
        let name: Vec<&str> = name.split('/').collect();
        wild(
            &pattern,
            &name,
            |segment| *segment == "**",
            |segment, part| wild(segment.as_bytes(), part.as_bytes(), |byte| *byte == b'*', |one, other| one == other),
        )
    }
}

/// Whether `text` is `pattern`, where a star stands for any stretch of it, none too. Takes at most the product of their
/// lengths in steps: only the last star is ever tried again, which is enough.
fn wild<P, T>(pattern: &[P], text: &[T], is_star: impl Fn(&P) -> bool, is: impl Fn(&P, &T) -> bool) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut last_star = None;
    while let Some(next) = text.get(read) {
        if pattern.get(at).is_some_and(&is_star) {
            at += 1;
            last_star = Some((at, read));
        } else if pattern.get(at).is_some_and(|one| is(one, next)) {
            at += 1;
            read += 1;
        } else if let Some((behind, taken)) = last_star {
            at = behind;
            read = taken + 1;
            last_star = Some((behind, read));
        } else {
            return false;
        }
    }
    pattern.iter().skip(at).all(is_star)
}

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let is_segment = |segment: &str| {
            let bytes = segment.bytes();
            // Hosts may have a port, and an IPv6 address its brackets.
            let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:[]*".contains(&byte);
            segment == "**" || (!segment.is_empty() && !segment.contains("**") && bytes.into_iter().all(known))
        };
        if text.len() > LONGEST || !text.split('/').all(is_segment) {
            return Err(InvalidPattern(text.chars().take(200).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Pattern {
    type Error = InvalidPattern;

    fn try_from(text: String) -> Result<Self, InvalidPattern> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matches() {
        let table = [
            ("**", "app", true),
            ("**", "docker.io/library/nginx", true),
            ("docker.io/**", "docker.io/library/nginx", true),
            ("docker.io/**", "docker.io", true),
            ("docker.io/**", "docker.iox/library", false),
            ("docker.io/**", "quay.io/docker.io/x", false),
            ("team/*", "team/app", true),
            ("team/*", "team/app/x", false),
            ("team/*", "team", false),
            ("team/*", "steam/app", false),
            ("team/app-*", "team/app-one", true),
            ("team/app-*", "team/app", false),
            ("**/secret", "a/b/secret", true),
            ("**/secret", "secret", true),
            ("**/secret", "secrets", false),
            ("a/**/b/*c", "a/x/b/b/yc", true),
            ("a/**/b/*c", "a/x/b/b/cy", false),
            ("host:5000/**", "host:5000/x", true),
            ("team", "team", true),
            ("team", "team/app", false),
        ];
        for (pattern, name, expected) in table {
            let parsed: Pattern = pattern.parse().unwrap();
            assert_eq!(parsed.matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn what_can_match_nothing() {
        for never in ["team/app:1", "Team/*", "[::1/**", "**/a/b:1", "team/[a]"] {
            assert!(never.parse::<Pattern>().unwrap().why_never().is_some(), "{never}");
        }
        for text in ["**", "team/*", "host:5000/**", "[::1]:5000/x", "**/host:5000/x", "*"] {
            assert_eq!(text.parse::<Pattern>().unwrap().why_never(), None, "{text}");
        }
    }

    #[test]
    fn what_is_a_pattern() {
        for bad in ["", "/", "a//b", "a/", "/a", "a**", "**a/b", "a b", "a,b", "한", &"a".repeat(600)] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_name_matches_itself_and_everything(name in "[a-z0-9.:-]{1,8}(/[a-z0-9._-]{1,8}){0,4}") {
            proptest::prop_assert!(name.parse::<Pattern>().unwrap().matches(&name));
            proptest::prop_assert!(Pattern::everything().matches(&name));
            let is_name = name.split_once('/').is_none_or(|(_, rest)| !rest.contains(':'));
            proptest::prop_assert!(!is_name || name.parse::<Pattern>().unwrap().why_never().is_none());
        }

        #[test]
        fn never_panics(pattern in "[a-c*/]{0,12}", name in "[a-c/]{0,12}") {
            if let Ok(pattern) = pattern.parse::<Pattern>() {
                let _ = pattern.matches(&name);
            }
        }
    }
}
