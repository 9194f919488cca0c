//! What `naru setup` prints, fed to the very clients it is for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use journeys::image::application;
use journeys::{Containerd, Dockerd, Folder, Mirror, Naru, Need, Podman, Registry, Serving, journey};
use serde_json::Value;

const NEEDS: &[Need] = &[
    Need::Program("docker-registry"),
    Need::Program("busybox"),
    Need::Program("containerd"),
    Need::Program("ctr"),
    Need::Program("runc"),
    Need::Program("podman"),
    Need::Program("dockerd"),
    Need::Program("docker"),
    Need::Root,
];

/// The files that a `naru setup` names, put where it says: a journey has an /etc of its own.
fn follow(naru: &Naru, arguments: &[&str]) -> Result<Vec<(String, String)>> {
    let printed = naru.ok(arguments)?.stdout;
    let mut written = Vec::new();
    for line in printed.lines() {
        let value: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        for file in value["files"].as_array().into_iter().flatten() {
            let (Some(path), Some(text)) = (file["path"].as_str(), file["text"].as_str()) else { continue };
            let path = std::path::Path::new(path);
            std::fs::create_dir_all(path.parent().context("a path with a folder")?)?;
            std::fs::write(path, text)?;
            written.push((path.display().to_string(), text.to_owned()));
        }
    }
    ensure!(!written.is_empty(), "no files in: {printed}");
    Ok(written)
}

/// A server, the naru whose store it serves, and each image's name and digest.
type Site = (journeys::Serving, Naru, Vec<(String, String)>);

/// Two upstreams with the same name, loaded and served.
fn serving(folder: &Folder) -> Result<Site> {
    let (one, two) = (Registry::start(folder, "one")?, Registry::start(folder, "two")?);
    let mut wanted = Vec::new();
    for (registry, name) in [(&one, "one"), (&two, "two")] {
        let image = application(folder, name)?;
        registry.push("library/app", "1", &image)?;
        wanted.push((format!("{}/library/app", registry.host()), image.digest().to_owned()));
    }
    let outside = Naru::new(folder, "outside")?;
    outside
        .list(&format!("platforms: [linux/amd64, linux/arm64]\nimages:\n- {}:1\n- {}:1\n", wanted[0].0, wanted[1].0))?;
    let bundle = folder.join("bundle");
    outside.pack(&bundle, &[])?;
    drop((one, two));
    let inside = Naru::new(folder, "inside")?;
    inside.load(&bundle)?;
    let serving = inside.serve(&[])?;
    Ok((serving, inside, wanted))
}

#[test]
fn clients_pull_with_what_setup_prints() {
    journey("clients_pull_with_what_setup_prints", NEEDS, |folder| {
        let (serving, naru, wanted) = serving(folder)?;
        let server = format!("https://{}", serving.address());

        let files = follow(&naru, &["setup", "containerd", "--version", "1.6.20", "--server", &server, "--json"])?;
        // A daemon whose mirror is nowhere, until it gets the printed file; those are read at each pull.
        let containerd = Containerd::start(folder, &Mirror { address: "127.0.0.1:1".to_owned(), ca: None })?;
        let (_, hosts) =
            files.iter().find(|(path, _)| path.ends_with("_default/hosts.toml")).context("a hosts.toml")?;
        folder.write("containerd/certs.d/_default/hosts.toml", hosts)?;
        for (name, digest) in &wanted {
            let pulled = containerd.cri_pull(&format!("{name}:1"))?;
            ensure!(pulled == [format!("{name}@{digest}")], "CRI, {name}: {pulled:?}");
        }

        let files = follow(&naru, &["setup", "podman", "--server", &server, "--json"])?;
        let podman = Podman::new(folder, &[])?;
        let (_, registries) = files.iter().find(|(path, _)| path.contains("registries.conf.d")).context("its list")?;
        folder.write("podman/registries.conf", registries)?;
        for (name, digest) in &wanted {
            let pulled = podman.pull(&format!("{name}:1"))?;
            ensure!(pulled.contains(digest.as_str()), "podman, {name}: {pulled}");
        }
        Ok(())
    });
}

type Pair = [(Naru, Serving); 2];

