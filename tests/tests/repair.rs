//! What a disk has done to a store is made good: from a bundle, from the upstreams, and when the catalog itself is gone.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use journeys::image::{Family, Image, large};
use journeys::{Daemon, Naru, Need, Nginx, Outcome, Random, Registry, journey, run};

const NEEDS: &[Need] = &[Need::Program("docker-registry"), Need::Program("nginx"), Need::Program("sqlite3")];

/// Where the store has the bytes of a blob.
fn file_of(naru: &Naru, digest: &str) -> Result<PathBuf> {
    let hex = digest.trim_start_matches("sha256:");
    let folder = naru.store().join("blobs/sha256").join(&hex[..2]);
    let names = std::fs::read_dir(&folder)?.collect::<std::io::Result<Vec<_>>>()?;
    let is_it = |name: &str| name.starts_with(hex) && !name.ends_with(".damaged");
    let found = names.iter().find(|entry| is_it(&entry.file_name().to_string_lossy()));
    Ok(found.with_context(|| format!("{digest} is not in the store"))?.path())
}

fn flip(path: &Path, at: u64) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    Ok(file.write_all_at(&[byte[0] ^ 1], at)?)
}

/// Deletes a layer, flips a bit of the next, cuts the config, and changes the manifest in the catalog. A server may run.
fn damage(naru: &Naru, image: &Image) -> Result<Vec<String>> {
    let digests: Vec<String> = image.blobs.iter().rev().map(|blob| blob.digest.clone()).collect();
    std::fs::remove_file(file_of(naru, &digests[0])?)?;
    flip(&file_of(naru, &digests[1])?, 1 << 20)?;
    File::options().write(true).open(file_of(naru, &digests[2])?)?.set_len(3)?;
    let manifest = image.digest();
    let hex = manifest.trim_start_matches("sha256:");
    // Of its JSON: one letter is another, and it can still be read.
    let statement = format!(
        "UPDATE manifest SET bytes = CAST(replace(CAST(bytes AS TEXT), 'schemaVersion', 'schemaVersiom') AS BLOB) \
         WHERE digest = x'{hex}'"
    );
    run("sqlite3", [naru.store().join("naru.db").as_os_str(), OsStr::new(&statement)])?;
    Ok(digests.into_iter().take(3).chain([manifest.to_owned()]).collect())
}

fn heal(naru: &Naru, from: &[&OsStr]) -> Result<Outcome> {
    naru.run([OsStr::new("fsck"), OsStr::new("--repair-from")].into_iter().chain(from.iter().copied()))
}

fn is_healed(outcome: &Outcome, digests: &[String]) -> Result<()> {
    ensure!(outcome.status.success(), "{}{}", outcome.stdout, outcome.stderr);
    for digest in digests {
        ensure!(outcome.stdout.contains(&format!("healed    {digest}")), "{digest}: {}", outcome.stdout);
    }
    Ok(())
}

