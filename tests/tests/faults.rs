//! Bad days, made on purpose: disks that fail, that are full, that take no large file; an end in every phase; media that
//! were mixed up. After each of them fsck finds nothing wrong, what was acknowledged is there, and the same command run
//! again finishes.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use journeys::image::{Family, Image, application, digest_of, large};
use journeys::{
    Daemon, Disk, Fault, Faulty, Folder, Naru, Need, Outcome, Random, Recording, Registry, Serving, find, http,
    journey, run,
};
use rustix::process::Signal;

const NEEDS: &[Need] = &[Need::Program("docker-registry"), Need::Program("busybox")];

/// An upstream with two images, a connected side with its list, and a bundle of several volumes.
struct Scene {
    registry: Registry,
    images: [Image; 2],
    outside: Naru,
    bundle: PathBuf,
}

impl Scene {
    fn set(folder: &Folder, layer: u64) -> Result<Self> {
        let registry = Registry::start(folder, "one")?;
        let layers = [large(folder, layer, 900)?];
        let images = [Image::single(Family::Oci, "linux/amd64", &layers), application(folder, "faults")?];
        registry.push("library/large", "1", &images[0])?;
        registry.push("library/app", "1", &images[1])?;
        let (outside, bundle) = (Naru::new(folder, "outside")?, folder.join("bundle"));
        outside.list(&list(&registry.host()))?;
        outside.pack(&bundle, &["--volume-size", "10MiB"])?;
        Ok(Self { registry, images, outside, bundle })
    }

    fn is_whole(&self, site: &Naru) -> Result<()> {
        site.ok(["fsck"])?;
        let serving = site.serve(&[])?;
        serving.holds(&format!("{}/library/large", self.registry.host()), &self.images[0])?;
        serving.holds(&format!("{}/library/app", self.registry.host()), &self.images[1])
    }
}

fn list(host: &str) -> String {
    format!(
        "platforms: [linux/amd64]\nimages:\n- {host}/library/large:1\n- {{ image: '{host}/library/app:1', platforms: [all] }}\n"
    )
}

/// Below `strace`, which makes the `nth` sync of every thread fail; and the calls that it made fail.
fn with_failing_sync(command: &Command, nth: u32, log: &Path) -> Result<(Outcome, Vec<String>)> {
    let mut strace = Command::new(find("strace").context("strace is not here")?);
    strace.args(["-f", "-qq", "-y", "-e", "trace=fsync,fdatasync", "-e"]);
    strace.arg(format!("inject=fsync,fdatasync:error=EIO:when={nth}")).arg("-o").arg(log);
    strace.arg(command.get_program()).args(command.get_args()).env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            strace.env(name, value);
        }
    }
    strace.current_dir(command.get_current_dir().context("commands run in a folder of their own")?);
    let outcome = Outcome::of(&mut strace)?;
    ensure!(!outcome.stderr.contains("panicked at"), "naru panicked:\n{}", outcome.stderr);
    let failed =
        std::fs::read_to_string(log)?.lines().filter(|line| line.ends_with("(INJECTED)")).map(str::to_owned).collect();
    Ok((outcome, failed))
}

