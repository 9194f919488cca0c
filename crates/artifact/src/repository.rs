//! Repositories: named collections of one kind.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Kind, valid_name};

/// A repository's identity: kind, upstream host, name. Two upstreams with one path are two repositories.
///
/// Displays as `docker.io/library/nginx`; a local one (no host) as its bare name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Repository {
    /// What it is a collection of.
    pub kind: Kind,
    /// The upstream's host with its port where that is not 443, normalised ([`crate::normalise_host`]); empty: local.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// The name at that host, as `library/nginx`. Files have one repository a host, whose name is empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// The name or the host cannot be a repository's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the name of a repository")]
pub struct InvalidRepository(pub String);

impl Repository {
    /// An image repository.
    pub fn image(host: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind: Kind::Image, host: host.into(), name: name.into() }
    }

    /// The files of an upstream host; entries are paths.
    pub fn files(host: impl Into<String>) -> Self {
        Self { kind: Kind::File, host: host.into(), name: String::new() }
    }

    /// Whether this repository came from no upstream.
    pub fn is_local(&self) -> bool {
        self.host.is_empty()
    }

    /// Checks both parts; for what comes from outside (trees of a bundle, requests).
    ///
    /// # Errors
    /// When either part has characters or a shape that no repository of that kind has.
    pub fn check(self) -> Result<Self, InvalidRepository> {
        let host_is_right =
            self.host.is_empty() || crate::normalise_host(&self.host).is_some_and(|normal| normal == self.host);
        let name_is_right = match self.kind {
            Kind::File => self.name.is_empty() && !self.host.is_empty(),
            _ => valid_name(&self.name),
        };
        if host_is_right && name_is_right { Ok(self) } else { Err(InvalidRepository(self.to_string())) }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.host.as_str(), self.name.as_str()) {
            ("", name) => f.write_str(name),
            (host, "") => f.write_str(host),
            (host, name) => write!(f, "{host}/{name}"),
        }
    }
}
