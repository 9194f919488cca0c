//! Clients that push and pull, each what another one made: skopeo, umoci, podman, buildah, docker, containerd (`ctr` and CRI).

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use journeys::{Containerd, Dockerd, Folder, Mirror, Naru, Need, Outcome, Podman, Serving, find, http, journey};

const NEEDS: [&str; 8] = ["umoci", "skopeo", "buildah", "podman", "dockerd", "docker", "containerd", "ctr"];

fn program(name: &str, arguments: &[&str], folder: &Folder) -> Result<String> {
    let mut command = Command::new(find(name).with_context(|| format!("{name} is not here"))?);
    command.args(arguments).current_dir(folder.path()).env("HOME", folder.path());
    Outcome::of(&mut command)?.ok(&format!("{name} {}", arguments.join(" ")))
}

/// The media type that a tag is answered with.
fn media_type(serving: &Serving, name: &str) -> Result<String> {
    let answer = http::head(&serving.url(&format!("/v2/{name}/manifests/1")))?;
    ensure!(answer.status == 200, "{name}: {}", answer.status);
    Ok(answer.header("content-type").context("a media type")?.to_owned())
}

#[test]
fn what_one_client_pushes_every_other_pulls() {
    let needs: Vec<Need> = NEEDS.into_iter().chain(["busybox"]).map(Need::Program).chain([Need::Root]).collect();
    journey("what_one_client_pushes_every_other_pulls", &needs, |folder| {
        let naru = Naru::new(folder, "naru")?;
        let serving = naru.serve(&[])?;
        let host = serving.address();
        let token = std::fs::read_to_string(naru.store().join("admin.token"))?.trim().to_owned();
        let credentials = format!("anyone:{token}");
        let docker_type = "application/vnd.docker.distribution.manifest.v2+json";
        let oci_type = "application/vnd.oci.image.manifest.v1+json";

        // umoci makes a layout, skopeo pushes it.
        let busybox = find("busybox").context("busybox is not here")?;
        let file = busybox.to_str().context("a path")?;
        program("umoci", &["init", "--layout", "made"], folder)?;
        program("umoci", &["new", "--image", "made:1"], folder)?;
        program("umoci", &["insert", "--image", "made:1", file, "/bin/busybox"], folder)?;
        program(
            "umoci",
            &["config", "--image", "made:1", "--config.cmd", "/bin/busybox", "--config.cmd", "true"],
            folder,
        )?;
        let skopeo = |arguments: &[&str]| program("skopeo", &[&["--insecure-policy"], arguments].concat(), folder);
        let umoci = format!("docker://{host}/team/umoci:1");
        skopeo(&["copy", "--dest-tls-verify=false", "--dest-creds", &credentials, "oci:made:1", &umoci])?;
        ensure!(media_type(&serving, "team/umoci")? == oci_type);
        ensure!(
            skopeo(&["list-tags", "--tls-verify=false", &format!("docker://{host}/team/umoci")])?.contains("\"1\"")
        );

        // podman pulls that, pushes it, and a list over it.
        let accept = r#"{ "default": [{ "type": "insecureAcceptAnything" }] }"#;
        let policy = folder.write("policy.json", accept)?;
        // Podman's manifest command takes it from its home alone.
        folder.write("podman/.config/containers/policy.json", accept)?;
        let policy = policy.to_str().context("a path of our own")?;
        let podman = Podman::new(folder, &[(host.to_owned(), host.to_owned())])?;
        podman.pull(&format!("{host}/team/umoci:1"))?;
        let pushed = format!("{host}/team/podman:1");
        podman.podman(&["tag", &format!("{host}/team/umoci:1"), &pushed])?;
        podman.podman(&["push", "--quiet", "--signature-policy", policy, "--creds", &credentials, &pushed])?;
        podman.podman(&["manifest", "create", "list", &pushed])?;
        let list = format!("docker://{host}/team/list:1");
        podman.podman(&["manifest", "push", "--quiet", "--all", "--creds", &credentials, "list", &list])?;
        ensure!(
            media_type(&serving, "team/list")?.contains("list") || media_type(&serving, "team/list")?.contains("index")
        );

        // buildah builds on what podman pushed, and pushes it as Docker's.
        let place = ["--root", "buildah-root", "--runroot", "buildah-run", "--storage-driver", "vfs"];
        let buildah = |arguments: &[&str]| program("buildah", &[&place[..], arguments].concat(), folder);
        buildah(&["from", "--quiet", "--name", "work", "--tls-verify=false", "--signature-policy", policy, &pushed])?;
        folder.write("marker", "from buildah\n")?;
        buildah(&["copy", "work", "marker", "/etc/marker"])?;
        buildah(&["commit", "--quiet", "--signature-policy", policy, "--format", "docker", "work", "built"])?;
        let built = format!("docker://{host}/team/buildah:1");
        buildah(&[
            "push",
            "--quiet",
            "--tls-verify=false",
            "--signature-policy",
            policy,
            "--creds",
            &credentials,
            "built",
            &built,
        ])?;
        ensure!(media_type(&serving, "team/buildah")? == docker_type);

        // docker pulls that and pushes it: its layers are mounted or there.
        let dockerd = Dockerd::start(folder, "http://127.0.0.1:1")?;
        let (from, to) = (format!("{host}/team/buildah:1"), format!("{host}/team/docker:1"));
        let digests = dockerd.pull(&from)?;
        ensure!(digests.contains(&serving.digest_of("team/buildah", "1")?), "docker: {digests}");
        dockerd.docker(&["tag", &from, &to])?;
        ensure!(dockerd.docker(&["push", "--quiet", &to]).is_err(), "docker pushed without credentials");
        dockerd.docker(&["login", "--username", "anyone", "--password", &token, host])?;
        dockerd.docker(&["push", "--quiet", &to])?;
        ensure!(media_type(&serving, "team/docker")? == docker_type);

        // containerd pulls what docker pushed, by CRI and by ctr, runs nothing, and pushes it.
        let containerd = Containerd::start(folder, &Mirror { address: host.to_owned(), ca: None })?;
        let digest = serving.digest_of("team/docker", "1")?;
        ensure!(containerd.pull(&to)? == digest);
        let digests = containerd.cri_pull(&format!("{host}/team/umoci:1"))?;
        let umoci_digest = serving.digest_of("team/umoci", "1")?;
        ensure!(digests.iter().any(|found| found.contains(&umoci_digest)), "CRI: {digests:?}");
        let ours = format!("{host}/team/containerd:1");
        containerd.ctr(&["images", "tag", &to, &ours])?.ok("ctr images tag")?;
        let push = ["images", "push", "--plain-http", "--user", &credentials, &ours];
        containerd.ctr(&push)?.ok("ctr images push")?;
        ensure!(serving.digest_of("team/containerd", "1")? == digest, "another digest");

        // And back: skopeo reads it into a layout, umoci unpacks that.
        let from = format!("docker://{host}/team/containerd:1");
        skopeo(&["copy", "--src-tls-verify=false", &from, "oci:back:1"])?;
        program("umoci", &["unpack", "--image", "back:1", "unpacked"], folder)?;
        let marker = std::fs::read_to_string(folder.join("unpacked/rootfs/etc/marker"))?;
        ensure!(marker == "from buildah\n", "{marker}");
        ensure!(std::fs::read(folder.join("unpacked/rootfs/bin/busybox"))? == std::fs::read(&busybox)?);

        // skopeo deletes by the digest: the tag goes with it, the others stay.
        skopeo(&["delete", "--tls-verify=false", "--creds", &credentials, &from])?;
        ensure!(http::head(&serving.url("/v2/team/containerd/manifests/1"))?.status == 404);
        ensure!(serving.digest_of("team/docker", "1")? == digest);
        drop(serving);
        naru.ok(["fsck"])?;
        Ok(())
    });
}