#[test]
fn a_disk_that_fails_to_sync_is_believed() {
    let needs = [NEEDS, &[Need::Program("strace")]].concat();
    journey("a_disk_that_fails_to_sync_is_believed", &needs, |folder| {
        let scene = Scene::set(folder, 12 << 20)?;
        let (bundle, out, log) = (&scene.bundle, folder.join("out"), folder.join("strace.log"));
        let list = list(&scene.registry.host());
        for verb in ["pull", "pack", "load"] {
            let (mut failed, mut folders_heard, mut nth) = (0, 0, 1);
            loop {
                let site = match verb {
                    "pack" => Naru::new(folder, "outside")?,
                    _ => Naru::new(folder, &format!("{verb}-{nth}"))?,
                };
                site.list(&list)?;
                let command = match verb {
                    "pull" => site.command(["pull"]),
                    "pack" => site.command(["pack".as_ref(), "-o".as_ref(), out.as_os_str()]),
                    _ => site.command(["load".as_ref(), bundle.as_os_str()]),
                };
                let (outcome, injected) = with_failing_sync(&command, nth, &log)?;
                if injected.is_empty() {
                    ensure!(outcome.status.success(), "{verb} {nth}: {}", outcome.stderr);
                    break;
                }
                failed += 1;
                nth += 1;
                if outcome.status.success() {
                    // A sync that failed may never be called done. But where SQLite tidies up at the end, all that was
                    // done is in its log, which is synced; it keeps the log then, and the next opening reads it.
                    // Nor does it look at its sync of the folder, which we sync behind it.
                    let tidying =
                        |call: &String| ["/naru.db>", "/naru.db-wal>", "/store>"].iter().any(|end| call.contains(end));
                    ensure!(injected.iter().all(tidying), "{injected:?} failed, and {verb} says that it is done");
                    if verb == "pack" {
                        site.ok(["verify".as_ref(), out.as_os_str()])?;
                        std::fs::remove_dir_all(&out)?;
                    } else {
                        scene.is_whole(&site)?;
                    }
                    continue;
                }
                folders_heard += usize::from(injected.iter().any(|call| call.contains("/store>")));
                ensure!(outcome.stderr.contains("error: "), "{verb} {nth} does not say why: {}", outcome.stderr);
                // Nobody may go on from bytes that are not on the disk, and that the cache shows all the same.
                for call in injected.iter().filter(|call| call.contains("/store/partial/")) {
                    let path = call.split_once('<').and_then(|(_, rest)| rest.split_once('>')).context("a path")?.0;
                    ensure!(!Path::new(path).exists(), "{path} is still there");
                }
                // It may have failed before there was a store at all.
                if site.store().join("naru.db").exists() {
                    site.ok(["fsck"])?;
                }
                Outcome::of(&mut site.command(command.get_args()))?.ok(&format!("{verb} again after sync {nth}"))?;
                match verb {
                    "pack" => drop(site.ok(["verify".as_ref(), out.as_os_str()])?),
                    _ => scene.is_whole(&site)?,
                }
                if verb == "pack" {
                    std::fs::remove_dir_all(&out)?;
                }
            }
            eprintln!("{verb}: {failed} syncs failed, one in each run");
            ensure!(failed > 2, "{verb} hardly syncs at all");
            ensure!(folders_heard > 0, "{verb}: a store's folder that cannot be synced is not heard of");
        }
        Ok(())
    });
}

#[test]
fn a_disk_that_is_full_in_the_middle_is_said() {
    let needs = [NEEDS, &[Need::Root]].concat();
    journey("a_disk_that_is_full_in_the_middle_is_said", &needs, |folder| {
        let scene = Scene::set(folder, 12 << 20)?;
        let blobs = scene.images.iter().flat_map(|image| &image.blobs);
        let unique = blobs.map(|blob| (blob.digest.clone(), blob.size)).collect::<BTreeSet<_>>();
        let total = unique.iter().map(|(_, size)| size).sum::<u64>();
        let mut refused = 0;
        // From too little for the bytes to just enough for them and not for the catalog.
        for slack in [-4_000_000_i64, -60_000, 60_000, 160_000, 260_000, 400_000, 700_000, 1_000_000, 1_500_000] {
            let site = Naru::new(folder, &format!("site{slack}"))?;
            let place = site.store().to_str().context("a path of our own")?.to_owned();
            std::fs::create_dir_all(&place)?;
            let size = total.saturating_add_signed(slack);
            run("mount", ["-t", "tmpfs", "-o", &format!("size={size}"), "small", &place])?;
            let outcome = site.run(["load".as_ref(), scene.bundle.as_os_str()])?;
            if !outcome.status.success() {
                refused += 1;
                ensure!(outcome.stderr.contains("error: "), "{slack}: {}", outcome.stderr);
                ensure!(
                    ["space", "free", "full"].iter().any(|word| outcome.stderr.contains(word))
                        && outcome.stderr.contains("hint: make room"),
                    "{slack}: it does not say what is wrong: {}",
                    outcome.stderr
                );
            }
            run("mount", ["-o", "remount,size=200M", &place])?;
            site.load(&scene.bundle)?;
            scene.is_whole(&site)?;
            run("umount", [&place])?;
        }
        eprintln!("{refused} of 9 were too small");
        ensure!(refused > 2, "hardly any was too small");

        // The medium is full: what is there is no bundle, and says so; a larger one is.
        let medium = folder.make("medium")?;
        let name = medium.to_str().context("a path of our own")?;
        run("mount", ["-t", "tmpfs", "-o", "size=9M", "medium", name])?;
        let pack = ["pack", "-o", name, "--volume-size", "10MiB"];
        let outcome = scene.outside.run(pack)?;
        ensure!(!outcome.status.success() && outcome.stderr.contains("hint: make room"), "{}", outcome.stderr);
        run("mount", ["-o", "remount,size=300M", name])?;
        scene.outside.ok(pack)?;
        scene.outside.ok(["verify", name])?;
        run("umount", [name])?;
        Ok(())
    });
}

