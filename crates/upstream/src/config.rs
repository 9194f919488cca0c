//! The `upstreams:` section: one struct, in the packing list and in the server's configuration alike.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use artifact::{Pattern, Platform, normalise_host};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::transport::host_of;
use crate::{Error, Result};

/// `upstreams:`, by host (`docker.io`, `localhost:5000`). For a server's proxy also by pattern: `*.io` stands for every
/// host below `io`, asked on 443 with the defaults alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Upstreams(pub BTreeMap<String, Upstream>);

/// How one upstream is reached.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    /// User name, where the credential files of docker and podman do not have it.
    pub username: Option<String>,
    /// Its password, as text. Prefer `password_file`.
    pub password: Option<String>,
    /// A file whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// A PEM file of CAs to trust for this host, beside the system's (or those of `SSL_CERT_FILE`).
    pub ca: Option<PathBuf>,
    /// A PEM file with the client's certificate chain.
    pub cert: Option<PathBuf>,
    /// A PEM file with its key.
    pub key: Option<PathBuf>,
    /// Any certificate will do, and plain HTTP where there is no TLS; credentials are sent all the same. A loopback
    /// address may be plain HTTP without this, but its certificate, if it has one, is checked.
    pub insecure: bool,
    /// Requests at a time (default 4). A download counts as one until its last byte.
    pub concurrency: Option<usize>,
    /// Where else its bytes may be had, first one first; the upstream itself comes last. A mirror's credentials, CA and
    /// leniency stand under the mirror's own host.
    pub mirrors: Vec<Mirror>,
    /// What a server does about what it has not; a packing list may leave it standing.
    pub proxy: Proxying,
    /// With `proxy: check`: so many seconds a tag is taken for what it was (default 300).
    pub recheck: Option<u64>,
    /// With `proxy`: of the requests that the upstream still allows (Docker Hub tells), so many are left to others
    /// (default 0). Below that nothing new is fetched, and tags stay what they are.
    pub budget: Option<u64>,
    /// With `proxy`: the platforms whose images are fetched (default: all). Indexes keep their bytes and digests.
    pub platforms: Vec<Platform>,
    /// With `proxy`: repositories that may be fetched, as `library/*` or `corp/**` (default: all).
    pub allow: Vec<Pattern>,
    /// With `proxy`: repositories that may not, whatever `allow` says.
    pub deny: Vec<Pattern>,
}

/// What a server does about what it has not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proxying {
    /// Nothing: it is not here.
    #[default]
    Off,
    /// Asks the upstream, once: a tag that is here stays what it is.
    OnMiss,
    /// Asks the upstream, and from time to time again what a tag is.
    Check,
}

/// A mirror of an upstream. The path of its URL tells its shape: none, and the mirror has everything under the
/// upstream's own paths (`https://mirror.example`); with one, an image is asked for under `/v2/PATH/NAME`
/// (`https://m.example/docker.io`) and a file under `/PATH/…` (`https://files.m.example/dl.k8s.io`).
///
/// What it hands out is believed only as far as a digest proves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// `https://mirror.example`, `https://m.example/docker.io`, `https://files.m.example/dl.k8s.io`.
    pub url: String,
    /// `mirror`: its word about a tag is believed when the origin cannot be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<MirrorTrust>,
}

/// How far a mirror is believed without proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MirrorTrust {
    /// About tags, when the origin cannot be reached.
    Mirror,
}

/// What surrounds the process: read by `cli` from the environment, so that libraries never touch it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Credential files of docker and podman, first one first; those that do not exist are skipped.
    pub credential_files: Vec<PathBuf>,
    /// A PEM bundle instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// `HTTPS_PROXY`.
    pub https_proxy: Option<String>,
    /// `HTTP_PROXY`.
    pub http_proxy: Option<String>,
    /// `NO_PROXY`.
    pub no_proxy: Option<String>,
    /// `NARU_OFFLINE`: refuse to open any connection.
    pub offline: bool,
}

// By hand, so that no log shows a password.
impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream")
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("password_file", &self.password_file)
            .field("ca", &self.ca)
            .field("cert", &self.cert)
            .field("key", &self.key)
            .field("insecure", &self.insecure)
            .field("concurrency", &self.concurrency)
            .field("mirrors", &self.mirrors)
            .field("proxy", &self.proxy)
            .finish_non_exhaustive()
    }
}

impl Upstreams {
    /// The section with its hosts in their one spelling, each checked.
    ///
    /// # Errors
    /// [`Error::Config`] with the key that cannot be meant.
    pub fn checked(self) -> Result<Self> {
        let mut by_host = BTreeMap::new();
        for (key, upstream) in self.0 {
            let wrong =
                |field: &str, why: &str| Error::Config { what: format!("upstreams.{key}{field}"), why: why.to_owned() };
            let host = match key.strip_prefix("*.") {
                // Credentials and leniency are for one host; a pattern is for whoever has a name below it.
                Some(_) if upstream.speaks_for_one() => {
                    return Err(wrong(
                        "",
                        "a pattern has no credentials, certificates, mirrors or leniency of its own",
                    ));
                }
                Some(below) => {
                    let below = normalise_host(below).filter(|below| !below.contains([':', '[', '*']));
                    format!("*.{}", below.ok_or_else(|| wrong("", "not a pattern of hosts, as `*.io`"))?)
                }
                None => normalise_host(&key).ok_or_else(|| wrong("", "not a host, as `registry.example:5000`"))?,
            };
            if upstream.cert.is_some() != upstream.key.is_some() {
                return Err(wrong("", "`cert` and `key` belong together"));
            }
            if upstream.password.is_some() && upstream.password_file.is_some() {
                return Err(wrong("", "give `password` or `password_file`, not both"));
            }
            if upstream.username.is_none() && (upstream.password.is_some() || upstream.password_file.is_some()) {
                return Err(wrong(".username", "missing beside the password"));
            }
            if upstream.username.is_some() && upstream.password.is_none() && upstream.password_file.is_none() {
                return Err(wrong(".password_file", "missing beside `username`"));
            }
            if upstream.concurrency == Some(0) {
                return Err(wrong(".concurrency", "at least 1"));
            }
            for mirror in &upstream.mirrors {
                mirror.address().map_err(|why| wrong(".mirrors", &format!("`{}`: {why}", mirror.url)))?;
            }
            if by_host.insert(host, upstream).is_some() {
                return Err(wrong("", "the same host stands here twice, in two spellings"));
            }
        }
        Ok(Self(by_host))
    }

