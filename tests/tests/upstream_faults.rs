//! An upstream on a bad day: what can be had in the end is had, what cannot is refused by name, and nothing false enters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::ensure;
use journeys::image::{Family, Image, application, large};
use journeys::{Fault, Faulty, Naru, Need, Nginx, Registry, digest_of, journey};

const NEEDS: &[Need] = &[Need::Program("docker-registry"), Need::Program("busybox")];

/// Whether a request asks for an image's bytes.
fn is_blob(path: &str) -> bool {
    path.contains("/blobs/sha256:")
}

#[test]
fn a_cut_blob_is_resumed_where_it_broke() {
    journey("a_cut_blob_is_resumed_where_it_broke", NEEDS, |folder| {
        let registry = Registry::start(folder, "one")?;
        let image = Image::single(Family::Oci, "linux/amd64", &[large(folder, 20 << 20, 1)?]);
        registry.push("library/app", "1", &image)?;
        let faulty = Faulty::before(&registry.host(), |request| match request.nth {
            0 if is_blob(&request.path) && request.method == "GET" => Fault::Cut(5 << 20),
            1 if is_blob(&request.path) && request.method == "GET" => Fault::Cut(3 << 20),
            _ => Fault::None,
        })?;
        let naru = Naru::new(folder, "outside")?;
        naru.list(&format!("platforms: [linux/amd64]\nimages:\n- {}/library/app:1\n", faulty.host()))?;
        naru.ok(["lock"])?;
        naru.ok(["pull"])?;
        let resumed = faulty.seen().iter().filter(|request| request.header("range").is_some()).count();
        ensure!(resumed >= 2, "resumed {resumed} times; asked: {:#?}", faulty.seen());
        naru.ok(["fsck"])?;
        Ok(())
    });
}

#[test]
fn a_blob_cut_in_one_run_goes_on_in_the_next() {
    journey("a_blob_cut_in_one_run_goes_on_in_the_next", NEEDS, |folder| {
        let registry = Registry::start(folder, "one")?;
        let image = Image::single(Family::Oci, "linux/amd64", &[large(folder, 20 << 20, 2)?]);
        registry.push("library/app", "1", &image)?;
        let broken = Arc::new(AtomicBool::new(true));
        let state = broken.clone();
        let faulty = Faulty::before(&registry.host(), move |request| {
            match (state.load(Ordering::Relaxed), is_blob(&request.path), request.header("range")) {
                (true, true, None) => Fault::Cut(8 << 20),
                (true, true, Some(_)) => Fault::Status(503, ""),
                _ => Fault::None,
            }
        })?;
        let naru = Naru::new(folder, "outside")?;
        naru.list(&format!("platforms: [linux/amd64]\nimages:\n- {}/library/app:1\n", faulty.host()))?;
        naru.ok(["lock"])?;
        let outcome = naru.run(["pull"])?;
        ensure!(!outcome.status.success(), "the upstream was down, and pull ended well");
        let before = faulty.seen().len();
        broken.store(false, Ordering::Relaxed);
        naru.ok(["pull"])?;
        let later = faulty.seen();
        let resumed =
            later[before..].iter().find(|request| is_blob(&request.path) && request.header("range").is_some());
        ensure!(resumed.is_some(), "the second run began anew: {:#?}", &later[before..]);
        naru.ok(["fsck"])?;
        Ok(())
    });
}

#[test]
fn an_upstream_that_is_busy_or_broken_is_asked_again() {
    journey("an_upstream_that_is_busy_or_broken_is_asked_again", NEEDS, |folder| {
        let registry = Registry::start(folder, "one")?;
        registry.push("library/app", "1", &application(folder, "asked again")?)?;
        let faulty = Faulty::before(&registry.host(), |request| match request.nth {
            0 if request.path.contains("/manifests/") => Fault::Status(429, "Retry-After: 1\r\n"),
            1 if request.path.contains("/manifests/") => Fault::Status(503, ""),
            0 if is_blob(&request.path) => Fault::Status(500, ""),
            _ => Fault::None,
        })?;
        let naru = Naru::new(folder, "outside")?;
        naru.list(&format!("platforms: [linux/amd64]\nimages:\n- {}/library/app:1\n", faulty.host()))?;
        naru.ok(["lock"])?;
        naru.ok(["pull"])?;
        naru.ok(["fsck"])?;
        Ok(())
    });
}

