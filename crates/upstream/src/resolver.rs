//! Names to addresses, without the C library: in a static binary its own look-up loads the host's NSS modules, and
//! many hosts' modules crash it.
//!
//! `/etc/hosts` and `/etc/resolv.conf` are read here and nothing else is asked. Without a name server there, only
//! what the hosts file has and addresses themselves resolve; no public server is asked behind the user's back.

use std::collections::{HashMap, HashSet};
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
    /// It has addresses, and they are not for others.
    #[error("`{0}` is at an address of this machine or of a private network")]
    Private(String),
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

/// A resolver for names that others brought up: it knows public addresses alone. The address that is dialled is the one
/// that was looked at here, so nobody can give another one in between.
#[derive(Clone, Debug)]
pub(crate) struct Guarded {
    resolver: Resolver,
    /// Our own way out may be private.
    exempt: Arc<HashSet<String>>,
}

impl Guarded {
    pub(crate) fn new(resolver: Resolver, exempt: HashSet<String>) -> Self {
        Self { resolver, exempt: Arc::new(exempt) }
    }
}

impl reqwest::dns::Resolve for Guarded {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let Self { resolver, exempt } = self.clone();
        Box::pin(async move {
            let mut addresses = resolver.addresses(name.as_str()).await?;
            if !exempt.contains(name.as_str()) {
                addresses.retain(|address| is_public(*address));
            }
            if addresses.is_empty() {
                return Err(Unresolved::Private(name.as_str().to_owned()).into());
            }
            let sockets = addresses.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(sockets) as reqwest::dns::Addrs)
        })
    }
}

/// Whether an address is one of the public Internet (the IANA registries of special-purpose addresses, RFC 6890).
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            !(matches!(a, 0 | 10 | 127 | 224..)
                || (a == 100 && (64..128).contains(&b))
                || (a == 169 && b == 254)
                || (a == 172 && (16..32).contains(&b))
                || (a == 192 && b == 168)
                || (a == 192 && b == 0 && matches!(c, 0 | 2))
                || (a == 198 && matches!(b, 18 | 19))
                || (a == 198 && b == 51 && c == 100)
                || (a == 203 && b == 0 && c == 113))
        }
        IpAddr::V6(address) => {
            let [first, second, ..] = address.segments();
            let [.., seventh, eighth] = address.segments();
            let last = || {
                let ([a, b], [c, d]) = (seventh.to_be_bytes(), eighth.to_be_bytes());
                Ipv4Addr::new(a, b, c, d)
            };
            if let Some(mapped) = address.to_ipv4_mapped() {
                return is_public(mapped.into());
            }
            match (first, second) {
                // NAT64 (RFC 6052) and 6to4 (RFC 3056) have an IPv4 address inside.
                (0x64, 0xff9b) => is_public(last().into()),
                (0x2002 | 0x3fff, _) | (0x2001, 0..=0x1ff | 0xdb8) => false,
                // Of all others only 2000::/3 is given out.
                _ => first & 0xe000 == 0x2000,
            }
        }
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

    #[test]
    fn addresses_that_are_not_for_others() {
        for private in [
            "127.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "192.0.2.1",
            "198.18.0.1",
            "203.0.113.9",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "fec0::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in
            ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]
        {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

    #[tokio::test]
    async fn what_others_name_is_at_public_addresses_alone() {
        use reqwest::dns::Resolve as _;
        let hosts = "127.0.0.1 inside.example\n10.0.0.1 rebound.example\n8.8.8.8 rebound.example outside.example\n10.9.9.9 way.example\n";
        let guarded = Guarded::new(resolver(hosts, None), ["way.example".to_owned()].into());
        let ask = async |name: &str| -> Result<Vec<IpAddr>, String> {
            let name = name.parse().unwrap();
            let found = guarded.resolve(name).await.map_err(|error| error.to_string())?;
            Ok(found.map(|socket| socket.ip()).collect())
        };
        assert!(ask("inside.example").await.unwrap_err().contains("private network"));
        assert!(ask("localhost").await.is_err() && ask("a.localhost").await.is_err());
        // Whoever gives both a public and a private address is reached at the public one.
        for name in ["rebound.example", "outside.example"] {
            assert_eq!(ask(name).await.unwrap(), ["8.8.8.8".parse::<IpAddr>().unwrap()], "{name}");
        }
        assert!(ask("way.example").await.is_ok());
    }

    proptest::proptest! {
        #[test]
        fn any_hosts_file(text in ".{0,300}") {
            read_hosts(&text);
        }
    }
}
