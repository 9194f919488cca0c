//! `gc` of `serve.yaml`: what goes by itself, and when.

use std::str::FromStr;

use artifact::Pattern;
use serde::Deserialize;
use store::Rule;

use crate::{Error, Result};

/// As it was written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Collecting {
    /// How often a server collects by itself (absent: never).
    pub every: Option<Span>,
    /// What was brought, asked for before a push, or let go of by its last name within this time stays.
    pub grace: Span,
    /// So many of the last generations can still be restored.
    pub keep: u32,
    /// Which tags end by themselves; the first rule that names a repository is its own.
    pub retention: Vec<Retention>,
}

impl Default for Collecting {
    fn default() -> Self {
        Self { every: None, grace: Span(24 * 60 * 60), keep: 10, retention: Vec::new() }
    }
}

/// Which tags of some repositories end: those that nothing in it keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Patterns of repositories, as they are shown.
    pub repositories: Vec<String>,
    /// Tags that are not older stay.
    pub older_than: Option<Span>,
    /// So many of the newest tags stay.
    pub keep_last: Option<u32>,
    /// Tags that match one of these patterns stay.
    pub keep_tags: Vec<String>,
    /// What was pulled within this time stays.
    pub pulled_within: Option<Span>,
}

/// A time in seconds, written `90s`, `30m`, `24h`, `7d`, `2w`; `0` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(i64);

impl Span {
    /// Seconds, never fewer than none.
    pub fn seconds(self) -> i64 {
        self.0
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Ok(Self(0));
        }
        let wrong = || "not a time: write 30m, 24h, 7d or 0".to_owned();
        let span: jiff::Span = text.parse().map_err(|_| wrong())?;
        let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
        Some(Self(duration.as_secs())).filter(|span| span.0 >= 0).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// As it is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collection {
    /// Seconds between two collections that a server makes by itself.
    pub every: Option<i64>,
    /// The grace period, in seconds.
    pub grace: i64,
    /// Generations that can still be restored.
    pub keep: u32,
    /// Which tags end.
    pub rules: Vec<Rule>,
}

impl Collection {
    /// Checks what was written.
    ///
    /// # Errors
    /// [`Error::Config`] of what cannot be meant: a rule that names no repository, or keeps nothing.
    pub fn new(written: &Collecting) -> Result<Self> {
        let every = written.every.map(Span::seconds);
        if every == Some(0) {
            let why = "a server cannot collect without a pause";
            return Err(Error::Config { key: "gc.every", value: "0".to_owned(), why });
        }
        let rules = written.retention.iter().map(rule).collect::<Result<_>>()?;
        Ok(Self { every, grace: written.grace.seconds(), keep: written.keep, rules })
    }
}

fn rule(written: &Retention) -> Result<Rule> {
    let wrong = |value: String, why| Error::Config { key: "gc.retention", value, why };
    let patterns = |texts: &[String], why| -> Result<Vec<Pattern>> {
        texts.iter().map(|text| text.parse().map_err(|_| wrong(text.clone(), why))).collect()
    };
    let named = written.repositories.join(", ");
    if written.repositories.is_empty() {
        return Err(wrong("repositories".to_owned(), "a rule is of some repositories, as team/* or docker.io/**"));
    }
    let is_none = |span: Option<Span>| span.is_none_or(|span| span.0 == 0);
    if is_none(written.older_than)
        && is_none(written.pulled_within)
        && written.keep_last.is_none_or(|last| last == 0)
        && written.keep_tags.is_empty()
    {
        let why = "the rule keeps nothing: say older_than, keep_last, keep_tags or pulled_within";
        return Err(wrong(named, why));
    }
    // Of repositories, patterns may have more.
    if let Some(never) = written.keep_tags.iter().find(|text| text.contains(['/', ':', '[', ']'])) {
        return Err(wrong(never.clone(), "no tag can match it; a pattern of tags is as v* or latest"));
    }
    Ok(Rule {
        repositories: patterns(&written.repositories, "not a pattern of repositories, as docker.io/** or team/*")?,
        older_than: written.older_than.map(Span::seconds),
        keep_last: written.keep_last,
        keep_tags: patterns(&written.keep_tags, "not a pattern of tags, as v* or latest")?,
        pulled_within: written.pulled_within.map(Span::seconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let all = [("0", 0), ("90s", 90), ("30m", 1800), ("24h", 86400), ("7d", 604_800), ("2w", 1_209_600)];
        for (text, expected) in all {
            assert_eq!(text.parse(), Ok(Span(expected)), "{text}");
        }
        for text in ["", "5", "-1h", "1month", "soon", "99999999999999999d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_rule_names_something_and_keeps_something() {
        let rule =
            |retention: Retention| Collection::new(&Collecting { retention: vec![retention], ..Collecting::default() });
        let named = Retention { repositories: vec!["team/*".to_owned()], ..Retention::default() };
        let all = Retention { keep_last: Some(3), ..named.clone() };
        assert_eq!(rule(all.clone()).unwrap().rules[0].keep_last, Some(3));
        for wrong in [
            Retention::default(),
            named.clone(),
            Retention { repositories: Vec::new(), ..all.clone() },
            Retention { repositories: vec!["a//b".to_owned()], ..all.clone() },
            Retention { keep_tags: vec!["a,b".to_owned()], ..all.clone() },
            Retention { keep_tags: vec!["[".to_owned()], ..named.clone() },
            Retention { keep_tags: vec!["v1".to_owned(), "team/v*".to_owned()], ..all },
            Retention { keep_last: Some(0), ..named.clone() },
            Retention { older_than: Some(Span(0)), pulled_within: Some(Span(0)), ..named.clone() },
        ] {
            assert!(rule(wrong.clone()).is_err(), "{wrong:?}");
        }
        let always = Collecting { every: Some(Span(0)), ..Collecting::default() };
        assert!(Collection::new(&always).is_err());
    }
}