#[test]
fn a_store_is_healed_from_bundles_and_upstreams() {
    journey("a_store_is_healed_from_bundles_and_upstreams", NEEDS, |folder| {
        let (registry, files) = (Registry::start(folder, "one")?, Nginx::start(folder, "files")?);
        let image =
            Image::single(Family::Oci, "linux/amd64", &[large(folder, 3 << 20, 1)?, large(folder, 2 << 20, 2)?]);
        registry.push("library/app", "1", &image)?;
        std::fs::write(files.root().join("tool"), b"a tool of its own".repeat(1000))?;
        let outside = Naru::new(folder, "outside")?;
        outside.list(&format!(
            "platforms: [linux/amd64]\nimages:\n- {}/library/app:1\nfiles:\n- url: http://{}/tool\n",
            registry.host(),
            files.host(),
        ))?;
        let (bundle, inside) = (folder.join("bundle"), Naru::new(folder, "inside")?);
        outside.pack(&bundle, &["--volume-size", "10MiB"])?;
        inside.load(&bundle)?;
        let name = format!("{}/library/app", registry.host());
        let history = inside.ok(["history"])?.stdout;

        let lost = damage(&inside, &image)?;
        let found = inside.run(["fsck"])?;
        ensure!(found.status.code() == Some(3) && found.stderr.contains("--repair-from"), "{found:?}");
        // Who is not trusted heals nothing, and nothing is changed.
        let careful = Naru::new(folder, "careful")?;
        careful.load(&bundle)?;
        std::fs::remove_file(file_of(&careful, &lost[1])?)?;
        careful.ok(["key", "new", "own.key"])?;
        careful.ok(["key", "trust", "own.key.pub"])?;
        let refused = heal(&careful, &[bundle.as_os_str()])?;
        ensure!(refused.status.code() == Some(5) && refused.stderr.contains("naru key trust"), "{refused:?}");
        ensure!(careful.run(["fsck"])?.status.code() == Some(3), "something was healed");

        is_healed(&heal(&inside, &[bundle.as_os_str()])?, &lost)?;
        inside.ok(["fsck"])?;
        ensure!(inside.ok(["history"])?.stdout == history, "healing made a generation");
        let serving = inside.serve(&[])?;
        serving.holds(&name, &image)?;

        // While a server holds the store, and has it all in memory.
        let lost = damage(&inside, &image)?;
        is_healed(&heal(&inside, &[bundle.as_os_str()])?, &lost)?;
        serving.holds(&name, &image)?;
        drop(serving);

        // A bundle that is damaged in the same place has the rest, and says what it has not and who needs that.
        let lost = damage(&inside, &image)?;
        let copy = folder.join("copy");
        run("cp", [OsStr::new("-a"), bundle.as_os_str(), copy.as_os_str()])?;
        let volume = copy.join("naru-0001.tar");
        let bytes = std::fs::read(&volume)?;
        let layer = std::fs::read(folder.join("large-2.tar"))?;
        let needle = &layer[1 << 20..(1 << 20) + 64];
        let at = bytes.windows(64).position(|window| window == needle).context("the layer is in the volume")?;
        flip(&volume, at as u64)?;
        let rest = heal(&inside, &[copy.as_os_str()])?;
        ensure!(rest.status.code() == Some(3), "{rest:?}");
        let is_lost = |digest: &str| rest.stdout.contains(&format!("LOST      {digest}"));
        ensure!(is_lost(&lost[0]) && !is_lost(&lost[1]) && !is_lost(&lost[3]), "{}", rest.stdout);
        ensure!(
            rest.stdout.contains("DAMAGED") && rest.stdout.contains(&format!("needed by {name}:1")),
            "{}",
            rest.stdout
        );
        // The upstream has it, and the file too.
        let file = outside.ok(["ls", "--json"]).or_else(|_| outside.ok(["ls"]))?.stdout;
        let tool = file.lines().find(|line| line.contains("/tool")).context("the file is listed")?;
        let start = tool.find("sha256:").context("with its digest")?;
        let tool = tool[start..start + 71].to_owned();
        std::fs::remove_file(file_of(&inside, &tool)?)?;
        is_healed(&heal(&inside, &[copy.as_os_str(), OsStr::new("upstream")])?, &[lost[0].clone(), tool.clone()])?;
        inside.ok(["fsck"])?;
        inside.serve(&[])?.holds(&name, &image)?;

        // From one upstream alone: the registry has no files.
        let lost = damage(&outside, &image)?;
        std::fs::remove_file(file_of(&outside, &tool)?)?;
        let rest = heal(&outside, &[OsStr::new(&registry.host())])?;
        ensure!(rest.status.code() == Some(3) && rest.stdout.contains(&format!("LOST      {tool}")), "{rest:?}");
        for digest in &lost {
            ensure!(rest.stdout.contains(&format!("healed    {digest}")), "{digest}: {}", rest.stdout);
        }
        is_healed(&heal(&outside, &[OsStr::new(&files.host())])?, &[tool])?;
        outside.ok(["fsck"])?;
        // A load or a pull again heals as well, the manifest too.
        damage(&inside, &image)?;
        inside.run(["fsck"])?;
        inside.load(&bundle)?;
        damage(&outside, &image)?;
        outside.run(["fsck"])?;
        outside.ok(["pull"])?;
        outside.ok(["fsck"])?;
        Ok(())
    });
}

