//! The host's own names and addresses, read from /proc: the C library's look-ups would load the host's NSS modules.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use artifact::normalise_host;

use crate::{Config, Error, Result};

/// Addresses in a certificate; a node of a big cluster has thousands of them on virtual interfaces.
const MOST: usize = 200;
/// Addresses that nobody has (RFC 5737, RFC 3849): only a default route leads there.
const DOCUMENTATION: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// Names and addresses that the certificate is for, and that mean this server when a client names a host.
pub(crate) fn names(config: &Config) -> Result<Vec<String>> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    for text in &config.san {
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        let is_name = || normalise_host(text).is_some() && !text.contains(':');
        // A wildcard is a certificate's, not a host's.
        let is_wildcard = || text.strip_prefix("*.").and_then(normalise_host).is_some();
        if bare.parse::<IpAddr>().is_err() && !is_name() && !is_wildcard() {
            return Err(Error::Config { key: "san", value: text.clone(), why: "neither a host's name nor an address" });
        }
        names.push(bare.to_ascii_lowercase());
    }
    names.extend(hostname());
    names.extend(
        [Some(config.listen), config.plain]
            .into_iter()
            .flatten()
            .map(ip)
            .filter(|ip| !ip.is_unspecified())
            .map(|ip| ip.to_string()),
    );
    names.extend(addresses().iter().take(MOST).map(ToString::to_string));
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    Ok(names)
}

fn ip(address: SocketAddr) -> IpAddr {
    address.ip()
}

fn hostname() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    normalise_host(text.trim()).filter(|name| !name.contains(':'))
}

/// The address by which others reach this machine: the one it goes out by, and without a default route its first; of
/// the family of `listening` where there is one.
pub(crate) fn outside(listening: IpAddr) -> Option<IpAddr> {
    let addresses = addresses();
    let same = addresses.iter().find(|address| address.is_ipv4() == listening.is_ipv4());
    // What listens on `::` is reached by either.
    same.filter(|_| listening.is_ipv4())
        .or_else(|| addresses.iter().find(|address| address.is_ipv4()))
        .or(same)
        .copied()
}

/// Every address of every interface, loopback's and link-local ones left out; first those that the machine goes out by,
/// since a bridge of containers may sort before them.
fn addresses() -> Vec<IpAddr> {
    let found = of_interfaces();
    let first = DOCUMENTATION.iter().filter_map(|address| of_route_to(*address)).filter(|ip| found.contains(ip));
    let first: Vec<IpAddr> = first.collect();
    let rest = found.iter().filter(|ip| !first.contains(ip)).copied().collect::<Vec<_>>();
    [first, rest].concat()
}

/// By which of its addresses this machine would go to `address`. Connecting UDP asks the routes, and sends nothing.
fn of_route_to(address: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((address, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn of_interfaces() -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    if let Ok(text) = fs::read_to_string("/proc/net/fib_trie") {
        found.extend(of_fib_trie(&text).map(IpAddr::V4));
    }
    if let Ok(text) = fs::read_to_string("/proc/net/if_inet6") {
        found.extend(of_if_inet6(&text).map(IpAddr::V6));
    }
    found.retain(|address| match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    });
    found
}

/// An address stands in one line (`|-- 10.0.0.5`), what it is in the next (`/32 host LOCAL`).
fn of_fib_trie(text: &str) -> impl Iterator<Item = Ipv4Addr> + '_ {
    text.lines().zip(text.lines().skip(1)).filter_map(|(line, next)| {
        let address = line.trim().strip_prefix("|-- ")?.parse().ok()?;
        (next.trim() == "/32 host LOCAL").then_some(address)
    })
}

/// The address is the first column, 32 hex digits.
fn of_if_inet6(text: &str) -> impl Iterator<Item = Ipv6Addr> + '_ {
    text.lines().filter_map(|line| {
        let first = line.split_whitespace().next().filter(|text| text.len() == 32)?;
        u128::from_str_radix(first, 16).ok().map(Ipv6Addr::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_kernel_writes_them() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     +-- 10.0.0.0/24 2 0 2\n        |-- 10.0.0.0\n           /24 link UNICAST\n        |-- 10.0.0.5\n           /32 host LOCAL\n        |-- 10.0.0.255\n           /32 link BROADCAST\n";
        assert_eq!(of_fib_trie(trie).collect::<Vec<_>>(), ["10.0.0.5".parse::<Ipv4Addr>().unwrap()]);
        let inet6 = "fd000000000000000000000000000001 02 40 00 80     eth0\nx\n";
        assert_eq!(of_if_inet6(inet6).collect::<Vec<_>>(), ["fd00::1".parse::<Ipv6Addr>().unwrap()]);
    }

    #[test]
    fn what_the_user_adds() {
        let with = |san: &str| names(&Config { san: vec![san.to_owned()], ..Config::default() });
        for good in ["naru.corp", "10.96.0.50", "fd00::5", "[fd00::5]", "*.corp"] {
            let bare = good.trim_matches(['[', ']']);
            assert!(with(good).unwrap().iter().any(|name| name == bare), "{good}");
        }
        for bad in ["", "a b", "https://x", "x:5000", "*"] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }
}
