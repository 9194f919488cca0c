//! Whom the proxy may ask for what: the section `upstreams:`, by host and by pattern.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use artifact::{Pattern, Platform};
use upstream::{Proxying, Upstreams};

/// So many seconds a tag is taken for what it was.
const RECHECK: u64 = 300;

/// What holds for one upstream, or for all of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Whether a tag that is here is asked for again.
    pub(crate) checks: bool,
    /// For how long it is not.
    pub(crate) recheck: Duration,
    /// Of the requests that the upstream allows, so many are left to others.
    pub(crate) budget: u64,
    /// Platforms whose images are fetched; all, where none is named.
    pub(crate) platforms: Vec<Platform>,
    allow: Vec<Pattern>,
    deny: Vec<Pattern>,
}

/// The upstreams that are asked for what is not here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policies {
    /// `None`: named, and not asked, whatever a pattern says.
    by_host: BTreeMap<String, Option<Arc<Policy>>>,
    /// `.io`, the longest one first.
    by_pattern: Vec<(String, Arc<Policy>)>,
}

impl Policies {
    /// Of a section whose hosts are in their one spelling.
    pub(crate) fn new(upstreams: &Upstreams) -> Self {
        let mut policies = Self::default();
        for (host, upstream) in &upstreams.0 {
            let policy = (upstream.proxy != Proxying::Off).then(|| {
                Arc::new(Policy {
                    checks: upstream.proxy == Proxying::Check,
                    recheck: Duration::from_secs(upstream.recheck.unwrap_or(RECHECK)),
                    budget: upstream.budget.unwrap_or_default(),
                    platforms: upstream.platforms.clone(),
                    allow: upstream.allow.clone(),
                    deny: upstream.deny.clone(),
                })
            });
            match (host.strip_prefix('*'), policy) {
                (Some(ending), Some(policy)) => policies.by_pattern.push((ending.to_owned(), policy)),
                (Some(_), None) => {}
                (None, policy) => drop(policies.by_host.insert(host.clone(), policy)),
            }
        }
        policies.by_pattern.sort_by_key(|(ending, _)| std::cmp::Reverse(ending.len()));
        policies
    }

    /// Whether nobody is asked for anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_pattern.is_empty() && self.by_host.values().all(Option::is_none)
    }

    /// What holds for a host, if it may be asked at all.
    pub(crate) fn of(&self, host: &str) -> Option<&Arc<Policy>> {
        if let Some(policy) = self.by_host.get(host) {
            return policy.as_ref();
        }
        let pattern = self.by_pattern.iter().find(|(ending, _)| host.ends_with(ending.as_str()));
        pattern.filter(|_| is_public_name(host)).map(|(_, policy)| policy)
    }

    /// Whether a host is named itself, and asked. A pattern is not enough to take a request's own `Host` for an upstream:
    /// it may be a name of this server that nobody told it.
    pub(crate) fn names(&self, host: &str) -> bool {
        self.by_host.get(host).is_some_and(Option::is_some)
    }

    /// The hosts and patterns that are asked, as they were written.
    pub(crate) fn shown(&self) -> impl Iterator<Item = String> {
        let hosts = self.by_host.iter().filter(|(_, policy)| policy.is_some()).map(|(host, _)| host.clone());
        hosts.chain(self.by_pattern.iter().map(|(ending, _)| format!("*{ending}")))
    }
}

impl Policy {
    /// Whether a repository of that name may be fetched.
    pub(crate) fn permits(&self, name: &str) -> bool {
        let is_one = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(name));
        (self.allow.is_empty() || is_one(&self.allow)) && !is_one(&self.deny)
    }

    /// Whether images for this platform are fetched.
    pub(crate) fn chooses(&self, platform: &Platform) -> bool {
        self.platforms.is_empty() || self.platforms.iter().any(|wanted| platform.serves(wanted))
    }
}

/// A name in the public tree of names, on the port of HTTPS: no address, in whatever spelling, and no single label.
fn is_public_name(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    !host.contains([':', '['])
        && host.contains('.')
        && host.split('.').all(|label| !label.is_empty())
        && last.starts_with(|c: char| c.is_ascii_alphabetic())
        && host.parse::<IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policies(text: &str) -> Policies {
        Policies::new(&serde_json::from_str::<Upstreams>(text).unwrap().checked().unwrap())
    }

    #[test]
    fn a_host_stands_above_patterns_and_long_patterns_above_short_ones() {
        let policies = policies(
            r#"{"docker.io":{"proxy":"check","recheck":7},"off.example.io":{},"10.0.0.1:5000":{"proxy":"on-miss"},
                "*.io":{"proxy":"on-miss"},"*.example.io":{"proxy":"check"},"*.dev":{}}"#,
        );
        assert_eq!(policies.of("docker.io").unwrap().recheck, Duration::from_secs(7));
        assert!(!policies.of("quay.io").unwrap().checks && policies.of("a.example.io").unwrap().checks);
        assert!(policies.of("10.0.0.1:5000").is_some(), "who is named may be an address");
        for host in ["off.example.io", "a.dev", "io", ".io", "quay.io:443", "quay.io:5000", "quay.example", ""] {
            assert!(policies.of(host).is_none(), "{host}");
        }
        assert!(policies.names("docker.io") && !policies.names("quay.io") && !policies.names("off.example.io"));
        assert_eq!(policies.shown().collect::<Vec<_>>(), ["10.0.0.1:5000", "docker.io", "*.example.io", "*.io"]);
    }

    #[test]
    fn no_pattern_means_an_address() {
        let policies = policies(r#"{"*.1":{"proxy":"on-miss"},"*.0.1":{"proxy":"on-miss"}}"#);
        for host in ["127.0.0.1", "127.1", "0x7f.1", "[::1]", "10.0.0.1", "a.0x1"] {
            assert!(policies.of(host).is_none(), "{host}");
        }
    }

    #[test]
    fn patterns_of_repositories() {
        let policy = |allow: &[&str], deny: &[&str]| Policy {
            checks: false,
            recheck: Duration::ZERO,
            budget: 0,
            platforms: Vec::new(),
            allow: allow.iter().map(|text| text.parse().unwrap()).collect(),
            deny: deny.iter().map(|text| text.parse().unwrap()).collect(),
        };
        assert!(policy(&[], &[]).permits("a/b"));
        assert!(policy(&["library/*"], &[]).permits("library/a") && !policy(&["library/*"], &[]).permits("corp/a"));
        assert!(!policy(&["library/*"], &["library/a"]).permits("library/a"));
    }
}
