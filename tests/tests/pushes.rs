//! `naru push`: into Debian's docker-registry and into another Naru.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use journeys::image::{Family, Image, application, large};
use journeys::{Folder, Naru, Need, Outcome, Registry, http, journey, run};
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
        writeln!(list, "- {{ image: '{host}/{repository}:{tag}', platforms: [{platforms}] }}")?;
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
        let catalog = http::get(&format!("http://{target}/v2/_catalog"))?.text();
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

/// Passes connections on to `to` and counts what goes there; after so many bytes everything breaks, once.
fn cutting(to: String, after: u64) -> Result<(String, Arc<AtomicU64>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let Ok(mut server) = TcpStream::connect(&to) else { continue };
            let (Ok(mut back), Ok(mut answers)) = (client.try_clone(), server.try_clone()) else { continue };
            thread::spawn(move || std::io::copy(&mut answers, &mut back));
            let counted = Arc::clone(&counted);
            thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(length @ 1..) = client.read(&mut buffer) {
                    let before = counted.fetch_add(length as u64, Ordering::SeqCst);
                    if before < after && before + length as u64 >= after {
                        let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
                        return;
                    }
                    if server.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
                let _ = server.shutdown(Shutdown::Write);
            });
        }
    });
    Ok((address, count))
}

#[test]
fn a_push_that_is_cut_goes_on_where_it_stopped() {
    journey("a_push_that_is_cut_goes_on_where_it_stopped", NEEDS, |folder| {
        const MIB: u64 = 1 << 20;
        let image = Image::single(Family::Oci, "linux/amd64", &[large(folder, 64 * MIB, 7)?]);
        let (naru, hosts) = store(folder, &[("library/large", "1", &image, "all")])?;
        let registry = Registry::start(folder, "target")?;
        let (address, count) = cutting(registry.host(), 40 * MIB)?;
        naru.ok(["push", "--to", &address])?;
        same(&registry.read(&format!("{}/library/large", spelled(&hosts[0])), "1")?, &image)?;
        // Distribution 2 cancels an upload when it is asked how far that came (mended in its 3, #3755), so all of it may
        // have been sent again.
        ensure!(count.load(Ordering::SeqCst) > 64 * MIB, "it was not cut");

        // Naru keeps what came, and so it is not sent again.
        let other = Naru::new(folder, "other")?;
        let serving = other.serve(&[])?;
        let token = std::fs::read_to_string(other.store().join("admin.token"))?.trim().to_owned();
        let (address, count) = cutting(serving.address().to_owned(), 40 * MIB)?;
        naru.list(&format!(
            "images: []\nupstreams:\n  '{address}': {{ username: anyone, password: '{token}', insecure: true }}\n"
        ))?;
        naru.ok(["push", "--to", &address, "--prefix", "cut"])?;
        serving.holds(&format!("cut/{}/library/large", spelled(&hosts[0])), &image)?;
        let sent = count.load(Ordering::SeqCst);
        ensure!(sent > 64 * MIB && sent < 90 * MIB, "{sent} bytes: it began again");
        Ok(())
    });
}

/// A proxy that knows CONNECT alone; what it was asked for stands in the file.
fn proxy(folder: &Folder) -> Result<(String, std::path::PathBuf)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (address, log) = (listener.local_addr()?.to_string(), folder.write("proxy.log", "")?);
    let asked = log.clone();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let mut reader = BufReader::new(client.try_clone().unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|length| length > 0) {}
            let to = head.split_whitespace().nth(1).unwrap_or_default().to_owned();
            let _ = writeln!(std::fs::File::options().append(true).open(&asked).unwrap(), "{to}");
            let Ok(server) = TcpStream::connect(&to) else { continue };
            let _ = (&client).write_all(b"HTTP/1.1 200 Connection established\r\n\r\n");
            let (mut back, mut answers) = (client, server.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut answers, &mut back));
            let mut server = server;
            thread::spawn(move || std::io::copy(&mut reader, &mut server));
        }
    });
    Ok((address, log))
}

