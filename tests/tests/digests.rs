//! Digest in = digest out: every manifest and every blob, of every shape of image, after the whole way.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use journeys::image::{Family, Image, application, busybox, large};
use journeys::{Containerd, Folder, Mirror, Naru, Need, Nginx, Outcome, Registry, digest_of, find, http, journey};

const NEEDS: &[Need] = &[Need::Program("docker-registry"), Need::Program("busybox")];

fn program(name: &str, arguments: &[&str], folder: &Folder) -> Result<()> {
    let mut command = Command::new(find(name).with_context(|| format!("{name} is not here"))?);
    command.args(arguments).current_dir(folder.path()).env("HOME", folder.path());
    Outcome::of(&mut command)?.ok(&format!("{name} {}", arguments.join(" ")))?;
    Ok(())
}

#[test]
fn every_shape_of_image_is_the_same_inside() {
    journey("every_shape_of_image_is_the_same_inside", NEEDS, |folder| {
        let registry = Registry::start(folder, "one")?;
        let host = registry.host();
        let layer = busybox(folder, "shapes")?;
        let docker = Image::single(Family::Docker, "linux/amd64", std::slice::from_ref(&layer));
        let docker_list = Image::index(Family::Docker, &[("linux/amd64", &docker)]);
        let application = application(folder, "signed")?;
        let nested = Image::index(Family::Oci, &[("linux/amd64", &application)]);
        let signature = Image::signature(&application);
        let sbom = Image::artifact("application/vnd.example.sbom", Some(&application));
        let shapes = [
            ("library/docker", "1", &docker),
            ("library/list", "1", &docker_list),
            ("library/signed", "1", &application),
            ("library/nested", "1", &nested),
            ("team/artifact", "v1", &Image::artifact("application/vnd.example.thing", None)),
        ];
        for (repository, tag, image) in shapes {
            registry.push(repository, tag, image)?;
        }
        let tag = application.tag_for_referrers();
        registry.push("library/signed", &format!("{tag}.sig"), &signature)?;
        registry.push("library/signed", sbom.digest(), &sbom)?;
        registry.push("library/signed", &tag, &Image::fallback(&[&sbom]))?;

        let outside = Naru::new(folder, "outside")?;
        let images = shapes.map(|(repository, tag, _)| format!("- {host}/{repository}:{tag}\n")).concat();
        outside.list(&format!("platforms: [linux/amd64, linux/arm64]\nimages:\n{images}"))?;
        // linux/arm64 is missing from some: each says which platforms it is wanted for.
        let some = |repository: &str, tag: &str| {
            format!("- {{ image: '{host}/{repository}:{tag}', platforms: [linux/amd64] }}\n")
        };
        let rest = some("library/docker", "1") + &some("library/list", "1") + &some("team/artifact", "v1");
        outside.list(&format!(
            "platforms: [linux/amd64, linux/arm64]\nimages:\n- {host}/library/signed:1\n- {host}/library/nested:1\n{rest}"
        ))?;
        let bundle = folder.join("bundle");
        outside.pack(&bundle, &[])?;
        drop(registry);

        let inside = Naru::new(folder, "inside")?;
        inside.load(&bundle)?;
        let serving = inside.serve(&[])?;
        for (repository, tag, image) in shapes {
            let name = format!("{host}/{repository}");
            ensure!(serving.digest_of(&name, tag)? == image.digest(), "{name}:{tag} has another digest");
            serving.holds(&name, image)?;
        }
        let name = format!("{host}/library/signed");
        ensure!(serving.digest_of(&name, &format!("{tag}.sig"))? == signature.digest(), "the signature's tag");
        serving.holds(&name, &signature)?;
        serving.holds(&name, &sbom)?;
        let referrers = http::get(&serving.url(&format!("/v2/{name}/referrers/{}", application.digest())))?;
        ensure!(referrers.text().contains(sbom.digest()), "referrers: {}", referrers.text());
        Ok(())
    });
}

