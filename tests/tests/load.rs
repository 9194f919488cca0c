//! A thousand who pull and fifty who push, while the server is killed, its disk is full for a while or fails to sync, and
//! clients hang up in the middle: what was acknowledged is there at the end, and memory is bounded.
//!
//! `NARU_LOAD_SECONDS` says how long (20), `NARU_SEED` at which instants; `make soak` gives others.

#![allow(clippy::print_stderr, reason = "a test may")]

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use journeys::http::Answer;
use journeys::{
    Daemon, Folder, Naru, Need, Random, Serving, Wire, digest_of, find, free_port, http, journey, run, wait_until,
};
use rustix::process::Signal;
use serde_json::json;

const PULLERS: u64 = 1000;
const PUSHERS: u64 = 50;
const MIB: u64 = 1 << 20;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn given(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// An image that the server said it has.
#[derive(Clone, Debug)]
struct Image {
    name: String,
    tag: String,
    digest: String,
    layer: String,
}

/// What everybody shares.
struct Load {
    address: String,
    token: String,
    acknowledged: Mutex<Vec<Image>>,
    is_over: AtomicBool,
    pulled: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
    /// The disk fails to sync: who pushes is told that something is wrong with the server.
    fails: AtomicBool,
    failed: AtomicU64,
    /// The first that was wrong: bytes that are others, or an answer that may not be.
    wrong: Mutex<Option<String>>,
}

impl Load {
    fn image(&self, number: u64) -> Option<Image> {
        let acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let index = usize::try_from(number).unwrap_or_default() % acknowledged.len().max(1);
        acknowledged.get(index).cloned()
    }

    fn images(&self) -> Vec<Image> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Acquire)
    }

    /// A server that was killed is gone for a moment: whatever the network says is no fault. What it answered is.
    fn note(&self, outcome: Result<()>) {
        let Err(error) = outcome else { return };
        if error.is::<Wrong>() {
            let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
            wrong.get_or_insert_with(|| format!("{error:#}"));
        } else {
            self.cut.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(50));
        }
    }
}

/// An answer that may not be.
#[derive(Debug)]
struct Wrong(String);

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

fn send(wire: &mut Wire, token: &str, method: &str, path: &str, body: &[u8]) -> Result<Answer> {
    wire.send(format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: {MANIFEST}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    ))?;
    wire.send(body)?;
    wire.answer()
}

/// Whether it was done; a disk that is full is a refusal, and anything else is wrong.
fn done(load: &Load, answer: &Answer, expected: u16, what: &str) -> Result<bool> {
    match answer.status {
        status if status == expected => Ok(true),
        // Full; or the upload was given up for that.
        507 | 404 if answer.status == 507 || answer.text().contains("BLOB_UPLOAD_UNKNOWN") => {
            load.refused.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(100));
            Ok(false)
        }
        500 | 503 if load.fails.load(Ordering::Acquire) => {
            load.failed.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(100));
            Ok(false)
        }
        status => bail!(Wrong(format!("{what}: {status}: {}", answer.text()))),
    }
}

/// Pushes one image in one of the ways that there are, or goes away in the middle.
fn push(load: &Load, wire: &mut Wire, random: &mut Random, number: u64, count: u64) -> Result<()> {
    let name = format!("load/{number}");
    let layer: Vec<u8> = {
        let size = usize::try_from(1 + random.below(12_000))?;
        let seed = format!("{number} {count} ").into_bytes();
        seed.into_iter().cycle().take(size.max(20)).collect()
    };
    for blob in [&layer[..], b"{}"] {
        let digest = digest_of(blob);
        let uploads = format!("/v2/{name}/blobs/uploads/");
        let whole = format!("{uploads}?digest={digest}");
        if random.below(2) == 0 {
            let answer = send(wire, &load.token, "POST", &whole, blob)?;
            if !done(load, &answer, 201, &whole)? {
                return Ok(());
            }
            continue;
        }
        let answer = send(wire, &load.token, "POST", &uploads, b"")?;
        if !done(load, &answer, 202, &uploads)? {
            return Ok(());
        }
        let place = answer.header("location").context("an upload has a place")?.to_owned();
        let (first, rest) = blob.split_at(blob.len() / 2);
        let answer = send(wire, &load.token, "PATCH", &place, first)?;
        if !done(load, &answer, 202, &place)? {
            return Ok(());
        }
        if random.below(20) == 0 {
            // Gone in the middle of a body.
            let head = format!("PATCH {place} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n", load.token);
            wire.send(format!("{head}Content-Length: 100000\r\n\r\nhalf"))?;
            wire.close();
            return Ok(());
        }
        let answer = send(wire, &load.token, "PUT", &format!("{place}?digest={digest}"), rest)?;
        if !done(load, &answer, 201, &place)? {
            return Ok(());
        }
    }
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"), "size": 2 },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest_of(&layer), "size": layer.len(),
        }],
    })
    .to_string();
    let tag = count.to_string();
    let path = format!("/v2/{name}/manifests/{tag}");
    let answer = send(wire, &load.token, "PUT", &path, manifest.as_bytes())?;
    if done(load, &answer, 201, &path)? {
        let image = Image { name, tag, digest: digest_of(manifest.as_bytes()), layer: digest_of(&layer) };
        load.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(image);
    }
    Ok(())
}

