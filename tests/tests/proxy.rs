//! What is not here is fetched from its upstream while it is handed out, once, and stays when the upstream is gone.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use journeys::image::application;
use journeys::{Folder, Naru, Need, Outcome, Registry, Serving, find, journey};

const NEEDS: &[Need] = &[Need::Program("docker-registry"), Need::Program("busybox")];

/// A side whose server has this configuration.
fn side(folder: &Folder, name: &str, configuration: &str) -> Result<(Naru, Serving)> {
    let naru = Naru::new(folder, name)?;
    std::fs::write(naru.folder().join("serve.yaml"), configuration)?;
    let serving = serve(&naru)?;
    Ok((naru, serving))
}

fn serve(naru: &Naru) -> Result<Serving> {
    let configuration = naru.folder().join("serve.yaml");
    naru.serve(&["--config", configuration.to_str().context("a path of our own")?])
}

/// skopeo, from the server into a folder.
fn skopeo(folder: &Folder, from: &str, to: &str) -> Result<Outcome> {
    let mut command = Command::new(find("skopeo").context("skopeo is not here")?);
    let to = format!("dir:{}", folder.join(to).display());
    command.args(["copy", "--all", "--src-tls-verify=false", "--preserve-digests"]);
    Outcome::of(command.arg(format!("docker://{from}")).arg(to))
}

#[test]
fn what_was_pulled_through_stays() {
    let needs = [NEEDS, &[Need::Program("skopeo")]].concat();
    journey("what_was_pulled_through_stays", &needs, |folder| {
        let registry = Registry::start(folder, "one")?;
        let image = application(folder, "through")?;
        registry.push("library/app", "1", &image)?;
        let host = registry.host();
        let (naru, serving) = side(folder, "site", &format!("upstreams:\n  '{host}': {{ proxy: on-miss }}\n"))?;
        let name = format!("{host}/library/app");
        // No reference has a colon there.
        let written = format!("{}/library/app:1", host.replace(':', "_"));
        skopeo(folder, &format!("{}/{written}", serving.address()), "first")?.ok("skopeo")?;
        drop(registry);
        skopeo(folder, &format!("{}/{written}", serving.address()), "second")?.ok("skopeo, without the upstream")?;
        serving.holds(&name, &image)?;
        drop(serving);
        let serving = serve(&naru)?;
        skopeo(folder, &format!("{}/{written}", serving.address()), "third")?.ok("skopeo, after a restart")?;
        let listed = naru.ok(["ls"])?.stdout;
        ensure!(listed.contains(&format!("{name}:1")), "{listed}");
        drop(serving);
        naru.ok(["fsck"])?;
        Ok(())
    });
}
