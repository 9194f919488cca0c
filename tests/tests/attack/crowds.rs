//! Many at once: connections that ask for nothing, names that nobody has, passwords that are wrong.

use anyhow::{Context as _, Result, ensure};
use journeys::{Trust, Wire, http};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::scene::{Scene, push};

const MIB: u64 = 1 << 20;

/// What a server may have with so many connections (invariant 6).
fn allowed(connections: usize) -> u64 {
    64 * MIB + connections as u64 * MIB / 10
}

fn given(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

pub(crate) fn idle(mut scene: Scene) -> Result<()> {
    let wanted = 10_000;
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let most = getrlimit(Resource::Nofile).current.map_or(wanted, |most| usize::try_from(most).unwrap_or(wanted));
    let count = wanted.min(most.saturating_sub(1500));
    if count < wanted {
        eprintln!("only {count} connections: no more files may be open here");
    }
    let mut kept = Vec::new();
    scene.step(&format!("{count} connections that ask for nothing more, half of them by TLS"), |scene| {
        let address = scene.serving.address();
        let trust = Trust::of(&scene.serving, &["http/1.1"])?;
        for number in 0..count {
            let mut wire = if number % 2 == 0 { Wire::plain(address)? } else { Wire::secure(address, &trust)? };
            ask(&mut wire).with_context(|| format!("the {number}th connection"))?;
            kept.push(wire);
        }
        Ok(())
    });
    scene.step("memory is bounded", |scene| {
        let peak = scene.serving.daemon.memory("VmHWM")?;
        eprintln!("      at most {} MiB", peak / MIB);
        ensure!(peak < allowed(count), "{} MiB", peak / MIB);
        Ok(())
    });
    scene.step("500 more are answered, and push", |scene| {
        for number in 0..500 {
            let mut wire = scene.wire()?;
            ask(&mut wire).with_context(|| format!("the {number}th of 500"))?;
            kept.push(wire);
        }
        push(scene.serving.address(), &scene.token, "crowd", "1", b"crowd")?;
        Ok(())
    });
    scene.step("who came last is still there", |_| ask(kept.last_mut().context("there are some")?));
    scene.step("who waited longest made room", |scene| {
        let metrics = http::get(&scene.serving.url("/metrics"))?.text();
        let name = "naru_http_connections_crowded_out_total ";
        let made = metrics.lines().find_map(|line| line.strip_prefix(name)).context("it is counted")?;
        eprintln!("      {made} made room");
        ensure!(count < wanted || made.parse::<u64>()? > 0, "there was room for all");
        Ok(())
    });
    drop(kept);
    scene.end()
}

fn ask(wire: &mut Wire) -> Result<()> {
    wire.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let answer = wire.answer()?;
    ensure!(answer.status == 200, "{}", answer.status);
    Ok(())
}

pub(crate) fn misses(mut scene: Scene) -> Result<()> {
    let count = given("NARU_MISSES").unwrap_or(30_000);
    scene.step(&format!("{count} questions for what is not here"), |scene| {
        let resident = || scene.serving.daemon.memory("VmRSS");
        let mut after_some = 0;
        let mut asked = 0;
        let mut wire = scene.wire()?;
        while asked < count {
            // A hundred at once.
            let requests: String = (asked..asked + 100).map(miss).collect();
            wire.send(requests)?;
            for number in asked..asked + 100 {
                let answer = wire.answer()?;
                ensure!(
                    (400..500).contains(&answer.status) || answer.status == 502,
                    "{number}: {}: {}",
                    answer.status,
                    answer.text()
                );
            }
            asked += 100;
            if asked == count / 3 / 100 * 100 {
                after_some = resident()?;
            }
        }
        let (after_all, peak) = (resident()?, scene.serving.daemon.memory("VmHWM")?);
        eprintln!(
            "      {} MiB after a third, {} MiB after all, at most {}",
            after_some / MIB,
            after_all / MIB,
            peak / MIB
        );
        ensure!(after_all < after_some + 12 * MIB, "it grows: from {after_some} to {after_all}");
        ensure!(peak < allowed(20), "{} MiB", peak / MIB);
        Ok(())
    });
    scene.step("wrong passwords from eight sides", |scene| {
        let address = scene.serving.address();
        let guess = |number: usize| -> Result<u16> {
            let mut wire = Wire::plain(address)?;
            // user:0 and so on, in base64.
            let word = ["dXNlcjow", "dXNlcjox", "dXNlcjoy", "YWRtaW46MQ=="][number % 4];
            wire.send(format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {word}\r\n\r\n"))?;
            Ok(wire.answer()?.status)
        };
        let statuses = std::thread::scope(|scope| {
            let guessing: Vec<_> =
                (0..8).map(|_| scope.spawn(|| (0..100).map(guess).collect::<Result<Vec<u16>>>())).collect();
            // Who has a token is let in meanwhile.
            for number in 0..20 {
                push(address, &scene.token, "meanwhile", "1", format!("{number}").as_bytes())?;
            }
            let joined =
                guessing.into_iter().map(|guessing| guessing.join().map_err(|_| anyhow::anyhow!("it panicked"))?);
            joined.collect::<Result<Vec<Vec<u16>>>>()
        })?;
        let statuses = statuses.concat();
        let count = |status: u16| statuses.iter().filter(|each| **each == status).count();
        ensure!(count(401) + count(429) == 800 && count(401) <= 25, "{} and {}", count(401), count(429));
        Ok(())
    });
    scene.end()
}

/// A question for something that nobody has; every one is another.
fn miss(number: usize) -> String {
    let path = match number % 6 {
        0 => format!("/v2/none-{number}/manifests/{number}"),
        1 => format!("/v2/app/manifests/none-{number}"),
        2 => format!("/v2/app/blobs/sha256:{number:064x}"),
        3 => format!("/files/none-{number}.example/file"),
        4 => format!("/v2/none-{number}/tags/list"),
        // Some at the upstream that does not answer.
        _ if number % 600 == 5 => format!("/v2/none-{number}/manifests/{number}?ns=127.0.0.1:1"),
        _ => format!("/none/{number}?q={number}"),
    };
    format!("GET {path} HTTP/1.1\r\nHost: none-{number}.example\r\n\r\n")
}