/// Pulls an image that was acknowledged, and compares every byte; or goes away in the middle.
fn pull(address: &str, wire: &mut Wire, image: &Image, hang_up: bool) -> Result<()> {
    let Image { name, tag, digest, layer } = image;
    for (path, expected) in
        [(format!("/v2/{name}/manifests/{tag}"), digest), (format!("/v2/{name}/blobs/{layer}"), layer)]
    {
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n"))?;
        if hang_up {
            wire.close();
            return Ok(());
        }
        let answer = wire.answer()?;
        if answer.status != 200 || digest_of(&answer.body) != *expected {
            bail!(Wrong(format!("{path} was acknowledged, and is {}: {}", answer.status, answer.text())));
        }
    }
    Ok(())
}

/// Does something again and again, on a connection that is kept for as long as it is good.
fn again(load: &Load, mut what: impl FnMut(&mut Wire) -> Result<()>) {
    let mut kept = None;
    while load.goes_on() {
        let wire = match kept.take() {
            Some(wire) => Ok(wire),
            None => Wire::plain(&load.address),
        };
        let outcome = wire.and_then(|mut wire| {
            what(&mut wire)?;
            kept = Some(wire);
            Ok(())
        });
        load.note(outcome);
    }
}

/// Uses up what is left of the disk for a while, and until somebody who pushes was told so.
fn fill(load: &Load, store: &Path, within: Duration) -> Result<()> {
    let path = store.join("filler");
    let mut file = std::fs::File::create(&path)?;
    let piece = vec![0; 1 << 20];
    let refused = || load.refused.load(Ordering::Relaxed);
    let (before, end) = (refused(), Instant::now() + within);
    // The longer limit is for what will never come.
    while Instant::now() < end || (refused() == before && Instant::now() < end + Duration::from_mins(1)) {
        if file.write_all(&piece).is_err() {
            sleep(Duration::from_millis(20));
        }
    }
    Ok(std::fs::remove_file(&path)?)
}

/// Makes one sync of each of the server's threads fail, until who pushes was told so: from then on the server writes
/// nothing, and goes on answering.
fn fail_to_sync(load: &Load, serving: &Serving, log: &Path) -> Result<()> {
    load.fails.store(true, Ordering::Release);
    let failed = || load.failed.load(Ordering::Relaxed);
    let before = failed();
    let mut strace = Command::new(find("strace").context("strace is not here")?);
    strace.args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO:when=1", "-o"]);
    strace.arg(log).arg("-p").arg(serving.daemon.id().to_string());
    let mut strace = Daemon::start(&mut strace, &log.with_extension("said"))?;
    let stopped = "naru_store_stopped 1";
    let is_stopped = || Ok(http::get(&serving.url("/metrics"))?.text().contains(stopped).then_some(()));
    wait_until("a sync that fails", is_stopped).with_context(|| strace.said())?;
    // Not by force: it would take the server with it.
    strace.signal(Signal::INT)?;
    strace.wait()?;
    wait_until("somebody to be told", || Ok((failed() > before).then_some(())))?;
    let pulled = || load.pulled.load(Ordering::Relaxed);
    let pulled_before = pulled();
    wait_until("pulls meanwhile", || Ok((pulled() > pulled_before + 100).then_some(())))
}

/// How often it was killed, how often its disk failed to sync, and the most memory that the server ever had.
struct Suffered {
    kills: u64,
    failures: u64,
    peak: u64,
}