/// Uploads bytes in one request; the status.
fn upload(serving: &Serving, token: &str, bytes: &[u8]) -> Result<u16> {
    let digest = digest_of(bytes);
    let url = serving.url(&format!("/v2/team/app/blobs/uploads/?digest={digest}"));
    let user = format!("anyone:{token}");
    let header = "Content-Type: application/octet-stream";
    Ok(http::request(&url, &["--request", "POST", "--user", &user, "--header", header], Some(bytes))?.status)
}

#[test]
fn a_server_whose_disk_was_full_takes_pushes_again() {
    let needs = [NEEDS, &[Need::Root]].concat();
    journey("a_server_whose_disk_was_full_takes_pushes_again", &needs, |folder| {
        let site = Naru::new(folder, "site")?;
        let place = site.store().to_str().context("a path of our own")?.to_owned();
        std::fs::create_dir_all(&place)?;
        run("mount", ["-t", "tmpfs", "-o", "size=24M", "small", &place])?;
        let serving = site.serve(&[])?;
        let token = std::fs::read_to_string(site.store().join("admin.token"))?.trim().to_owned();
        ensure!(upload(&serving, &token, b"before")? == 201);
        let filler = site.store().join("filler");
        let mut number = 0_u32;
        let push = |number: u32| upload(&serving, &token, &number.to_be_bytes());
        // What is left is used up by files one time, and by the catalog's log another.
        for slack in [0, 30_000, 50_000, 70_000, 110_000, 150_000, 210_000] {
            let mut file = std::fs::File::create(&filler)?;
            let mut piece = 24 << 20;
            while piece >= 4096 {
                if std::io::Write::write_all(&mut file, &vec![0; piece]).is_err() {
                    piece /= 2;
                }
            }
            file.set_len(file.metadata()?.len() - slack)?;
            drop(file);
            let first = number;
            let mut refused = 0;
            while refused < 20 {
                match push(number)? {
                    201 => {}
                    507 => refused += 1,
                    other => bail!("{slack}: {number}: {other}"),
                }
                number += 1;
                ensure!(number - first < 2000, "it was never full");
            }
            std::fs::remove_file(&filler)?;
            eprintln!("{slack}: {} pushed, 20 refused", number - first - 20);
            for number in first..number {
                let status = push(number)?;
                ensure!(status == 201, "{slack}: {number}: {status}");
            }
        }
        // Also what changes the catalog by itself.
        site.ok(["token", "new"])?;
        drop(serving);
        site.ok(["fsck"])?;
        // What is fetched for a client, and is more than fits, leaves the room to others.
        let registry = Registry::start(folder, "one")?;
        let image = Image::single(Family::Oci, "linux/amd64", &[large(folder, 30 << 20, 7)?]);
        registry.push("library/app", "1", &image)?;
        let host = registry.host();
        let configuration = site.folder().join("serve.yaml");
        std::fs::write(&configuration, format!("upstreams:\n  '{host}': {{ proxy: on-miss }}\n"))?;
        let serving = site.serve(&["--config", configuration.to_str().context("a path of our own")?])?;
        let name = format!("{host}/library/app");
        serving.digest_of(&name, "1")?;
        let layer = &image.blobs.last().context("it has a layer")?.digest;
        let got = http::hash(&serving.url(&format!("/v2/{name}/blobs/{layer}")));
        ensure!(got.is_err(), "30 MiB cannot be in 24");
        let token = std::fs::read_to_string(site.store().join("admin.token"))?.trim().to_owned();
        let pushed = upload(&serving, &token, &vec![1; 12 << 20])?;
        ensure!(pushed == 201, "there is room again: {pushed}");
        drop(serving);
        site.ok(["fsck"])?;
        run("umount", [&place])?;
        Ok(())
    });
}

