//! The same `library/app:1` from several upstreams, with different content: each client gets, by each upstream's own
//! name, what that upstream has. And what was pulled runs.

use anyhow::{Context as _, ensure};
use journeys::image::application;
use journeys::{Containerd, Dockerd, Mirror, Naru, Need, Podman, Registry, journey};

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

#[test]
fn each_upstream_keeps_its_own() {
    journey("each_upstream_keeps_its_own", NEEDS, |folder| {
        // Two hosts of their own, and one that stands for docker.io.
        let (one, two, hub) =
            (Registry::start(folder, "one")?, Registry::start(folder, "two")?, Registry::start(folder, "hub")?);
        let images = [application(folder, "one")?, application(folder, "two")?, application(folder, "hub")?];
        for (registry, image) in [&one, &two, &hub].into_iter().zip(&images) {
            registry.push("library/app", "1", image)?;
        }
        let hosts = [one.host(), two.host(), "docker.io".to_owned()];

        let outside = Naru::new(folder, "outside")?;
        outside.list(&format!(
            "platforms: [linux/amd64, linux/arm64]\n\
             images:\n- {}/library/app:1\n- {}/library/app:1\n- docker.io/library/app:1\n\
             upstreams:\n  docker.io:\n    mirrors:\n    - {{ url: 'http://{}', trust: mirror }}\n",
            hosts[0],
            hosts[1],
            hub.host(),
        ))?;
        let bundle = folder.join("bundle");
        outside.pack(&bundle, &[])?;
        drop((one, two, hub));
        let inside = Naru::new(folder, "inside")?;
        inside.load(&bundle)?;
        let serving = inside.serve(&[])?;

        for (host, image) in hosts.iter().zip(&images) {
            serving.holds(&format!("{host}/library/app"), image)?;
        }

        // containerd, over TLS with the site's CA, as `naru setup` writes it.
        let mirror = Mirror { address: serving.address().to_owned(), ca: Some(serving.ca(folder)?) };
        let containerd = Containerd::start(folder, &mirror)?;
        for (host, image) in hosts.iter().zip(&images) {
            let name = format!("{host}/library/app");
            let digests = containerd.cri_pull(&format!("{name}:1"))?;
            ensure!(digests == [format!("{name}@{}", image.digest())], "CRI, {name}: {digests:?}");
            let digest = containerd.pull(&format!("{name}:1"))?;
            ensure!(digest == image.digest(), "ctr, {name}: {digest}");
        }
        let said = containerd.run("docker.io/library/app:1", "runs", &["/bin/cat", "/etc/marker"])?;
        ensure!(said == "hub\n", "ctr run: {said}");

        // podman cannot write a colon in a path: `host_port`.
        let rewrites =
            hosts.iter().map(|host| (host.clone(), format!("{}/{}", serving.address(), host.replace(':', "_"))));
        let podman = Podman::new(folder, &rewrites.collect::<Vec<_>>())?;
        for (host, image) in hosts.iter().zip(&images) {
            let digests = podman.pull(&format!("{host}/library/app:1"))?;
            ensure!(digests.contains(image.digest()), "podman, {host}: {digests}");
        }

        // docker knows mirrors of docker.io only, and names no host.
        let dockerd = Dockerd::start(folder, &format!("http://{}", serving.address()))?;
        let digests = dockerd.pull("docker.io/library/app:1")?;
        ensure!(digests.contains(images[2].digest()), "docker: {digests}");
        let by_digest = format!("docker.io/library/app@{}", images[2].digest());
        dockerd.pull(&by_digest).context("docker, by digest")?;
        Ok(())
    });
}