/// Two servers of one bundle with `docker.io/library/app:1` to `:6`, and the digest of each.
fn two(folder: &Folder) -> Result<(Pair, Vec<String>)> {
    let hub = Registry::start(folder, "hub")?;
    let (mut list, mut digests) = (String::new(), Vec::new());
    for number in 1..=6 {
        let image = application(folder, &format!("app-{number}"))?;
        hub.push("library/app", &number.to_string(), &image)?;
        writeln!(list, "- docker.io/library/app:{number}")?;
        digests.push(image.digest().to_owned());
    }
    let outside = Naru::new(folder, "outside")?;
    outside.list(&format!(
        "platforms: [linux/amd64, linux/arm64]\nimages:\n{list}\
         upstreams:\n  docker.io:\n    mirrors:\n    - {{ url: 'http://{}', trust: mirror }}\n",
        hub.host()
    ))?;
    let bundle = folder.join("bundle");
    outside.pack(&bundle, &[])?;
    let side = |name: &str| -> Result<_> {
        let side = Naru::new(folder, name)?;
        side.load(&bundle)?;
        let serving = side.serve(&[])?;
        Ok((side, serving))
    };
    Ok(([side("north")?, side("south")?], digests))
}

/// Every file below some folders, with its bytes.
fn files(folders: &[&str]) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut open = folders.iter().map(PathBuf::from).collect::<Vec<_>>();
    let mut found = BTreeMap::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            found.insert(path.clone(), Vec::new());
            open.extend(std::fs::read_dir(&path)?.flatten().map(|entry| entry.path()));
        } else if path.is_file() && !path.ends_with("docker/key.json") {
            // But for the key that dockerd makes itself when it is first started.
            found.insert(path.clone(), std::fs::read(&path)?);
        }
    }
    Ok(found)
}

const FOLDERS: &[&str] = &["/etc/containerd", "/etc/docker", "/etc/containers", "/etc/naru"];

#[test]
fn what_apply_writes_is_pulled_with_and_undo_gives_back() {
    journey("what_apply_writes_is_pulled_with_and_undo_gives_back", NEEDS, |folder| {
        let (mut sides, digests) = two(folder)?;
        let urls = sides.each_ref().map(|(_, serving)| format!("https://{}", serving.address()));
        let naru = Naru::new(folder, "node")?;
        let setup = |client: &str, more: &[&str]| {
            let servers = ["setup", client, "--server", &urls[0], "--server", &urls[1]];
            naru.run(servers.into_iter().chain(more.iter().copied()))
        };

        // A node as its administrator left it.
        let config = Path::new("/etc/containerd/config.toml");
        std::fs::create_dir_all("/etc/containerd")?;
        std::fs::create_dir_all("/etc/docker")?;
        std::fs::write(config, format!("# Ours.\n{}# The end.\n", Containerd::configuration(folder)?))?;
        std::fs::write("/etc/docker/daemon.json", "{\n\t\"max-concurrent-downloads\": 2,\n\t\"debug\" : false\n}\n")?;
        let before = files(FOLDERS)?;

        let check = setup("containerd", &["--check"])?;
        ensure!(check.status.code() == Some(3) && check.stdout.contains("+++ /etc/containerd"), "{check:?}");
        let unasked = setup("containerd", &["--apply"])?;
        ensure!(unasked.status.code() == Some(2) && unasked.stderr.contains("--yes"), "{unasked:?}");
        ensure!(files(FOLDERS)? == before, "it wrote although nobody said yes");

        // What is no naru is not set up for, and a root that is nowhere is not made.
        let other = Registry::start(folder, "other")?;
        let server = format!("http://{}", other.host());
        let refused = naru.run(["setup", "containerd", "--apply", "--yes", "--server", &server])?;
        ensure!(refused.status.code() == Some(1) && refused.stderr.contains("is no naru"), "{refused:?}");
        let nowhere = setup("podman", &["--apply", "--yes", "--root", "nowhere"])?;
        ensure!(nowhere.status.code() == Some(2) && !Path::new("nowhere").exists(), "{nowhere:?}");
        ensure!(files(FOLDERS)? == before, "it wrote for what it refused");

        // Another root gets everything, and this one nothing.
        let root = folder.make("image")?;
        let root = root.to_str().context("a path of our own")?;
        for client in ["containerd", "docker", "podman"] {
            let version = ["--apply", "--yes", "--root", root, "--version", "1.6.20"];
            let outcome = setup(client, &version)?;
            ensure!(outcome.status.success(), "{outcome:?}");
        }
        ensure!(files(FOLDERS)? == before, "--root did not stay below it");
        ensure!(Path::new(root).join("etc/docker/daemon.json").is_file(), "no daemon.json below the other root");

        for client in ["containerd", "docker", "podman"] {
            let outcome = setup(client, &["--apply", "--yes"])?;
            ensure!(outcome.status.success() && outcome.stderr.contains("nothing was restarted"), "{outcome:?}");
            let again = setup(client, &["--apply", "--yes"])?;
            ensure!(again.status.success() && again.stdout.is_empty(), "twice is not once: {again:?}");
            let check = setup(client, &["--check"])?;
            ensure!(check.status.success(), "{check:?}");
        }
        let text = std::fs::read_to_string(config)?;
        ensure!(text.starts_with("# Ours.\n") && text.ends_with("# The end.\n"), "comments went: {text}");

        let containerd = Containerd::with(folder, config, "/etc/containerd/certs.d".into())?;
        let podman = Podman::of_system(folder)?;
        let dockerd = Dockerd::with(folder, Path::new("/etc/docker/daemon.json"))?;
        let mut pulls = digests.iter().zip(1..);
        let mut pull = |count: usize| -> Result<()> {
            for (digest, number) in pulls.by_ref().take(count) {
                let name = format!("docker.io/library/app:{number}");
                let pulled = containerd.cri_pull(&name)?;
                ensure!(pulled[0].ends_with(digest), "CRI, {name}: {pulled:?}");
                let pulled = podman.pull(&name)?;
                ensure!(pulled.contains(digest), "podman, {name}: {pulled}");
                let pulled = dockerd.pull(&name)?;
                ensure!(pulled.contains(digest), "docker, {name}: {pulled}");
            }
            Ok(())
        };
        pull(2)?;
        // One of the two goes, in the middle of it all.
        sides[0].1.daemon.kill()?;
        pull(2)?;
        let (first, serving) = &mut sides[0];
        let port = serving.address().to_owned();
        *serving = first.serve_at(&port, &[])?;
        sides[1].1.daemon.kill()?;
        pull(2)?;

        // What somebody changed since is not taken back; what nobody did is, to the last byte.
        let hosts = "/etc/containerd/certs.d/_default/hosts.toml";
        let written = std::fs::read(hosts)?;
        std::fs::write(hosts, "# mine\n")?;
        let refused = naru.run(["setup", "containerd", "--undo"])?;
        ensure!(!refused.status.success() && refused.stderr.contains(hosts), "{refused:?}");
        std::fs::write(hosts, written)?;
        for client in ["containerd", "docker", "podman"] {
            naru.ok(["setup", client, "--undo"])?;
        }
        let after = files(FOLDERS)?;
        let other = after.iter().find(|(path, bytes)| before.get(*path) != Some(*bytes)).map(|(path, _)| path);
        ensure!(other.is_none(), "undo left something else behind: {other:?}");
        let gone = before.keys().find(|path| !after.contains_key(*path));
        ensure!(gone.is_none(), "undo took something away: {gone:?}");
        Ok(())
    });
}

