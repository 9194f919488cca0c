//! Retention: which tags end by themselves.
//!
//! A tag ends when none of what its repository's rule keeps applies to it. What it named goes later, with the next
//! collection after the grace period. Tags that belong to a manifest (`sha256-…`, as cosign and the fallback of the
//! referrers API have them) end when their repository no longer shows it.

use artifact::{Digest, Pattern, Repository};
use sqlx::SqliteConnection;

use crate::read::repository_of;

/// What is kept of the tags of some repositories. Of the rules of a store the first that names a repository is its own;
/// where none does, every tag stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Repositories as they are shown, with their upstream's host.
    pub repositories: Vec<Pattern>,
    /// What was last pushed, pulled or loaded since, in seconds, stays.
    pub older_than: Option<i64>,
    /// So many of the newest tags stay.
    pub keep_last: Option<u32>,
    /// Tags that match one of these stay.
    pub keep_tags: Vec<Pattern>,
    /// What a client pulled within this, in seconds, stays.
    pub pulled_within: Option<i64>,
}

/// Why a tag ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nothing in its rule keeps it.
    Rule {
        /// When it was last pushed, or its upstream asked for it; in seconds since 1970.
        seen: i64,
        /// When a client last pulled what it names from here.
        pulled: Option<i64>,
    },
    /// It belongs to this manifest, which its repository shows no more.
    Without(Digest),
}

/// A tag that ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expired {
    pub(crate) repository: Repository,
    pub(crate) name: String,
    pub(crate) digest: Digest,
    pub(crate) seen: i64,
    pub(crate) why: Why,
}

/// A tag as rules look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tag {
    name: String,
    digest: Digest,
    seen: i64,
    /// 0: never.
    pulled: i64,
}

/// Repositories in one page.
const PAGE: i64 = 1000;

const REPOSITORIES: &str = "SELECT id, kind, host, name FROM repository WHERE kind = 'image' AND id > $1 \
    AND EXISTS (SELECT 1 FROM entry WHERE repository = id) ORDER BY id LIMIT $2";

/// Names that are digests are no tags.
const TAGS: &str = "SELECT entry.name, entry.digest, seen, coalesce(pulled, 0) FROM entry \
    LEFT JOIN repository_manifest AS granted ON granted.repository = entry.repository AND granted.digest = entry.digest \
    WHERE entry.repository = $1 AND instr(entry.name, ':') = 0 ORDER BY seen DESC, entry.name DESC";

/// The tags that end by these rules.
pub(crate) async fn expired(db: &mut SqliteConnection, rules: &[Rule], now: i64) -> sqlx::Result<Vec<Expired>> {
    let (mut expired, mut after) = (Vec::new(), 0);
    loop {
        let page: Vec<(i64, String, String, String)> =
            sqlx::query_as(REPOSITORIES).bind(after).bind(PAGE).fetch_all(&mut *db).await?;
        let Some(last) = page.last() else { return Ok(expired) };
        after = last.0;
        for (id, kind, host, name) in page {
            let Some(repository) = repository_of(&kind, host, name) else { continue };
            let shown = repository.to_string();
            let names = |rule: &&Rule| rule.repositories.iter().any(|pattern| pattern.matches(&shown));
            let Some(rule) = rules.iter().find(names) else { continue };
            for (tag, why) in of_repository(db, id, rule, now).await? {
                let Tag { name, digest, seen, .. } = tag;
                expired.push(Expired { repository: repository.clone(), name, digest, seen, why });
            }
        }
    }
}

async fn of_repository(db: &mut SqliteConnection, id: i64, rule: &Rule, now: i64) -> sqlx::Result<Vec<(Tag, Why)>> {
    let rows: Vec<(String, Vec<u8>, i64, i64)> = sqlx::query_as(TAGS).bind(id).fetch_all(&mut *db).await?;
    let tags = rows.into_iter().filter_map(|(name, digest, seen, pulled)| {
        Some(Tag { name, digest: Digest::from_bytes(&digest)?, seen, pulled })
    });
    let (attached, tags): (Vec<_>, Vec<_>) = tags.partition(|tag| subject_of(&tag.name).is_some());
    let mut expired = rule.apply(tags, now);
    for tag in attached {
        let Some(subject) = subject_of(&tag.name) else { continue };
        let shown: Option<i64> =
            sqlx::query_scalar("SELECT 1 FROM repository_manifest WHERE repository = $1 AND digest = $2")
                .bind(id)
                .bind(subject.as_bytes())
                .fetch_optional(&mut *db)
                .await?;
        if shown.is_none() {
            expired.push((tag, Why::Without(subject)));
        }
    }
    Ok(expired)
}

