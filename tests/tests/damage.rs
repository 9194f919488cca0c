//! A medium that lies: what was written is not what is there any more, and the page cache still thinks so.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use journeys::image::{Content, Family, Image, large};
use journeys::{Naru, Need, Registry, journey, run};

const NEEDS: &[Need] =
    &[Need::Program("docker-registry"), Need::Program("mkfs.ext4"), Need::Program("losetup"), Need::Root];

/// Where `needle` lies in a file.
fn place_of(path: &Path, needle: &[u8]) -> Result<u64> {
    let mut file = File::open(path)?;
    // The last bytes of one piece come again with the next, in case the needle lies across.
    let mut piece = vec![0; 4 << 20];
    let (mut at, mut kept) = (0, 0);
    loop {
        let count = file.read(&mut piece[kept..])?;
        ensure!(count > 0, "the bytes are not in {}", path.display());
        let filled = kept + count;
        if let Some(found) = piece[..filled].windows(needle.len()).position(|window| window == needle) {
            return Ok(at + found as u64);
        }
        kept = needle.len().min(filled);
        at += (filled - kept) as u64;
        piece.copy_within(filled - kept..filled, 0);
    }
}

#[test]
fn verify_reads_the_medium_and_not_the_cache() {
    journey("verify_reads_the_medium_and_not_the_cache", NEEDS, |folder| {
        let registry = Registry::start(folder, "one")?;
        let image = Image::single(Family::Oci, "linux/amd64", &[large(folder, 30 << 20, 4)?]);
        registry.push("library/app", "1", &image)?;
        let outside = Naru::new(folder, "outside")?;
        outside.list(&format!("platforms: [linux/amd64]\nimages:\n- {}/library/app:1\n", registry.host()))?;

        // Room for the volumes and for the binary, which goes beside them.
        let backing = folder.join("medium.img");
        File::create(&backing)?.set_len(400 << 20)?;
        let (medium, backing_name) = (folder.make("medium")?, backing.to_str().context("a path of our own")?);
        run("mkfs.ext4", ["-q", "-F", backing_name])?;
        // With the mount goes the loop device: it ends with the journey's namespace if not before.
        run("mount", ["-o", "loop", backing_name, medium.to_str().context("a path of our own")?])?;
        let bundle = medium.join("bundle");
        outside.pack(&bundle, &[])?;
        run("sync", ["-f", medium.to_str().context("a path of our own")?])?;

        let layer = image.blobs.last().context("the layer")?;
        let Content::In(path) = &layer.content else { anyhow::bail!("a large layer lies in a file") };
        let mut needle = vec![0; 64];
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(10 << 20))?;
        file.read_exact(&mut needle)?;
        let place = place_of(&backing, &needle)?;
        let mut file = File::options().write(true).open(&backing)?;
        file.seek(SeekFrom::Start(place))?;
        file.write_all(&[needle[0] ^ 1])?;
        file.sync_all()?;

        let outcome = outside.run(["verify".as_ref(), bundle.as_os_str()])?;
        ensure!(!outcome.status.success(), "verify saw nothing:\n{}{}", outcome.stdout, outcome.stderr);
        let said = outcome.stdout + &outcome.stderr;
        ensure!(said.contains(layer.digest.trim_start_matches("sha256:")), "the damaged blob is not named: {said}");

        // Carried to the other side: another machine's cache knows nothing of it.
        let medium_name = medium.to_str().context("a path of our own")?;
        run("umount", [medium_name])?;
        run("mount", ["-o", "loop", backing_name, medium_name])?;
        // The sealed side takes all but the damaged one, says so, and offers nothing that is not complete.
        let inside = Naru::new(folder, "inside")?;
        let outcome = inside.run(["load".as_ref(), bundle.as_os_str()])?;
        ensure!(!outcome.status.success(), "load saw nothing:\n{}{}", outcome.stdout, outcome.stderr);
        let said = outcome.stdout + &outcome.stderr;
        ensure!(said.contains(layer.digest.trim_start_matches("sha256:")), "the damaged blob is not named: {said}");
        ensure!(!inside.ok(["ls"])?.stdout.contains("library/app"), "what is not complete is shown");

        // The same volume, whole, finishes it.
        let again = folder.join("again");
        outside.ok(["pack".as_ref(), "-o".as_ref(), again.as_os_str()])?;
        inside.load(&again)?;
        let serving = inside.serve(&[])?;
        serving.holds(&format!("{}/library/app", registry.host()), &image)?;
        run("umount", [medium])?;
        Ok(())
    });
}

/// Where the store has the bytes of a blob.
fn file_of(naru: &Naru, digest: &str) -> Result<PathBuf> {
    let hex = digest.trim_start_matches("sha256:");
    let folder = naru.store().join("blobs/sha256").join(&hex[..2]);
    let names = std::fs::read_dir(&folder)?.collect::<std::io::Result<Vec<_>>>()?;
    let found = names.iter().find(|entry| entry.file_name().to_string_lossy().starts_with(hex));
    Ok(found.with_context(|| format!("{digest} is not in the store"))?.path())
}

#[test]
fn what_a_store_has_lost_is_brought_again() {
    journey("what_a_store_has_lost_is_brought_again", &[Need::Program("docker-registry")], |folder| {
        let registry = Registry::start(folder, "one")?;
        let image =
            Image::single(Family::Oci, "linux/amd64", &[large(folder, 3 << 20, 1)?, large(folder, 2 << 20, 2)?]);
        registry.push("library/app", "1", &image)?;
        let outside = Naru::new(folder, "outside")?;
        outside.list(&format!("platforms: [linux/amd64]\nimages:\n- {}/library/app:1\n", registry.host()))?;
        let (bundle, inside) = (folder.join("bundle"), Naru::new(folder, "inside")?);
        outside.pack(&bundle, &[])?;
        inside.load(&bundle)?;

        let digests: Vec<&str> = image.blobs.iter().rev().take(2).map(|blob| blob.digest.as_str()).collect();
        let lose = |naru: &Naru| -> Result<()> {
            std::fs::remove_file(file_of(naru, digests[0])?)?;
            let path = file_of(naru, digests[1])?;
            let mut bytes = std::fs::read(&path)?;
            bytes[1 << 20] ^= 1;
            Ok(std::fs::write(path, bytes)?)
        };
        let is_named = |naru: &Naru| -> Result<()> {
            let outcome = naru.run(["fsck"])?;
            ensure!(!outcome.status.success(), "fsck saw nothing: {}", outcome.stdout);
            for digest in &digests {
                ensure!(outcome.stdout.contains(digest), "{digest} is not named: {}", outcome.stdout);
            }
            ensure!(outcome.stderr.contains("--repair-from"), "nobody says how to heal it: {}", outcome.stderr);
            Ok(())
        };
        lose(&inside)?;
        is_named(&inside)?;
        inside.load(&bundle)?;
        inside.ok(["fsck"])?;
        inside.serve(&[])?.holds(&format!("{}/library/app", registry.host()), &image)?;

        lose(&outside)?;
        is_named(&outside)?;
        outside.ok(["pull"])?;
        outside.ok(["fsck"])?;
        Ok(())
    });
}
