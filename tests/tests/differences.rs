//! Several sites and one that collects: only what they lack goes to them, by stick and through a diode.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use journeys::image::{Family, Image, Layer, large};
use journeys::{Daemon, Folder, Naru, Need, Registry, Serving, journey};

const NEEDS: &[Need] = &[Need::Program("docker-registry"), Need::Program("skopeo")];

/// What a command prints, both streams.
fn said(naru: &Naru, arguments: &[&str]) -> Result<String> {
    let outcome = naru.ok(arguments.iter().copied())?;
    Ok(outcome.stdout + &outcome.stderr)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of our own")
}

/// The bytes of the volumes in a folder.
fn size_of(bundle: &Path) -> Result<u64> {
    let mut size = 0;
    for volume in volumes(bundle)? {
        size += fs::metadata(volume)?.len();
    }
    Ok(size)
}

fn volumes(bundle: &Path) -> Result<Vec<PathBuf>> {
    let mut volumes = Vec::new();
    for entry in fs::read_dir(bundle)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("naru-") && path.extension().is_some_and(|extension| extension == "tar") {
            volumes.push(path);
        }
    }
    volumes.sort();
    Ok(volumes)
}

/// A collecting side whose images share a large layer, and their registry.
struct Collected<'a> {
    folder: &'a Folder,
    registry: Registry,
    outside: Naru,
    shared: Layer,
}

impl<'a> Collected<'a> {
    fn new(folder: &'a Folder) -> Result<Self> {
        let registry = Registry::start(folder, "one")?;
        Ok(Self { folder, outside: Naru::new(folder, "outside")?, shared: large(folder, 24 << 20, 3)?, registry })
    }

    /// Has these images in the lock and the store.
    fn collect(&self, names: &[&str]) -> Result<Vec<Image>> {
        let mut images = Vec::new();
        let mut list = "platforms: [linux/amd64]\nimages:\n".to_owned();
        for (name, seed) in names.iter().zip(100..) {
            let layers = [self.shared.clone(), large(self.folder, 1 << 16, seed)?];
            let image = Image::single(Family::Oci, "linux/amd64", &layers);
            self.registry.push(&format!("library/{name}"), "1", &image)?;
            writeln!(list, "- {}/library/{name}:1", self.registry.host())?;
            images.push(image);
        }
        self.outside.list(&list)?;
        let _ = fs::remove_file(self.outside.folder().join("naru.lock"));
        self.outside.ok(["lock"])?;
        self.outside.ok(["pull"])?;
        Ok(images)
    }

    fn repository(&self, name: &str) -> String {
        format!("{}/library/{name}", self.registry.host().replace(':', "_"))
    }
}

#[test]
fn two_sites_get_only_what_both_lack_and_ask_for_the_rest() {
    journey("two_sites_get_only_what_both_lack_and_ask_for_the_rest", NEEDS, |folder| {
        let collected = Collected::new(folder)?;
        let outside = &collected.outside;
        let (seoul, busan) = (Naru::new(folder, "seoul")?, Naru::new(folder, "busan")?);
        collected.collect(&["one"])?;
        let first = folder.join("first");
        outside.pack(&first, &[])?;
        seoul.load(&first)?;
        busan.load(&first)?;

        // One site is served while it writes its receipt and loads.
        let serving = seoul.serve(&[])?;
        let (of_seoul, of_busan) = (folder.join("seoul.receipt"), folder.join("busan.receipt"));
        let told = said(&seoul, &["receipt", "-o", text(&of_seoul)?])?;
        ensure!(told.contains("newest bundle") && told.contains("in words"), "{told}");
        said(&busan, &["receipt", "-o", text(&of_busan)?])?;

        let images = collected.collect(&["one", "two"])?;
        let second = folder.join("second");
        let since = ["--since", text(&of_seoul)?, "--since", text(&of_busan)?];
        outside.ok(["pack", "-o", text(&second)?].into_iter().chain(since))?;
        ensure!(size_of(&second)? < 1 << 20, "the shared layer went again: {} bytes", size_of(&second)?);
        let told = said(outside, &["verify", text(&second)?])?;
        ensure!(told.starts_with("whole") && told.contains("not proven here"), "{told}");
        let told = said(outside, &["verify", text(&second)?, "--receipt", text(&of_busan)?])?;
        ensure!(told.starts_with("whole") && told.contains("held against"), "{told}");

        said(&seoul, &["load", text(&second)?])?;
        serving.holds(&collected.repository("two"), &images[1])?;
        seoul_is_right(&serving, &collected, &images)?;
        drop(serving);
        seoul.ok(["fsck"])?;

        // What can be said on the telephone does as well: the words of the newest bundle.
        let words = told_words(&said(&seoul, &["--json", "receipt"])?)?;
        collected.collect(&["one", "two", "three"])?;
        let third = folder.join("third");
        outside.ok(["pack", "-o", text(&third)?, "--since", &words])?;
        ensure!(size_of(&third)? < 1 << 20, "{}", size_of(&third)?);

        // The other site missed the second bundle, and asks.
        let outcome = busan.run(["load", text(&third)?])?;
        ensure!(outcome.status.code() == Some(3), "{}{}", outcome.stdout, outcome.stderr);
        let want = fs::read_dir(busan.store().join("want"))?.next().context("a want-list")??.path();
        let listed = fs::read_to_string(&want)?;
        ensure!(
            listed.contains("library/two:1") && outcome.stderr.contains(text(&want)?),
            "{listed}{}",
            outcome.stderr
        );
        let told = said(outside, &["pull", "--want", text(&want)?])?;
        ensure!(told.contains("are here"), "{told}");
        let fourth = folder.join("fourth");
        outside.ok(["pack", "-o", text(&fourth)?, "--want", text(&want)?])?;
        ensure!(size_of(&fourth)? < 1 << 20, "{}", size_of(&fourth)?);
        busan.load(&fourth)?;
        let serving = busan.serve(&[])?;
        for name in ["one", "two", "three"] {
            serving.digest_of(&collected.repository(name), "1")?;
        }
        ensure!(!want.exists(), "the want-list is done with");
        Ok(())
    });
}

