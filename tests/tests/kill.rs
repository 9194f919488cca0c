//! `kill -9` at random instants, then again: it finishes, loses nothing, and fsck finds nothing wrong.
//!
//! The instants come from fixed seeds; `make soak` gives others by `NARU_SEED`, and more of them by `NARU_KILLS`.

use std::ffi::OsStr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use journeys::image::{Family, Image, application, large};
use journeys::{Daemon, Fault, Faulty, Folder, Naru, Need, Random, Registry, http, journey};

const NEEDS: &[Need] = &[Need::Program("docker-registry"), Need::Program("busybox")];

fn given(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn seed(own: u64) -> Random {
    Random::new(given("NARU_SEED").unwrap_or(20_241_121).wrapping_add(own))
}

/// How often each verb is killed: 48 times all in all.
fn kills() -> u64 {
    given("NARU_KILLS").unwrap_or(8)
}

/// Begins a command and kills it after each of a few random times; how often it was still running then.
fn kill_often(naru: &Naru, folder: &Folder, arguments: &[&OsStr], within: u64, random: &mut Random) -> Result<u64> {
    let mut killed = 0;
    for _ in 0..kills() {
        let mut process = Daemon::start(&mut naru.command(arguments), &folder.join("killed.log"))?;
        sleep(Duration::from_millis(random.below(within)));
        if process.ended()?.is_none() {
            killed += 1;
        }
        process.kill()?;
        // What it left behind can be read as it is, if it came so far as to make a store.
        if naru.store().join("naru.db").exists() {
            naru.ok(["fsck"])?;
        }
    }
    Ok(killed)
}

/// An image of so many bytes, and a small one.
fn prepare(folder: &Folder, registry: &Registry, size: u64, seed: u64) -> Result<[Image; 2]> {
    let layers = [large(folder, size / 3 * 2, seed)?, large(folder, size / 3, seed + 1)?];
    let images = [Image::single(Family::Oci, "linux/amd64", &layers), application(folder, "killed")?];
    registry.push("library/large", "1", &images[0])?;
    registry.push("library/app", "1", &images[1])?;
    Ok(images)
}

fn list(host: &str) -> String {
    format!(
        "platforms: [linux/amd64]\nimages:\n- {host}/library/large:1\n- {{ image: '{host}/library/app:1', platforms: [all] }}\n"
    )
}

#[test]
fn pull_pack_and_load_survive() {
    journey("pull_pack_and_load_survive", NEEDS, |folder| {
        let mut random = seed(1);
        let registry = Registry::start(folder, "one")?;
        let images = prepare(folder, &registry, 1 << 30, 100)?;
        // Slow enough that there is something to kill.
        let slow = Faulty::before(&registry.host(), |_| Fault::Slow(400_000))?;
        let host = slow.host();
        let outside = Naru::new(folder, "outside")?;
        outside.list(&list(&host))?;
        outside.ok(["lock"])?;
        let mut killed = kill_often(&outside, folder, &["pull".as_ref()], 3000, &mut random)?;
        outside.ok(["pull"])?;
        outside.ok(["fsck"])?;

        let bundle = folder.join("bundle");
        let pack = ["pack".as_ref(), "-o".as_ref(), bundle.as_os_str(), "--volume-size".as_ref(), "300MiB".as_ref()];
        killed += kill_often(&outside, folder, &pack, 2000, &mut random)?;
        outside.ok(pack)?;
        outside.ok(["verify".as_ref(), bundle.as_os_str()])?;

        let inside = Naru::new(folder, "inside")?;
        killed += kill_often(&inside, folder, &["load".as_ref(), bundle.as_os_str()], 2500, &mut random)?;
        inside.load(&bundle)?;
        eprintln!("killed {killed} of {} while they ran", 3 * kills());
        ensure!(killed > 0, "nothing was ever killed in the middle");

        let serving = inside.serve(&[])?;
        serving.holds(&format!("{host}/library/large"), &images[0])?;
        serving.holds(&format!("{host}/library/app"), &images[1])?;
        Ok(())
    });
}

#[test]
fn push_survives() {
    journey("push_survives", NEEDS, |folder| {
        let mut random = seed(3);
        let upstream = Registry::start(folder, "one")?;
        let images = prepare(folder, &upstream, 240 << 20, 400)?;
        let naru = Naru::new(folder, "naru")?;
        naru.list(&list(&upstream.host()))?;
        naru.ok(["pull"])?;
        let registry = Registry::start(folder, "target")?;
        let target = registry.host();
        let push = ["push".as_ref(), "--flat".as_ref(), "--to".as_ref(), OsStr::new(&target)];
        let killed = kill_often(&naru, folder, &push, 1000, &mut random)?;
        eprintln!("killed {killed} of {} while they ran", kills());
        naru.ok(push)?;
        for (name, image) in ["library/large", "library/app"].into_iter().zip(&images) {
            let there = registry.read(name, "1")?;
            ensure!(there.digest() == image.digest() && there.blobs.len() == image.blobs.len(), "{name} is another");
        }
        Ok(())
    });
}

#[test]
fn serve_survives_and_what_it_acknowledged_stays() {
    journey("serve_survives_and_what_it_acknowledged_stays", NEEDS, |folder| {
        let mut random = seed(2);
        let registry = Registry::start(folder, "one")?;
        let images = prepare(folder, &registry, 120 << 20, 200)?;
        let outside = Naru::new(folder, "outside")?;
        outside.list(&list(&registry.host()))?;
        let bundle = folder.join("bundle");
        outside.pack(&bundle, &[])?;
        let inside = Naru::new(folder, "inside")?;
        for round in 0..kills() {
            let mut serving = inside.serve(&[])?;
            // A load through the server, cut down with it at some instant.
            let mut load =
                Daemon::start(&mut inside.command([OsStr::new("load"), bundle.as_os_str()]), &folder.join("load.log"))?;
            sleep(Duration::from_millis(random.below(400)));
            serving.daemon.kill()?;
            // Without its server it ends, well or badly, but it ends.
            let acknowledged = load.wait()?.success();
            inside.ok(["fsck"])?;
            if acknowledged {
                let serving = inside.serve(&[])?;
                serving.holds(&format!("{}/library/app", registry.host()), &images[1])?;
                eprintln!("acknowledged in round {round}");
            }
        }
        inside.load(&bundle)?;
        let serving = inside.serve(&[])?;
        serving.holds(&format!("{}/library/large", registry.host()), &images[0])?;
        serving.holds(&format!("{}/library/app", registry.host()), &images[1])?;
        Ok(())
    });
}

#[test]
fn gc_survives() {
    journey("gc_survives", NEEDS, |folder| {
        let mut random = seed(4);
        let registry = Registry::start(folder, "one")?;
        let images = prepare(folder, &registry, 12 << 20, 500)?;
        let outside = Naru::new(folder, "outside")?;
        let content = folder.make("outside/content")?;
        let mut names: Vec<String> = (0..1000).map(|number| format!("local/content/{number}")).collect();
        for number in 0..1000 {
            std::fs::write(content.join(number.to_string()), number.to_string())?;
        }
        names.push(format!("{}/library/large:1", registry.host()));
        outside.list(&format!("{}files:\n- path: ./content\n", list(&registry.host())))?;
        let bundle = folder.join("bundle");
        outside.pack(&bundle, &[])?;
        let inside = Naru::new(folder, "inside")?;
        let gc: Vec<&OsStr> = ["gc", "--grace", "0", "--keep", "0"].map(OsStr::new).to_vec();
        let mut killed = 0;
        for round in 0..kills() {
            inside.load(&bundle)?;
            inside.ok(std::iter::once("rm").chain(names.iter().map(String::as_str)))?;
            // Every other time in the server, which goes on handing out what stays.
            let mut serving = if round % 2 == 0 { None } else { Some(inside.serve(&[])?) };
            let mut process = Daemon::start(&mut inside.command(&gc), &folder.join("killed.log"))?;
            sleep(Duration::from_millis(random.below(120)));
            killed += u64::from(process.ended()?.is_none());
            match &mut serving {
                Some(serving) => serving.daemon.kill()?,
                None => process.kill()?,
            }
            process.wait()?;
            inside.ok(["fsck"])?;
            let serving = inside.serve(&[])?;
            serving.holds(&format!("{}/library/app", registry.host()), &images[1])?;
        }
        eprintln!("killed {killed} of {} while they ran", kills());
        ensure!(killed > 0, "nothing was ever killed in the middle");
        inside.ok(gc)?;
        let left = inside.ok(["fsck"])?.stdout;
        // Two platforms' configurations and the layer that both have, and the index.
        ensure!(left.contains("clean: 3 blobs") && left.contains("3 manifests"), "more than one image is left: {left}");
        inside.load(&bundle)?;
        let serving = inside.serve(&[])?;
        serving.holds(&format!("{}/library/large", registry.host()), &images[0])?;
        ensure!(http::get(&serving.url("/files/local/content/7"))?.body == b"7", "another file");
        Ok(())
    });
}

#[test]
fn a_load_is_visible_at_once_while_serving() {
    journey("a_load_is_visible_at_once_while_serving", NEEDS, |folder| {
        let registry = Registry::start(folder, "one")?;
        let [large, application] = prepare(folder, &registry, 60 << 20, 300)?;
        let outside = Naru::new(folder, "outside")?;
        outside.list(&list(&registry.host()))?;
        let bundle = folder.join("bundle");
        outside.pack(&bundle, &[])?;

        let inside = Naru::new(folder, "inside")?;
        let serving = inside.serve(&[])?;
        let name = format!("{}/library/app", registry.host());
        let before = http::head(&serving.url(&format!("/v2/{name}/manifests/1")))?;
        ensure!(before.status >= 400, "it is there already: {}", before.status);
        inside.ok(["load".as_ref(), bundle.as_os_str()])?;
        // Stronger than "within a second": the first request after the acknowledgement finds it.
        ensure!(serving.digest_of(&name, "1")? == application.digest(), "another digest");
        serving.holds(&format!("{}/library/large", registry.host()), &large)?;
        Ok(())
    });
}
