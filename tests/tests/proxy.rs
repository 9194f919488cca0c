//! What is not here is fetched from its upstream while it is handed out, once, and stays when the upstream is gone.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, anyhow, ensure};
use journeys::image::{Family, Image, application, digest_of, large};
use journeys::{
    Containerd, Daemon, Dockerd, Fault, Faulty, Folder, Gate, Mirror, Naru, Need, Outcome, Podman, Registry, Request,
    Serving, find, free_port, http, journey, wait_until,
};
use serde_json::{Value, json};

const NEEDS: &[Need] = &[Need::Program("docker-registry"), Need::Program("busybox")];

/// A side whose server has this configuration.
fn side(folder: &Folder, name: &str, configuration: &str) -> Result<(Naru, Serving)> {
    let naru = Naru::new(folder, name)?;
    std::fs::write(naru.folder().join("serve.yaml"), configuration)?;
    let serving = serve(&naru)?;
    Ok((naru, serving))
}

fn serve(naru: &Naru) -> Result<Serving> {
    let configuration = naru.folder().join("serve.yaml");
    naru.serve(&["--config", configuration.to_str().context("a path of our own")?])
}

/// skopeo, from the server into a folder.
fn skopeo(folder: &Folder, from: &str, to: &str) -> Result<Outcome> {
    let mut command = Command::new(find("skopeo").context("skopeo is not here")?);
    let to = format!("dir:{}", folder.join(to).display());
    command.args(["copy", "--all", "--src-tls-verify=false", "--preserve-digests"]);
    Outcome::of(command.arg(format!("docker://{from}")).arg(to))
}

/// Waits until a tag is written down: who pulls it does not wait for the disk.
fn kept(naru: &Naru, tag: &str) -> Result<()> {
    wait_until(tag, || Ok(naru.ok(["ls"])?.stdout.contains(tag).then_some(())))
}

#[test]
fn what_was_pulled_through_stays() {
    let needs = [NEEDS, &[Need::Program("skopeo")]].concat();
    journey("what_was_pulled_through_stays", &needs, |folder| {
        let registry = Registry::start(folder, "one")?;
        let image = application(folder, "through")?;
        registry.push("library/app", "1", &image)?;
        let host = registry.host();
        let (naru, serving) = side(folder, "site", &format!("upstreams:\n  '{host}': {{ proxy: on-miss }}\n"))?;
        let name = format!("{host}/library/app");
        // No reference has a colon there.
        let written = format!("{}/library/app:1", host.replace(':', "_"));
        skopeo(folder, &format!("{}/{written}", serving.address()), "first")?.ok("skopeo")?;
        kept(&naru, &format!("{name}:1"))?;
        // What a disk has changed since comes again, as it came first; also for who may push.
        for (number, blob) in image.blobs.iter().enumerate() {
            let hex = blob.digest.strip_prefix("sha256:").context("sha256")?;
            let below = naru.store().join("blobs/sha256").join(hex.get(..2).context("a digest")?);
            for file in std::fs::read_dir(below)?.collect::<std::io::Result<Vec<_>>>()? {
                if file.file_name().to_string_lossy().starts_with(hex) {
                    std::fs::write(file.path(), b"other bytes")?;
                }
            }
            ensure!(!naru.run(["fsck"])?.status.success(), "it finds what is damaged");
            let token = std::fs::read_to_string(naru.store().join("admin.token"))?;
            let as_admin = ["--user".to_owned(), format!("x:{}", token.trim())];
            let credentials: Vec<&str> = as_admin.iter().map(String::as_str).take(number % 2 * 2).collect();
            let url = serving.url(&format!("/v2/{name}/blobs/{}", blob.digest));
            let got = http::request(&url, &credentials, None)?;
            ensure!(got.status == 200 && digest_of(&got.body) == blob.digest, "{}: {}", blob.digest, got.status);
            let clean = || Ok(naru.run(["fsck"])?.status.success().then_some(()));
            wait_until("it is kept", clean)?;
        }
        drop(registry);
        skopeo(folder, &format!("{}/{written}", serving.address()), "second")?.ok("skopeo, without the upstream")?;
        serving.holds(&name, &image)?;
        kept(&naru, &format!("{name}:1"))?;
        drop(serving);
        let serving = serve(&naru)?;
        skopeo(folder, &format!("{}/{written}", serving.address()), "third")?.ok("skopeo, after a restart")?;
        // Elsewhere a collection takes what a proxy gathered, or what it shares with others.
        naru.ok(["gc", "--grace", "0"])?;
        skopeo(folder, &format!("{}/{written}", serving.address()), "fourth")?.ok("skopeo, after a collection")?;
        serving.holds(&name, &image)?;
        drop(serving);
        naru.ok(["fsck"])?;
        Ok(())
    });
}

const MIB: u64 = 1 << 20;

