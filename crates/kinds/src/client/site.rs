//! What a client must know of a site.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use artifact::{Reference, normalise_host};

use crate::Error;

/// The address of a server: scheme, host and port, and nothing that could end a string in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    tls: bool,
    authority: String,
}

impl Address {
    /// Whether clients speak TLS to it.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The host alone; an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        match self.authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => host,
            _ => &self.authority,
        }
    }

    /// `host:port`, or the host alone where the port is its scheme's.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |why| Error::Address { url: text.chars().take(200).collect(), why };
        let (tls, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            Some(_) => return Err(invalid("its scheme is neither https nor http")),
            None => return Err(invalid("it has no scheme")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest).to_ascii_lowercase();
        // A path would be given to containerd and docker in two different ways.
        if authority.contains('/') {
            return Err(invalid("it has a path"));
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority.as_str(), None),
        };
        let name = |host: &str| host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-');
        let bracketed = |host: &str| {
            host.strip_prefix('[')
                .and_then(|host| host.strip_suffix(']'))
                .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok())
        };
        if host.is_empty() || !(name(host) || bracketed(host)) {
            return Err(invalid("it has no host"));
        }
        if port.is_some_and(|port| port.parse::<u16>().map_or(true, |port| port == 0)) {
            return Err(invalid("its port is not a number from 1 to 65535"));
        }
        Ok(Self { tls, authority })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority)
    }
}

/// A sealed place, as its clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Where it is served, the preferred address first.
    pub(crate) servers: Vec<Address>,
    /// Its CA, when clients do not know it already: PEM.
    pub(crate) ca: Option<String>,
    /// The upstreams that it has images of, sorted.
    pub(crate) hosts: Vec<String>,
    /// The pause image that it has.
    pub(crate) pause: Option<Reference>,
    /// Whether what it has could not be looked at.
    pub(crate) unseen: bool,
}

impl Site {
    /// A site with at least one server.
    pub fn new(server: Address) -> Self {
        Self { servers: vec![server], ca: None, hosts: Vec::new(), pause: None, unseen: false }
    }

    /// Another server of the same site, tried when the ones before do not answer.
    #[must_use]
    pub fn server(mut self, server: Address) -> Self {
        if !self.servers.contains(&server) {
            self.servers.push(server);
        }
        self
    }

    /// The CA that signed the servers' certificates, as PEM. Of no use where no server speaks TLS.
    #[must_use]
    pub fn ca(mut self, pem: &str) -> Self {
        self.ca = self.servers.iter().any(Address::is_tls).then(|| format!("{}\n", pem.trim()));
        self
    }

    /// An upstream that the site has images of.
    ///
    /// # Errors
    /// [`Error::Host`].
    pub fn host(mut self, host: &str) -> Result<Self, Error> {
        let normal = normalise_host(host).ok_or_else(|| Error::Host(host.to_owned()))?;
        if let Err(place) = self.hosts.binary_search(&normal) {
            self.hosts.insert(place, normal);
        }
        Ok(self)
    }

    /// The pause (sandbox) image that the site has; without one runtimes start no pod.
    #[must_use]
    pub fn pause(mut self, image: Reference) -> Self {
        self.pause = Some(image);
        self
    }

    /// A site that does not show what it has: nothing is said of what it lacks.
    #[must_use]
    pub fn unseen(mut self) -> Self {
        self.unseen = true;
        self
    }

    /// The upstreams to write down, sorted: those that the site has images of, and the ones that everybody pulls from.
    /// Of these it may have none yet, and they are not to be asked outside either.
    pub(crate) fn upstreams(&self) -> Vec<&str> {
        const USUAL: [&str; 8] = [
            "docker.io",
            "gcr.io",
            "ghcr.io",
            "mcr.microsoft.com",
            "nvcr.io",
            "public.ecr.aws",
            "quay.io",
            "registry.k8s.io",
        ];
        let all: BTreeSet<_> = self.hosts.iter().map(String::as_str).chain(USUAL).collect();
        all.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_hold_no_surprise() {
        for (good, authority) in [
            ("https://10.0.0.5:5000", "10.0.0.5:5000"),
            ("https://Naru.Example/", "naru.example"),
            ("http://mirror", "mirror"),
            ("https://[fd00::1]:5000", "[fd00::1]:5000"),
            ("https://[fd00::1]", "[fd00::1]"),
        ] {
            assert_eq!(good.parse::<Address>().unwrap().authority(), authority);
        }
        for bad in [
            "",
            "10.0.0.5:5000",
            "ftp://a",
            "https://",
            "https://a/b",
            "https://a:0",
            "https://a:70000",
            "https://a\"b",
            "https://a b",
            "https://user@a",
            "https://[x]",
            "https://a\n",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn an_address_cannot_leave_its_quotes(text in "https://.{0,30}") {
            if let Ok(address) = text.parse::<Address>() {
                let text = address.to_string();
                proptest::prop_assert!(!text.contains(['"', '\\', '\n', ' ', '#', '\'']));
            }
        }
    }
}
