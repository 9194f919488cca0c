//! `naru push`: into Debian's docker-registry and into another Naru.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use journeys::image::{Family, Image, application, large};
use journeys::{Folder, Naru, Need, Outcome, Registry, journey};
use serde_json::Value;

const NEEDS: &[Need] = &[Need::Program("docker-registry"), Need::Program("busybox"), Need::Program("skopeo")];

/// A store with what `images` names, each at an upstream of its own; all platforms unless the line says other.
fn store(folder: &Folder, images: &[(&str, &str, &Image, &str)]) -> Result<(Naru, Vec<String>)> {
    let naru = Naru::new(folder, "naru")?;
    let (mut list, mut hosts) = ("platforms: [all]\nimages:\n".to_owned(), Vec::new());
    for (index, (repository, tag, image, platforms)) in images.iter().enumerate() {
        let upstream = Registry::start(folder, &format!("upstream-{index}"))?;
        upstream.push(repository, tag, image)?;
        let host = upstream.host();
        list += &format!("- {{ image: '{host}/{repository}:{tag}', platforms: [{platforms}] }}\n");
        hosts.push(host);
        naru.list(&list)?;
        naru.ok(["pull"]).or_else(|_| naru.ok(["lock"]).and_then(|_| naru.ok(["pull"])))?;
    }
    // The list says nothing of the registry that is pushed to.
    std::fs::remove_file(naru.folder().join("naru.yaml"))?;
    Ok((naru, hosts))
}

/// `127.0.0.1:5000` as a part of a name.
fn spelled(host: &str) -> String {
    host.replace(':', "_")
}

fn done(naru: &Naru, arguments: &[&str]) -> Result<Value> {
    let outcome = naru.ok([&["--json", "push"], arguments].concat())?;
    let last = outcome.stdout.lines().last().context("an answer")?;
    Ok(serde_json::from_str(last)?)
}

fn same(one: &Image, other: &Image) -> Result<()> {
    ensure!(one.digest() == other.digest(), "{} and {}", one.digest(), other.digest());
    ensure!(one.documents.len() == other.documents.len(), "some documents are missing");
    Ok(())
}

#[test]
fn a_registry_gets_what_the_store_has() {
    journey("a_registry_gets_what_the_store_has", NEEDS, |folder| {
        let (first, second) = (application(folder, "first")?, application(folder, "second")?);
        let (naru, hosts) =
            store(folder, &[("library/app", "1", &first, "all"), ("library/app", "1", &second, "all")])?;
        let registry = Registry::start(folder, "target")?;
        let target = registry.host();

        // Nothing is sent before it is known that everything has a place.
        let refused = naru.run(["push", "--to", &target, "--flat"])?;
        ensure!(refused.status.code() == Some(2), "{}", refused.stderr);
        for words in [format!("{}/library/app:1", hosts[0]), format!("{}/library/app:1", hosts[1]), "hint: ".to_owned()]
        {
            ensure!(refused.stderr.contains(&words), "{words}: {}", refused.stderr);
        }
        let planned = naru.ok(["push", "--to", &target, "--dry-run"])?.stdout;
        ensure!(planned.lines().count() == 2 && planned.lines().all(|line| line.starts_with("new ")), "{planned}");
        let catalog = journeys::http::get(&format!("http://{target}/v2/_catalog"))?.text();
        ensure!(catalog.contains("[]"), "something was sent: {catalog}");

        // Under the upstream's name, byte for byte; the same again sends nothing.
        let said = done(&naru, &["--to", &target])?;
        ensure!(said["images"] == 2 && said["images_there"] == 0 && said["blobs"] != 0, "{said}");
        for (host, image) in hosts.iter().zip([&first, &second]) {
            same(&registry.read(&format!("{}/library/app", spelled(host)), "1")?, image)?;
            let name = format!("docker://{target}/{}/library/app:1", spelled(host));
            let raw = Outcome::of(Command::new("skopeo").args(["inspect", "--raw", "--tls-verify=false", &name]))?;
            ensure!(journeys::digest_of(raw.ok("skopeo inspect")?.as_bytes()) == image.digest());
        }
        let said = done(&naru, &["--to", &target])?;
        ensure!(said["images_there"] == 2 && said["blobs"] == 0 && said["there"] == 0, "{said}");
        let planned = naru.ok(["push", "--to", &target, "--dry-run"])?.stdout;
        ensure!(planned.lines().all(|line| line.starts_with("there ")), "{planned}");

        // One of them, with other names; a server that holds the store does it as well.
        let name = format!("{}/library/app:1", hosts[0]);
        let serving = naru.serve(&[])?;
        let said = done(&naru, &[&name, "--to", &target, "--flat", "--prefix", "team/mirror"])?;
        ensure!(said["images"] == 1, "{said}");
        drop(serving);
        same(&registry.read("team/mirror/library/app", "1")?, &first)?;
        // A tag that is something else there moves.
        let name = format!("{}/library/app:1", hosts[1]);
        let moved = naru.ok(["push", &name, "--to", &target, "--flat", "--prefix", "team/mirror"])?.stdout;
        ensure!(moved.contains("moved ") && moved.contains(first.digest()), "{moved}");
        same(&registry.read("team/mirror/library/app", "1")?, &second)?;
        Ok(())
    });
}