#[test]
fn a_disk_that_takes_no_large_file_is_said() {
    let needs = [NEEDS, &[Need::Program("prlimit")]].concat();
    journey("a_disk_that_takes_no_large_file_is_said", &needs, |folder| {
        let scene = Scene::set(folder, 12 << 20)?;
        let out = folder.join("out");
        for (site, arguments) in [
            (Naru::new(folder, "pulling")?, vec![OsStr::new("pull")]),
            (Naru::new(folder, "loading")?, vec!["load".as_ref(), scene.bundle.as_os_str()]),
            (Naru::new(folder, "outside")?, vec!["pack".as_ref(), "-o".as_ref(), out.as_os_str()]),
        ] {
            site.list(&list(&scene.registry.host()))?;
            let command = site.command(&arguments);
            let mut limited = Command::new(find("prlimit").context("prlimit is not here")?);
            limited.arg("--fsize=5000000").arg(command.get_program()).args(&arguments).env_clear();
            limited
                .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
                .current_dir(site.folder());
            let outcome = Outcome::of(&mut limited)?;
            ensure!(
                matches!(outcome.status.code(), Some(1 | 3)),
                "{arguments:?}: {}: {}",
                outcome.status,
                outcome.stderr
            );
            ensure!(
                outcome.stderr.contains("too large") && outcome.stderr.contains("hint: "),
                "{arguments:?}: {}",
                outcome.stderr
            );
            site.ok(["fsck"])?;
            site.ok(&arguments)?;
            site.ok(["fsck"])?;
        }
        scene.outside.ok(["verify".as_ref(), out.as_os_str()])?;
        Ok(())
    });
}

#[test]
fn an_end_in_every_phase_is_an_end() {
    journey("an_end_in_every_phase_is_an_end", NEEDS, |folder| {
        let scene = Scene::set(folder, 40 << 20)?;
        let slow = Faulty::before(&scene.registry.host(), |_| Fault::Slow(60_000))?;
        let mut random = Random::new(77);
        let pulling = Naru::new(folder, "pulling")?;
        pulling.list(&list(&slow.host()))?;
        let (out, inside) = (folder.join("out"), Naru::new(folder, "inside")?);
        let pack = ["pack".as_ref(), "-o".as_ref(), out.as_os_str(), "--volume-size".as_ref(), "20MiB".as_ref()];
        let verify = ["verify".as_ref(), scene.bundle.as_os_str()];
        let load = ["load".as_ref(), scene.bundle.as_os_str()];
        let verbs: [(&Naru, &[&OsStr], u64); 5] = [
            (&pulling, &["lock".as_ref()], 60),
            (&pulling, &["pull".as_ref()], 900),
            (&scene.outside, &pack, 250),
            (&scene.outside, &verify, 100),
            (&inside, &load, 250),
        ];
        for (site, arguments, within) in verbs {
            let mut ended = 0;
            for round in 0..6 {
                let log = folder.join("ended.log");
                let _ = std::fs::remove_file(&log);
                let mut process = Daemon::start(&mut site.command(arguments), &log)?;
                sleep(Duration::from_millis(random.below(within)));
                let (signal, code) = if round % 2 == 0 { (Signal::TERM, 143) } else { (Signal::INT, 130) };
                let _ = process.signal(signal);
                let status = process.wait()?;
                match status.code() {
                    Some(0) => {}
                    Some(ending) if ending == code => ended += 1,
                    // A signal before it listens for any ends it too.
                    None if process.said().is_empty() => ended += 1,
                    _ => bail!("{arguments:?}: {status}: {}", process.said()),
                }
                ensure!(!process.said().contains("panicked at"), "{}", process.said());
                // One that ended while it made the store's folders has made no store.
                if site.store().join("naru.db").exists() {
                    site.ok(["fsck"])?;
                }
            }
            site.ok(arguments)?;
            eprintln!("{arguments:?}: ended {ended} of 6 times in the middle");
        }
        scene.outside.ok(["verify".as_ref(), out.as_os_str()])?;
        scene.is_whole(&inside)?;
        // A server lets go of its store, and the next one takes it.
        for _ in 0..3 {
            let mut serving = inside.serve(&[])?;
            serving.daemon.signal(Signal::TERM)?;
            ensure!(serving.daemon.wait()?.success(), "{}", serving.daemon.said());
        }
        Ok(())
    });
}

