//! containerd: one `hosts.toml` for every upstream where `_default` is known, a folder for each before that, and
//! `registry.mirrors` before there were `hosts.toml` files.

use std::fmt::Write as _;

use super::{ConfigFile, Configuration, Site, Version};

const FOLDER: &str = "/etc/containerd/certs.d";
const CONFIG: &str = "/etc/containerd/config.toml";

/// `_default` is looked for since here (backported from 1.7; 1.6.16 does not know it).
const DEFAULT_SINCE: Version = Version::new(1, 6, 17);
/// `hosts.toml` is good enough since here.
const HOSTS_SINCE: Version = Version::new(1, 6, 0);
/// The CRI plug-in has its new names since here.
const IMAGES_SINCE: Version = Version::new(2, 0, 0);
/// The CRI plug-in has its long name since here.
const LONG_NAME_SINCE: Version = Version::new(1, 3, 0);

pub(super) fn configure(site: &Site, version: Option<Version>) -> Configuration {
    let (mut files, mut notes) = match version {
        Some(version) if version < HOSTS_SINCE => mirrors(site, version),
        Some(version) if version < DEFAULT_SINCE => each(site, version),
        version => default(site, version),
    };
    if site.pause.is_none() && !site.unseen {
        notes.push(
            "The store has no pause image. Runtimes start no pod without theirs: put registry.k8s.io/pause, with the \
             tag that `crictl info` or `containerd config dump` names, into the packing list."
                .to_owned(),
        );
    }
    if version.is_none_or(|version| version >= HOSTS_SINCE) {
        notes.push(format!(
            "`ctr` does not read these files by itself: add `--hosts-dir {FOLDER}` to try them with it."
        ));
    }
    files.sort_by_key(|file| file.part);
    let image = site.pause.as_ref().map_or_else(|| "IMAGE".to_owned(), ToString::to_string);
    Configuration { files, notes, then: format!("systemctl restart containerd && crictl pull {image}") }
}

type Parts = (Vec<ConfigFile>, Vec<String>);

fn default(site: &Site, version: Option<Version>) -> Parts {
    let mut files = folder(site, "_default");
    let mut notes = Vec::new();
    if let Some(version) = version {
        files.push(config(site, version));
    } else {
        let of = |what: &str, version| {
            let mut file = config(site, version);
            file.text = format!("# containerd {what}\n{}", file.text);
            file
        };
        files.push(of("2.x", IMAGES_SINCE));
        files.push(of("1.6.17 to 1.7", DEFAULT_SINCE));
        notes.push(
            "Take the one of the two parts of config.toml that is for your containerd (`containerd --version`); \
             `--version` prints only that one."
                .to_owned(),
        );
    }
    notes.push(format!(
        "A folder of a host beats _default: a {FOLDER}/docker.io/hosts.toml that an installer left (Kubespray and \
         microk8s do) keeps docker.io on the outside. Look for them: ls {FOLDER}"
    ));
    notes.push(
        "_default takes every registry, a private one or localhost too: give those a folder with a hosts.toml of \
         their own."
            .to_owned(),
    );
    (files, notes)
}

fn each(site: &Site, version: Version) -> Parts {
    let mut files: Vec<_> = site.upstreams().into_iter().flat_map(|host| folder(site, host)).collect();
    files.push(config(site, version));
    let notes = vec![format!(
        "containerd {version} does not know _default: every upstream has a folder of its own, and one that is added \
         to the site later needs another."
    )];
    (files, notes)
}

/// A folder of `certs.d`.
///
/// Versions up to 1.6.39 and 1.7.31 ignore a file that has `server` and no `[host]`, silently, and go outside; so
/// both are there. The CA of `[host]` does not count for `server`. An address without TLS has no `ca` key at all:
/// with one, containerd asks it by HTTPS.
fn folder(site: &Site, name: &str) -> Vec<ConfigFile> {
    let folder = format!("{FOLDER}/{name}");
    let mut files = Vec::new();
    let certificate = site.ca.as_ref().map(|pem| {
        let path = format!("{folder}/ca.crt");
        files.push(ConfigFile::whole(path.clone(), pem.clone()));
        path
    });
    files.insert(0, ConfigFile::whole(format!("{folder}/hosts.toml"), hosts(site, certificate.as_deref())));
    files
}

/// The text of a `hosts.toml`, which dockerd 29 reads too.
pub(super) fn hosts(site: &Site, certificate: Option<&str>) -> String {
    let ca = |server: &super::Address, indent: &str| {
        certificate.filter(|_| server.is_tls()).map_or_else(String::new, |path| format!("{indent}ca = \"{path}\"\n"))
    };
    let mut text = String::from("# Every pull comes here; nothing goes outside.\n");
    if let Some(first) = site.servers.first() {
        let _ = write!(text, "server = \"{first}\"\n{}", ca(first, ""));
    }
    for server in &site.servers {
        let _ = write!(text, "\n[host.\"{server}\"]\n  capabilities = [\"pull\", \"resolve\"]\n{}", ca(server, "  "));
    }
    text
}

/// The part of `config.toml`: one explicit path. With containerd 2.2's default of two paths the transfer service
/// finds no `hosts.toml` at all (containerd issue 12636).
fn config(site: &Site, version: Version) -> ConfigFile {
    let (number, registry) = if version < IMAGES_SINCE {
        (2, "io.containerd.grpc.v1.cri\".registry")
    } else {
        (3, "io.containerd.cri.v1.images\".registry")
    };
    let mut text = format!("version = {number}\n\n[plugins.\"{registry}]\n  config_path = \"{FOLDER}\"\n");
    if let Some(pause) = &site.pause {
        let (table, key) = if version < IMAGES_SINCE {
            ("io.containerd.grpc.v1.cri\"", "sandbox_image")
        } else {
            ("io.containerd.cri.v1.images\".pinned_images", "sandbox")
        };
        let _ = write!(text, "\n[plugins.\"{table}]\n  {key} = \"{pause}\"\n");
    }
    ConfigFile::part(CONFIG, text)
}

/// 1.5 and older. An endpoint must have no path: only an empty one becomes `/v2`.
fn mirrors(site: &Site, version: Version) -> Parts {
    let (head, plugin) = if version < LONG_NAME_SINCE {
        ("", "plugins.cri")
    } else {
        ("version = 2\n\n", "plugins.\"io.containerd.grpc.v1.cri\"")
    };
    let endpoints: Vec<_> = site.servers.iter().map(|server| format!("\"{server}\"")).collect();
    let mut text = head.to_owned();
    if let Some(pause) = &site.pause {
        let _ = write!(text, "[{plugin}]\n  sandbox_image = \"{pause}\"\n\n");
    }
    let _ = write!(text, "[{plugin}.registry.mirrors.\"*\"]\n  endpoint = [{}]\n", endpoints.join(", "));
    let mut files = Vec::new();
    if let Some(pem) = &site.ca {
        let path = "/etc/containerd/naru-ca.crt";
        files.push(ConfigFile::whole(path, pem.clone()));
        for server in site.servers.iter().filter(|server| server.is_tls()) {
            let _ =
                write!(text, "\n[{plugin}.registry.configs.\"{}\".tls]\n  ca_file = \"{path}\"\n", server.authority());
        }
    }
    files.push(ConfigFile::part(CONFIG, text));
    let notes = vec![
        format!(
            "containerd {version} asks the upstream itself when the mirror has not what was asked for; this cannot be \
             forbidden by its configuration."
        ),
        "A mirror of a host's own name beats \"*\"; `mirrors` and `config_path` together keep the CRI plug-in from \
         loading."
            .to_owned(),
    ];
    (files, notes)
}
