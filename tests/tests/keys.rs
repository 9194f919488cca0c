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

/// Commands that come all at once to the server that holds the store are all answered, and it goes on answering.
#[test]
fn nobody_waits_for_ever_for_the_server() {
    journey("nobody_waits_for_ever_for_the_server", &[], |folder| {
        let site = Naru::new(folder, "site")?;
        let serving = site.serve(&[])?;
        for _ in 0..3 {
            std::thread::scope(|scope| {
                let one = |verbs: &'static [&'static str]| {
                    let site = &site;
                    scope.spawn(move || {
                        let mut command = Command::new(find("timeout").context("timeout is not here")?);
                        command.arg("60").arg(journeys::binary()?).arg("--store").arg(site.store()).args(verbs);
                        Outcome::of(&mut command)?.ok(&verbs.join(" ")).map(drop)
                    })
                };
                let calls: Vec<_> = (0..6).flat_map(|_| [one(&["key", "ls"]), one(&["token", "new"])]).collect();
                calls.into_iter().try_for_each(|call| match call.join() {
                    Ok(outcome) => outcome,
                    Err(_) => anyhow::bail!("a thread ended early"),
                })
            })?;
        }
        // The last token is the one that counts, at once.
        let token = site.ok(["token", "new"])?.stdout.trim().to_owned();
        let user = format!("anyone:{token}");
        let url = serving.url("/v2/app/blobs/uploads/");
        let answer = http::request(&url, &["--request", "POST", "--user", &user], Some(b""))?;
        ensure!(answer.status == 202, "{}: {}", answer.status, answer.text());
        Ok(())
    });
}

/// What somebody relies on is not given up unasked, and what fails leaves nothing that is in the way.
#[test]
fn an_import_gives_up_no_key_unasked() {
    journey("an_import_gives_up_no_key_unasked", &[], |folder| {
        let (one, two) = (Naru::new(folder, "one")?, Naru::new(folder, "two")?);
        // The first has packed, and was never served; nothing secret is to be had of it yet.
        folder.write("one/a.txt", "a")?;
        one.list("files:\n- path: ./a.txt\n")?;
        one.pack(&folder.join("bundle"), &[])?;
        let secret = folder.join("secret.json");
        let export = ["key".as_ref(), "export".as_ref(), "--secret".as_ref(), secret.as_os_str()];
        ensure!(!one.run(export)?.status.success() && !secret.exists(), "an empty file is in the way");
        drop(two.serve(&[])?);
        folder.write("two/b.txt", "b")?;
        two.list("files:\n- path: ./b.txt\n")?;
        two.pack(&folder.join("other"), &[])?;
        two.ok(export)?;
        let own = one.ok(["key", "export"])?.stdout;
        let import = ["key".as_ref(), "import".as_ref(), secret.as_os_str()];
        let refused = one.run(import)?;
        ensure!(!refused.status.success() && refused.stderr.contains("signs with a key of its own"), "{refused:?}");
        ensure!(one.ok(["key", "export"])?.stdout == own, "it was given up all the same");
        ensure!(!one.ok(["key", "ls"])?.stdout.contains("ca  "), "half of it was taken");
        one.ok(import.into_iter().chain(["--force".as_ref()]))?;
        ensure!(one.ok(["key", "export"])?.stdout != own, "it was not given up");
        Ok(())
    });
}

/// A server whose certificate was given to it sets clients up too.
#[test]
fn a_given_certificate_sets_clients_up() {
    journey("a_given_certificate_sets_clients_up", &[Need::Program("openssl")], |folder| {
        let (certificate, key) = (folder.join("leaf.crt"), folder.join("leaf.key"));
        let mut openssl = Command::new(find("openssl").context("openssl is not here")?);
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
        openssl.args(["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-out"]).arg(&certificate);
        Outcome::of(openssl.arg("-keyout").arg(&key))?.ok("openssl")?;
        let site = Naru::new(folder, "site")?;
        let text = |path: &Path| path.to_str().map(str::to_owned).context("a path of our own");
        let serving = site.serve(&["--cert", &text(&certificate)?, "--key", &text(&key)?])?;
        let server = format!("https://{}", serving.address());
        for client in ["containerd", "docker", "podman"] {
            let said = site.ok(["setup", client, "--server", &server])?;
            ensure!(said.stdout.contains(serving.address()), "{said:?}");
            ensure!(said.stderr.contains("has no CA to hand out"), "{said:?}");
        }
        Ok(())
    });
}