#[test]
fn media_that_were_mixed_up_are_told_apart() {
    journey("media_that_were_mixed_up_are_told_apart", NEEDS, |folder| {
        let scene = Scene::set(folder, 30 << 20)?;
        let bundle = &scene.bundle;
        let volume = |number: u32| bundle.join(format!("naru-{number:04}.tar"));
        ensure!(volume(3).is_file(), "too few volumes for this");

        // Two volumes under each other's names: the heads tell which is which.
        let swap = || -> Result<()> {
            std::fs::rename(volume(1), bundle.join("aside"))?;
            std::fs::rename(volume(2), volume(1))?;
            Ok(std::fs::rename(bundle.join("aside"), volume(2))?)
        };
        swap()?;
        scene.outside.ok(["verify".as_ref(), bundle.as_os_str()])?;
        let site = Naru::new(folder, "swapped")?;
        site.load(bundle)?;
        scene.is_whole(&site)?;
        swap()?;

        // One is missing, one is cut, one has another bit: each is named, the rest is loaded, and what is asked for ends it.
        for fault in ["missing", "cut", "flipped"] {
            let site = Naru::new(folder, fault)?;
            let (file, kept) = (volume(2), folder.join("kept.tar"));
            std::fs::copy(&file, &kept)?;
            let bytes = std::fs::read(&file)?;
            match fault {
                "missing" => std::fs::remove_file(&file)?,
                "cut" => std::fs::write(&file, &bytes[..bytes.len() / 2])?,
                _ => {
                    let mut bytes = bytes;
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                    std::fs::write(&file, bytes)?;
                }
            }
            for command in ["verify", "load"] {
                let outcome = site.run([command.as_ref(), bundle.as_os_str()])?;
                let said = outcome.stdout + &outcome.stderr;
                ensure!(outcome.status.code() == Some(3), "{command} {fault}: {}: {said}", outcome.status);
                ensure!(said.contains("naru-0002"), "{command} {fault}: the volume is not named: {said}");
            }
            site.ok(["fsck"])?;
            std::fs::rename(&kept, &file)?;
            // Only that one, by itself.
            site.ok(["load".as_ref(), file.as_os_str()])?;
            scene.is_whole(&site)?;
        }
        Ok(())
    });
}

#[test]
fn an_upstream_that_comes_and_goes_is_enough() {
    journey("an_upstream_that_comes_and_goes_is_enough", NEEDS, |folder| {
        let scene = Scene::set(folder, 12 << 20)?;
        // Every other answer is no answer, and the large layer comes in four pieces, each of them slowly.
        let large = scene.images[0].blobs.last().context("a layer")?.digest.clone();
        let flapping = Faulty::before(&scene.registry.host(), move |request| match request.nth {
            nth if request.path.ends_with(&large) && request.method == "GET" && nth < 4 => Fault::Cut(3 << 20),
            nth if nth % 2 == 0 => Fault::Status(503, "Retry-After: 0\r\n"),
            _ => Fault::Slow(20_000),
        })?;
        let site = Naru::new(folder, "site")?;
        site.list(&list(&flapping.host()))?;
        site.ok(["lock"])?;
        site.ok(["pull"])?;
        site.ok(["fsck"])?;
        let serving = site.serve(&[])?;
        serving.holds(&format!("{}/library/large", flapping.host()), &scene.images[0])
    });
}

