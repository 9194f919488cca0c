//! What on a client keeps pulls from the site although its files are as they should be: configuration that beats them,
//! and proxies that stand between.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use kinds::client::{Client, Configuration, check_toml};
use serde_json::Value;

use super::apply::Machine;

/// Names it, a sentence each. `servers` are the site's hosts, without ports.
pub(super) fn look(client: Client, files: &Configuration, servers: &[String], machine: &Machine) -> Vec<String> {
    let mut found = match client {
        Client::Containerd => containerd(files, machine),
        Client::Docker => docker(files, machine),
        Client::Podman => podman(files, machine),
    };
    found.extend(proxies(client, servers, machine));
    found
}

/// The files of a folder, sorted; none where there is no folder.
fn listed(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn text(path: &Path) -> String {
    // What is no file, or larger than any configuration, says nothing.
    let small = fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() <= 1 << 20);
    small.then(|| fs::read(path).ok()).flatten().map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}

/// Lines that are no comments.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']) && !line.is_empty())
}

/// Folders of hosts beside `_default`. An empty one, or one that has only a `ca.crt`, beats it too.
fn hosts(folder: &str, files: &Configuration, machine: &Machine) -> Vec<String> {
    let is_ours = |path: &Path| files.files.iter().any(|file| machine.at(&file.path).parent() == Some(path));
    if !files.files.iter().any(|file| file.path == format!("{folder}/_default/hosts.toml")) {
        return Vec::new();
    }
    let shadows = listed(&machine.at(folder)).into_iter().filter(|host| host.is_dir() && !is_ours(host));
    let named = shadows.map(|host| match host.join("hosts.toml") {
        path if path.is_file() => {
            format!("{} beats _default: its host's images come from where it says", path.display())
        }
        _ => format!("{} beats _default, and has no hosts.toml: its host is asked itself", host.display()),
    });
    named.collect()
}

fn containerd(files: &Configuration, machine: &Machine) -> Vec<String> {
    let mut found = hosts("/etc/containerd/certs.d", files, machine);
    let main = machine.at("/etc/containerd/config.toml");
    let main_text = text(&main);
    if lines(&main_text).any(|line| line.starts_with("disabled_plugins") && line.contains("cri\"")) {
        found.push(format!("{} disables the CRI plug-in: no kubelet can use this containerd", main.display()));
    }
    // Since 2.x conf.d is read by itself; before, what `imports` names.
    let imports = lines(&main_text).filter(|line| line.starts_with("imports")).flat_map(|line| line.split(['"', '\'']));
    let imported = imports.filter(|name| name.starts_with('/')).flat_map(|name| match name.strip_suffix("/*.toml") {
        Some(folder) => listed(&machine.at(folder)),
        None => vec![machine.at(name)],
    });
    let mut parts = listed(&machine.at("/etc/containerd/conf.d"));
    parts.extend(imported);
    parts.sort();
    parts.dedup();
    for path in parts.into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "toml")) {
        let text = text(&path);
        let names = |line: &str| line.contains(".registry") || line.starts_with("config_path");
        if lines(&text).any(names) {
            found.push(format!("{} is read after config.toml, and configures registries too", path.display()));
        }
    }
    found
}

fn docker(files: &Configuration, machine: &Machine) -> Vec<String> {
    let mut found = hosts("/etc/docker/certs.d", files, machine);
    for path in units("docker", machine) {
        let text = text(&path);
        // dockerd does not start when a flag and its file say the same thing.
        for flag in ["--registry-mirror", "--insecure-registry"] {
            if lines(&text).any(|line| line.contains(flag)) {
                found.push(format!(
                    "{} gives {flag}: dockerd takes it there or in daemon.json, not both",
                    path.display()
                ));
            }
        }
    }
    found
}

/// The prefixes that a registries.conf has rules for.
fn prefixes(text: &str) -> Vec<String> {
    let mut all: Vec<(Option<String>, Option<String>)> = Vec::new();
    let mut within = false;
    for line in lines(text) {
        if line.starts_with('[') {
            within = line.starts_with("[[registry]]");
            if within {
                all.push((None, None));
            }
        } else if let (true, Some((key, value)), Some(last)) = (within, line.split_once('='), all.last_mut()) {
            let value = value.split(['"', '\'']).nth(1).map(str::to_owned);
            match key.trim() {
                "prefix" => last.0 = value,
                "location" => last.1 = value,
                _ => {}
            }
        }
    }
    all.into_iter().filter_map(|(prefix, location)| prefix.filter(|text| !text.is_empty()).or(location)).collect()
}

