//! Two servers of one site, and a CA that is exchanged while clients pull by TLS.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use journeys::image::{Family, Image, large};
use journeys::{Folder, Naru, Need, Outcome, Registry, Serving, find, http, journey};

const NEEDS: &[Need] = &[Need::Program("docker-registry"), Need::Program("curl")];

/// Pulls a layer by TLS as a client does that knows nothing but this CA.
fn pull(serving: &Serving, authority: &Path, path: &str) -> Result<()> {
    let mut curl = Command::new(find("curl").context("curl is not here")?);
    curl.args(["--silent", "--show-error", "--fail", "--output", "/dev/null", "--cacert"]).arg(authority);
    Outcome::of(curl.arg(format!("https://{}{path}", serving.address())))?.ok("curl").map(drop)
}

/// The site's CA as it is handed out now, in a file.
fn authority(serving: &Serving, folder: &Folder, name: &str) -> Result<PathBuf> {
    folder.write(name, http::get(&serving.url("/ca.crt"))?.body)
}

#[test]
fn two_servers_have_one_authority_and_exchange_it_while_clients_pull() {
    journey("two_servers_have_one_authority_and_exchange_it_while_clients_pull", NEEDS, |folder| {
        let registry = Registry::start(folder, "one")?;
        let image = Image::single(Family::Oci, "linux/amd64", &[large(folder, 8 << 20, 7)?]);
        registry.push("library/app", "1", &image)?;
        let outside = Naru::new(folder, "outside")?;
        outside.list(&format!("platforms: [linux/amd64]\nimages:\n- {}/library/app:1\n", registry.host()))?;
        let bundle = folder.join("bundle");
        outside.pack(&bundle, &[])?;

        let (north, south) = (Naru::new(folder, "north")?, Naru::new(folder, "south")?);
        let early = north.run(["key", "export", "--secret", "early.json"])?;
        ensure!(!early.status.success() && early.stderr.contains("naru serve"), "{early:?}");
        north.load(&bundle)?;
        south.load(&bundle)?;
        let mut first = north.serve(&[])?;
        let secret = folder.join("secret.json");
        let export = ["key".as_ref(), "export".as_ref(), "--secret".as_ref(), secret.as_os_str()];
        let said = north.ok(export)?;
        ensure!(said.stderr.contains("not encrypted") && said.stdout.is_empty(), "{said:?}");
        ensure!(!north.run(export)?.status.success(), "it wrote over what was there");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&secret)?.permissions());
        ensure!(mode & 0o777 == 0o600, "others may read it: {mode:o}");
        let import = ["key".as_ref(), "import".as_ref(), secret.as_os_str()];
        south.ok(import)?;
        let second = south.serve(&[])?;
        let old = authority(&first, folder, "old.crt")?;
        ensure!(std::fs::read(&old)? == http::get(&second.url("/ca.crt"))?.body, "the two have not one CA");

        // A third that has clients of its own is not taken over.
        let third = Naru::new(folder, "third")?;
        drop(third.serve(&[])?);
        let refused = third.run(import)?;
        ensure!(!refused.status.success() && refused.stderr.contains("--force"), "{refused:?}");

        let path = format!("/v2/{}/library/app/blobs/{}", registry.host(), image.blobs[0].digest);
        let (ended, pulls, bad) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        // What clients trust: it is exchanged under them, as `setup --apply` does it.
        let trusted = folder.write("trusted.crt", std::fs::read(&old)?)?;
        let exchange = |name: &str| -> Result<()> {
            let new = authority(&first, folder, name)?;
            let beside = folder.write("trusted.new", std::fs::read(&new)?)?;
            Ok(std::fs::rename(beside, &trusted)?)
        };
        std::thread::scope(|scope| {
            let clients = [(); 3].map(|()| {
                scope.spawn(|| {
                    while !ended.load(Ordering::Relaxed) {
                        for serving in [&first, &second] {
                            if let Err(error) = pull(serving, &trusted, &path) {
                                eprintln!("{error:?}");
                                bad.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                        pulls.fetch_add(1, Ordering::Relaxed);
                    }
                })
            });
            let some_more = || {
                let so_far = pulls.load(Ordering::Relaxed);
                journeys::wait_until("pulls", || Ok((pulls.load(Ordering::Relaxed) > so_far + 6).then_some(())))
            };
            let share = |name: &str| -> Result<()> {
                let file = folder.join(name);
                north.ok(["key".as_ref(), "export".as_ref(), "--secret".as_ref(), file.as_os_str()])?;
                south.ok(["key".as_ref(), "import".as_ref(), file.as_os_str()])?;
                Ok(())
            };
            let work = || -> Result<()> {
                some_more()?;
                // The leaf is made anew at each of these, as when it renews.
                for _ in 0..5 {
                    first.daemon.signal(rustix::process::Signal::HUP)?;
                    some_more()?;
                }
                let said = north.ok(["key", "rotate"])?;
                ensure!(said.stdout.contains("next-ca"), "{said:?}");
                share("rotated.json")?;
                some_more()?;
                exchange("both.crt")?;
                some_more()?;
                north.ok(["key", "rotate", "--finish"])?;
                some_more()?;
                share("finished.json")?;
                some_more()?;
                exchange("new.crt")?;
                some_more()
            };
            let done = work();
            ended.store(true, Ordering::Relaxed);
            for client in clients {
                client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
            }
            done
        })?;
        ensure!(bad.load(Ordering::Relaxed) == 0, "{} pulls were refused", bad.load(Ordering::Relaxed));
        ensure!(pull(&first, &old, &path).is_err() && pull(&second, &old, &path).is_err(), "the old CA still counts");
        // And it stays so.
        first.daemon.kill()?;
        drop(first);
        let again = north.serve(&[])?;
        pull(&again, &trusted, &path)
    });
}