/// The manifest that a tag belongs to: `sha256-HEX`, `sha256-HEX.sig`.
fn subject_of(tag: &str) -> Option<Digest> {
    let (algorithm, rest) = tag.split_once('-')?;
    let hex = rest.split_once('.').map_or(rest, |(hex, _)| hex);
    format!("{algorithm}:{hex}").parse().ok()
}

impl Rule {
    /// Of a repository's tags, newest first, those that end.
    fn apply(&self, tags: Vec<Tag>, now: i64) -> Vec<(Tag, Why)> {
        let within = |time: i64, span: Option<i64>| span.is_some_and(|span| time > now.saturating_sub(span));
        let last = self.keep_last.map_or(0, |last| usize::try_from(last).unwrap_or(usize::MAX));
        let ends = |(place, tag): (usize, Tag)| {
            let stays = place < last
                || within(tag.seen, self.older_than)
                || within(tag.pulled, self.pulled_within)
                || self.keep_tags.iter().any(|pattern| pattern.matches(&tag.name));
            let why = Why::Rule { seen: tag.seen, pulled: Some(tag.pulled).filter(|pulled| *pulled > 0) };
            (!stays).then_some((tag, why))
        };
        tags.into_iter().enumerate().filter_map(ends).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn rule(text: &str) -> Rule {
        Rule {
            repositories: vec![text.parse().unwrap()],
            older_than: None,
            keep_last: None,
            keep_tags: Vec::new(),
            pulled_within: None,
        }
    }

    /// One tag a day, `v1` the oldest of ten; `v3` was pulled yesterday.
    fn ended(rule: &Rule) -> Vec<String> {
        let now = 1000 * DAY;
        let tag = |n: i64| Tag {
            name: format!("v{n}"),
            digest: Digest::of(n.to_string().as_bytes()),
            seen: now - (11 - n) * DAY,
            pulled: if n == 3 { now - DAY } else { 0 },
        };
        let tags = (1..=10).rev().map(tag).collect();
        rule.apply(tags, now).into_iter().map(|(tag, _)| tag.name).collect()
    }

    #[test]
    fn whatever_applies_keeps() {
        let all = rule("**");
        assert_eq!(ended(&Rule { keep_last: Some(8), ..all.clone() }), ["v2", "v1"]);
        assert_eq!(ended(&Rule { older_than: Some(8 * DAY + 1), ..all.clone() }), ["v2", "v1"]);
        let both = Rule { keep_last: Some(2), older_than: Some(8 * DAY + 1), ..all.clone() };
        assert_eq!(ended(&both), ["v2", "v1"]);
        let tags = Rule { keep_last: Some(8), keep_tags: vec!["*1".parse().unwrap()], ..all.clone() };
        assert_eq!(ended(&tags), ["v2"]);
        let pulled = Rule { keep_last: Some(6), pulled_within: Some(2 * DAY), ..all.clone() };
        assert_eq!(ended(&pulled), ["v4", "v2", "v1"]);
        assert_eq!(ended(&Rule { keep_last: Some(0), ..all }).len(), 10);
    }

    #[test]
    fn tags_that_belong_to_a_manifest() {
        let digest = Digest::of(b"x");
        for name in [format!("sha256-{}", digest.hex()), format!("sha256-{}.sig", digest.hex())] {
            assert_eq!(subject_of(&name), Some(digest), "{name}");
        }
        for name in ["v1", "sha256-1", "1-2.3", "latest", "sha256-.sig"] {
            assert_eq!(subject_of(name), None, "{name}");
        }
    }
}
