//! Archives that docker, podman, containerd, skopeo and umoci have made: loaded, and served with the digests they had.

#![expect(clippy::expect_used, reason = "a test may")]

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use journeys::image::{Image, application};
use journeys::{
    Containerd, Dockerd, Folder, Mirror, Naru, Need, Outcome, Podman, Registry, Serving, http, journey, run,
};
use serde_json::Value;

const NEEDS: &[Need] =
    &[Need::Program("docker-registry"), Need::Program("busybox"), Need::Program("skopeo"), Need::Root];

/// A registry with `library/app:1` and `library/other:1`, each for two platforms.
struct Hub {
    registry: Registry,
    app: Image,
    other: Image,
}

impl Hub {
    fn start(folder: &Folder) -> Result<Self> {
        let registry = Registry::start(folder, "hub")?;
        let (app, other) = (application(folder, "one")?, application(folder, "two")?);
        registry.push("library/app", "1", &app)?;
        registry.push("library/other", "1", &other)?;
        Ok(Self { registry, app, other })
    }

    /// Copies from it by skopeo.
    fn copy(&self, name: &str, to: &str, arguments: &[&str]) -> Result<()> {
        let from = format!("docker://{}/library/{name}", self.registry.host());
        let words = ["copy", "--quiet", "--insecure-policy", "--src-tls-verify=false"];
        run("skopeo", words.iter().chain(arguments).chain(&[from.as_str(), to]))
    }
}

/// Loads into a store of its own, finds nothing wrong with it then, and serves it.
fn served(folder: &Folder, name: &str, arguments: &[&str]) -> Result<(Naru, Serving, Outcome)> {
    let naru = Naru::new(folder, name)?;
    let said = naru.ok(["load"].iter().chain(arguments))?;
    naru.ok(["fsck"])?;
    let serving = naru.serve(&[])?;
    Ok((naru, serving, said))
}

/// The part of an index with two platforms that is for amd64, with the index itself.
fn amd64(image: &Image) -> Result<Image> {
    let mut part = image.clone();
    part.documents.remove(1);
    let config = serde_json::from_slice::<Value>(&part.documents[0].bytes)?["config"]["digest"].clone();
    let layer = serde_json::from_slice::<Value>(&part.documents[0].bytes)?["layers"][0]["digest"].clone();
    part.blobs.retain(|blob| config == blob.digest.as_str() || layer == blob.digest.as_str());
    Ok(part)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of our own")
}

fn compressed(file: &Path, program: &str, ending: &str) -> Result<PathBuf> {
    run(program, ["-k", "-f", text(file)])?;
    Ok(PathBuf::from(format!("{}.{ending}", file.display())))
}