#[test]
fn only_restart_restarts_and_what_stands_before_is_named() {
    journey("only_restart_restarts_and_what_stands_before_is_named", NEEDS, |folder| {
        let (sides, _) = two(folder)?;
        let server = format!("https://{}", sides[0].1.address());
        let naru = Naru::new(folder, "node")?;
        let asked = folder.join("restarted");
        let fake = folder.write("bin/systemctl", format!("#!/bin/sh\necho \"$@\" >> {}\n", asked.display()))?;
        journeys::run("chmod", ["+x".as_ref(), fake.as_os_str()])?;
        let setup = |client: &str, more: &[&str]| {
            let mut command = naru.command(["setup", client, "--version", "1.7.20"]);
            let path = std::env::var("PATH").unwrap_or_default();
            command.args(more).env("PATH", format!("{}:{path}", folder.join("bin").display()));
            journeys::Outcome::of(&mut command)
        };
        std::fs::create_dir_all("/etc/containerd/certs.d/docker.io")?;
        std::fs::write("/etc/containerd/certs.d/docker.io/hosts.toml", "server = 'https://registry-1.docker.io'\n")?;
        std::fs::create_dir_all("/etc/systemd/system/containerd.service.d")?;
        let unit = "/etc/systemd/system/containerd.service.d/proxy.conf";
        std::fs::write(unit, "[Service]\nEnvironment=HTTPS_PROXY=http://proxy:3128\n")?;

        let outcome = setup("containerd", &["--apply", "--yes", "--server", &server])?;
        ensure!(outcome.status.success(), "{outcome:?}");
        ensure!(outcome.stderr.contains("docker.io/hosts.toml beats _default"), "{outcome:?}");
        ensure!(!asked.exists(), "it restarted what nobody told it to");
        // Loopback is never proxied, and this server is nowhere else.
        ensure!(!outcome.stderr.contains("NO_PROXY"), "{outcome:?}");
        let check = setup("containerd", &["--check", "--server", &server])?;
        ensure!(check.status.code() == Some(3), "a shadow is no reason to it: {check:?}");
        let outcome = setup("containerd", &["--undo", "--restart"])?;
        ensure!(outcome.status.success(), "{outcome:?}");
        let outcome = setup("docker", &["--apply", "--yes", "--restart", "--server", &server])?;
        ensure!(outcome.status.success(), "{outcome:?}");
        let said = std::fs::read_to_string(&asked)?;
        ensure!(said == "restart containerd.service\nrestart docker.service\n", "{said}");
        Ok(())
    });
}
