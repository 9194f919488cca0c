//! podman, buildah, skopeo, CRI-O (containers/image): a `[[registry]]` for each upstream, since they know no wildcard
//! for everything. `*.io` would be one for many, but drops the host, and the site would answer with another upstream's
//! image of the same path.

use super::{Address, ConfigFile, Configuration, Site};

pub(super) fn configure(site: &Site) -> Configuration {
    let mut files = vec![ConfigFile::whole("/etc/containers/registries.conf.d/50-naru.conf", registries(site))];
    if let Some(pem) = &site.ca {
        for server in site.servers.iter().filter(|server| server.is_tls()) {
            let path = format!("/etc/containers/certs.d/{}/ca.crt", server.authority());
            files.push(ConfigFile::whole(path, pem.clone()));
        }
    }
    let notes = vec![
        "An upstream that is not named in the file is asked outside. When the site gets images of another one, write the \
         file again."
            .to_owned(),
        "Short names (`nginx`) are docker.io's here. A policy.json with rules for a registry still holds for it."
            .to_owned(),
        "CRI-O reads the same files: systemctl reload crio. skopeo reads them by itself where it reads \
         /etc/containers/registries.conf.d; elsewhere give it --registries-conf."
            .to_owned(),
    ];
    Configuration { files, notes, then: "podman pull IMAGE".to_owned() }
}

fn registries(site: &Site) -> String {
    let mut text = String::from(
        "# Pulls from the upstreams below come here. One that is not named here is asked outside.\nunqualified-search-registries = [\"docker.io\"]\n",
    );
    for host in site.upstreams() {
        let path = format!("/{}", spelling(host));
        text.push_str(&registry(site, host, &path));
    }
    text
}

/// How a host is written as part of a path. A colon cannot stand there, so a port is written `host_port`
/// (not containerd's `host_port_`: no part of a reference may end in `_`).
pub fn spelling(host: &str) -> String {
    host.replace(':', "_")
}

fn registry(site: &Site, prefix: &str, path: &str) -> String {
    let location = |server: &Address| {
        // Without it a registry is asked by TLS only; with it TLS is tried first, unchecked, and then plain HTTP.
        let insecure = if server.is_tls() { "" } else { "insecure = true\n" };
        format!("location = \"{}{path}\"\n{insecure}", server.authority())
    };
    let Some((first, others)) = site.servers.split_first() else { return String::new() };
    let mut text = format!("\n[[registry]]\nprefix = \"{prefix}\"\n{}", location(first));
    for server in others {
        text.push_str("[[registry.mirror]]\n");
        text.push_str(&location(server));
    }
    text
}