    /// Sees relative paths of files from this folder.
    pub fn seen_from(&mut self, folder: &Path) {
        for upstream in self.0.values_mut() {
            for path in [&mut upstream.password_file, &mut upstream.ca, &mut upstream.cert, &mut upstream.key] {
                *path = path.take().map(|path| folder.join(path));
            }
        }
    }

    /// The hosts that its user named: upstreams and their mirrors.
    pub(crate) fn named(&self) -> HashSet<String> {
        let own = self.0.keys().filter(|host| !host.starts_with("*.")).cloned();
        let mirrors = self.0.values().flat_map(|upstream| &upstream.mirrors);
        own.chain(mirrors.filter_map(|mirror| Some(host_of(&mirror.address().ok()?)))).collect()
    }
}

impl Upstream {
    /// Whether something in it is meant for one host alone.
    fn speaks_for_one(&self) -> bool {
        let general = Self {
            proxy: self.proxy,
            recheck: self.recheck,
            budget: self.budget,
            platforms: self.platforms.clone(),
            allow: self.allow.clone(),
            deny: self.deny.clone(),
            concurrency: self.concurrency,
            ..Self::default()
        };
        *self != general
    }
}

impl Mirror {
    /// Its URL, read.
    pub(crate) fn address(&self) -> Result<Url, &'static str> {
        let url = Url::parse(&self.url).map_err(|_| "not a URL, as `https://mirror.example`")?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err("only https:// and http:// are known");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("credentials belong under the mirror's own host in `upstreams:`");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("a query has no meaning here");
        }
        Ok(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(host: &str, upstream: Upstream) -> String {
        Upstreams([(host.to_owned(), upstream)].into()).checked().unwrap_err().to_string()
    }

    #[test]
    fn one_spelling_of_hosts() {
        let two = Upstreams(
            [("docker.io".to_owned(), Upstream::default()), ("Index.Docker.IO".to_owned(), Upstream::default())].into(),
        );
        assert!(two.checked().unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn refuses_what_cannot_be_meant() {
        let mirror =
            |url: &str| Upstream { mirrors: vec![Mirror { url: url.to_owned(), trust: None }], ..Upstream::default() };
        assert!(refusal("https://a.example", Upstream::default()).contains("not a host"));
        assert!(refusal("a.example", mirror("m.example")).contains("not a URL"));
        assert!(refusal("a.example", mirror("ftp://m.example")).contains("only https"));
        assert!(refusal("a.example", mirror("https://u:p@m.example")).contains("credentials"));
        let username = Some("u".to_owned());
        assert!(refusal("a.example", Upstream { username, ..Upstream::default() }).contains("password_file"));
        let cert = Some("c".into());
        assert!(refusal("a.example", Upstream { cert, ..Upstream::default() }).contains("belong together"));
    }

    #[test]
    fn unknown_keys_and_words_are_refused() {
        let read = |text: &str| serde_json::from_str::<Upstreams>(text);
        let upstreams = read(r#"{"a.example":{"mirrors":[{"url":"https://m.example","trust":"mirror"}]}}"#).unwrap();
        assert_eq!(upstreams.0["a.example"].mirrors[0].trust, Some(MirrorTrust::Mirror));
        for bad in [
            r#"{"a.example":{"mirrors":[{"url":"https://m.example","trust":"always"}]}}"#,
            r#"{"a.example":{"mirrors":[{"url":"https://m.example","trusted":"mirror"}]}}"#,
            r#"{"a.example":{"user":"x"}}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_stand_for_hosts_and_have_nothing_secret() {
        let with = |key: &str, upstream: &str| {
            serde_json::from_str::<Upstreams>(&format!("{{\"{key}\":{upstream}}}")).unwrap().checked()
        };
        let checked = with("*.IO", r#"{"proxy":"on-miss","platforms":["linux/amd64"],"deny":["secret/**"]}"#).unwrap();
        assert_eq!(checked.0["*.io"].proxy, Proxying::OnMiss);
        assert!(checked.named().is_empty());
        for key in ["*.", "*.io:5000", "*.*.io", "*.[::1]"] {
            assert!(with(key, "{}").unwrap_err().to_string().contains("not a pattern"), "{key}");
        }
        for secret in [r#"{"username":"u"}"#, r#"{"insecure":true}"#, r#"{"mirrors":[{"url":"https://m.example"}]}"#] {
            assert!(with("*.io", secret).unwrap_err().to_string().contains("a pattern has no"), "{secret}");
        }
    }

    #[test]
    fn debug_shows_no_password() {
        let upstream = Upstream { password: Some("secret".to_owned()), ..Upstream::default() };
        assert!(!format!("{upstream:?}").contains("secret"));
    }
}
