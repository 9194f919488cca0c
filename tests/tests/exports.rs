//! Archives that Naru writes, loaded by every runtime, with the digests kept.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use journeys::image::{Image, application};
use journeys::{Containerd, Dockerd, Folder, Mirror, Naru, Need, Outcome, Podman, Registry, journey, run};

const NEEDS: &[Need] = &[
    Need::Program("docker-registry"),
    Need::Program("busybox"),
    Need::Program("skopeo"),
    Need::Program("containerd"),
    Need::Program("ctr"),
    Need::Program("dockerd"),
    Need::Program("docker"),
    Need::Program("podman"),
    Need::Root,
];

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of our own")
}

/// A site with `app:1` of two platforms, of which only amd64 is carried: its index is sparse.
fn site(folder: &Folder) -> Result<(Naru, String, Image)> {
    let registry = Registry::start(folder, "one")?;
    let image = application(folder, "exported")?;
    registry.push("library/app", "1", &image)?;
    let outside = Naru::new(folder, "outside")?;
    outside.list(&format!("platforms: [linux/amd64]\nimages:\n- {}/library/app:1\n", registry.host()))?;
    outside.pack(&folder.join("bundle"), &["--volume-size", "10MiB"])?;
    let inside = Naru::new(folder, "inside")?;
    inside.load(&folder.join("bundle"))?;
    Ok((inside, format!("{}/library/app:1", registry.host()), image))
}

#[test]
fn every_runtime_loads_what_is_exported() {
    journey("every_runtime_loads_what_is_exported", NEEDS, |folder| {
        let (inside, name, image) = site(folder)?;
        let archive = folder.join("app.tar");
        let file = text(&archive)?;
        inside.ok(["export", &name, "-o", file])?;

        // containerd: the name, and the digest of the index.
        let nowhere = Mirror { address: "127.0.0.1:1".to_owned(), ca: None };
        let containerd = Containerd::start(folder, &nowhere)?;
        let import = ["images", "import", "--platform", "linux/amd64", "--snapshotter", "native", file];
        containerd.ctr(&import)?.ok("ctr images import")?;
        let listed = containerd.ctr(&["images", "ls", &format!("name=={name}")])?.ok("ctr images ls")?;
        ensure!(listed.contains(image.digest()), "not {}: {listed}", image.digest());
        let said = containerd.run(&name, "exported", &["/bin/cat", "/etc/marker"])?;
        ensure!(said == "exported\n", "ctr run: {said}");

        // docker and podman: the name, and the configuration's digest, which is the image's id there.
        let config = image.blobs[0].digest.clone();
        let dockerd = Dockerd::start(folder, "http://127.0.0.1:1")?;
        dockerd.docker(&["load", "-i", file])?;
        let id = dockerd.docker(&["image", "inspect", "--format", "{{.Id}}", &name])?;
        ensure!(id.trim() == config, "docker: {id}, not {config}");
        let podman = Podman::new(folder, &[])?;
        podman.podman(&["load", "-i", file])?;
        let id = podman.podman(&["image", "inspect", "--format", "{{.Id}}", &name])?;
        ensure!(config.ends_with(id.trim()), "podman: {id}, not {config}");

        // skopeo reads it as either kind; of the index, its digest.
        for kind in ["docker-archive", "oci-archive"] {
            let to = format!("dir:{}", folder.join(kind).display());
            let from = format!("{kind}:{file}");
            run("skopeo", ["--override-arch", "amd64", "--insecure-policy", "copy", "--quiet", &from, &to])?;
        }
        let mut inspect = std::process::Command::new("skopeo");
        let inspected =
            Outcome::of(inspect.args(["inspect", "--raw", &format!("oci-archive:{file}")]))?.ok("skopeo inspect")?;
        ensure!(journeys::digest_of(inspected.as_bytes()) == image.digest(), "another index: {inspected}");

        // The same again is the same; through a server, and to standard output, too.
        let again = folder.join("again.tar");
        let serving = inside.serve(&[])?;
        inside.ok(["export", &name, "--platform", "linux/amd64", "-o", text(&again)?])?;
        let bytes = std::fs::read(&archive)?;
        ensure!(std::fs::read(&again)? == bytes, "the same images, and another archive");
        let out = inside.command(["export", &name, "-o", "-"]).output()?;
        ensure!(out.stdout == bytes, "standard output: {} bytes", out.stdout.len());
        drop(serving);
        // A store that has served has a CA as well as keys.
        inside.ok(["verify", text(&folder.join("bundle"))?])?;

        // Straight from the medium, without a store of its own.
        let bare = Naru::new(folder, "bare")?;
        let from = folder.join("bundle");
        bare.ok(["export", &name, "--from", text(&from)?, "-o", text(&again)?])?;
        ensure!(std::fs::read(&again)? == bytes, "from the bundle it is another archive");
        ensure!(!bare.store().exists(), "a store was made");
        // Who trusts a key takes images of nobody else's bundle.
        let careful = Naru::new(folder, "careful")?;
        careful.ok(["key", "new", "own.key"])?;
        careful.ok(["key", "trust", "own.key.pub"])?;
        let refused =
            careful.run(["export", &name, "--from", text(&from)?, "-o", text(&folder.join("refused.tar"))?])?;
        ensure!(refused.status.code() == Some(5) && !folder.join("refused.tar").exists(), "{refused:?}");
        // And back in.
        let back = Naru::new(folder, "back")?;
        back.ok(["load", "--unsigned", file])?;
        ensure!(back.ok(["ls"])?.stdout.contains(image.digest()));

        // By its digest, as pods name images, whatever names it has; and a tag with a digest means both.
        let repository = name.strip_suffix(":1").context("its tag")?;
        inside.ok(["load", "--unsigned", "--as", &format!("image:{repository}:2"), file])?;
        let digest = image.digest();
        for pinned in [digest, &format!("{repository}@{digest}"), &format!("{name}@{digest}")] {
            let by_digest = folder.join("by-digest.tar");
            inside.ok(["export", pinned, "-o", text(&by_digest)?])?;
            ensure!(std::fs::read(&by_digest)? == std::fs::read(&archive)?, "{pinned} is another archive");
        }
        let other = format!("{name}@sha256:{}", "a".repeat(64));
        for arguments in [
            &["show", &other][..],
            &["export", &other, "-o", text(&folder.join("missing.tar"))?],
            &["push", &other, "--to", "127.0.0.1:1", "--dry-run"],
            &["rm", &other],
        ] {
            let outcome = inside.run(arguments)?;
            let says = format!("{name} is {digest} here");
            ensure!(!outcome.status.success() && outcome.stderr.contains(&says), "{arguments:?}: {}", outcome.stderr);
        }

        // What cannot be is said, and leaves nothing behind.
        let missing = folder.join("missing.tar");
        for (arguments, words) in [
            (["export", "nothing:1", "-o", text(&missing)?].as_slice(), "nothing:1"),
            (&["export", &name, "--platform", "linux/arm64", "-o", text(&missing)?], "linux/arm64"),
        ] {
            let outcome = inside.run(arguments)?;
            ensure!(!outcome.status.success() && outcome.stderr.contains(words), "{arguments:?}: {}", outcome.stderr);
            ensure!(outcome.stderr.contains("hint: "), "{}", outcome.stderr);
            ensure!(!missing.exists(), "{arguments:?} left a file");
        }
        Ok(())
    });
}