#[test]
fn wrong_bytes_never_enter() {
    journey("wrong_bytes_never_enter", NEEDS, |folder| {
        let registry = Registry::start(folder, "one")?;
        let good = application(folder, "good")?;
        let bad = application(folder, "bad")?;
        registry.push("library/good", "1", &good)?;
        registry.push("library/bad", "1", &bad)?;
        let lying = Arc::new(AtomicBool::new(true));
        let state = lying.clone();
        let faulty = Faulty::before(&registry.host(), move |request| {
            let spoil = state.load(Ordering::Relaxed) && is_blob(&request.path) && request.path.contains("/bad/");
            if spoil { Fault::Flip } else { Fault::None }
        })?;
        let naru = Naru::new(folder, "outside")?;
        let host = faulty.host();
        naru.list(&format!("platforms: [linux/amd64]\nimages:\n- {host}/library/bad:1\n- {host}/library/good:1\n"))?;
        naru.ok(["lock"])?;
        let outcome = naru.run(["pull"])?;
        ensure!(!outcome.status.success(), "wrong bytes were taken:\n{}{}", outcome.stdout, outcome.stderr);
        let named = bad.blobs.iter().any(|blob| outcome.stderr.contains(&blob.digest));
        ensure!(named, "the digest is not named: {}", outcome.stderr);
        let listed = naru.ok(["ls"])?.stdout;
        ensure!(listed.contains("library/good"), "one failure stopped the other: {listed}{}", outcome.stderr);
        ensure!(!listed.contains("library/bad"), "what is not complete is shown: {listed}");
        naru.ok(["fsck"])?;
        lying.store(false, Ordering::Relaxed);
        naru.ok(["pull"])?;
        ensure!(naru.ok(["ls"])?.stdout.contains("library/bad"), "it was not finished");
        naru.ok(["fsck"])?;
        Ok(())
    });
}

#[test]
fn a_block_page_is_quoted() {
    journey("a_block_page_is_quoted", NEEDS, |folder| {
        let registry = Registry::start(folder, "one")?;
        registry.push("library/app", "1", &application(folder, "blocked")?)?;
        let page = "<html><title>Category blocked</title><body>Ask the security office, form 27.</body></html>";
        let faulty =
            Faulty::before(
                &registry.host(),
                move |request| {
                    if is_blob(&request.path) { Fault::Page(page) } else { Fault::None }
                },
            )?;
        let naru = Naru::new(folder, "outside")?;
        naru.list(&format!("platforms: [linux/amd64]\nimages:\n- {}/library/app:1\n", faulty.host()))?;
        naru.ok(["lock"])?;
        let outcome = naru.run(["pull"])?;
        ensure!(!outcome.status.success(), "a page was taken for a blob");
        let quoted = outcome.stderr.contains("Category blocked") || outcome.stderr.contains("form 27");
        ensure!(quoted, "it is not quoted: {}", outcome.stderr);
        Ok(())
    });
}

#[test]
fn a_cut_file_is_resumed() {
    journey("a_cut_file_is_resumed", &[Need::Program("nginx")], |folder| {
        let nginx = Nginx::start(folder, "files")?;
        let bytes = (0..20_000_000_u32).map(|n| u8::try_from(n % 251).unwrap_or(0)).collect::<Vec<_>>();
        std::fs::write(nginx.root().join("tool.bin"), &bytes)?;
        let faulty = Faulty::before(&nginx.host(), |request| match (request.method.as_str(), request.nth) {
            ("GET", 0) => Fault::Cut(7_000_000),
            _ => Fault::None,
        })?;
        let sha256 = digest_of(&bytes).replace("sha256:", "");
        let naru = Naru::new(folder, "outside")?;
        naru.list(&format!("files:\n- url: http://{}/tool.bin\n  sha256: {sha256}\n", faulty.host()))?;
        naru.ok(["lock"])?;
        naru.ok(["pull"])?;
        ensure!(faulty.seen().iter().any(|request| request.header("range").is_some()), "{:#?}", faulty.seen());
        naru.ok(["fsck"])?;
        Ok(())
    });
}

#[test]
fn a_file_with_another_sum_is_refused() {
    journey("a_file_with_another_sum_is_refused", &[Need::Program("nginx")], |folder| {
        let nginx = Nginx::start(folder, "files")?;
        std::fs::write(nginx.root().join("tool.bin"), b"not what was promised")?;
        let promised = digest_of(b"what was promised").replace("sha256:", "");
        let naru = Naru::new(folder, "outside")?;
        naru.list(&format!("files:\n- url: http://{}/tool.bin\n  sha256: {promised}\n", nginx.host()))?;
        let locked = naru.run(["lock"])?;
        let outcome = if locked.status.success() { naru.run(["pull"])? } else { locked };
        ensure!(!outcome.status.success(), "it was taken");
        ensure!(outcome.stderr.contains("tool.bin") && outcome.stderr.contains("hint:"), "{}", outcome.stderr);
        ensure!(!naru.run(["ls"])?.stdout.contains("tool.bin"), "it is shown");
        Ok(())
    });
}
