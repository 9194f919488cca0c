//! `serve.yaml`: how the store is served. [`Config`] is as it was written, [`Settings`] as it is meant.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use artifact::{Pattern, normalise_host, valid_name};
use serde::Deserialize;
use upstream::{Surroundings, Upstreams};

use crate::collection::{Collecting, Collection};
use crate::proxy::Policies;
use crate::{Error, Result};

/// The server's configuration; flags of `naru serve` stand above it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where TLS and plain HTTP are spoken on one port (default `0.0.0.0:5000`; port 0: any free one).
    pub listen: SocketAddr,
    /// Where plain HTTP alone is spoken; for containerd's `http://` mirrors, which try TLS first.
    pub plain: Option<SocketAddr>,
    /// More names and addresses for the certificate: a Service's cluster IP, a name in DNS.
    pub san: Vec<String>,
    /// A PEM file with the certificate chain to use instead of one by the site's CA.
    pub cert: Option<PathBuf>,
    /// A PEM file with its key.
    pub key: Option<PathBuf>,
    /// Other names of an upstream: alias to host. Absent: `k8s.gcr.io` is `registry.k8s.io`.
    pub aliases: BTreeMap<String, String>,
    /// Path prefixes that some clients put before every name (`https://HOST/v2/NS` of Anthos).
    pub namespaces: Vec<String>,
    /// Whose name is meant when a client names no host and several have it; `local` is this server's own.
    pub order: Vec<String>,
    /// What anybody may read (default: everything).
    pub anonymous: Anonymous,
    /// A PEM file with the CA of clients' certificates; without it none is asked for.
    pub client_ca: Option<PathBuf>,
    /// Where a line for each change, refusal and load goes: a file, `-` for standard output, or `off` or `false` (default:
    /// `audit/audit.jsonl` in the store's folder).
    pub audit: Option<PathBuf>,
    /// Whether credentials are accepted over plain HTTP from other machines (default: no).
    pub plain_auth: bool,
    /// Where a line for each request goes: a file, or `-` for standard output (default: nowhere).
    pub access_log: Option<PathBuf>,
    /// How upstreams are reached, and which of them are asked for what is not here (`proxy`).
    pub upstreams: Upstreams,
    /// Opens no connection to any upstream, whatever `upstreams` says.
    pub offline: bool,
    /// What goes by itself, and when.
    pub gc: Collecting,
    /// Connections at a time (default 10 000).
    pub connections: usize,
    /// How long clients may take; no key of the file.
    #[serde(skip)]
    pub patience: Patience,
    /// What is outside of the file and counts for upstreams; no key of it.
    #[serde(skip)]
    pub surroundings: Surroundings,
}

/// What anybody may read: everything, nothing, or the repositories of some patterns.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "`anonymous` is true, false or a list of patterns, as [docker.io/**]")]
pub enum Anonymous {
    /// Everything or nothing.
    All(bool),
    /// As `docker.io/**`.
    Matching(Vec<String>),
}

impl From<bool> for Anonymous {
    fn from(all: bool) -> Self {
        Self::All(all)
    }
}

/// How long a client may keep its place without doing what it is there for. Tests have less of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Until the first byte, and for a TLS handshake.
    pub handshake: Duration,
    /// Until a request's headers are whole; also until a connection's next request.
    pub headers: Duration,
    /// Until the next byte of a request's body.
    pub body: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { handshake: Duration::from_secs(20), headers: Duration::from_secs(75), body: Duration::from_mins(1) }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 5000)),
            plain: None,
            san: Vec::new(),
            cert: None,
            key: None,
            aliases: BTreeMap::from([("k8s.gcr.io".to_owned(), "registry.k8s.io".to_owned())]),
            namespaces: Vec::new(),
            order: vec!["local".to_owned(), "docker.io".to_owned()],
            anonymous: true.into(),
            client_ca: None,
            audit: None,
            plain_auth: false,
            access_log: None,
            upstreams: Upstreams::default(),
            offline: false,
            gc: Collecting::default(),
            connections: 10_000,
            patience: Patience::default(),
            surroundings: Surroundings::default(),
        }
    }
}

/// What of the configuration each request asks; replaced whole by a reload.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Alias → host, both normalised.
    pub(crate) aliases: BTreeMap<String, String>,
    /// Each without slashes around it.
    pub(crate) namespaces: Vec<String>,
    /// Hosts; the local one is empty, as in [`artifact::Repository`].
    pub(crate) order: Vec<String>,
    /// What anybody may read.
    pub(crate) anonymous: Vec<Pattern>,
    pub(crate) plain_auth: bool,
    /// The server's own names with their ports, normalised.
    pub(crate) own: BTreeSet<String>,
    /// Who is asked for what is not here.
    pub(crate) upstreams: Policies,
    pub(crate) collection: Collection,
}

fn pattern(text: &str) -> Result<Pattern> {
    let wrong = |why| Error::Config { key: "anonymous", value: text.to_owned(), why };
    let pattern: Pattern =
        text.parse().map_err(|_| wrong("not a pattern of repositories, as docker.io/** or team/*"))?;
    pattern.why_never().map_or(Ok(pattern.clone()), |why| Err(wrong(why)))
}

impl Settings {
    /// Checks `config`. `names` are the host's own names and addresses, `ports` those it listens on.
    pub(crate) fn new(config: &Config, names: &[String], ports: &[u16]) -> Result<Self> {
        let host = |key, text: &str| {
            normalise_host(text).ok_or_else(|| Error::Config { key, value: text.to_owned(), why: "not a host" })
        };
        if config.connections == 0 {
            let why = "nobody could be served";
            return Err(Error::Config { key: "connections", value: "0".to_owned(), why });
        }
        let mut aliases = BTreeMap::new();
        for (alias, target) in &config.aliases {
            aliases.insert(host("aliases", alias)?, host("aliases", target)?);
        }
        let mut namespaces = Vec::new();
        for text in &config.namespaces {
            let namespace = text.trim_matches('/').to_owned();
            if !valid_name(&namespace) {
                return Err(Error::Config { key: "namespaces", value: text.clone(), why: "not a path prefix" });
            }
            namespaces.push(namespace);
        }
        let mut order = Vec::new();
        for text in &config.order {
            order.push(if text == "local" { String::new() } else { host("order", text)? });
        }
        let mut own = BTreeSet::new();
        for name in names {
            let bracketed = if name.contains(':') { format!("[{name}]") } else { name.clone() };
            for port in ports {
                own.extend(normalise_host(&format!("{bracketed}:{port}")));
            }
        }
        let is_offline = config.offline || config.surroundings.offline;
        let upstreams = config.upstreams.clone().checked()?;
        let upstreams = if is_offline { Policies::default() } else { Policies::new(&upstreams) };
        let anonymous = match &config.anonymous {
            Anonymous::All(true) => vec![Pattern::everything()],
            Anonymous::All(false) => Vec::new(),
            Anonymous::Matching(patterns) => patterns.iter().map(|text| pattern(text)).collect::<Result<_>>()?,
        };
        let (plain_auth, collection) = (config.plain_auth, Collection::new(&config.gc)?);
        Ok(Self { aliases, namespaces, order, anonymous, plain_auth, own, upstreams, collection })
    }

    /// The one name of a host.
    pub(crate) fn unalias(&self, host: String) -> String {
        self.aliases.get(&host).cloned().unwrap_or(host)
    }
}
