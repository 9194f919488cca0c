//! Tags that end by themselves, as an operator has it in `serve.yaml`: seen by skopeo, on a server and without one.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use journeys::image::application;
use journeys::{Folder, Naru, Need, Outcome, Serving, find, journey, wait_until};

const NEEDS: &[Need] = &[Need::Program("skopeo"), Need::Program("busybox"), Need::Program("docker-registry")];

fn skopeo(folder: &Folder, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(find("skopeo").context("skopeo is not here")?);
    command.arg("--insecure-policy").args(arguments);
    command.env("HOME", folder.path()).env("REGISTRY_AUTH_FILE", folder.join("none.json"));
    Outcome::of(&mut command)?.ok(&arguments.join(" "))
}

fn tags(folder: &Folder, serving: &Serving) -> Result<Vec<String>> {
    let listed =
        skopeo(folder, &["list-tags", "--tls-verify=false", &format!("docker://{}/team/app", serving.address())])?;
    let listed: serde_json::Value = serde_json::from_str(&listed)?;
    Ok(serde_json::from_value(listed["Tags"].clone())?)
}

#[test]
fn tags_end_by_the_rules_of_the_site() {
    journey("tags_end_by_the_rules_of_the_site", NEEDS, |folder| {
        let source = journeys::Registry::start(folder, "source")?;
        let naru = Naru::new(folder, "naru")?;
        std::fs::create_dir_all(naru.store())?;
        let configuration = naru.store().join("serve.yaml");
        let rules = "- { repositories: ['team/*'], keep_last: 2, keep_tags: [stable], pulled_within: 1h }";
        std::fs::write(&configuration, format!("gc:\n  retention:\n  {rules}\n"))?;
        let serving = naru.serve(&[])?;
        let word = std::fs::read_to_string(naru.store().join("admin.token"))?.trim().to_owned();
        let credentials = format!("--dest-creds=any:{word}");
        for tag in ["v1", "v2", "stable", "v3", "v4", "v5"] {
            source.push("app", tag, &application(folder, tag)?)?;
            let from = format!("docker://{}/app:{tag}", source.host());
            let to = format!("docker://{}/team/app:{tag}", serving.address());
            skopeo(folder, &["copy", "--src-tls-verify=false", "--dest-tls-verify=false", &credentials, &from, &to])?;
        }
        // Somebody pulls the oldest: nobody has the second.
        let oldest = format!("docker://{}/team/app:v1", serving.address());
        skopeo(
            folder,
            &["copy", "--src-tls-verify=false", &oldest, &format!("dir:{}", folder.join("pulled").display())],
        )?;
        let would = naru.ok(["gc", "--dry-run"])?.stdout;
        ensure!(would.contains("local team/app:v2") && would.contains("local team/app:v3"), "{would}");
        ensure!(!would.contains("app:v1") && !would.contains("stable") && !would.contains("app:v4"), "{would}");
        ensure!(tags(folder, &serving)?.len() == 6, "a rehearsal ends nothing");
        naru.ok(["gc"])?;
        ensure!(tags(folder, &serving)? == ["stable", "v1", "v4", "v5"], "{:?}", tags(folder, &serving)?);

        // A rule that keeps nothing is refused, and the one before stays.
        std::fs::write(&configuration, "gc:\n  every: 1s\n  retention:\n  - { repositories: ['team/*'] }\n")?;
        serving.daemon.signal(rustix::process::Signal::HUP)?;
        wait_until("the refusal", || Ok(serving.daemon.said().contains("keeps nothing").then_some(())))?;
        // From now on it collects by itself.
        std::fs::write(
            &configuration,
            "gc:\n  every: 1s\n  retention:\n  - { repositories: ['team/*'], keep_last: 1 }\n",
        )?;
        serving.daemon.signal(rustix::process::Signal::HUP)?;
        wait_until("the server's own collection", || Ok((tags(folder, &serving)? == ["v5"]).then_some(())))?;
        let history = naru.ok(["history"])?.stdout;
        ensure!(history.contains("the server"), "{history}");
        drop(serving);
        // Without a server it goes by the same rules; what is wrong with them is said, and nothing goes.
        std::fs::write(&configuration, "gc: { retention: [{ repositories: ['team/*'], keep_last: no }] }\n")?;
        let refused = naru.run(["gc"])?;
        ensure!(!refused.status.success() && refused.stderr.contains("serve.yaml"), "{}", refused.stderr);
        std::fs::write(&configuration, "gc: { retention: [{ repositories: ['team/*'] }] }\n")?;
        let refused = naru.run(["gc"])?;
        ensure!(!refused.status.success() && refused.stderr.contains("hint:"), "{}", refused.stderr);
        std::fs::write(
            &configuration,
            "gc: { grace: 0, keep: 0, retention: [{ repositories: ['team/*'], keep_tags: [stable] }] }\n",
        )?;
        let gone = naru.ok(["gc"])?.stdout;
        ensure!(gone.contains("team/app:v5") && gone.contains("gone: 1 tags"), "{gone}");
        naru.ok(["fsck"])?;
        Ok(())
    });
}
