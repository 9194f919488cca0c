//! What `naru setup` prints, fed to the very clients it is for.

use anyhow::{Context as _, Result, ensure};
use journeys::image::application;
use journeys::{Containerd, Folder, Mirror, Naru, Need, Podman, Registry, journey};
use serde_json::Value;

const NEEDS: &[Need] = &[
    Need::Program("docker-registry"),
    Need::Program("busybox"),
    Need::Program("containerd"),
    Need::Program("ctr"),
    Need::Program("runc"),
    Need::Program("podman"),
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