#[test]
fn a_lost_catalog_is_made_again_whatever_cuts_it() {
    journey("a_lost_catalog_is_made_again_whatever_cuts_it", NEEDS, |folder| {
        let registry = Registry::start(folder, "one")?;
        let image = Image::single(Family::Oci, "linux/amd64", &[large(folder, 30 << 20, 1)?]);
        registry.push("library/app", "1", &image)?;
        let outside = Naru::new(folder, "outside")?;
        outside.list(&format!("platforms: [linux/amd64]\nimages:\n- {}/library/app:1\n", registry.host()))?;
        let (bundle, inside) = (folder.join("bundle"), Naru::new(folder, "inside")?);
        outside.pack(&bundle, &[])?;
        inside.load(&bundle)?;
        let (name, catalog) = (format!("{}/library/app", registry.host()), inside.store().join("naru.db"));
        let count = || -> Result<usize> { Ok(std::fs::read_dir(inside.store().join("blobs/sha256"))?.count()) };
        let folders = count()?;

        // A server lives by its catalog: it is not exchanged below it.
        let serving = inside.serve(&[])?;
        let refused = inside.run(["fsck", "--rebuild"])?;
        ensure!(refused.status.code() == Some(6), "{refused:?}");
        serving.holds(&name, &image)?;
        drop(serving);

        // Overwritten behind its header, and killed again and again while it is made anew.
        let overwrite = || -> Result<()> {
            let file = File::options().write(true).open(&catalog)?;
            let size = usize::try_from(file.metadata()?.len())?;
            Ok(file.write_all_at(&vec![0x5a; size - 4096], 4096)?)
        };
        overwrite()?;
        let told = inside.run(["ls"])?;
        ensure!(!told.status.success() && told.stderr.contains("naru fsck --rebuild"), "{told:?}");
        let mut random = Random::new(7);
        let mut killed = 0;
        for _ in 0..20 {
            let mut process = Daemon::start(&mut inside.command(["fsck", "--rebuild"]), &folder.join("killed.log"))?;
            sleep(Duration::from_millis(random.below(150)));
            killed += u32::from(process.ended()?.is_none());
            process.kill()?;
            if process.ended()?.is_some_and(|status| status.success()) {
                overwrite()?;
            }
        }
        eprintln!("killed {killed} of 20 while they ran");
        let last = inside.run(["fsck", "--rebuild"])?;
        ensure!(matches!(last.status.code(), Some(0 | 3)), "{last:?}");
        inside.ok(["fsck"])?;
        inside.serve(&[])?.holds(&name, &image)?;

        // Without a copy: the names come again with the bundle, the bytes are here.
        std::fs::remove_file(inside.store().join("naru.db.kept"))?;
        std::fs::remove_file(&catalog)?;
        for verb in ["ls", "fsck", "history"] {
            let told = inside.run([verb])?;
            ensure!(!told.status.success() && told.stderr.contains("naru fsck --rebuild"), "{verb}: {told:?}");
        }
        let told = inside.run([OsStr::new("load"), bundle.as_os_str()])?;
        ensure!(!told.status.success() && told.stderr.contains("naru fsck --rebuild"), "{told:?}");
        let rebuilt = inside.run(["fsck", "--rebuild"])?;
        ensure!(rebuilt.status.code() == Some(3) && rebuilt.stdout.contains("without a copy"), "{rebuilt:?}");
        let loaded = inside.ok([OsStr::new("load"), bundle.as_os_str()])?;
        ensure!(loaded.stdout.contains("0 written"), "bytes were carried twice: {}", loaded.stdout);
        inside.ok(["fsck"])?;
        inside.serve(&[])?.holds(&name, &image)?;
        ensure!(count()? == folders, "folders");
        Ok(())
    });
}
