//! Names to addresses, without the C library: in a static binary its own look-up loads the host's NSS modules, and
//! many hosts' modules crash it.
//!
//! `/etc/hosts` and `/etc/resolv.conf` are read here and nothing else is asked. Without a name server there, only
//! what the hosts file has and addresses themselves resolve; no public server is asked behind the user's back.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;

/// The one resolver. Cheap to clone; its cache is shared.
#[derive(Clone)]
pub struct Resolver {
    hosts: Arc<HashMap<String, Vec<IpAddr>>>,
    servers: Result<TokioResolver, Arc<str>>,
}

/// A name has no address that is known here.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unresolved {
    /// The name servers say that there is none.
    #[error("no address for `{0}`")]
    NoAddress(String),
    /// There is nobody to ask.
    #[error("`{name}` is not in /etc/hosts, and {why}")]
    NobodyToAsk {
        /// The name.
        name: String,
        /// What is wrong with `/etc/resolv.conf`.
        why: Arc<str>,
    },
    /// The name servers gave no answer.
    #[error("looking up `{name}`: {source}")]
    NoAnswer {
        /// The name.
        name: String,
        /// What the name servers did.
        #[source]
        source: NetError,
    },
}

impl Resolver {
    /// The system's: `/etc/hosts` and `/etc/resolv.conf`.
    pub fn system() -> Self {
        Self::from_files(Path::new("/etc/hosts"), Path::new("/etc/resolv.conf"))
    }

    fn from_files(hosts: &Path, servers: &Path) -> Self {
        let hosts = std::fs::read(hosts).map(|bytes| read_hosts(&String::from_utf8_lossy(&bytes))).unwrap_or_default();
        let servers = std::fs::read(servers)
            .map_err(|error| format!("{} cannot be read: {error}", servers.display()))
            .and_then(|bytes| {
                let (config, mut options) =
                    parse_resolv_conf(bytes).map_err(|error| format!("{}: {error}", servers.display()))?;
                // We have read it already, and it also knows names that the servers do not.
                options.use_hosts_file = ResolveHosts::Never;
                options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
                options.try_tcp_on_error = true;
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
                    .with_options(options)
                    .build()
                    .map_err(|error| error.to_string())
            })
            .map_err(Arc::from);
        Self { hosts: Arc::new(hosts), servers }
    }

    /// The addresses of a host name or address literal (an IPv6 one with or without its brackets). `localhost` and
    /// names under it are the loopback addresses, whatever anybody says (RFC 6761 §6.3).
    pub async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Unresolved> {
        if let Some(known) = self.known(name) {
            return Ok(known);
        }
        let servers = self
            .servers
            .as_ref()
            .map_err(|why| Unresolved::NobodyToAsk { name: name.to_owned(), why: Arc::clone(why) })?;
        match servers.lookup_ip(name).await {
            Ok(found) => {
                let addresses: Vec<IpAddr> = found.iter().collect();
                if addresses.is_empty() { Err(Unresolved::NoAddress(name.to_owned())) } else { Ok(addresses) }
            }
            Err(error) if error.is_no_records_found() => Err(Unresolved::NoAddress(name.to_owned())),
            Err(source) => Err(Unresolved::NoAnswer { name: name.to_owned(), source }),
        }
    }

    /// Whether a host is this machine itself, as far as can be told without asking anybody.
    pub(crate) fn is_loopback(&self, name: &str) -> bool {
        self.known(name).is_some_and(|addresses| !addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback))
    }

    /// What is known without asking anybody.
    fn known(&self, name: &str) -> Option<Vec<IpAddr>> {
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse() {
            return Some(vec![address]);
        }
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if name == "localhost" || name.ends_with(".localhost") {
            return Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        self.hosts.get(&name).cloned()
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl reqwest::dns::Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let addresses = resolver.addresses(name.as_str()).await?;
            // Port 0 stands for the URL's.
            let sockets = addresses.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(sockets) as reqwest::dns::Addrs)
        })
    }
}

/// hosts(5). hickory's own reader gives up on the whole file at the first byte that is not UTF-8.
fn read_hosts(text: &str) -> HashMap<String, Vec<IpAddr>> {
    let mut hosts: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else { continue };
        for name in words {
            let addresses = hosts.entry(name.trim_end_matches('.').to_ascii_lowercase()).or_default();
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolver(hosts: &str, servers: Option<&str>) -> Resolver {
        let folder = tempfile::tempdir().unwrap();
        let (hosts_file, servers_file) = (folder.path().join("hosts"), folder.path().join("resolv.conf"));
        std::fs::write(&hosts_file, hosts).unwrap();
        if let Some(text) = servers {
            std::fs::write(&servers_file, text).unwrap();
        }
        Resolver::from_files(&hosts_file, &servers_file)
    }

    #[tokio::test]
    async fn without_name_servers_only_the_hosts_file() {
        for servers in [None, Some(""), Some("search example.com\n")] {
            let resolver = resolver("10.0.0.7 Registry.Example r # mirror\n::1 six\nnonsense\n", servers);
            let found = resolver.addresses("registry.example").await.unwrap();
            assert_eq!(found, ["10.0.0.7".parse::<IpAddr>().unwrap()]);
            assert!(resolver.is_loopback("six") && !resolver.is_loopback("r"));
            let error = resolver.addresses("other.example").await.unwrap_err();
            assert!(matches!(error, Unresolved::NobodyToAsk { .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn localhost_is_loopback_whatever_the_hosts_file_says() {
        let resolver = resolver("203.0.113.1 localhost\n", None);
        for name in ["localhost", "LOCALHOST", "localhost.", "a.localhost", "127.0.0.1", "[::1]", "::1"] {
            assert!(resolver.is_loopback(name), "{name}");
            assert!(resolver.addresses(name).await.unwrap().iter().all(IpAddr::is_loopback), "{name}");
        }
        assert!(!resolver.is_loopback("notlocalhost") && !resolver.is_loopback("10.0.0.1"));
    }

    proptest::proptest! {
        #[test]
        fn any_hosts_file(text in ".{0,300}") {
            read_hosts(&text);
        }
    }
}