/// An image with a layer of some MiB, and that layer's digest.
fn heavy(folder: &Folder, mib: u64, seed: u64) -> Result<(Image, String)> {
    let image = Image::single(Family::Oci, "linux/amd64", &[large(folder, mib * MIB, seed)?]);
    let layer = image.blobs.last().context("it has a layer")?.digest.clone();
    Ok((image, layer))
}

fn asks(seen: &[Request], method: &str, part: &str) -> usize {
    seen.iter().filter(|request| request.method == method && request.path.contains(part)).count()
}

/// One line of `/metrics`.
fn counted(serving: &Serving, line: &str) -> Result<u64> {
    let text = http::get(&serving.url("/metrics"))?.text();
    let value = text.lines().find_map(|each| each.strip_prefix(line)?.strip_prefix(' '));
    value.with_context(|| format!("{line} in {text}"))?.parse().map_err(Into::into)
}

/// Text that lives as long as the journey.
fn lasting(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

#[test]
fn one_fetch_streams_to_all_who_ask() {
    journey("one_fetch_streams_to_all_who_ask", NEEDS, |folder| {
        let registry = Registry::start(folder, "one")?;
        let (image, layer) = heavy(folder, 8, 1)?;
        for name in ["library/app", "library/twin"] {
            registry.push(name, "1", &image)?;
        }
        let (gate, blob) = (Gate::default(), layer.clone());
        let held = gate.clone();
        let faulty = Faulty::before(&registry.host(), move |request| {
            if request.method == "GET" && request.path.contains(&blob) {
                Fault::Held(2 * MIB, held.clone())
            } else {
                Fault::None
            }
        })?;
        let host = faulty.host();
        let (naru, serving) = side(folder, "site", &format!("upstreams:\n  '{host}': {{ proxy: on-miss }}\n"))?;
        let base = |name: &str| format!("/v2/{host}/library/{name}");
        for name in ["app", "twin"] {
            ensure!(http::get(&serving.url(&format!("{}/manifests/1", base(name))))?.status == 200, "the manifest");
        }

        // All have the first bytes while the upstream still holds the last ones back; who asks another repository of it, too.
        let begin = |number: usize| -> Result<_> {
            let name = if number % 3 == 2 { "twin" } else { "app" };
            let url = serving.url(&format!("{}/blobs/{layer}", base(name)));
            let file = folder.join(format!("got-{number}"));
            let mut curl = Command::new(find("curl").context("curl is not here")?);
            curl.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--no-buffer", "--output"]);
            Ok((curl.arg(&file).arg(&url).spawn()?, file))
        };
        let mut clients = (0..6).map(begin).collect::<Result<Vec<_>>>()?;
        for (_, file) in &clients {
            wait_until("the first bytes", || {
                Ok(std::fs::metadata(file).is_ok_and(|file| file.len() >= MIB).then_some(()))
            })?;
        }
        // The one that began goes away; nobody else notices.
        let (mut first, _) = clients.remove(0);
        first.kill()?;
        first.wait()?;
        gate.open();
        for (mut client, file) in clients {
            ensure!(client.wait()?.success(), "a client was cut off");
            let got = journeys::digest_of(&std::fs::read(file)?);
            ensure!(got == layer, "{got}, not {layer}");
        }
        let asked = asks(&faulty.seen(), "GET", &layer);
        ensure!(asked == 1, "the upstream was asked {asked} times");
        for name in ["library/app", "library/twin"] {
            serving.holds(&format!("{host}/{name}"), &image)?;
            kept(&naru, &format!("{host}/{name}:1"))?;
        }
        // Another repository of that upstream has the same layer: it need not come again.
        registry.push("library/other", "1", &image)?;
        ensure!(serving.digest_of(&format!("{host}/library/other"), "1")? == image.digest(), "the other's tag");
        serving.holds(&format!("{host}/library/other"), &image)?;
        ensure!(asks(&faulty.seen(), "GET", &layer) == 1, "it came again");
        ensure!(counted(&serving, "naru_upstream_received_bytes_total")? >= 8 * MIB, "bytes are counted");
        drop(serving);
        naru.ok(["fsck"])?;
        Ok(())
    });
}

#[test]
fn who_waits_for_the_same_blob_shares_one_fetch() {
    journey("who_waits_for_the_same_blob_shares_one_fetch", NEEDS, |folder| {
        let registry = Registry::start(folder, "one")?;
        let (image, layer) = heavy(folder, 2, 1)?;
        for name in ["library/app", "library/twin", "library/third"] {
            registry.push(name, "1", &image)?;
        }
        // As many as are fetched from one upstream at a time: nobody else's fetch begins before one of them ends.
        let layers = (10..18).map(|seed| large(folder, MIB, seed)).collect::<Result<Vec<_>>>()?;
        let busy = Image::single(Family::Oci, "linux/amd64", &layers);
        registry.push("library/busy", "1", &busy)?;
        let (gate, blob) = (Gate::default(), layer.clone());
        let held = gate.clone();
        let faulty = Faulty::before(&registry.host(), move |request| {
            if request.method == "GET" && request.path.contains("/busy/blobs/") {
                Fault::Held(MIB / 2, held.clone())
            } else if request.method == "GET" && request.path.contains(&blob) && request.path.contains("/third/") {
                Fault::Status(404, "")
            } else {
                Fault::None
            }
        })?;
        let host = faulty.host();
        let (naru, serving) = side(folder, "site", &format!("upstreams:\n  '{host}': {{ proxy: on-miss }}\n"))?;
        let base = |name: &str| format!("/v2/{host}/library/{name}");
        for name in ["app", "twin", "third", "busy"] {
            ensure!(http::get(&serving.url(&format!("{}/manifests/1", base(name))))?.status == 200, "the manifest");
        }
        let begin = |name: &str, digest: &str| {
            let url = serving.url(&format!("{}/blobs/{digest}", base(name)));
            std::thread::spawn(move || http::hash(&url))
        };
        let busy = busy.blobs.iter().skip(1).map(|blob| begin("busy", &blob.digest)).collect::<Vec<_>>();
        wait_until("all places are taken", || {
            Ok((asks(&faulty.seen(), "GET", "/busy/blobs/") == busy.len()).then_some(()))
        })?;
        // The first of these is one to whom the upstream does not give it: what the others wait for is not its failure.
        let third = begin("third", &layer);
        std::thread::sleep(std::time::Duration::from_millis(300));
        let waiting = ["app", "twin", "app", "twin"].map(|name| begin(name, &layer));
        std::thread::sleep(std::time::Duration::from_millis(300));
        gate.open();
        for got in busy {
            got.join().map_err(|_| anyhow!("a pull panicked"))??;
        }
        ensure!(third.join().map_err(|_| anyhow!("a pull panicked"))?.is_err(), "it is not to be had there");
        for got in waiting {
            let (digest, _) = got.join().map_err(|_| anyhow!("a pull panicked"))??;
            ensure!(digest == layer, "{digest}, not {layer}");
        }
        let seen = faulty.seen();
        let asked = ["app", "twin"].map(|name| asks(&seen, "GET", &format!("/{name}/blobs/{layer}")));
        ensure!(asked.iter().sum::<usize>() == 1, "the upstream was asked {asked:?} times");
        drop(serving);
        naru.ok(["fsck"])?;
        Ok(())
    });
}

#[test]
fn a_cut_is_made_good_while_the_client_waits() {
    journey("a_cut_is_made_good_while_the_client_waits", NEEDS, |folder| {
        let registry = Registry::start(folder, "one")?;
        let (image, layer) = heavy(folder, 4, 2)?;
        registry.push("library/app", "1", &image)?;
        let blob = layer.clone();
        let faulty = Faulty::before(&registry.host(), move |request| match request.nth {
            0 if request.path.contains(&blob) => Fault::Cut(MIB),
            1 if request.path.contains(&blob) => Fault::Status(503, ""),
            _ => Fault::None,
        })?;
        let host = faulty.host();
        let (naru, serving) = side(folder, "site", &format!("upstreams:\n  '{host}': {{ proxy: on-miss }}\n"))?;
        let name = format!("{host}/library/app");
        ensure!(serving.digest_of(&name, "1")? == image.digest(), "the tag");
        let got = http::hash(&serving.url(&format!("/v2/{name}/blobs/{layer}")))?;
        ensure!(got.0 == layer, "{got:?}");
        let seen = faulty.seen();
        let last = seen.iter().rfind(|request| request.path.contains(&layer)).context("it was asked")?;
        ensure!(last.header("range").is_some_and(|range| range.starts_with("bytes=1")), "begun anew: {seen:#?}");
        drop(serving);
        naru.ok(["fsck"])?;
        Ok(())
    });
}

#[test]
fn wrong_bytes_are_neither_completed_nor_kept() {
    journey("wrong_bytes_are_neither_completed_nor_kept", NEEDS, |folder| {
        let registry = Registry::start(folder, "one")?;
        let (image, layer) = heavy(folder, 4, 3)?;
        registry.push("library/app", "1", &image)?;
        // What a manifest says of a layer's length is what clients are told; this one says a byte too much or too little.
        let size = image.blobs.last().context("it has a layer")?.size;
        for (tag, wrong) in [("more", size - 1), ("less", size + 1)] {
            let text = String::from_utf8(image.top().bytes.clone())?;
            let bytes = text.replace(&size.to_string(), &wrong.to_string()).into_bytes();
            let url = format!("http://{}/v2/library/app/manifests/{tag}", registry.host());
            let media_type = format!("Content-Type: {}", image.top().media_type);
            let answer = http::request(&url, &["--request", "PUT", "--header", &media_type], Some(&bytes))?;
            ensure!(answer.status == 201, "{}", answer.text());
        }
        let blob = layer.clone();
        let faulty = Faulty::before(&registry.host(), move |request| {
            if request.path.contains(&blob) && request.nth == 0 { Fault::Flip } else { Fault::None }
        })?;
        let host = faulty.host();
        let (naru, serving) = side(folder, "site", &format!("upstreams:\n  '{host}': {{ proxy: on-miss }}\n"))?;
        let name = format!("{host}/library/app");
        let url = serving.url(&format!("/v2/{name}/blobs/{layer}"));
        ensure!(serving.digest_of(&name, "1")? == image.digest(), "the tag");
        let got = http::hash(&url);
        let text = format!("{got:?}");
        ensure!(got.is_err(), "wrong bytes were completed: {text}");
        ensure!(!naru.ok(["ls"])?.stdout.contains("app:1"), "it is not whole");
        // The upstream has come to its senses.
        ensure!(http::hash(&url)? == (layer.clone(), size), "the right bytes");

        let other = Faulty::before(&registry.host(), |_| Fault::None)?;
        let host = other.host();
        for (number, tag) in ["more", "less"].iter().enumerate() {
            let configuration = format!("upstreams:\n  '{host}': {{ proxy: on-miss }}\n");
            let (naru, serving) = side(folder, &format!("site-{number}"), &configuration)?;
            let name = format!("{host}/library/app");
            serving.digest_of(&name, tag)?;
            ensure!(http::hash(&serving.url(&format!("/v2/{name}/blobs/{layer}"))).is_err(), "{tag}");
            ensure!(!naru.ok(["ls"])?.stdout.contains("library/app"), "{tag} is not whole");
            drop(serving);
            naru.ok(["fsck"])?;
        }
        drop(serving);
        naru.ok(["fsck"])?;
        Ok(())
    });
}

#[test]
fn what_is_here_is_served_whatever_the_upstream_says() {
    journey("what_is_here_is_served_whatever_the_upstream_says", NEEDS, |folder| {
        let registry = Registry::start(folder, "one")?;
        let (old, new) = (application(folder, "old")?, application(folder, "new")?);
        let tags = ["good", "404", "401", "403", "503", "page", "late"];
        for tag in tags {
            registry.push("library/app", tag, &old)?;
        }
        let (bad, gate) = (Arc::new(AtomicBool::new(false)), Gate::default());
        let (state, held) = (bad.clone(), gate.clone());
        let faulty = Faulty::before(&registry.host(), move |request| {
            let tag = request.path.rsplit_once("/manifests/").map(|(_, tag)| tag).unwrap_or_default();
            match tag {
                _ if !state.load(Ordering::Relaxed) => Fault::None,
                "404" => Fault::Status(404, ""),
                "401" => Fault::Status(401, ""),
                "403" => Fault::Status(403, ""),
                "503" => Fault::Status(503, ""),
                "page" => Fault::Page("<html><title>Ask security</title>"),
                "late" => {
                    held.wait();
                    Fault::None
                }
                _ => Fault::None,
            }
        })?;
        let host = faulty.host();
        let configuration = format!("upstreams:\n  '{host}': {{ proxy: check, recheck: 0 }}\n");
        let (naru, serving) = side(folder, "site", &configuration)?;
        let name = format!("{host}/library/app");
        for tag in tags {
            ensure!(serving.digest_of(&name, tag)? == old.digest(), "{tag}");
        }
        serving.holds(&name, &old)?;
        for tag in tags {
            kept(&naru, &format!("{name}:{tag}"))?;
        }

        for tag in tags {
            registry.push("library/app", tag, &new)?;
        }
        bad.store(true, Ordering::Relaxed);
        for tag in tags {
            let expected = if tag == "good" { new.digest() } else { old.digest() };
            let got = serving.digest_of(&name, tag)?;
            ensure!(got == expected, "{tag}: {got}");
        }
        ensure!(counted(&serving, "naru_proxy_requests_total{result=\"stale\"}")? >= 6, "stale ones are counted");
        // Until the new one is whole, nobody has written down that the tag is another.
        ensure!(naru.ok(["ls"])?.stdout.contains(&format!("{name}:good")), "the old one stays");
        gate.open();
        drop((faulty, registry, serving));
        let serving = serve(&naru)?;
        for tag in tags {
            ensure!(serving.digest_of(&name, tag)? == old.digest(), "{tag}, with the upstream gone");
        }
        serving.holds(&name, &old)
    });
}

#[test]
fn what_cannot_be_had_is_said_and_not_asked_again_at_once() {
    journey("what_cannot_be_had_is_said_and_not_asked_again_at_once", NEEDS, |folder| {
        let registry = Registry::start(folder, "one")?;
        let faulty = Faulty::before(&registry.host(), |request| match request.path.rsplit('/').next() {
            Some("401") => Fault::Status(401, ""),
            Some("503") => Fault::Status(503, ""),
            Some("429") => Fault::Status(429, "Retry-After: 3600\r\n"),
            _ => Fault::None,
        })?;
        let host = faulty.host();
        let (_naru, serving) = side(folder, "site", &format!("upstreams:\n  '{host}': {{ proxy: on-miss }}\n"))?;
        for (tag, status) in [("missing", 404), ("401", 404), ("503", 502)] {
            let url = serving.url(&format!("/v2/{host}/library/app/manifests/{tag}"));
            let answer = http::get(&url)?;
            ensure!(answer.status == status, "{tag}: {} {}", answer.status, answer.text());
            ensure!(serde_json::from_slice::<Value>(&answer.body)?["errors"][0]["message"].is_string(), "{tag}");
            let before = faulty.seen().len();
            ensure!(
                http::get(&url)?.status == status && faulty.seen().len() == before,
                "{tag} was asked again at once"
            );
        }
        // It wants to be left alone for an hour, and is, about everything.
        let manifest = |tag: &str| http::get(&serving.url(&format!("/v2/{host}/library/app/manifests/{tag}")));
        ensure!(manifest("429")?.status == 429, "it limits requests");
        let before = faulty.seen().len();
        let answer = manifest("other")?;
        let left = answer.header("retry-after").and_then(|left| left.parse::<u64>().ok()).unwrap_or_default();
        ensure!(answer.status == 429 && (1..=3600).contains(&left), "{left} s: {}", answer.text());
        ensure!(faulty.seen().len() == before, "it was asked all the same");
        // Whoever is not an upstream of ours is never asked.
        let answer = http::get(&serving.url("/v2/library/app/manifests/1?ns=other.example"))?;
        ensure!(answer.status == 404, "{}", answer.text());
        Ok(())
    });
}

#[test]
fn each_client_pulls_through_in_its_own_way() {
    let programs = ["containerd", "ctr", "runc", "podman", "dockerd", "docker"].map(Need::Program);
    let needs = [NEEDS, &programs, &[Need::Root]].concat();
    journey("each_client_pulls_through_in_its_own_way", &needs, |folder| {
        let registry = Registry::start(folder, "hub")?;
        let images = ["by-containerd", "by-podman", "by-docker"]
            .into_iter()
            .map(|name| Ok((name, application(folder, name)?)))
            .collect::<Result<Vec<_>>>()?;
        for (name, image) in &images {
            registry.push(&format!("library/{name}"), "1", image)?;
        }
        let hub = registry.host();
        let mirrors = format!("mirrors: [{{ url: 'http://{hub}', trust: mirror }}]");
        let (_naru, serving) =
            side(folder, "site", &format!("upstreams:\n  docker.io: {{ proxy: check, {mirrors} }}\n"))?;

        let mirror = Mirror { address: serving.address().to_owned(), ca: Some(serving.ca(folder)?) };
        let containerd = Containerd::start(folder, &mirror)?;
        let digest = containerd.pull("docker.io/library/by-containerd:1")?;
        ensure!(digest == images[0].1.digest(), "ctr: {digest}");
        let said = containerd.run("docker.io/library/by-containerd:1", "runs", &["/bin/cat", "/etc/marker"])?;
        ensure!(said == "by-containerd\n", "ctr run: {said}");

        let podman = Podman::new(folder, &[("docker.io".to_owned(), format!("{}/docker.io", serving.address()))])?;
        let digests = podman.pull("docker.io/library/by-podman:1")?;
        ensure!(digests.contains(images[1].1.digest()), "podman: {digests}");

        // docker names no host: the first in the order that has an upstream is meant.
        let dockerd = Dockerd::start(folder, &format!("http://{}", serving.address()))?;
        let digests = dockerd.pull("docker.io/library/by-docker:1")?;
        ensure!(digests.contains(images[2].1.digest()), "docker: {digests}");
        drop(registry);
        for (name, image) in &images {
            ensure!(serving.digest_of(&format!("docker.io/library/{name}"), "1")? == image.digest(), "{name}");
        }
        let digest = containerd.cri_pull("docker.io/library/by-docker:1")?;
        ensure!(digest == [format!("docker.io/library/by-docker@{}", images[2].1.digest())], "CRI: {digest:?}");
        Ok(())
    });
}

#[test]
fn a_rack_stands_before_a_site() {
    journey("a_rack_stands_before_a_site", NEEDS, |folder| {
        let registry = Registry::start(folder, "hub")?;
        let image = application(folder, "far away")?;
        registry.push("library/app", "1", &image)?;
        let by = |mirror: &str| {
            format!("upstreams:\n  docker.io: {{ proxy: check, mirrors: [{{ url: '{mirror}', trust: mirror }}] }}\n")
        };
        let (_site, site) = side(folder, "site", &by(&format!("http://{}", registry.host())))?;
        let (rack, front) = side(folder, "rack", &by(&site.url("/docker.io")))?;
        let name = "docker.io/library/app";
        ensure!(front.digest_of(name, "1")? == image.digest(), "the tag");
        for document in &image.documents {
            let answer = http::get(&front.url(&format!("/v2/{name}/manifests/{}", document.digest)))?;
            ensure!(answer.body == document.bytes, "{}", document.digest);
        }
        // Some look before they ask, and some caches look into the cache before them.
        for blob in &image.blobs {
            let answer = http::head(&front.url(&format!("/v2/{name}/blobs/{}", blob.digest)))?;
            let length = answer.header("content-length").map(str::to_owned);
            ensure!(answer.status == 200 && length == Some(blob.size.to_string()), "{}: {answer:?}", blob.digest);
        }
        front.holds(name, &image)?;
        drop((registry, site));
        front.holds(name, &image)?;
        ensure!(front.digest_of(name, "1")? == image.digest(), "the tag, alone");
        // Until it is to be checked, it comes from memory as everything else.
        let hits = "naru_cache_requests_total{result=\"hit\"}";
        let before = counted(&front, hits)?;
        front.digest_of(name, "1")?;
        ensure!(counted(&front, hits)? > before, "a tag that is fresh is warm");
        drop(front);
        rack.ok(["fsck"])?;
        Ok(())
    });
}

#[test]
fn offline_opens_no_connection() {
    let needs = [NEEDS, &[Need::Program("strace"), Need::Root]].concat();
    journey("offline_opens_no_connection", &needs, |folder| {
        let registry = Registry::start(folder, "one")?;
        let image = application(folder, "near")?;
        registry.push("library/app", "1", &image)?;
        let host = registry.host();
        for (offline, status) in [(false, 200), (true, 404)] {
            let naru = Naru::new(folder, &format!("offline-{offline}"))?;
            let (address, trace) = (format!("127.0.0.1:{}", free_port()?), folder.join(format!("trace-{offline}")));
            let text = format!("offline: {offline}\nupstreams:\n  '{host}': {{ proxy: check, recheck: 0 }}\n");
            std::fs::write(naru.folder().join("serve.yaml"), text)?;
            let plain = naru.command(["serve", "--config", "serve.yaml", "--listen", &address]);
            let mut strace = Command::new(find("strace").context("strace is not here")?);
            strace.args(["-f", "-qq", "-e", "trace=connect", "-o"]).arg(&trace);
            strace.arg(plain.get_program()).args(plain.get_args()).env_clear().current_dir(naru.folder());
            for (name, value) in plain.get_envs() {
                strace.env(name, value.unwrap_or_default());
            }
            let mut daemon = Daemon::start(&mut strace, &folder.join("strace.log"))?;
            daemon.wait_for("naru serve", |_| http::get(&format!("http://{address}/readyz")).ok())?;
            let answer = http::get(&format!("http://{address}/v2/library/app/manifests/1?ns={host}"))?;
            ensure!(answer.status == status, "offline: {offline}: {}", answer.text());
            drop(daemon);
            let trace = std::fs::read_to_string(trace)?;
            // By which address it would go out it asks the kernel with one that is for documents: nothing is sent there.
            let is_document = |line: &&str| line.contains("192.0.2.1") || line.contains("2001:db8::1");
            let dialled = trace.lines().filter(|line| line.contains("AF_INET")).any(|line| !is_document(&line));
            ensure!(dialled != offline, "offline: {offline}: {trace}");
        }
        Ok(())
    });
}

#[test]
fn only_what_may_be_fetched_is_fetched() {
    journey("only_what_may_be_fetched_is_fetched", NEEDS, |folder| {
        let registry = Registry::start(folder, "one")?;
        let image = application(folder, "two platforms")?;
        for name in ["library/app", "library/secret", "other/app"] {
            registry.push(name, "1", &image)?;
        }
        let faulty = Faulty::before(&registry.host(), |_| Fault::None)?;
        let host = faulty.host();
        let rules = "platforms: [linux/amd64], allow: ['library/*'], deny: ['**/secret']";
        let configuration = format!("upstreams:\n  '{host}': {{ proxy: on-miss, {rules} }}\n");
        let (naru, serving) = side(folder, "site", &configuration)?;
        let get = |name: &str, what: &str| http::get(&serving.url(&format!("/v2/{host}/{name}/manifests/{what}")));
        // The index keeps its bytes; of its children only the chosen platform's is fetched.
        let index = get("library/app", "1")?;
        ensure!(index.body == image.top().bytes, "{}", index.text());
        ensure!(get("library/app", &image.documents[0].digest)?.status == 200, "amd64");
        let other = get("library/app", &image.documents[1].digest)?;
        ensure!(other.status == 404 && other.text().contains("linux/amd64"), "arm64: {}", other.text());
        let before = faulty.seen().len();
        for name in ["library/secret", "other/app"] {
            ensure!(get(name, "1")?.status == 404, "{name}");
        }
        ensure!(faulty.seen().len() == before, "the upstream was asked: {:#?}", faulty.seen());

        // What was gathered is carried on, and nothing else.
        for blob in &image.blobs {
            let url = serving.url(&format!("/v2/{host}/library/app/blobs/{}", blob.digest));
            ensure!(http::hash(&url)?.0 == blob.digest, "{}", blob.digest);
        }
        kept(&naru, &format!("{host}/library/app:1"))?;
        naru.list("platforms: [linux/amd64]\nimages: []\nfiles:\n- path: naru.yaml\n")?;
        naru.ok(["lock"])?;
        naru.ok(["pull"])?;
        let bundle = folder.join("bundle");
        naru.ok(["pack", "--from-cache", "-o", bundle.to_str().context("a path of our own")?])?;
        naru.ok([std::ffi::OsStr::new("verify"), bundle.as_os_str()])?;
        let inside = Naru::new(folder, "inside")?;
        inside.load(&bundle)?;
        let listed = inside.ok(["ls"])?.stdout;
        ensure!(listed.contains(&format!("{host}/library/app:1")) && !listed.contains("naru.yaml"), "{listed}");
        let sealed = inside.serve(&[])?;
        ensure!(sealed.digest_of(&format!("{host}/library/app"), "1")? == image.digest(), "the tag inside");
        let child = sealed.url(&format!("/v2/{host}/library/app/manifests/{}", image.documents[0].digest));
        ensure!(http::get(&child)?.status == 200, "amd64 inside");
        Ok(())
    });
}

#[test]
fn nobody_is_sent_to_what_only_this_machine_can_reach() {
    journey("nobody_is_sent_to_what_only_this_machine_can_reach", NEEDS, |folder| {
        let registry = Registry::start(folder, "one")?;
        let (image, layer) = heavy(folder, 1, 4)?;
        registry.push("library/app", "1", &image)?;
        let trap = Faulty::before(&registry.host(), |_| Fault::None)?;
        let port = trap.host().rsplit_once(':').context("it has a port")?.1.to_owned();
        let hosts = [
            "127.0.0.1",
            "localhost",
            "a.localhost",
            "2130706433",
            "0x7f.1",
            "0177.0.0.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "0.0.0.0",
            "169.254.169.254",
            "10.0.0.1",
        ];
        let places = hosts.map(|host| format!("{host}:{port}"));
        for place in &places {
            let to = lasting(format!("Location: http://{place}/v2/library/app/blobs/{layer}\r\n"));
            let realm = lasting(format!("WWW-Authenticate: Bearer realm=\"http://{place}/token\",service=\"x\"\r\n"));
            // A layer that lies elsewhere, and a manifest that says where.
            let foreign = journeys::digest_of(b"elsewhere");
            let manifest = json!({
                "schemaVersion": 2, "mediaType": image.top().media_type,
                "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": layer, "size": 2 },
                "layers": [{
                    "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "digest": foreign,
                    "size": 9, "urls": [format!("http://{place}/v2/library/app/blobs/{layer}")],
                }],
            });
            let (kind, manifest) = (lasting(image.top().media_type.clone()), lasting(manifest.to_string()));
            let (redirected, pinned) = (layer.clone(), journeys::digest_of(manifest.as_bytes()));
            let faulty = Faulty::before(&registry.host(), move |request| {
                if request.path.ends_with("/manifests/foreign") || request.path.ends_with(&pinned) {
                    Fault::Says(kind, manifest)
                } else if request.path.contains(&redirected) {
                    Fault::Status(307, to)
                } else if request.path.ends_with("/manifests/guarded") {
                    Fault::Status(401, realm)
                } else {
                    Fault::None
                }
            })?;
            let host = faulty.host();
            // Who may be asked by a pattern is no excuse.
            let configuration = format!(
                "upstreams:\n  '{host}': {{ proxy: on-miss, username: u, password: secret }}\n  '*.localhost': {{ proxy: on-miss }}\n"
            );
            let (_naru, serving) = side(folder, &format!("site-{}", host.replace(':', "-")), &configuration)?;
            let name = format!("{host}/library/app");
            serving.digest_of(&name, "1")?;
            let blob = http::get(&serving.url(&format!("/v2/{name}/blobs/{layer}")))?;
            ensure!(blob.status == 502, "a redirect to {place}: {}", blob.text());
            let manifest = http::get(&serving.url(&format!("/v2/{name}/manifests/foreign")))?;
            ensure!(manifest.status == 200, "{}", manifest.text());
            let elsewhere = http::get(&serving.url(&format!("/v2/{name}/blobs/{foreign}")))?;
            ensure!(elsewhere.status == 404, "a foreign layer at {place}: {}", elsewhere.text());
            let guarded = http::get(&serving.url(&format!("/v2/{name}/manifests/guarded")))?;
            ensure!(matches!(guarded.status, 404 | 502), "a token from {place}: {}", guarded.text());
            // `ns` is a key, and never an address.
            for ns in [place.as_str(), "a.localhost"] {
                let answer = http::get(&serving.url(&format!("/v2/library/app/manifests/1?ns={ns}")))?;
                ensure!(matches!(answer.status, 400 | 404 | 502), "ns={ns}: {}", answer.text());
            }
        }
        ensure!(trap.seen().is_empty(), "somebody was sent there: {:#?}", trap.seen());

        // Whom its user named is asked, but told nobody else's secrets.
        let to = lasting(format!("Location: http://{}/v2/library/app/blobs/{layer}\r\n", trap.host()));
        let faulty = Faulty::before(&registry.host(), move |request| {
            let is_known = request.header("authorization").is_some();
            match request.path.contains("/blobs/") {
                true if is_known => Fault::Status(307, to),
                true => Fault::Status(401, "WWW-Authenticate: Basic realm=\"x\"\r\n"),
                false => Fault::None,
            }
        })?;
        let (host, named) = (faulty.host(), trap.host());
        let configuration =
            format!("upstreams:\n  '{host}': {{ proxy: on-miss, username: u, password: secret }}\n  '{named}': {{}}\n");
        let (_naru, serving) = side(folder, "site-named", &configuration)?;
        let name = format!("{host}/library/app");
        serving.digest_of(&name, "1")?;
        ensure!(http::hash(&serving.url(&format!("/v2/{name}/blobs/{layer}")))?.0 == layer, "the named one");
        let seen = trap.seen();
        ensure!(!seen.is_empty() && seen.iter().all(|request| request.header("authorization").is_none()), "{seen:#?}");
        Ok(())
    });
}