#[test]
fn what_buildah_umoci_and_skopeo_made_is_the_same_inside() {
    let needs =
        [NEEDS, &[Need::Program("buildah"), Need::Program("umoci"), Need::Program("skopeo"), Need::Root]].concat();
    journey("what_buildah_umoci_and_skopeo_made_is_the_same_inside", &needs, |folder| {
        let registry = Registry::start(folder, "one")?;
        let host = registry.host();
        let file = find("busybox").context("busybox is not here")?;
        let file = file.to_str().context("a path of this machine")?;
        folder.write("policy.json", r#"{ "default": [{ "type": "insecureAcceptAnything" }] }"#)?;
        program("umoci", &["init", "--layout", "oci"], folder)?;
        program("umoci", &["new", "--image", "oci:1"], folder)?;
        program("umoci", &["insert", "--image", "oci:1", file, "/bin/busybox"], folder)?;
        let copy = ["copy", "--policy", "policy.json", "--dest-tls-verify=false"];
        let copy = |arguments: &[&str]| {
            program("skopeo", &[&["--insecure-policy"], &copy[..1], &copy[3..], arguments].concat(), folder)
        };
        copy(&["oci:oci:1", &format!("docker://{host}/made/umoci:1")])?;
        copy(&["--format", "v2s2", "oci:oci:1", &format!("docker://{host}/made/docker:1")])?;

        let place = ["--root", "buildah-root", "--runroot", "buildah-run", "--storage-driver", "vfs"];
        let buildah = |arguments: &[&str]| program("buildah", &[&place[..], arguments].concat(), folder);
        buildah(&["from", "--name", "work", "scratch"])?;
        buildah(&["copy", "work", file, "/bin/busybox"])?;
        buildah(&["commit", "--signature-policy", "policy.json", "work", "oci-archive:built.tar"])?;
        copy(&["oci-archive:built.tar", &format!("docker://{host}/made/buildah:1")])?;

        let names = ["made/umoci", "made/docker", "made/buildah"];
        let images = names.map(|name| registry.read(name, "1"));
        let outside = Naru::new(folder, "outside")?;
        let list = names.map(|name| format!("- {host}/{name}:1\n")).concat();
        outside.list(&format!("platforms: [linux/amd64]\nimages:\n{list}"))?;
        let bundle = folder.join("bundle");
        outside.pack(&bundle, &[])?;
        let inside = Naru::new(folder, "inside")?;
        inside.load(&bundle)?;
        let serving = inside.serve(&[])?;
        for (name, image) in names.into_iter().zip(images) {
            let (name, image) = (format!("{host}/{name}"), image?);
            ensure!(serving.digest_of(&name, "1")? == image.digest(), "{name} has another digest");
            serving.holds(&name, &image)?;
            // skopeo cannot write a colon in a path: `host_port`.
            let spelt = name.replacen(':', "_", 1);
            let (from, to) =
                (format!("docker://{}/{spelt}:1", serving.address()), format!("dir:{}", spelt.replace('/', "-")));
            program("skopeo", &["--insecure-policy", "copy", "--src-tls-verify=false", &from, &to], folder)?;
        }
        Ok(())
    });
}

#[test]
fn a_sparse_index_answers_to_its_pinned_digest() {
    let clients = ["containerd", "ctr", "runc"].map(Need::Program);
    let needs = [NEEDS, &clients, &[Need::Root]].concat();
    journey("a_sparse_index_answers_to_its_pinned_digest", &needs, |folder| {
        let registry = Registry::start(folder, "one")?;
        let host = registry.host();
        let image = application(folder, "sparse")?;
        registry.push("library/app", "1", &image)?;
        let outside = Naru::new(folder, "outside")?;
        outside.list(&format!("platforms: [linux/amd64]\nimages:\n- {host}/library/app@{}\n", image.digest()))?;
        let bundle = folder.join("bundle");
        outside.pack(&bundle, &[])?;
        drop(registry);
        let inside = Naru::new(folder, "inside")?;
        inside.load(&bundle)?;
        let serving = inside.serve(&[])?;
        let name = format!("{host}/library/app");
        let [amd64, arm64, index] = &image.documents[..] else { anyhow::bail!("two platforms and an index") };
        for carried in [amd64, index] {
            let answer = http::get(&serving.url(&format!("/v2/{name}/manifests/{}", carried.digest)))?;
            ensure!(answer.status == 200 && answer.body == carried.bytes, "{}: {}", answer.status, answer.text());
        }
        let answer = http::get(&serving.url(&format!("/v2/{name}/manifests/{}", arm64.digest)))?;
        ensure!(answer.status == 404, "what was not carried: {}", answer.status);
        ensure!(answer.text().contains("not carried"), "it does not say why: {}", answer.text());

        let mirror = Mirror { address: serving.address().to_owned(), ca: Some(serving.ca(folder)?) };
        let containerd = Containerd::start(folder, &mirror)?;
        let pinned = format!("{name}@{}", image.digest());
        let digests = containerd.cri_pull(&pinned)?;
        ensure!(digests == [pinned.clone()], "CRI: {digests:?}");
        let digest = containerd.pull(&pinned)?;
        ensure!(digest == image.digest(), "ctr: {digest}");
        Ok(())
    });
}

#[test]
fn a_gibibyte_goes_through_volumes_and_files_go_with_it() {
    journey(
        "a_gibibyte_goes_through_volumes_and_files_go_with_it",
        &[NEEDS, &[Need::Program("nginx")]].concat(),
        |folder| {
            let (registry, nginx) = (Registry::start(folder, "one")?, Nginx::start(folder, "files")?);
            let host = registry.host();
            let image = Image::single(Family::Oci, "linux/amd64", &[large(folder, 1 << 30, 3)?]);
            registry.push("library/large", "1", &image)?;
            let bytes = b"#!/bin/sh\necho a tool\n";
            std::fs::write(nginx.root().join("tool"), bytes)?;
            let outside = Naru::new(folder, "outside")?;
            outside.list(&format!(
            "platforms: [linux/amd64]\nimages:\n- {host}/library/large:1\nfiles:\n- url: http://{}/tool\n  sha256: {}\n",
            nginx.host(),
            digest_of(bytes).replace("sha256:", ""),
        ))?;
            let bundle = folder.join("bundle");
            outside.pack(&bundle, &["--volume-size", "300MiB"])?;
            let volumes =
                std::fs::read_dir(&bundle)?.flatten().filter(|entry| entry.path().extension() == Some("tar".as_ref()));
            let volumes = volumes.collect::<Vec<_>>();
            ensure!(volumes.len() >= 4, "{} volumes", volumes.len());
            for volume in &volumes {
                ensure!(volume.metadata()?.len() <= 300 << 20, "{} is too large", volume.path().display());
                program("tar", &["-tf", volume.path().to_str().context("a path of our own")?], folder)?;
            }
            program("sh", &["-c", "cd bundle && sha256sum --check --quiet SHA256SUMS"], folder)?;

            let inside = Naru::new(folder, "inside")?;
            inside.load(&bundle)?;
            let serving = inside.serve(&[])?;
            serving.holds(&format!("{host}/library/large"), &image)?;
            let answer = http::get(&serving.url(&format!("/files/{}/tool", nginx.host())))?;
            ensure!(answer.status == 200 && answer.body == bytes, "the file: {}", answer.status);
            ensure!(answer.header("etag").is_some_and(|etag| etag.contains(&digest_of(bytes))), "{:?}", answer.headers);
            Ok(())
        },
    );
}
