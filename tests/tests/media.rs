//! Media of all sizes: volumes that fit, under the names that a site wants, and a bundle that takes several media.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use journeys::image::{Family, Image, large};
use journeys::{Folder, Naru, Need, Registry, journey, run, wait_until};

const NEEDS: &[Need] = &[Need::Program("docker-registry"), Need::Root];

/// A side that has an image with a layer of so many bytes.
fn collected(folder: &Folder, bytes: u64) -> Result<(Naru, String)> {
    let registry = Registry::start(folder, "one")?;
    let image = Image::single(Family::Oci, "linux/amd64", &[large(folder, bytes, 7)?]);
    registry.push("team/large", "1", &image)?;
    let side = Naru::new(folder, "outside")?;
    let host = registry.host();
    side.list(&format!("platforms: [linux/amd64]\nimages:\n- {host}/team/large:1\n"))?;
    side.ok(["lock"])?;
    side.ok(["pull"])?;
    Ok((side, format!("{host}/team/large:1")))
}

/// The volumes in a folder, whatever their names end in.
fn volumes(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("naru-")) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of our own")
}

#[test]
fn volumes_have_the_size_and_the_name_that_a_site_wants() {
    journey("volumes_have_the_size_and_the_name_that_a_site_wants", NEEDS, |folder| {
        let (outside, name) = collected(folder, 25 << 20)?;
        for (size, most, number) in [
            ("10MiB", 10 << 20, 3),
            ("12000000", 12_000_000, 3),
            ("fat32", (4 << 30) - 1, 1),
            ("dvd", 4_700_000_000, 1),
            ("bd", 25_025_314_816_u64, 1),
        ] {
            let out = folder.join(size);
            outside.ok(["pack", "-o", text(&out)?, "--volume-size", size, "--suffix", ".naru.bin"])?;
            let volumes = volumes(&out)?;
            ensure!(volumes.len() == number, "{size}: {volumes:?}");
            for volume in &volumes {
                let bytes = fs::metadata(volume)?.len();
                ensure!(bytes <= most, "{size}: {} has {bytes} bytes", volume.display());
                ensure!(text(volume)?.ends_with(".naru.bin"), "{}", volume.display());
            }
            outside.ok(["verify", text(&out)?])?;
            let inside = Naru::new(folder, &format!("inside-{size}"))?;
            inside.load(&out)?;
            ensure!(inside.ok(["ls"])?.stdout.contains(&name), "{size}: it did not arrive");
        }
        // A stick that is not mounted is no folder to make on this machine's own disk.
        let nowhere = folder.join("no-stick/medium");
        let outcome = outside.run(["pack", "-o", text(&nowhere)?])?;
        ensure!(!outcome.status.success() && outcome.stderr.contains("is the medium mounted?"), "{}", outcome.stderr);
        ensure!(!folder.join("no-stick").exists(), "a mount point was made");
        // What a gateway or a burner calls them does not matter.
        let renamed = folder.make("renamed")?;
        for (volume, number) in volumes(&folder.join("10MiB"))?.iter().zip(1..) {
            fs::copy(volume, renamed.join(format!("FILE{number:03}.DAT")))?;
        }
        let inside = Naru::new(folder, "inside-renamed")?;
        inside.load(&renamed)?;
        ensure!(inside.ok(["ls"])?.stdout.contains(&name), "by other names it did not arrive");
        for (arguments, words) in [
            (["--volume-size", "9MiB"], "10MiB"),
            (["--volume-size", "floppy"], "fat32"),
            (["--suffix", "/../../elsewhere"], "letters, digits"),
            (["--suffix", ".partial"], "unfinished"),
        ] {
            let out = folder.join("refused");
            let outcome = outside.run(["pack", "-o", text(&out)?, arguments[0], arguments[1]])?;
            ensure!(!outcome.status.success() && outcome.stderr.contains(words), "{arguments:?}: {}", outcome.stderr);
            ensure!(!out.exists() || volumes(&out)?.is_empty(), "{arguments:?} wrote something");
        }
        Ok(())
    });
}

#[test]
fn a_bundle_takes_as_many_media_as_it_needs() {
    journey("a_bundle_takes_as_many_media_as_it_needs", NEEDS, |folder| {
        let (outside, name) = collected(folder, 45 << 20)?;
        // A medium has room for the program and two volumes.
        let program = fs::metadata(journeys::binary()?)?.len();
        let room = program + (23 << 20);
        let place = folder.make("medium")?;
        let mount = || run("mount", ["-t", "tmpfs", "-o", &format!("size={room}"), "medium", text(&place)?]);
        mount()?;
        let (said, errors) = (folder.join("said"), folder.join("errors"));
        let mut pack = outside
            .command(["pack", "-o", text(&place)?, "--volume-size", "10MiB", "--media"])
            .stdin(Stdio::piped())
            .stdout(File::create(&said)?)
            .stderr(File::create(&errors)?)
            .spawn()?;
        let mut input = pack.stdin.take().context("its input")?;
        let mut media = Vec::new();
        loop {
            let asked = wait_until("it asks for a medium, or ends", || {
                let asked = fs::read_to_string(&errors)?.matches("Put the next medium there").count();
                let ended = pack.try_wait()?;
                Ok((ended.is_some() || asked > media.len()).then_some(ended))
            })?;
            // Carried away.
            let medium = folder.make(format!("medium-{}", media.len() + 1))?;
            for volume in volumes(&place)? {
                fs::copy(&volume, medium.join(volume.file_name().context("a name")?))?;
            }
            media.push(medium);
            if let Some(status) = asked {
                ensure!(status.success(), "{status}: {}", fs::read_to_string(&errors)?);
                break;
            }
            run("umount", [text(&place)?])?;
            mount()?;
            input.write_all(b"\n")?;
        }
        ensure!(media.len() >= 3, "{} media", media.len());
        let errors = fs::read_to_string(&errors)?;
        ensure!(errors.contains("volumes 3 to"), "it does not say which are left: {errors}");

        // In the order in which they come out of the box.
        let inside = Naru::new(folder, "inside")?;
        media.rotate_left(1);
        for (medium, number) in media.iter().zip(1..) {
            let outcome = inside.run(["load", text(medium)?])?;
            let expected = if number == media.len() { 0 } else { 3 };
            ensure!(outcome.status.code() == Some(expected), "medium {number}: {}", outcome.stderr);
        }
        ensure!(inside.ok(["ls"])?.stdout.contains(&name), "it did not arrive");
        inside.ok(["fsck"])?;

        // Nobody there to change media: it says how to go on.
        run("umount", [text(&place)?])?;
        mount()?;
        let alone = outside.run(["pack", "-o", text(&place)?, "--volume-size", "10MiB", "--media"])?;
        ensure!(alone.status.code() == Some(3) && alone.stderr.contains("--only 3.."), "{}", alone.stderr);
        Ok(())
    });
}