#[test]
fn a_budget_is_left_to_others() {
    journey("a_budget_is_left_to_others", NEEDS, |folder| {
        let registry = Registry::start(folder, "one")?;
        let (old, new) = (application(folder, "old")?, application(folder, "new")?);
        registry.push("library/app", "1", &old)?;
        let few = Arc::new(AtomicBool::new(false));
        let state = few.clone();
        let faulty = Faulty::before(&registry.host(), move |_| {
            let left = if state.load(Ordering::Relaxed) { "5" } else { "6" };
            Fault::Header(lasting(format!("RateLimit-Remaining: {left};w=21600\r\n")))
        })?;
        let host = faulty.host();
        let rules = "proxy: check, recheck: 0, budget: 5";
        let (_naru, serving) = side(folder, "site", &format!("upstreams:\n  '{host}': {{ {rules} }}\n"))?;
        let name = format!("{host}/library/app");
        ensure!(serving.digest_of(&name, "1")? == old.digest(), "there are enough");
        serving.holds(&name, &old)?;
        registry.push("library/app", "1", &new)?;
        registry.push("library/app", "2", &new)?;
        few.store(true, Ordering::Relaxed);
        let before = asks(&faulty.seen(), "GET", "/manifests/");
        ensure!(serving.digest_of(&name, "1")? == old.digest(), "it moves when there are enough again");
        let answer = http::get(&serving.url(&format!("/v2/{name}/manifests/2")))?;
        ensure!(answer.status == 429, "{}", answer.text());
        ensure!(asks(&faulty.seen(), "GET", "/manifests/") == before, "others were left fewer");
        Ok(())
    });
}