fn podman(files: &Configuration, machine: &Machine) -> Vec<String> {
    let mut found = Vec::new();
    let Some(own) = files.files.iter().find(|file| file.path.ends_with("50-naru.conf")) else { return found };
    let hosts = prefixes(&own.text);
    let own = machine.at(&own.path);
    let main = machine.at("/etc/containers/registries.conf");
    if lines(&text(&main)).any(|line| line.starts_with("[registries.")) {
        found.push(format!("{} is of the old form (version 1), which no drop-in may stand beside", main.display()));
    }
    let drop_ins = listed(&machine.at("/etc/containers/registries.conf.d"));
    let drop_ins = drop_ins.iter().filter(|path| path.extension().is_some_and(|end| end == "conf"));
    // What is there under the own file's name is shown as what changes.
    for path in drop_ins.chain([&main]).filter(|path| **path != own) {
        let text = text(path);
        if let Err(error) = check_toml(&path.display().to_string(), &text) {
            found.push(format!("{error}; no client can read its registries while this one is broken"));
        }
        for prefix in prefixes(&text) {
            // The longest prefix wins; of two that are the same, that of the later file.
            let is_longer =
                |host: &String| prefix.strip_prefix(host.as_str()).is_some_and(|rest| rest.starts_with('/'));
            let is_new = !prefix.contains('/') && !prefix.starts_with("*.") && !hosts.contains(&prefix);
            let is_later = hosts.contains(&prefix) && *path != main && *path > own;
            if is_later || is_new || hosts.iter().any(is_longer) {
                found.push(format!("{} has a rule for {prefix}, which beats the site's", path.display()));
            }
        }
    }
    let homes = listed(&machine.at("/home")).into_iter().chain([machine.at("/root")]);
    for home in homes {
        let folder = home.join(".config/containers");
        let whole = folder.join("registries.conf");
        if whole.is_file() {
            found.push(format!("{} takes the place of the system's files for its user", whole.display()));
        }
        let parts = listed(&folder.join("registries.conf.d"));
        if let Some(path) = parts.iter().find(|path| path.extension().is_some_and(|end| end == "conf")) {
            found.push(format!("{} takes the place of the system's drop-ins for its user", path.display()));
        }
    }
    found
}

/// A service's unit, its drop-ins, what systemd gives every service, and the environment files that distributions have.
fn units(service: &str, machine: &Machine) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for folder in ["/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"] {
        let unit = machine.at(&format!("{folder}/{service}.service"));
        paths.extend(listed(&unit.with_extension("service.d")));
        paths.push(unit);
    }
    paths.push(machine.at("/etc/systemd/system.conf"));
    paths.extend(listed(&machine.at("/etc/systemd/system.conf.d")));
    paths.extend(["default", "sysconfig"].map(|folder| machine.at(&format!("/etc/{folder}/{service}"))));
    paths.retain(|path| path.is_file());
    paths
}

/// Variables of a unit (`Environment=`), of all units (`DefaultEnvironment=`), of a file of them, of a script that exports
/// them.
fn variables(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in lines(text) {
        let starts = ["Environment=", "DefaultEnvironment=", "export "];
        let line = starts.iter().find_map(|start| line.strip_prefix(start)).unwrap_or(line);
        let words = if line.starts_with(['"', '\'']) { line.split(['"', '\'']).collect() } else { vec![line] };
        for word in words.iter().flat_map(|word| if words.len() > 1 { vec![*word] } else { word.split(' ').collect() })
        {
            if let Some((name, value)) = word.split_once('=') {
                found.insert(name.trim().to_ascii_lowercase(), value.trim_matches(['"', '\'']).to_owned());
            }
        }
    }
    found
}

