//! References: what a user writes for an image, normalised as Docker does it (`distribution/reference`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Digest, Repository};

/// `host/name[:tag][@digest]` with the host always there: `nginx` is `docker.io/library/nginx:latest`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    host: String,
    name: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// What was given is not a reference, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an image reference: {why}")]
pub struct InvalidReference {
    /// What was given, cut at 200 characters.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Reference {
    /// The upstream's host, normalised.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository's name at that host, as `library/nginx`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tag, when one was written (or stands for nothing written: `latest`).
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, when one was written.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Its repository.
    pub fn repository(&self) -> Repository {
        Repository::image(&self.host, &self.name)
    }

    /// What to ask a registry for: the digest where there is one, else the tag.
    pub fn target(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// The names under which its entry is kept: the tag, or the digest where no tag was written. A reference with
    /// both is kept under its tag; its digest answers as every manifest's does.
    pub fn entry_name(&self) -> String {
        match (&self.tag, &self.digest) {
            (Some(tag), _) => tag.clone(),
            (None, Some(digest)) => digest.to_string(),
            (None, None) => "latest".to_owned(),
        }
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let invalid = |why| InvalidReference { text: text.chars().take(200).collect(), why };
        if text.is_empty() {
            return Err(invalid("it is empty"));
        }
        if text.contains("://") {
            return Err(invalid("it is a URL; leave out the scheme"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.parse().map_err(|_| invalid("what follows `@` is not a digest"))?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (rest, tag) = match rest.rsplit_once(':') {
            Some((rest, tag)) if !tag.contains('/') => {
                if !valid_tag(tag) {
                    return Err(invalid("what follows `:` is not a tag"));
                }
                (rest, Some(tag.to_owned()))
            }
            _ => (rest, None),
        };
        let (host, name) = match rest.split_once('/') {
            Some((first, name)) if is_host(first) => {
                let host = normalise_host(first).ok_or_else(|| invalid("its first part is not a host"))?;
                // `ABC/x` names a host to docker, but written in lower case it would name docker.io/abc/x.
                if !is_host(&host) {
                    return Err(invalid(
                        "names of repositories are lower case, and a host without a dot needs its port",
                    ));
                }
                (host, name.to_owned())
            }
            _ => ("docker.io".to_owned(), rest.to_owned()),
        };
        let name = if host == "docker.io" && !name.contains('/') { format!("library/{name}") } else { name };
        if name.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(invalid("names of repositories are lower case"));
        }
        if !valid_name(&name) {
            return Err(invalid("its name has characters or parts that no repository has"));
        }
        let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
        Ok(Self { host, name, tag, digest })
    }
}

/// Docker's rule: the first part is a host when it has a dot or a colon, or is `localhost`.
fn is_host(part: &str) -> bool {
    part.contains(['.', ':']) || part == "localhost" || part.chars().any(|c| c.is_ascii_uppercase())
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest { write!(f, "@{digest}") } else { Ok(()) }
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A host in its one spelling: lower case, `:443` dropped (but kept by a host without a dot, which is told from a name by
/// it), Docker Hub's three names made `docker.io`. `None`: not a
/// host. The port of another is kept, since two ports are two upstreams.
pub fn normalise_host(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let (name, port) = match text.rsplit_once(':') {
        // An IPv6 literal keeps its brackets: `[::1]:5000`.
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (text.as_str(), None),
    };
    if let Some(port) = port {
        let number: u16 = port.parse().ok()?;
        if number == 0 || port.starts_with('0') || port.starts_with('+') {
            return None;
        }
    }
    let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let right = match literal {
        Some(literal) => literal.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !name.is_empty()
                && name.len() <= 253
                && name.split('.').all(|label| {
                    !label.is_empty()
                        && label.len() <= 63
                        && !label.starts_with('-')
                        && !label.ends_with('-')
                        && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                })
        }
    };
    if !right {
        return None;
    }
    let name = if matches!(name, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { name };
    Some(match port {
        None => name.to_owned(),
        Some("443") if is_host(name) => name.to_owned(),
        Some(port) => format!("{name}:{port}"),
    })
}

/// Whether this may be a repository's name (distribution spec, "Pulling manifests": `<name>`), at most 255 bytes.
pub fn valid_name(name: &str) -> bool {
    fn part(text: &str) -> bool {
        // [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*
        let bytes = text.as_bytes();
        let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if !bytes.first().is_some_and(alphanumeric) || !bytes.last().is_some_and(alphanumeric) {
            return false;
        }
        bytes
            .split(alphanumeric)
            .all(|between| matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|b| *b == b'-'))
    }
    name.len() <= 255 && name.split('/').all(part)
}

/// Whether this may be a tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
pub fn valid_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128 && tag.bytes().next().is_some_and(word) && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalised_as_docker_does() {
        for (text, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("grafana/grafana", "docker.io/grafana/grafana:latest"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("quay.io:443/a/b", "quay.io/a/b:latest"),
            ("localhost:5000/a", "localhost:5000/a:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("REGISTRY.K8S.IO/pause", "registry.k8s.io/pause:latest"),
            ("abc:443/x", "abc:443/x:latest"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), full);
        }
        let digest = Digest::of(b"x");
        let both: Reference = format!("a.io/b:1@{digest}").parse().unwrap();
        assert_eq!((both.tag(), both.digest()), (Some("1"), Some(&digest)));
        let only: Reference = format!("a.io/b@{digest}").parse().unwrap();
        assert_eq!((only.tag(), only.entry_name()), (None, digest.to_string()));
    }

    #[test]
    fn refuses_what_is_none() {
        for bad in [
            "",
            "/",
            "a:",
            ":a",
            "a/",
            "/a",
            "a//b",
            "https://a/b",
            "a@sha256:00",
            "a b",
            "a:b c",
            "a.io/B",
            "a.io/",
            "a.io/../b",
            "a.io/.b",
            "a.io/b_-c",
            "a.io:99999/b",
            "a..io/b",
            "a.io/b\n",
            "ABC/x",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_reads_the_same(text in "[a-zA-Z0-9./:@_\\-\\[\\] ]{0,80}") {
            if let Ok(reference) = text.parse::<Reference>() {
                assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
                assert!(reference.repository().check().is_ok());
            }
        }
    }
}