#[test]
fn naming_a_blob_is_not_having_it() {
    journey("naming_a_blob_is_not_having_it", NEEDS, |folder| {
        let registry = Registry::start(folder, "one")?;
        let (secret, layer) = heavy(folder, 1, 5)?;
        registry.push("corp/secret", "1", &secret)?;
        // Somebody's repository has a manifest that names what is in another's.
        let manifest = lasting(String::from_utf8(secret.top().bytes.clone())?);
        let media_type = lasting(secret.top().media_type.clone());
        let faulty = Faulty::before(&registry.host(), move |request| {
            if request.path.contains("/library/evil/manifests/") {
                Fault::Says(media_type, manifest)
            } else {
                Fault::None
            }
        })?;
        let host = faulty.host();
        let (naru, serving) = side(folder, "site", &format!("upstreams:\n  '{host}': {{ proxy: on-miss }}\n"))?;
        let blob = |name: &str| serving.url(&format!("/v2/{host}/{name}/blobs/{layer}"));
        serving.digest_of(&format!("{host}/corp/secret"), "1")?;
        ensure!(http::hash(&blob("corp/secret"))?.0 == layer, "its own");
        ensure!(
            http::get(&serving.url(&format!("/v2/{host}/library/evil/manifests/1")))?.status == 200,
            "evil's manifest"
        );
        let answer = http::get(&blob("library/evil"))?;
        ensure!(answer.status == 404, "it was given away: {}", answer.status);
        ensure!(!naru.ok(["ls"])?.stdout.contains("library/evil"), "it is not whole there");
        Ok(())
    });
}