#[test]
fn two_processes_do_not_meet_in_one_store() {
    journey("two_processes_do_not_meet_in_one_store", NEEDS, |folder| {
        let scene = Scene::set(folder, 30 << 20)?;
        let site = Naru::new(folder, "site")?;
        let load =
            || Daemon::start(&mut site.command(["load".as_ref(), scene.bundle.as_os_str()]), &folder.join("load.log"));
        let mut both = [load()?, load()?];
        let codes = [both[0].wait()?.code(), both[1].wait()?.code()];
        // Each is done, or says by name who was there first.
        ensure!(codes.contains(&Some(0)), "{codes:?}: {}", both[0].said());
        if codes != [Some(0), Some(0)] {
            ensure!(codes.contains(&Some(6)) && both[0].said().contains("held by"), "{codes:?}: {}", both[0].said());
        }
        scene.is_whole(&site)
    });
}

#[test]
fn the_power_goes_at_any_instant() {
    let needs = [NEEDS, &[Need::Program("strace")]].concat();
    journey("the_power_goes_at_any_instant", &needs, |folder| {
        let registry = Registry::start(folder, "one")?;
        let image = Image::single(Family::Oci, "linux/amd64", &[large(folder, 100_000, 5)?, large(folder, 30_000, 6)?]);
        registry.push("library/app", "1", &image)?;
        let (outside, bundle) = (Naru::new(folder, "outside")?, folder.join("bundle"));
        outside.list(&format!("platforms: [linux/amd64]\nimages:\n- {}/library/app:1\n", registry.host()))?;
        outside.pack(&bundle, &[])?;
        for verb in ["load", "pull"] {
            let site = Naru::new(folder, verb)?;
            std::fs::copy(outside.folder().join("naru.yaml"), site.folder().join("naru.yaml"))?;
            std::fs::copy(outside.folder().join("naru.lock"), site.folder().join("naru.lock"))?;
            let command = match verb {
                "load" => site.command(["load".as_ref(), bundle.as_os_str()]),
                _ => site.command(["pull"]),
            };
            let recording = Recording::of(&command, site.store(), &folder.join("strace.log"))?;
            ensure!(recording.len() > 50, "{verb}: {} events are too few to be all", recording.len());
            // Most of what the two verbs do is the same.
            // A hundred instants of each; a store's first opening alone makes some hundred folders.
            let step = recording.len().div_ceil(100);
            for count in (1..=recording.len()).rev().step_by(step) {
                for (number, disk) in [Disk::Strict, Disk::Names, Disk::Some(count as u64)].into_iter().enumerate() {
                    let after = Naru::new(folder, &format!("{verb}-{count}-{number}"))?;
                    let store = recording.play(count, disk, after.folder())?;
                    ensure!(store == after.store(), "{} is not where it belongs", store.display());
                    let acknowledged = count == recording.len();
                    let check = || -> Result<()> {
                        if acknowledged || store.join("naru.db").exists() {
                            after.ok(["fsck"])?;
                        }
                        if acknowledged {
                            ensure!(after.ok(["ls"])?.stdout.contains(image.digest()), "what was acknowledged is gone");
                        }
                        // Whatever is left, the same again finishes.
                        if acknowledged || count % 5 == 0 {
                            after.ok(["load".as_ref(), bundle.as_os_str()])?;
                            ensure!(after.ok(["ls"])?.stdout.contains(image.digest()), "it does not finish");
                            after.ok(["fsck"])?;
                        }
                        Ok(())
                    };
                    check()
                        .with_context(|| format!("{verb}: after {count} of {} events, {disk:?}", recording.len()))?;
                    std::fs::remove_dir_all(after.folder())?;
                }
            }
            eprintln!("{verb}: {} power cuts on three disks", recording.len());
        }
        Ok(())
    });
}