/// Kills the server and begins it again, fills its disk, and makes that fail, at instants that the seed says.
fn faults(naru: &Naru, load: &Load, mut serving: Serving, seconds: u64, random: &mut Random) -> Result<Suffered> {
    let mut suffered = Suffered { kills: 0, failures: 0, peak: 0 };
    let end = Instant::now() + Duration::from_secs(seconds);
    for turn in 0.. {
        if Instant::now() >= end {
            break;
        }
        sleep(Duration::from_millis(1000 + random.below(3000)));
        // By now nobody has an answer in hand of the server whose disk failed.
        load.fails.store(false, Ordering::Release);
        suffered.peak = suffered.peak.max(serving.daemon.memory("VmHWM")?);
        match turn % 4 {
            0 => {
                fill(load, naru.store(), Duration::from_millis(500 + random.below(1000)))?;
                continue;
            }
            2 => {
                fail_to_sync(load, &serving, &naru.folder().join("strace.log"))?;
                suffered.failures += 1;
            }
            _ => {}
        }
        serving.daemon.kill()?;
        suffered.kills += 1;
        serving = naru.serve_at(&load.address, &[])?;
    }
    suffered.peak = suffered.peak.max(serving.daemon.memory("VmHWM")?);
    Ok(suffered)
}

#[test]
fn what_was_acknowledged_under_load_is_there() {
    let needs = [Need::Root, Need::Program("strace")];
    journey("what_was_acknowledged_under_load_is_there", &needs, |folder: &Folder| {
        let seconds = given("NARU_LOAD_SECONDS").unwrap_or(20);
        let mut random = Random::new(given("NARU_SEED").unwrap_or(20_241_121));
        let naru = Naru::new(folder, "naru")?;
        let place = naru.store().to_str().context("a path of our own")?.to_owned();
        std::fs::create_dir_all(&place)?;
        let size = format!("size={}M", (200 + seconds * 8).min(3000));
        run("mount", ["-t", "tmpfs", "-o", &size, "small", &place])?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let serving = naru.serve_at(&address, &[])?;
        let token = std::fs::read_to_string(naru.store().join("admin.token"))?.trim().to_owned();
        let load = Load {
            address,
            token,
            acknowledged: Mutex::default(),
            is_over: AtomicBool::new(false),
            pulled: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            fails: AtomicBool::new(false),
            failed: AtomicU64::new(0),
            wrong: Mutex::default(),
        };
        let Suffered { kills, failures, peak } = std::thread::scope(|scope| -> Result<Suffered> {
            let load = &load;
            for number in 0..PUSHERS {
                let mut random = Random::new(random.number());
                let mut count = 0;
                Builder::new().stack_size(256 << 10).spawn_scoped(scope, move || {
                    again(load, |wire| {
                        count += 1;
                        push(load, wire, &mut random, number, count)
                    });
                })?;
            }
            for _ in 0..PULLERS {
                let mut random = Random::new(random.number());
                Builder::new().stack_size(256 << 10).spawn_scoped(scope, move || {
                    again(load, |wire| {
                        let Some(image) = load.image(random.number()) else {
                            sleep(Duration::from_millis(100));
                            return Ok(());
                        };
                        pull(&load.address, wire, &image, random.below(50) == 0)?;
                        load.pulled.fetch_add(1, Ordering::Relaxed);
                        // Fifty who push shall come to something on two cores.
                        sleep(Duration::from_millis(random.below(200)));
                        Ok(())
                    });
                })?;
            }
            let outcome = faults(&naru, load, serving, seconds, &mut random);
            load.is_over.store(true, Ordering::Release);
            outcome
        })?;
        let images = load.images();
        eprintln!(
            "{} images acknowledged, {} pulls, {} refused for want of room, {} cut off, {kills} kills, {failures} failing \
             disks, at most {} MiB",
            images.len(),
            load.pulled.load(Ordering::Relaxed),
            load.refused.load(Ordering::Relaxed),
            load.cut.load(Ordering::Relaxed),
            peak / MIB
        );
        let wrong = load.wrong.lock().unwrap_or_else(PoisonError::into_inner).take();
        ensure!(wrong.is_none(), "{}", wrong.unwrap_or_default());
        ensure!(kills > 0 && failures > 0 && images.len() > 20, "there was hardly any load");
        ensure!(load.refused.load(Ordering::Relaxed) > 0, "the disk was never full");
        let allowed = 64 * MIB + (PULLERS + PUSHERS) * MIB / 10;
        ensure!(peak < allowed, "{} MiB, and {} are allowed", peak / MIB, allowed / MIB);
        run("mount", ["-o", "remount,size=4000M", &place])?;
        naru.ok(["fsck"])?;
        let serving = naru.serve_at(&load.address, &[])?;
        let mut wire = Wire::plain(serving.address())?;
        for image in &images {
            pull(serving.address(), &mut wire, image, false)?;
        }
        drop(serving);
        run("umount", [&place])
    });
}