/// A registry as companies have it: TLS by a CA of their own, a password, behind a proxy.
#[test]
fn into_a_guarded_registry() {
    let needs = [NEEDS, &[Need::Program("openssl"), Need::Program("ip"), Need::Root]].concat();
    journey("into_a_guarded_registry", &needs, |folder| {
        const ADDRESS: &str = "10.97.0.1";
        run("ip", ["address", "add", &format!("{ADDRESS}/32"), "dev", "lo"])?;
        let image = application(folder, "guarded")?;
        let (naru, hosts) = store(folder, &[("library/app", "1", &image, "all")])?;
        let (ca, key) = (folder.join("ca.pem"), folder.join("key.pem"));
        let (ca, key) = (ca.to_str().context("a path")?, key.to_str().context("a path")?);
        let subject = ["-subj", "/CN=registry", "-addext", &format!("subjectAltName=IP:{ADDRESS}")];
        let made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", ca];
        run("openssl", [&made[..], &subject, &["-addext", "basicConstraints=critical,CA:FALSE"]].concat())?;
        // user / secret
        let users = folder.write("htpasswd", "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n")?;
        let registry = Registry::with(
            folder,
            "guarded",
            ADDRESS,
            &format!(", tls: {{ certificate: {ca}, key: {key} }}"),
            &format!("auth: {{ htpasswd: {{ realm: r, path: {} }} }}\n", users.display()),
        )?;
        let target = registry.host();
        let (proxy, log) = proxy(folder)?;
        let push = |arguments: &[&str], credentials: Option<&str>| {
            let mut command = naru.command([&["push", "--to", &target], arguments].concat());
            command.env("HTTPS_PROXY", format!("http://{proxy}"));
            if let Some(auth) = credentials {
                let auth = format!(r#"{{"auths":{{"{target}":{{"auth":"{auth}"}}}}}}"#);
                folder.write("docker/config.json", auth)?;
                command.env("DOCKER_CONFIG", folder.join("docker"));
            }
            Outcome::of(&mut command)
        };
        for (arguments, credentials, words) in [
            (&[][..], None, "unknown issuer"),
            (&["--ca", ca][..], None, "not authorized"),
            (&["--ca", ca], Some("dXNlcjp3cm9uZw=="), "not authorized"),
        ] {
            let outcome = push(arguments, credentials)?;
            ensure!(outcome.status.code() == Some(1), "{}", outcome.stderr);
            ensure!(outcome.stderr.contains(words) && outcome.stderr.contains("hint: "), "{}", outcome.stderr);
        }
        push(&["--ca", ca], Some("dXNlcjpzZWNyZXQ="))?.ok("push")?;
        ensure!(std::fs::read_to_string(log)?.contains(&target), "it went past the proxy");
        let name = format!("https://{target}/v2/{}/library/app/manifests/1", spelled(&hosts[0]));
        let accept = "Accept: application/vnd.oci.image.index.v1+json";
        let answer = http::request(&name, &["--cacert", ca, "--user", "user:secret", "--header", accept], None)?;
        ensure!(journeys::digest_of(&answer.body) == image.digest(), "{}", answer.text());

        // Nobody there, and one that takes nothing.
        let nobody = format!("127.0.0.1:{}", journeys::free_port()?);
        let outcome = naru.run(["push", "--to", &nobody])?;
        ensure!(outcome.stderr.contains(&nobody) && outcome.stderr.contains("hint: "), "{}", outcome.stderr);
        let registry = Registry::read_only(folder, "closed")?;
        let closed = registry.host();
        let outcome = naru.run(["push", "--to", &closed])?;
        ensure!(outcome.stderr.contains("read-only") && outcome.stderr.contains(&closed), "{}", outcome.stderr);
        Ok(())
    });
}

/// Signatures by tag and by subject go along, named or not; docker-registry has no referrers API.
#[test]
fn what_refers_to_an_image_goes_along() {
    journey("what_refers_to_an_image_goes_along", NEEDS, |folder| {
        let image = application(folder, "signed")?;
        let upstream = Registry::start(folder, "upstream")?;
        upstream.push("library/app", "1", &image)?;
        upstream.push("library/app", &format!("{}.sig", image.tag_for_referrers()), &Image::signature(&image))?;
        let artifact = Image::artifact("application/vnd.example.sbom", Some(&image));
        upstream.push("library/app", artifact.digest(), &artifact)?;
        upstream.push("library/app", &image.tag_for_referrers(), &Image::fallback(&[&artifact]))?;
        let naru = Naru::new(folder, "naru")?;
        let name = format!("{}/library/app:1", upstream.host());
        naru.list(&format!("platforms: [all]\nimages: ['{name}']\n"))?;
        naru.ok(["pull"])?;
        for (target, arguments) in [("all", &[][..]), ("named", &[name.as_str()])] {
            let registry = Registry::start(folder, target)?;
            for _ in 0..2 {
                naru.ok([&["push", "--flat", "--to", &registry.host()], arguments].concat())?;
            }
            same(&registry.read("library/app", "1")?, &image)?;
            let signature = registry.read("library/app", &format!("{}.sig", image.tag_for_referrers()))?;
            same(&signature, &Image::signature(&image))?;
            let listed = registry.read("library/app", &image.tag_for_referrers())?;
            ensure!(listed.documents.iter().any(|one| one.digest == artifact.digest()), "{target}: {listed:?}");
        }
        Ok(())
    });
}

/// Straight from a bundle, all of it or one platform, into a registry that wants to see a client's certificate.
#[test]
fn a_bundle_goes_into_a_registry_that_asks_for_a_certificate() {
    let needs = [NEEDS, &[Need::Program("openssl")]].concat();
    journey("a_bundle_goes_into_a_registry_that_asks_for_a_certificate", &needs, |folder| {
        let image = application(folder, "carried")?;
        let (naru, hosts) = store(folder, &[("library/app", "1", &image, "all")])?;
        let bundle = folder.join("bundle");
        let medium = bundle.to_str().context("a path")?;
        naru.ok(["pack", "--all", "-o", medium])?;
        let name = format!("{}/library/app", spelled(&hosts[0]));

        let path = |name: &str| folder.join(name).to_str().map(str::to_owned).context("a path");
        let certificate = |name: &str, more: &[&str]| -> Result<(String, String)> {
            let (certificate, key) = (path(&format!("{name}.pem"))?, path(&format!("{name}.key"))?);
            let made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", &key];
            run("openssl", [&made[..], &["-out", &certificate, "-subj", &format!("/CN={name}")], more].concat())?;
            Ok((certificate, key))
        };
        let no_ca = ["-addext", "basicConstraints=critical,CA:FALSE"];
        let (server, server_key) =
            certificate("server", &[&["-addext", "subjectAltName=IP:127.0.0.1"], &no_ca[..]].concat())?;
        let (client, client_key) = certificate("client", &[])?;
        let tls = format!(", tls: {{ certificate: {server}, key: {server_key}, clientcas: ['{client}'] }}");
        let registry = Registry::with(folder, "asking", "127.0.0.1", &tls, "")?;
        let target = registry.host();

        // A machine that has the bundle and nothing else.
        let other = Naru::new(folder, "other")?;
        let push = ["push", "--from", medium, "--to", &target, "--ca", &server];
        let refused = other.run(push)?;
        ensure!(!refused.status.success() && refused.stderr.contains("hint: "), "{refused:?}");
        other.list(&format!(
            "images: []\nupstreams:\n  '{target}': {{ ca: '{server}', cert: '{client}', key: '{client_key}' }}\n"
        ))?;
        let one =
            other.ok(["push", "--from", medium, "--to", &target, "--platform", "linux/arm64", "--prefix", "one"])?;
        ensure!(one.stderr.contains("linux/arm64"), "{}", one.stderr);
        other.ok(["push", "--from", medium, "--to", &target])?;
        ensure!(!other.store().exists(), "a store was made for it");
        let digest = |repository: &str| -> Result<String> {
            let url = format!("https://{target}/v2/{repository}/manifests/1");
            let accept = "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";
            let shown = ["--cacert", &server, "--cert", &client, "--key", &client_key, "--header", accept];
            Ok(journeys::digest_of(&http::request(&url, &shown, None)?.body))
        };
        ensure!(digest(&name)? == image.digest());
        // docker-registry refuses an index of which a child is missing.
        ensure!(digest(&format!("one/{name}"))? == image.documents[1].digest);
        Ok(())
    });
}
