//! The `upstreams:` section: one struct, in the packing list and in the server's configuration alike.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `upstreams:`, by host (`docker.io`, `localhost:5000`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Upstreams(pub BTreeMap<String, Upstream>);

/// How one upstream is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    /// User name, where the credential files of docker and podman do not have it.
    pub username: Option<String>,
    /// Its password, as text. Prefer `password_file`.
    pub password: Option<String>,
    /// A file whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// A PEM file of CAs to trust for this host, beside the system's.
    pub ca: Option<PathBuf>,
    /// A PEM file with the client's certificate chain.
    pub cert: Option<PathBuf>,
    /// A PEM file with its key.
    pub key: Option<PathBuf>,
    /// Plain HTTP, or TLS that is not checked.
    pub insecure: bool,
    /// Requests at a time (default 4).
    pub concurrency: Option<usize>,
    /// Where else its bytes may be had, first one first.
    pub mirrors: Vec<Mirror>,
}

/// A mirror of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// `https://mirror.example`, `https://m.example/docker.io`, `https://files.m.example/dl.k8s.io`.
    pub url: String,
    /// `mirror`: its word about a tag is believed when the origin cannot be reached.
    #[serde(default)]
    pub trust: Option<String>,
}

/// The three shapes of mirror in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorShape {
    /// Another host, same paths.
    Host,
    /// Another host with a path prefix, as company proxies have (`m.example/docker.io/…`).
    Prefix,
    /// A files host with the origin's domain as first segment.
    Files,
}

/// What surrounds the process: read by `cli` from the environment, so that libraries never touch it.
#[derive(Clone, Debug, Default)]
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
    /// `NARU_OFFLINE` or `--offline`: refuse to open any connection.
    pub offline: bool,
}
