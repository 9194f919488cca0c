//! Bodies that do not end, that lie about their length, and that would be large if somebody inflated them.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use journeys::http::Answer;
use journeys::{Folder, Naru, Outcome, Wire, digest_of, find, run};

use crate::scene::{NAME, Scene, push};

/// What an endless body may bring at most in a step, should nobody stop it.
const ENDLESS: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

pub(crate) fn steps(folder: &Folder) -> Result<()> {
    // A disk of its own, which can be full.
    let naru = Naru::new(folder, "naru")?;
    std::fs::create_dir_all(naru.store())?;
    let place = naru.store().to_str().context("a path of our own")?.to_owned();
    run("mount", ["-t", "tmpfs", "-o", "size=96M", "small", &place])?;
    let mut scene = Scene::set_at(naru, "")?;
    endless(&mut scene);
    lengths(&mut scene);
    inflated(&mut scene, folder)?;
    scene.step("memory is bounded", |scene| {
        let peak = scene.serving.daemon.memory("VmHWM")?;
        eprintln!("      at most {} MiB", peak / MIB);
        ensure!(peak < 96 * MIB, "{} MiB", peak / MIB);
        Ok(())
    });
    scene.end()?;
    run("umount", [&place])
}

fn endless(scene: &mut Scene) {
    let chunk = [format!("{:x}\r\n", 64 * 1024).into_bytes(), vec![b' '; 64 * 1024], b"\r\n".to_vec()].concat();
    let chunked = "Transfer-Encoding: chunked\r\n";
    let manifest = format!("PUT /v2/{NAME}/manifests/2 HTTP/1.1\r\nHost: x\r\n");
    scene.step("a manifest in chunks without end", |scene| {
        let answer = flood(scene, &format!("{manifest}{}{chunked}\r\n", scene.bearer()), &chunk, ENDLESS)?;
        ensure!(answer.status == 413, "{}: {}", answer.status, answer.text());
        Ok(())
    });
    scene.step("the same from nobody in particular", |scene| {
        let answer = flood(scene, &format!("{manifest}{chunked}\r\n"), &chunk, ENDLESS)?;
        ensure!(answer.status == 401, "{}: {}", answer.status, answer.text());
        Ok(())
    });
    scene.step("a form without end", |scene| {
        let answer = flood(scene, &format!("POST /token HTTP/1.1\r\nHost: x\r\n{chunked}\r\n"), &chunk, ENDLESS)?;
        ensure!(answer.status == 413, "{}: {}", answer.status, answer.text());
        Ok(())
    });
    scene.step("a chunk's extension without end", |scene| {
        let head = format!("POST /token HTTP/1.1\r\nHost: x\r\n{chunked}\r\n1;");
        let answer = flood(scene, &head, &[b'a'; 4096], ENDLESS)?;
        ensure!(answer.status == 400, "{}: {}", answer.status, answer.text());
        Ok(())
    });
    scene.step("trailers without end", |scene| {
        let head = format!("POST /token HTTP/1.1\r\nHost: x\r\n{chunked}\r\n0\r\n");
        let answer = flood(scene, &head, b"x-trailer: 1\r\n", ENDLESS)?;
        ensure!(answer.status == 400, "{}: {}", answer.status, answer.text());
        Ok(())
    });
    scene.step("a length of which the end never comes, to a manifest", |scene| {
        let head = format!("{manifest}{}Content-Length: 1000000000000\r\n\r\n", scene.bearer());
        let answer = flood(scene, &head, &[b' '; 8192], ENDLESS)?;
        ensure!(answer.status == 413, "{}: {}", answer.status, answer.text());
        Ok(())
    });
    // An upload may be as large as the disk: when that is full it is given up, and everybody else goes on.
    for (step, method) in
        [("an upload in chunks fills the disk", "PATCH"), ("a last piece without end fills the disk", "PUT")]
    {
        scene.step(step, |scene| {
            let location = begin(scene)?;
            let place =
                if method == "PUT" { format!("{location}?digest={}", digest_of(b"x")) } else { location.clone() };
            let head = format!("{method} {place} HTTP/1.1\r\nHost: x\r\n{}{chunked}\r\n", scene.bearer());
            let answer = flood(scene, &head, &chunk, ENDLESS)?;
            ensure!(answer.status == 507, "{}: {}", answer.status, answer.text());
            let mut wire = scene.wire()?;
            wire.send(format!("GET {location} HTTP/1.1\r\nHost: x\r\n{}\r\n", scene.bearer()))?;
            ensure!(wire.answer()?.status == 404, "it holds what it has");
            push(scene.serving.address(), &scene.token, "after", "1", &vec![7; 1 << 20])?;
            Ok(())
        });
    }
    scene.step("a blob in one request fills the disk", |scene| {
        let path = format!("/v2/{NAME}/blobs/uploads/?digest={}", digest_of(b"x"));
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\n{}{chunked}\r\n", scene.bearer());
        let answer = flood(scene, &head, &chunk, ENDLESS)?;
        ensure!(answer.status == 507, "{}: {}", answer.status, answer.text());
        push(scene.serving.address(), &scene.token, "after", "2", &vec![8; 1 << 20])?;
        Ok(())
    });
}