#[test]
fn a_seed_lies_beside_the_volumes() {
    journey("a_seed_lies_beside_the_volumes", NEEDS, |folder| {
        let (_, name, image) = site(folder)?;
        let outside = Naru::new(folder, "outside")?;
        let medium = folder.join("medium");
        let packed = outside.ok(["pack", "-o", text(&medium)?, "--seed", &name])?.stdout;
        let seed = medium.join("naru-seed.tar");
        ensure!(packed.contains(text(&seed)?), "{packed}");
        let exported = folder.join("exported.tar");
        outside.ok(["export", &name, "-o", text(&exported)?])?;
        ensure!(std::fs::read(&seed)? == std::fs::read(&exported)?, "it is another archive than `naru export` writes");
        run("sh", ["-c", &format!("cd {} && sha256sum --check --quiet SHA256SUMS", text(&medium)?)])?;
        let sums = std::fs::read_to_string(medium.join("SHA256SUMS"))?;
        ensure!(sums.contains("naru-seed.tar"), "{sums}");
        let readme = std::fs::read_to_string(medium.join("README.txt"))?;
        ensure!(readme.contains("images import naru-seed.tar"), "{readme}");

        // A bare node: a runtime, and nobody to ask.
        let containerd = Containerd::start(folder, &Mirror { address: "127.0.0.1:1".to_owned(), ca: None })?;
        let import = ["images", "import", "--platform", "linux/amd64", "--snapshotter", "native", text(&seed)?];
        containerd.ctr(&import)?.ok("ctr images import")?;
        let said = containerd.run(&name, "seeded", &["/bin/cat", "/etc/marker"])?;
        ensure!(said == "exported\n", "ctr run: {said}");

        // A site that trusts a key takes the bundle and leaves the seed, which nobody signed, alone.
        let site = Naru::new(folder, "trusting")?;
        let key = packed.lines().find_map(|line| line.trim().strip_prefix("public key ")).context("the key")?;
        site.ok(["key", "trust", key])?;
        site.ok(["load", text(&medium)?])?;
        ensure!(site.ok(["ls"])?.stdout.contains(image.digest()));
        let again = outside.ok(["pack", "-o", text(&medium)?, "--only", "1"])?.stdout;
        ensure!(again.contains("was there"), "{again}");
        ensure!(std::fs::read_to_string(medium.join("SHA256SUMS"))? == sums, "the sums forgot the seed");
        let missing = outside.run(["pack", "-o", text(&medium)?, "--seed", "nothing:1"])?;
        ensure!(!missing.status.success() && missing.stderr.contains("nothing:1"), "{}", missing.stderr);
        Ok(())
    });
}