fn member(archive: &Path, name: &str) -> Result<Value> {
    let output = std::process::Command::new("tar").arg("-xOf").arg(archive).arg(name).output()?;
    ensure!(output.status.success(), "{} has no {name}", archive.display());
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[test]
fn docker_save() {
    let needs = [NEEDS, &[Need::Program("dockerd"), Need::Program("docker")]].concat();
    journey("docker_save", &needs, |folder| {
        let hub = Hub::start(folder)?;
        let saved = folder.join("saved.tar");
        let mut ids = Vec::new();
        {
            let dockerd = Dockerd::start(&folder.below("first")?, &format!("http://{}", hub.registry.host()))?;
            for name in ["app:1", "other:1"] {
                dockerd.pull(&format!("docker.io/library/{name}"))?;
                ids.push(dockerd.docker(&["image", "inspect", "--format", "{{.Id}}", name])?);
            }
            dockerd.docker(&["save", "-o", text(&saved), "app:1", "other:1"])?;
        }
        let (_naru, serving, said) = served(folder, "inside", &[text(&saved)])?;
        ensure!(said.stdout.contains("app:1 → docker.io/library/app:1"), "{}", said.stdout);
        // Docker makes the same image of it again: config and layers are the same bytes.
        let dockerd = Dockerd::start(folder, &format!("http://{}", serving.address()))?;
        for (name, id) in ["app:1", "other:1"].iter().zip(ids) {
            dockerd.pull(&format!("docker.io/library/{name}"))?;
            let found = dockerd.docker(&["image", "inspect", "--format", "{{.Id}}", name])?;
            ensure!(found == id, "{name} is {found}, and was {id}");
        }
        // Compressed, it is the same.
        let digest = serving.digest_of("docker.io/library/app", "1")?;
        for (program, ending) in [("gzip", "gz"), ("zstd", "zst"), ("xz", "xz")] {
            let file = compressed(&saved, program, ending)?;
            let (_naru, serving, _) = served(folder, ending, &[text(&file)])?;
            ensure!(serving.digest_of("docker.io/library/app", "1")? == digest, "{}", file.display());
            ensure!(serving.digest_of("docker.io/library/other", "1").is_ok(), "{}", file.display());
        }
        Ok(())
    });
}

#[test]
fn podman_save() {
    let needs = [NEEDS, &[Need::Program("podman")]].concat();
    journey("podman_save", &needs, |folder| {
        let hub = Hub::start(folder)?;
        let podman = Podman::new(folder, &[("docker.io".to_owned(), hub.registry.host())])?;
        let (app, other) = ("docker.io/library/app:1", "docker.io/library/other:1");
        podman.pull(app)?;
        podman.pull(other)?;
        podman.podman(&["tag", app, "localhost/mine:2"])?;
        // Its archives of docker's kind have links to layers, one for each.
        let (classic, oci) = (folder.join("classic.tar"), folder.join("oci.tar"));
        podman.podman(&["save", "--format", "docker-archive", "-m", "-o", text(&classic), app, other])?;
        podman.podman(&["save", "--format", "oci-archive", "-o", text(&oci), "localhost/mine:2"])?;

        let (_naru, serving, _) = served(folder, "inside", &[text(&classic), text(&oci)])?;
        let id = |image: &str| podman.podman(&["image", "inspect", "--format", "{{.Id}}", image]);
        let before = id(app)?;
        let again = Podman::new(
            &folder.below("again")?,
            &[("docker.io".to_owned(), format!("{}/docker.io", serving.address()))],
        )?;
        again.pull(app)?;
        let after = again.podman(&["image", "inspect", "--format", "{{.Id}}", app])?;
        ensure!(before == after, "{before}, then {after}");
        // An OCI archive keeps its digest; what came from no registry is local here.
        let digest = member(&oci, "index.json")?["manifests"][0]["digest"].clone();
        ensure!(serving.digest_of("mine", "2")? == digest, "{digest}");
        Ok(())
    });
}

#[test]
fn one_platform_of_an_index() {
    let needs = [NEEDS, &[Need::Program("containerd"), Need::Program("ctr")]].concat();
    journey("one_platform_of_an_index", &needs, |folder| {
        let hub = Hub::start(folder)?;
        let containerd = Containerd::start(folder, &Mirror { address: hub.registry.host(), ca: None })?;
        containerd.pull("docker.io/library/app:1")?;
        let exported = folder.join("exported.tar");
        let export = ["images", "export", "--platform", "linux/amd64", text(&exported), "docker.io/library/app:1"];
        containerd.ctr(&export)?.ok("ctr images export")?;
        for (name, file) in [("plain", exported.clone()), ("packed", compressed(&exported, "zstd", "zst")?)] {
            let (_naru, serving, said) = served(folder, name, &[text(&file)])?;
            ensure!(said.stdout.contains("omitted  docker.io/library/app:1: linux/arm64"), "{}", said.stdout);
            ensure!(serving.digest_of("docker.io/library/app", "1")? == hub.app.digest());
            serving.holds("docker.io/library/app", &amd64(&hub.app)?)?;
            let arm64 = serving.url(&format!("/v2/docker.io/library/app/manifests/{}", hub.app.documents[1].digest));
            ensure!(http::get(&arm64)?.status == 404);
        }
        Ok(())
    });
}

#[test]
fn layouts_and_what_lies_beside_them() {
    let needs = [NEEDS, &[Need::Program("umoci")]].concat();
    journey("layouts_and_what_lies_beside_them", &needs, |folder| {
        let hub = Hub::start(folder)?;
        let layout = folder.join("layout");
        hub.copy("app:1", &format!("oci:{}:1", layout.display()), &["--all"])?;
        hub.copy("other:1", &format!("oci:{}:2", layout.display()), &["--all"])?;

        // A layout's tags have no name.
        let naru = Naru::new(folder, "nameless")?;
        let refused = naru.run(["load", text(&layout)])?;
        ensure!(!refused.status.success() && refused.stderr.contains("--as image:"), "{}", refused.stderr);
        ensure!(naru.ok(["ls"])?.stdout.is_empty());

        let (_naru, serving, _) = served(folder, "folder", &["--as", "image:quay.io/team/app", text(&layout)])?;
        serving.holds("quay.io/team/app", &hub.app)?;
        serving.holds("quay.io/team/app", &hub.other)?;
        ensure!(serving.digest_of("quay.io/team/app", "1")? == hub.app.digest());
        ensure!(serving.digest_of("quay.io/team/app", "2")? == hub.other.digest());

        // One image under two tags, by umoci.
        let tagged = folder.join("tagged");
        hub.copy("app:1", &format!("oci:{}:1", tagged.display()), &[])?;
        run("umoci", ["tag", "--image", &format!("{}:1", tagged.display()), "two"])?;
        let (_naru, serving, _) = served(folder, "umoci", &["--as", "image:quay.io/team/app", text(&tagged)])?;
        let digest =
            serde_json::from_slice::<Value>(&std::fs::read(tagged.join("index.json"))?)?["manifests"][0]["digest"]
                .clone();
        for tag in ["1", "two"] {
            ensure!(serving.digest_of("quay.io/team/app", tag)? == digest, "{tag}");
        }

        // As a tar of that folder; and one name cannot be two images'.
        let tar = folder.join("layout.tar");
        run("tar", ["-C", text(folder.path()), "-cf", text(&tar), "layout"])?;
        let naru = Naru::new(folder, "as")?;
        let refused = naru.run(["load", "--as", "image:quay.io/team/app:9", text(&tar)])?;
        ensure!(refused.status.code() == Some(2) && refused.stderr.contains("there are 2"), "{}", refused.stderr);
        let gz = compressed(&tar, "gzip", "gz")?;
        for file in [&tar, &gz] {
            let name = file.extension().and_then(|ending| ending.to_str()).context("an ending")?;
            let (_naru, serving, _) = served(folder, name, &["--as", "image:team/app", text(file)])?;
            serving.holds("docker.io/team/app", &hub.app)?;
        }

        // A folder in which all sorts of things lie.
        let mixed = folder.make("mixed")?;
        std::fs::rename(&layout, mixed.join("layout"))?;
        hub.copy("app:1", &format!("docker-archive:{}:docker.io/library/app:1", mixed.join("a").display()), &[])?;
        hub.copy("app:1", &format!("oci-archive:{}:quay.io/b:1", mixed.join("b.bin").display()), &["--all"])?;
        std::fs::write(mixed.join("README.txt"), "nothing to load")?;
        std::fs::write(mixed.join("page.tar"), "<!DOCTYPE html><html>Please log in</html>")?;
        let naru = Naru::new(folder, "mixed-store")?;
        let said = naru.run(["load", text(&mixed)])?;
        // What has no name is named; the rest is here.
        ensure!(said.status.code() == Some(3) && said.stdout.contains("REFUSED"), "{}{}", said.stdout, said.stderr);
        let here = naru.ok(["ls"])?.stdout;
        ensure!(here.contains("docker.io/library/app:1") && here.contains("quay.io/b:1"), "{here}");
        let page = naru.run(["load", text(&mixed.join("page.tar"))])?;
        ensure!(page.stderr.contains("HTML page") && page.stderr.contains("hint:"), "{}", page.stderr);
        Ok(())
    });
}

#[test]
fn packages_of_packages() {
    journey("packages_of_packages", NEEDS, |folder| {
        let hub = Hub::start(folder)?;
        let package = folder.make("package")?;
        let pack = |out: &str, from: &Path, names: &[&str]| {
            let out = folder.join(out);
            run("tar", ["-C", text(from), "-caf", text(&out)].iter().chain(names)).map(|()| out)
        };
        // Three deep, as vendors' packages are: a tar.xz of a tar.gz of an archive, and an archive beside.
        hub.copy("app:1", &format!("docker-archive:{}:gcr.io/x/app:1", package.join("app.tar").display()), &[])?;
        let inner = pack("images.tar.gz", &package, &["app.tar"])?;
        let outer = folder.make("outer")?;
        std::fs::rename(inner, outer.join("images.tar.gz"))?;
        hub.copy(
            "other:1",
            &format!("oci-archive:{}:gcr.io/x/other:1", outer.join("other.tar").display()),
            &["--all"],
        )?;
        std::fs::write(outer.join("manifest.yaml"), "images: []\n")?;
        for name in ["package.tar.xz", "package.tar"] {
            let packed = pack(name, &outer, &["."])?;
            let (_naru, serving, _) = served(folder, &format!("in-{name}"), &[text(&packed)])?;
            ensure!(serving.digest_of("gcr.io/x/app", "1").is_ok());
            serving.holds("gcr.io/x/other", &hub.other)?;
        }
        // Deeper is refused by name, and what lies higher comes in.
        let packed = pack("deeper.tar", folder.path(), &["package.tar.xz"])?;
        let naru = Naru::new(folder, "deeper")?;
        let said = naru.run(["load", text(&packed)])?;
        ensure!(said.status.code() == Some(3) && said.stdout.contains("app.tar"), "{}{}", said.stdout, said.stderr);
        ensure!(naru.ok(["ls"])?.stdout.contains("gcr.io/x/other:1"));
        Ok(())
    });
}

#[test]
fn a_server_that_holds_the_store_takes_them() {
    journey("a_server_that_holds_the_store_takes_them", NEEDS, |folder| {
        let hub = Hub::start(folder)?;
        let (saved, layout) = (folder.join("saved.tar"), folder.join("layout"));
        hub.copy("app:1", &format!("docker-archive:{}:app:1", saved.display()), &[])?;
        hub.copy("app:1", &format!("oci:{}", layout.display()), &["--all"])?;
        let naru = Naru::new(folder, "inside")?;
        let serving = naru.serve(&[])?;
        naru.ok(["load", text(&saved)])?;
        let before = serving.digest_of("docker.io/library/app", "1")?;
        // What is loaded last is what is meant, and what was there is said.
        let said = naru.ok(["load", "--as", "image:app:1", text(&layout)])?;
        ensure!(said.stdout.contains(&format!("(was {before})")), "{}", said.stdout);
        ensure!(serving.digest_of("docker.io/library/app", "1")? == hub.app.digest());
        serving.holds("docker.io/library/app", &hub.app)?;
        Ok(())
    });
}