fn lengths(scene: &mut Scene) {
    let chunked = "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    for (step, size) in [
        ("a negative size of a chunk", "-5"),
        ("a size of 17 digits", "fffffffffffffffff"),
        ("a size that is no number", "five"),
        ("no size at all", ""),
        ("a size with 0x", "0x5"),
    ] {
        scene.step(step, |scene| {
            for path in ["/token".to_owned(), begin(scene)?] {
                let method = if path == "/token" { "POST" } else { "PATCH" };
                let mut wire = scene.wire()?;
                wire.send(format!(
                    "{method} {path} HTTP/1.1\r\nHost: x\r\n{}{chunked}{size}\r\nabcde\r\n",
                    scene.bearer()
                ))?;
                let answers = wire.rest()?;
                ensure!(answers.starts_with("HTTP/1.1 400 "), "{method} {path}: {answers}");
            }
            Ok(())
        });
    }
    scene.step("a chunk of 2^64 - 1", |scene| {
        let head = format!("POST /token HTTP/1.1\r\nHost: x\r\n{chunked}ffffffffffffffff\r\n");
        let answer = flood(scene, &head, &[b'a'; 8192], ENDLESS)?;
        ensure!(answer.status == 413, "{}: {}", answer.status, answer.text());
        Ok(())
    });
    scene.step("a range that is none of the body's", |scene| {
        let location = begin(scene)?;
        for range in ["5-1", "-1", "0-18446744073709551615", "18446744073709551615-18446744073709551615", "a-b"] {
            let mut wire = scene.wire()?;
            wire.send(format!(
                "PATCH {location} HTTP/1.1\r\nHost: x\r\n{}Content-Range: {range}\r\nContent-Length: 1\r\n\r\na",
                scene.bearer()
            ))?;
            let answer = wire.answer()?;
            ensure!((400..=416).contains(&answer.status), "{range}: {}: {}", answer.status, answer.text());
        }
        Ok(())
    });
}

/// What would have many bytes, if anybody inflated it: taken as the bytes that it is.
fn inflated(scene: &mut Scene, folder: &Folder) -> Result<()> {
    let bomb = folder.join("bomb.gz");
    let gzip = find("gzip").context("gzip is not here")?;
    let line = format!("head -c 1073741824 /dev/zero | {} -9 > {}", gzip.display(), bomb.display());
    Outcome::of(Command::new("/bin/sh").args(["-c", &line]))?.ok("gzip")?;
    let bytes = std::fs::read(bomb)?;
    let put = |scene: &Scene, method: &str, path: &str| -> Result<Answer> {
        let mut wire = scene.wire()?;
        wire.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\n{}Content-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            scene.bearer(),
            bytes.len()
        ))?;
        wire.send(&bytes)?;
        wire.answer()
    };
    scene.step("a manifest of a gigabyte of zeros, compressed", |scene| {
        let answer = put(scene, "PUT", &format!("/v2/{NAME}/manifests/2"))?;
        ensure!(
            answer.status == 400 && answer.text().contains("MANIFEST_INVALID"),
            "{}: {}",
            answer.status,
            answer.text()
        );
        Ok(())
    });
    scene.step("a form of a gigabyte of zeros, compressed", |scene| {
        let answer = put(scene, "POST", "/token")?;
        ensure!(answer.status == 413, "{}: {}", answer.status, answer.text());
        Ok(())
    });
    scene.step("a blob of a gigabyte of zeros, compressed", |scene| {
        let uploads = format!("/v2/{NAME}/blobs/uploads/?digest=");
        // The digest of a gigabyte of zeros.
        let inflated = "sha256:49bc20df15e412a64472421e13fe86ff1c5165e18b2afccf160d4dc19fe68a14";
        let answer = put(scene, "POST", &format!("{uploads}{inflated}"))?;
        ensure!(
            answer.status == 400 && answer.text().contains("DIGEST_INVALID"),
            "{}: {}",
            answer.status,
            answer.text()
        );
        let digest = digest_of(&bytes);
        ensure!(put(scene, "POST", &format!("{uploads}{digest}"))?.status == 201);
        let mut wire = scene.wire()?;
        wire.send(format!("GET /v2/{NAME}/blobs/{digest} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip, br\r\n\r\n"))?;
        let answer = wire.answer()?;
        ensure!(answer.body == bytes && answer.header("content-encoding").is_none(), "other bytes");
        Ok(())
    });
    Ok(())
}

/// Begins an upload; its path.
fn begin(scene: &Scene) -> Result<String> {
    let mut wire = scene.wire()?;
    wire.send(format!(
        "POST /v2/{NAME}/blobs/uploads/ HTTP/1.1\r\nHost: x\r\n{}Content-Length: 0\r\n\r\n",
        scene.bearer()
    ))?;
    let answer = wire.answer()?;
    ensure!(answer.status == 202, "{}: {}", answer.status, answer.text());
    Ok(answer.header("location").context("an upload has a place")?.to_owned())
}

/// Sends a head, and pieces behind it until nobody takes them any more; what is answered meanwhile.
fn flood(scene: &Scene, head: &str, piece: &[u8], most: u64) -> Result<Answer> {
    let mut wire: Wire = scene.wire()?;
    wire.send(head)?;
    let sending = wire.flood(piece.to_vec(), most)?;
    let answer = wire.answer();
    wire.close();
    let sent = sending.join().map_err(|_| anyhow::anyhow!("the flood panicked"))?;
    ensure!(sent < most, "it took {sent} bytes");
    answer
}
