//! dockerd: `registry-mirrors` stands for docker.io alone; since 29 its containerd image store reads `_default` too.

use super::{ConfigFile, Configuration, Site, Version, containerd};

/// dockerd's own file, as the command line names it by default.
pub(super) const DAEMON: &str = "/etc/docker/daemon.json";
/// `certs.d/_default/hosts.toml` is read since here, by the containerd image store.
const DEFAULT_SINCE: Version = Version::new(29, 0, 0);

pub(super) fn configure(site: &Site, version: Option<Version>) -> Configuration {
    let mut files = Vec::new();
    let mut notes = Vec::new();
    if let Some(pem) = &site.ca {
        for server in site.servers.iter().filter(|server| server.is_tls()) {
            // dockerd names the folder as the image's prefix or the mirror's URL has it.
            let path = format!("/etc/docker/certs.d/{}/ca.crt", server.authority());
            files.push(ConfigFile::whole(path, pem.clone()));
        }
    }
    if version.is_none_or(|version| version >= DEFAULT_SINCE) {
        let folder = "/etc/docker/certs.d/_default";
        let certificate = site.ca.as_ref().map(|pem| {
            let path = format!("{folder}/ca.crt");
            files.push(ConfigFile::whole(path.clone(), pem.clone()));
            path
        });
        files.push(ConfigFile::whole(format!("{folder}/hosts.toml"), containerd::hosts(site, certificate.as_deref())));
        notes.push(
            "docker 29 and later read certs.d/_default for every registry when images are kept by containerd \
             (`docker info`: driver-type io.containerd.snapshotter.v1); a folder of a host beats it."
                .to_owned(),
        );
    }
    if version.is_none_or(|version| version < DEFAULT_SINCE) {
        files.push(ConfigFile::part(DAEMON, daemon(site)));
        let server = site.servers.first().map(ToString::to_string).unwrap_or_default();
        let authority = server.split("://").last().unwrap_or_default();
        notes.push(format!(
            "docker up to 28 asks a mirror for docker.io only, and Docker Hub itself after it. Pull the rest by this \
             site's name: docker pull {authority}/registry.k8s.io/pause:3.10"
        ));
    }
    Configuration { files, notes, then: "systemctl restart docker && docker pull IMAGE".to_owned() }
}

fn daemon(site: &Site) -> String {
    let list = |values: &[String]| values.iter().map(|value| format!("\"{value}\"")).collect::<Vec<_>>().join(", ");
    let mirrors: Vec<_> = site.servers.iter().map(ToString::to_string).collect();
    let plain: Vec<_> =
        site.servers.iter().filter(|server| !server.is_tls()).map(|server| server.authority().to_owned()).collect();
    // A mirror's scheme is believed; images that are pulled by the site's own name need the second key.
    let insecure =
        if plain.is_empty() { String::new() } else { format!(",\n  \"insecure-registries\": [{}]", list(&plain)) };
    format!("{{\n  \"registry-mirrors\": [{}]{insecure}\n}}\n", list(&mirrors))
}