/// What of a runtime's environment sends its requests to a proxy.
fn proxies(client: Client, servers: &[String], machine: &Machine) -> Vec<String> {
    let mut found = Vec::new();
    let service = match client {
        Client::Containerd => "containerd",
        Client::Docker => "docker",
        Client::Podman => "crio",
    };
    // A drop-in may give the proxy and another the exceptions: they count together.
    let mut together = BTreeMap::new();
    let mut from = Vec::new();
    let paths = units(service, machine).into_iter().chain([machine.at("/etc/environment")]);
    for path in paths {
        let own = variables(&text(&path));
        if own.keys().any(|name| name.ends_with("_proxy")) {
            from.push(path.display().to_string());
            together.extend(own);
        }
    }
    if client == Client::Docker {
        let daemon = machine.at("/etc/docker/daemon.json");
        let own = of_daemon(&text(&daemon));
        if !own.is_empty() {
            from.push(daemon.display().to_string());
            together.extend(own);
        }
    }
    found.extend(between(&together, servers).map(|why| format!("{}: {why}", from.join(", "))));
    if machine.is_this() {
        for (id, environment) in running(if client == Client::Docker { "dockerd" } else { service }) {
            let why = between(&environment, servers);
            found.extend(why.map(|why| format!("the {service} that runs (process {id}): {why}")));
        }
    }
    found
}

/// The `proxies` of a `daemon.json` (`http-proxy`, `https-proxy`, `no-proxy`), by the variables' names.
fn of_daemon(text: &str) -> BTreeMap<String, String> {
    let daemon: Value = serde_json::from_str(text).unwrap_or_default();
    let named = daemon.get("proxies").and_then(Value::as_object).into_iter().flatten();
    named.filter_map(|(name, value)| Some((name.replace('-', "_"), value.as_str()?.to_owned()))).collect()
}

/// The environments of a program's processes, as far as they may be read.
fn running(program: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut found = Vec::new();
    for process in listed(Path::new("/proc")) {
        let is_it = fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim() == program);
        let Some(id) = process.file_name().and_then(|name| name.to_str()).filter(|_| is_it) else { continue };
        let Ok(bytes) = fs::read(process.join("environ")) else { continue };
        let text = String::from_utf8_lossy(&bytes);
        let variables = text.split('\0').filter_map(|word| word.split_once('='));
        let variables = variables.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
        found.push((id.to_owned(), variables.collect()));
    }
    found
}

/// Why requests to a server would go to a proxy.
fn between(environment: &BTreeMap<String, String>, servers: &[String]) -> Option<String> {
    let given = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    let proxy = ["https_proxy", "http_proxy", "all_proxy"].into_iter().find(|name| given(name).is_some())?;
    let exceptions = given("no_proxy").map_or("", String::as_str);
    let caught: Vec<_> = servers.iter().filter(|server| !is_excepted(server, exceptions)).cloned().collect();
    let name = proxy.to_ascii_uppercase();
    (!caught.is_empty()).then(|| format!("{name} is set, and NO_PROXY does not name {}", caught.join(", ")))
}

/// As Go's `httpproxy` reads `NO_PROXY`: names with all below them, addresses, networks, `*`. Loopback is never proxied.
fn is_excepted(host: &str, exceptions: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<IpAddr>().ok();
    if host == "localhost" || address.is_some_and(|ip| ip.is_loopback()) {
        return true;
    }
    exceptions.split(',').map(str::trim).any(|exception| {
        let exception = exception.to_ascii_lowercase();
        let name = exception.trim_start_matches('*').trim_start_matches('.');
        match address {
            _ if exception == "*" => true,
            Some(ip) => exception == bare || is_in(ip, &exception),
            None => !name.is_empty() && (host == name || host.ends_with(&format!(".{name}"))),
        }
    })
}

fn is_in(ip: IpAddr, network: &str) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    };
    let Some((base, length)) = network.split_once('/') else { return false };
    let (Ok(base), Ok(length)) = (base.parse::<IpAddr>(), length.parse::<u32>()) else { return false };
    let ((one, most), (other, other_most)) = (bits(ip), bits(base));
    most == other_most && length <= most && (length == 0 || (one ^ other) >> (128 - length) == 0)
}

#[cfg(test)]
mod tests;