/// A blob that two repositories share is sent once.
#[test]
fn what_repositories_share_is_mounted() {
    journey("what_repositories_share_is_mounted", NEEDS, |folder| {
        let layer = large(folder, 3 << 20, 1)?;
        let one = Image::single(Family::Oci, "linux/amd64", std::slice::from_ref(&layer));
        let other = Image::single(Family::Docker, "linux/amd64", &[layer]);
        let (naru, _) = store(folder, &[("library/one", "1", &one, "all"), ("library/other", "1", &other, "all")])?;
        let registry = Registry::start(folder, "target")?;
        let said = done(&naru, &["--to", &registry.host(), "--flat"])?;
        ensure!(said["mounted"] != 0, "nothing was mounted: {said}");
        same(&registry.read("library/one", "1")?, &one)?;
        same(&registry.read("library/other", "1")?, &other)?;
        Ok(())
    });
}

/// docker-registry wants every child of an index; another Naru takes it as it is.
#[test]
fn a_sparse_index_stands_where_it_is_taken() {
    journey("a_sparse_index_stands_where_it_is_taken", NEEDS, |folder| {
        let image = application(folder, "sparse")?;
        let (naru, hosts) = store(folder, &[("library/app", "1", &image, "linux/amd64")])?;
        let name = format!("{}/library/app", spelled(&hosts[0]));
        let registry = Registry::start(folder, "target")?;
        let said = naru.ok(["push", "--to", &registry.host()])?.stderr;
        let single = &image.documents[0].digest;
        ensure!(said.contains(single) && said.contains(image.digest()) && said.contains("linux/amd64"), "{said}");
        ensure!(registry.read(&name, "1")?.digest() == single, "another image");

        let other = Naru::new(folder, "other")?;
        let serving = other.serve(&[])?;
        let ca = serving.ca(folder)?;
        let token = std::fs::read_to_string(other.store().join("admin.token"))?.trim().to_owned();
        let list = |password: &str| {
            naru.list(&format!(
                "images: []\nupstreams:\n  '{}':\n    username: anyone\n    password: '{password}'\n    ca: '{}'\n",
                serving.address(),
                ca.display()
            ))
        };
        list("wrong")?;
        let refused = naru.run(["push", "--to", serving.address()])?;
        ensure!(!refused.status.success() && refused.stderr.contains("hint: "), "{}", refused.stderr);
        list(&token)?;
        let said = naru.ok(["push", "--to", serving.address()])?;
        ensure!(!said.stderr.contains("warning"), "{}", said.stderr);
        let listed = other.ok(["ls"])?.stdout;
        ensure!(listed.contains(image.digest()), "{listed}");
        ensure!(serving.digest_of(&name, "1")? == image.digest());
        Ok(())
    });
}
