//! A site over the years: bundles that come out of order, what goes, an upgrade and a way back while clients pull.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use journeys::image::{Family, Image, application, large};
use journeys::{Folder, Naru, Need, Registry, Serving, http, journey, run};

const NEEDS: &[Need] = &[Need::Program("docker-registry"), Need::Program("busybox"), Need::Program("skopeo")];

/// Two bundles of one packing list: `app` moves between them, `gone` is only in the first, `new` only in the second.
struct Upgrade {
    registry: Registry,
    before: Image,
    after: Image,
    bundles: [std::path::PathBuf; 2],
}

impl Upgrade {
    fn make(folder: &Folder) -> Result<Self> {
        let registry = Registry::start(folder, "one")?;
        let before = application(folder, "before")?;
        let layers = [large(folder, 16 << 20, 7)?];
        let after = Image::single(Family::Oci, "linux/amd64", &layers);
        let host = registry.host();
        let outside = Naru::new(folder, "outside")?;
        let bundles = [folder.join("first"), folder.join("second")];
        registry.push("library/app", "1", &before)?;
        registry.push("library/gone", "1", &before)?;
        std::fs::write(outside.folder().join("gone.txt"), "gone")?;
        outside.list(&format!("platforms: [linux/amd64]\nimages:\n- {{ image: '{host}/library/app:1', platforms: [all] }}\n- {{ image: '{host}/library/gone:1', platforms: [all] }}\nfiles:\n- path: gone.txt\n"))?;
        outside.pack(&bundles[0], &[])?;
        // Entries say by the second when their upstream was seen.
        sleep(Duration::from_millis(1100));
        registry.push("library/app", "1", &after)?;
        registry.push("library/new", "1", &after)?;
        outside
            .list(&format!("platforms: [linux/amd64]\nimages:\n- {host}/library/app:1\n- {host}/library/new:1\n"))?;
        std::fs::remove_file(outside.folder().join("naru.lock"))?;
        outside.pack(&bundles[1], &[])?;
        Ok(Self { registry, before, after, bundles })
    }

    fn name(&self, image: &str) -> String {
        format!("{}/library/{image}", self.registry.host())
    }
}

fn load(site: &Naru, bundle: &std::path::Path, more: &[&str]) -> Result<String> {
    let arguments = [b"load".as_slice(), bundle.as_os_str().as_encoded_bytes()];
    let arguments = arguments.map(|word| String::from_utf8_lossy(word).into_owned());
    let outcome = site.ok(arguments.iter().map(String::as_str).chain(more.iter().copied()))?;
    Ok(outcome.stdout + &outcome.stderr)
}

