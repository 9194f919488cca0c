//! The journeys' own ground: what stands for the outside does what a real one does.
//!
//! When this fails, no other journey means anything.

use anyhow::ensure;
use journeys::image::{Image, application};
use journeys::{Containerd, Dockerd, Fault, Faulty, Mirror, Need, Nginx, Podman, Registry, digest_of, http, journey};

const REGISTRY: Need = Need::Program("docker-registry");
const BUSYBOX: Need = Need::Program("busybox");

#[test]
fn a_registry_keeps_what_it_was_given() {
    journey("a_registry_keeps_what_it_was_given", &[REGISTRY, BUSYBOX], |folder| {
        let registry = Registry::start(folder, "one")?;
        let image = application(folder, "kept")?;
        let artifact = Image::artifact("application/vnd.example", Some(&image));
        registry.push("library/app", "1", &image)?;
        registry
            .push("library/app", &image.tag_for_referrers(), &Image::fallback(&[&artifact]))
            .or_else(|_| registry.push("library/app", "artifact", &artifact))?;
        for document in &image.documents {
            let url = format!("http://{}/v2/library/app/manifests/{}", registry.host(), document.digest);
            let accept = format!("Accept: {}", document.media_type);
            let answer = http::request(&url, &["--header", &accept], None)?;
            ensure!(answer.body == document.bytes, "{url}: {}", answer.text());
        }
        for blob in &image.blobs {
            let url = format!("http://{}/v2/library/app/blobs/{}", registry.host(), blob.digest);
            ensure!(http::hash(&url)? == (blob.digest.clone(), blob.size), "{url}");
        }
        Ok(())
    });
}

#[test]
fn a_faulty_server_cuts_and_lies() {
    journey("a_faulty_server_cuts_and_lies", &[Need::Program("nginx")], |folder| {
        let nginx = Nginx::start(folder, "files")?;
        let bytes = vec![7; 100_000];
        std::fs::write(nginx.root().join("file"), &bytes)?;
        let faulty = Faulty::before(&nginx.host(), |request| match request.nth {
            0 => Fault::Cut(10),
            1 => Fault::Flip,
            2 => Fault::Status(503, "Retry-After: 1\r\n"),
            _ => Fault::None,
        })?;
        let url = format!("http://{}/file", faulty.host());
        ensure!(http::get(&url).is_err(), "it was to be cut");
        ensure!(digest_of(&http::get(&url)?.body) != digest_of(&bytes), "it was to be spoilt");
        let answer = http::get(&url)?;
        ensure!(answer.status == 503 && answer.header("retry-after") == Some("1"), "{answer:?}");
        ensure!(http::get(&url)?.body == bytes, "it was to be whole");
        ensure!(faulty.seen().len() == 4, "{:?}", faulty.seen());
        Ok(())
    });
}

#[test]
fn every_client_pulls_and_one_runs() {
    let needs = [
        REGISTRY,
        BUSYBOX,
        Need::Root,
        Need::Program("containerd"),
        Need::Program("ctr"),
        Need::Program("runc"),
        Need::Program("podman"),
        Need::Program("dockerd"),
        Need::Program("docker"),
    ];
    journey("every_client_pulls_and_one_runs", &needs, |folder| {
        let registry = Registry::start(folder, "one")?;
        let image = application(folder, "it runs")?;
        registry.push("library/app", "1", &image)?;

        let mirror = Mirror { address: registry.host(), ca: None };
        let containerd = Containerd::start(folder, &mirror)?;
        let digests = containerd.cri_pull("docker.io/library/app:1")?;
        ensure!(digests == [format!("docker.io/library/app@{}", image.digest())], "CRI: {digests:?}");
        let digest = containerd.pull("docker.io/library/app:1")?;
        ensure!(digest == image.digest(), "ctr: {digest}");
        let said = containerd.run("docker.io/library/app:1", "runs", &["/bin/cat", "/etc/marker"])?;
        ensure!(said == "it runs\n", "ctr run: {said}");

        let podman = Podman::new(folder, &[("docker.io".to_owned(), registry.host())])?;
        let digests = podman.pull("docker.io/library/app:1")?;
        ensure!(digests.contains(image.digest()), "podman: {digests}");

        let dockerd = Dockerd::start(folder, &mirror.url())?;
        let digests = dockerd.pull("docker.io/library/app:1")?;
        ensure!(digests.contains(image.digest()), "docker: {digests}");
        Ok(())
    });
}