fn seoul_is_right(serving: &Serving, collected: &Collected<'_>, images: &[Image]) -> Result<()> {
    for (name, image) in ["one", "two"].into_iter().zip(images) {
        let digest = serving.digest_of(&collected.repository(name), "1")?;
        ensure!(digest == image.digest(), "{name}: {digest}");
    }
    Ok(())
}

/// `newestBundle` of what `naru --json receipt` prints.
fn told_words(json: &str) -> Result<String> {
    let rest = json.split_once("\"newestBundle\":\"").context("no newest bundle")?.1;
    Ok(rest.split_once('"').context("cut")?.0.to_owned())
}

#[test]
fn a_diode_brings_volumes_as_it_likes() {
    journey("a_diode_brings_volumes_as_it_likes", NEEDS, |folder| {
        let collected = Collected::new(folder)?;
        let (outside, site) = (&collected.outside, Naru::new(folder, "site")?);
        let images = collected.collect(&["one", "two"])?;
        let bundle = folder.join("bundle");
        outside.ok(["pack", "-o", text(&bundle)?, "--volume-size", "10MiB", "--parity", "1"])?;
        let volumes = volumes(&bundle)?;
        ensure!(volumes.len() >= 4, "{volumes:?}");

        let diode = folder.make("diode")?;
        let serving = site.serve(&[])?;
        let mut command = site.command(["load", "--watch", text(&diode)?, "--until-whole"]);
        let log = folder.join("watch.log");
        let mut watch = Daemon::start(&mut command, &log)?;
        // The last first, half of it at first; the first is never sent, and parity comes in its place.
        let place = |path: &Path| diode.join(path.file_name().unwrap_or_default());
        let [_, between @ .., last, parity] = volumes.as_slice() else { anyhow::bail!("{volumes:?}") };
        let bytes = fs::read(last)?;
        fs::write(place(last), &bytes[..bytes.len() / 2])?;
        watch.wait_for("half a volume is not taken", |said| said.contains("not taken as it is now").then_some(()))?;
        fs::write(place(last), &bytes)?;
        fs::write(diode.join("README.txt"), "of no concern")?;
        watch.wait_for("the last volume", |said| said.contains("has come: volume").then_some(()))?;
        for volume in between {
            fs::copy(volume, place(volume))?;
        }
        watch.wait_for("what is missing is said", |said| {
            let come = said.matches("has come: volume").count() == between.len() + 1;
            (come && said.contains("MISSING  volume 1 (naru-0001)")).then_some(())
        })?;
        fs::copy(parity, place(parity))?;
        let status = watch.wait()?;
        let told = watch.said();
        ensure!(status.success() && told.contains("rebuilt  volume 1"), "{status}\n{told}");
        for (name, image) in ["one", "two"].into_iter().zip(&images) {
            serving.holds(&collected.repository(name), image)?;
        }
        drop(serving);
        site.ok(["fsck"])?;
        // Nothing was written where the diode writes.
        ensure!(fs::read_dir(&diode)?.count() == between.len() + 3);
        Ok(())
    });
}

/// The largest file below a folder.
fn largest(folder: &Path) -> Result<PathBuf> {
    let (mut largest, mut open) = ((0, PathBuf::new()), vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            match entry.metadata()? {
                metadata if metadata.is_dir() => open.push(entry.path()),
                metadata => largest = largest.max((metadata.len(), entry.path())),
            }
        }
    }
    Ok(largest.1)
}

/// What a volume's bad spot took is sent for, fetched, and comes in another bundle: the watch hears that both are whole.
#[test]
fn what_is_wanted_finishes_what_came_damaged() {
    journey("what_is_wanted_finishes_what_came_damaged", NEEDS, |folder| {
        let collected = Collected::new(folder)?;
        let (outside, site) = (&collected.outside, Naru::new(folder, "site")?);
        let images = collected.collect(&["one"])?;
        let bundle = folder.join("bundle");
        outside.ok(["pack", "-o", text(&bundle)?])?;
        let diode = folder.make("diode")?;
        let serving = site.serve(&[])?;
        let mut command = site.command(["load", "--watch", text(&diode)?, "--until-whole"]);
        let mut watch = Daemon::start(&mut command, &folder.join("watch.log"))?;
        let mut bytes = fs::read(bundle.join("naru-0001.tar"))?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(diode.join("naru-0001.tar"), bytes)?;
        watch.wait_for("the damage is named", |said| {
            (said.contains("DAMAGED") && said.contains("that no volume will bring")).then_some(())
        })?;
        let want = fs::read_dir(site.store().join("want"))?.next().context("a want-list")??.path();
        // The collecting side has lost it as well.
        fs::remove_file(largest(&outside.store().join("blobs"))?)?;
        let told = said(outside, &["pull", "--want", text(&want)?])?;
        ensure!(told.contains("1 blobs fetched"), "{told}");
        let wanted = folder.join("wanted");
        outside.ok(["pack", "-o", text(&wanted)?, "--want", text(&want)?])?;
        fs::copy(wanted.join("naru-0001.tar"), diode.join("wanted.tar"))?;
        let status = watch.wait()?;
        ensure!(status.success(), "{status}\n{}", watch.said());
        serving.holds(&collected.repository("one"), &images[0])?;
        ensure!(!want.exists(), "the want-list is done with");
        drop(serving);
        site.ok(["fsck"])?;
        Ok(())
    });
}