#[test]
fn bundles_come_out_of_order_and_what_goes_is_wished() {
    journey("bundles_come_out_of_order_and_what_goes_is_wished", NEEDS, |folder| {
        let upgrade = Upgrade::make(folder)?;
        let [first, second] = &upgrade.bundles;

        // One site gets them as they were sent, the other the other way round: both end with the same.
        let sites = [Naru::new(folder, "north")?, Naru::new(folder, "south")?];
        load(&sites[0], first, &[])?;
        let said = load(&sites[0], second, &[])?;
        ensure!(said.contains("moved  ") && said.contains("added  "), "it does not say what changed:\n{said}");
        load(&sites[1], second, &[])?;
        let said = load(&sites[1], first, &[])?;
        ensure!(said.contains("kept   "), "it does not say what stayed:\n{said}");
        let listed = sites.iter().map(|site| Ok(site.ok(["ls"])?.stdout)).collect::<Result<Vec<_>>>()?;
        ensure!(listed[0] == listed[1], "the sites differ:\n{}\n{}", listed[0], listed[1]);
        ensure!(listed[0].contains(upgrade.after.digest()), "the older bundle won:\n{}", listed[0]);

        let site = &sites[0];
        // Something of the site's own, under a path that a mirrored one has too.
        let serving = site.serve(&[])?;
        let token = std::fs::read_to_string(site.store().join("admin.token"))?.trim().to_owned();
        let from = format!("docker://{}/library/gone:1", upgrade.registry.host());
        let to = format!("docker://{}/library/own:1", serving.address());
        let credentials = format!("anyone:{token}");
        run(
            "skopeo",
            [
                "--insecure-policy",
                "copy",
                "--quiet",
                "--all",
                "--src-tls-verify=false",
                "--dest-tls-verify=false",
                "--dest-creds",
                &credentials,
                &from,
                &to,
            ],
        )?;

        // What the second has not is listed first, and goes only when it is wished; through the server, like all.
        let said = load(site, second, &["--prune"])?;
        ensure!(said.contains("stale") && said.contains("library/gone"), "it does not list what would go:\n{said}");
        ensure!(said.contains("local/gone.txt"), "a packing list's own file would stay for ever:\n{said}");
        ensure!(!said.contains("library/own"), "it would touch what is local:\n{said}");
        ensure!(serving.digest_of(&upgrade.name("gone"), "1")? == upgrade.before.digest(), "it was not asked to");
        let said = load(site, second, &["--prune", "--yes"])?;
        ensure!(said.contains("removed"), "{said}");
        let answer = http::head(&serving.url(&format!("/v2/{}/manifests/1", upgrade.name("gone"))))?;
        ensure!(answer.status == 404, "it is still offered: {}", answer.status);
        serving.holds("library/own", &upgrade.before)?;

        // Who, with what, signed by whom; and the way back.
        let history = site.ok(["history"])?.stdout;
        ensure!(history.contains("prune") && history.contains("signed by") && history.contains("uid 0"), "{history}");
        let newest = history.split_whitespace().next().context("a generation")?.to_owned();
        let changes = site.ok(["history", &newest])?.stdout;
        ensure!(changes.contains("removed") && changes.contains("library/gone"), "{changes}");
        let before = (newest.parse::<i64>()? - 1).to_string();
        site.ok(["restore", &before])?;
        site.ok(["restore", "2"])?;
        serving.holds("library/own", &upgrade.before)?;
        ensure!(serving.digest_of(&upgrade.name("gone"), "1")? == upgrade.before.digest(), "it did not come back");
        site.ok(["fsck"])?;

        // A volume that is missing: nothing is pruned by what is not whole.
        let half = Naru::new(folder, "half")?;
        load(&half, first, &[])?;
        let outside = Naru::new(folder, "outside")?;
        let cut = folder.join("cut");
        outside.ok(["pack".as_ref(), "-o".as_ref(), cut.as_os_str(), "--volume-size".as_ref(), "10MiB".as_ref()])?;
        let outcome =
            half.run(["load".as_ref(), cut.join("naru-0001.tar").as_os_str(), "--prune".as_ref(), "--yes".as_ref()])?;
        ensure!(!outcome.status.success() && outcome.stderr.contains("nothing is pruned"), "{}", outcome.stderr);
        ensure!(half.ok(["ls"])?.stdout.contains("library/gone"), "it pruned by half a bundle");
        Ok(())
    });
}

/// Pulls by tag, as a runtime does, until told to end; every pull must get one of the two, whole.
fn pull(serving: &Serving, name: &str, images: [&Image; 2], ended: &AtomicBool, pulled: &[AtomicU64; 2]) -> Result<()> {
    while !ended.load(Ordering::Relaxed) {
        let digest = serving.digest_of(name, "1")?;
        let which = images.iter().position(|image| image.digest() == digest).context("a digest that nobody packed")?;
        serving.holds(name, images[which])?;
        pulled[which].fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

#[test]
fn a_site_is_upgraded_and_rolled_back_while_clients_pull() {
    journey("a_site_is_upgraded_and_rolled_back_while_clients_pull", NEEDS, |folder| {
        let upgrade = Upgrade::make(folder)?;
        let [first, second] = &upgrade.bundles;
        let site = Naru::new(folder, "site")?;
        site.load(first)?;
        let serving = site.serve(&[])?;
        let (name, ended, pulled) =
            (upgrade.name("app"), AtomicBool::new(false), [AtomicU64::new(0), AtomicU64::new(0)]);
        let images = [&upgrade.before, &upgrade.after];
        std::thread::scope(|scope| {
            let clients = [(); 3].map(|()| scope.spawn(|| pull(&serving, &name, images, &ended, &pulled)));
            let work = || -> Result<()> {
                for _ in 0..3 {
                    load(&site, second, &[])?;
                    ensure!(serving.digest_of(&name, "1")? == upgrade.after.digest(), "the upgrade is not visible");
                    let so_far = pulled[1].load(Ordering::Relaxed);
                    journeys::wait_until("a pull of the new one", || {
                        Ok((pulled[1].load(Ordering::Relaxed) > so_far).then_some(()))
                    })?;
                    site.ok(["restore", "1"])?;
                    ensure!(serving.digest_of(&name, "1")? == upgrade.before.digest(), "the roll-back is not visible");
                    let so_far = pulled[0].load(Ordering::Relaxed);
                    journeys::wait_until("a pull of the old one", || {
                        Ok((pulled[0].load(Ordering::Relaxed) > so_far).then_some(()))
                    })?;
                }
                Ok(())
            };
            let done = work();
            ended.store(true, Ordering::Relaxed);
            for client in clients {
                client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
            }
            done
        })?;
        drop(serving);
        site.ok(["fsck"])?;
        Ok(())
    });
}
