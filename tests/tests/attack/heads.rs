//! Requests that are too long, that two readers would read in two ways, that come all at once, or in another protocol.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use journeys::{Trust, Wire};

use crate::scene::{NAME, Scene, push};

/// What is behind a shape, and must not be answered: it would be a request that no proxy before the server has seen.
const HIDDEN: &str = "GET /ca.crt HTTP/1.1\r\nHost: x\r\n\r\n";
const LAST: &str = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

pub(crate) fn steps(mut scene: Scene) -> Result<()> {
    too_long(&mut scene);
    two_meanings(&mut scene);
    whom_it_is_for(&mut scene);
    scene.step("1 000 requests at once, HEAD and DELETE between them: answered in their order", pipelined);
    other_protocols(&mut scene);
    scene.end()
}

fn too_long(scene: &mut Scene) {
    let (long, longest) = ("x".repeat(40 * 1024), "x".repeat(1 << 20));
    let many = "x: 1\r\n".repeat(3000);
    let name = "n".repeat(20 * 1024);
    for (step, head, status) in [
        ("a header of 40 KiB", format!("GET /healthz HTTP/1.1\r\nHost: x\r\nx-long: {long}\r\n\r\n"), 431),
        ("a header's name of 40 KiB", format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{long}: 1\r\n\r\n"), 431),
        ("3 000 headers", format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{many}\r\n"), 431),
        ("a request line of 1 MiB", format!("GET /{longest} HTTP/1.1\r\nHost: x\r\n\r\n"), 431),
        ("a query of 1 MiB", format!("GET /healthz?q={longest} HTTP/1.1\r\nHost: x\r\n\r\n"), 431),
        ("a method of 1 MiB", format!("{longest} / HTTP/1.1\r\nHost: x\r\n\r\n"), 431),
        (
            "a name of 20 KiB",
            format!("GET /v2/{name}/manifests/1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
            400,
        ),
        (
            "a tag of 20 KiB",
            format!("GET /v2/a/manifests/{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
            404,
        ),
        (
            "a digest of 20 KiB",
            format!("GET /v2/a/blobs/sha256:{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
            400,
        ),
        ("a host of 20 KiB", format!("GET /healthz HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"), 200),
        (
            "a token of 20 KiB",
            format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {name}\r\nConnection: close\r\n\r\n"),
            401,
        ),
    ] {
        scene.step(step, |scene| {
            let mut wire = scene.wire()?;
            wire.send(&head)?;
            let answers = wire.rest()?;
            ensure!(answers.starts_with(&format!("HTTP/1.1 {status} ")), "{}", shown(&answers));
            ensure!(answers.len() < 4096, "an answer of {} bytes", answers.len());
            Ok(())
        });
    }
}

fn two_meanings(scene: &mut Scene) {
    let length = HIDDEN.len();
    let chunked = format!("{length:x}\r\n{HIDDEN}\r\n0\r\n\r\n");
    let post = "POST /token HTTP/1.1\r\nHost: x\r\n";
    let get = "GET /healthz HTTP/1.1\r\nHost: x\r\n";
    // The body of one reader is the next request of another.
    for (step, sent) in [
        (
            "CL.TE",
            format!("{post}Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}", length + 5),
        ),
        ("TE.CL", format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n{chunked}{HIDDEN}")),
        ("two lengths", format!("{post}Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{HIDDEN}")),
        (
            "two lengths, the other way round",
            format!("{post}Content-Length: {length}\r\nContent-Length: 0\r\n\r\n{HIDDEN}"),
        ),
        ("a list of lengths", format!("{post}Content-Length: 0, {length}\r\n\r\n{HIDDEN}")),
        ("a length with a sign", format!("{post}Content-Length: +0\r\n\r\n{HIDDEN}")),
        ("a negative length", format!("{post}Content-Length: -1\r\n\r\n{HIDDEN}")),
        ("a length in hexadecimal", format!("{post}Content-Length: 0x0\r\n\r\n{HIDDEN}")),
        ("a length of 2^64", format!("{post}Content-Length: 18446744073709551616\r\n\r\n{HIDDEN}")),
        (
            "chunked twice",
            format!("{post}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}"),
        ),
        ("chunked twice in one line", format!("{post}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n{HIDDEN}")),
        ("another coding before it", format!("{post}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n{HIDDEN}")),
        ("another coding behind it", format!("{post}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{HIDDEN}")),
        ("a coding that nearly is it", format!("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{HIDDEN}")),
        ("a coding in quotes", format!("{post}Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n{HIDDEN}")),
        ("a vertical tab before it", format!("{post}Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n{HIDDEN}")),
        ("a space before the colon", format!("{post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{HIDDEN}")),
        ("a space before the name", format!("{post} Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}")),
        ("a folded line", format!("{post}X: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}")),
        ("a folded value", format!("{post}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n{HIDDEN}")),
        (
            "chunked in HTTP/1.0",
            format!("POST /token HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}"),
        ),
        ("a bare CR in a value", format!("{post}X: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}")),
        ("a NUL in a value", format!("{post}X: a\0b\r\n\r\n{HIDDEN}")),
        // A bare LF ends a line, as RFC 9112, section 2.2, has it; what it could hide is not believed.
        (
            "a coding behind a bare LF",
            format!(
                "{post}X: a\nTransfer-Encoding: chunked\r\nContent-Length: {}\r\n\r\n0\r\n\r\n{HIDDEN}",
                length + 5
            ),
        ),
        (
            "a length behind a bare LF",
            format!("{post}X: a\nContent-Length: 0\r\nContent-Length: {length}\r\n\r\n{HIDDEN}"),
        ),
        ("a body with GET", format!("{get}Content-Length: {length}\r\n\r\n{HIDDEN}")),
        ("a body in chunks with GET", format!("{get}Transfer-Encoding: chunked\r\n\r\n{chunked}")),
        (
            "a body with GET of what is in memory",
            format!("GET /v2/{NAME}/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{HIDDEN}"),
        ),
        ("a body with HEAD", format!("HEAD /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{HIDDEN}")),
        (
            "a body that is refused",
            format!("PUT /v2/{NAME}/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{HIDDEN}"),
        ),
        (
            "a chunk longer than it says",
            format!("{post}Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n{HIDDEN}"),
        ),
        ("a chunk that ends in a bare LF", format!("{post}Transfer-Encoding: chunked\r\n\r\n1\na\n0\n\n{HIDDEN}")),
        (
            "a bare LF in a chunk's extension",
            format!("{post}Transfer-Encoding: chunked\r\n\r\n1;a\n{HIDDEN}\r\n0\r\n\r\n"),
        ),
        ("two hosts", format!("GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n{HIDDEN}")),
        ("no host", format!("GET /healthz HTTP/1.1\r\n\r\n{HIDDEN}")),
        ("a version that is none", format!("GET /healthz HTTP/1.2\r\nHost: x\r\n\r\n{HIDDEN}")),
        ("a space in the target", format!("GET /a b HTTP/1.1\r\nHost: x\r\n\r\n{HIDDEN}")),
    ] {
        scene.step(step, |scene| {
            let mut wire = scene.wire()?;
            wire.send(format!("{sent}{LAST}"))?;
            let answers = wire.rest()?;
            ensure!(!answers.contains("BEGIN CERTIFICATE"), "what is hidden was answered: {}", shown(&answers));
            ensure!(answers.starts_with("HTTP/1.1 "), "no answer: {}", shown(&answers));
            ensure!(!answers.starts_with("HTTP/1.1 5"), "{}", shown(&answers));
            Ok(())
        });
    }
}

fn whom_it_is_for(scene: &mut Scene) {
    scene.step("an absolute target stands above Host", |scene| {
        push(scene.serving.address(), &scene.token, "one.example/app", "1", b"one")?;
        let two = push(scene.serving.address(), &scene.token, "two.example/app", "1", b"two")?;
        for _ in 0..2 {
            let mut wire = scene.wire()?;
            let target = "http://two.example/v2/app/manifests/1";
            wire.send(format!("GET {target} HTTP/1.1\r\nHost: one.example\r\n\r\n"))?;
            let answer = wire.answer()?;
            ensure!(answer.status == 200 && answer.body == two, "{}: {}", answer.status, answer.text());
            // What was remembered for the one is not the other's.
            wire.send("GET /v2/app/manifests/1 HTTP/1.1\r\nHost: one.example\r\n\r\n")?;
            let answer = wire.answer()?;
            ensure!(answer.status == 200 && answer.body != two, "{}: {}", answer.status, answer.text());
        }
        Ok(())
    });
    for (step, line) in [
        ("CONNECT", "CONNECT example.org:443 HTTP/1.1"),
        ("OPTIONS *", "OPTIONS * HTTP/1.1"),
        ("TRACE", "TRACE /healthz HTTP/1.1"),
        ("a target of another scheme", "GET file:///etc/passwd HTTP/1.1"),
    ] {
        scene.step(step, |scene| {
            let mut wire = scene.wire()?;
            wire.send(format!("{line}\r\nHost: x\r\nConnection: close\r\n\r\n"))?;
            let answers = wire.rest()?;
            ensure!(answers.starts_with("HTTP/1.1 4") && !answers.contains("root:"), "{}", shown(&answers));
            Ok(())
        });
    }
}

fn pipelined(scene: &Scene) -> Result<()> {
    let manifest = push(scene.serving.address(), &scene.token, "pipelined", "1", b"pipelined")?;
    let path = "/v2/pipelined/manifests/1";
    let (mut requests, deleted) = (String::new(), 500);
    for number in 0..1000 {
        let method = if number == deleted { "DELETE" } else { ["GET", "HEAD"][usize::from(number % 10 == 3)] };
        let bearer = if number == deleted { scene.bearer() } else { String::new() };
        write!(requests, "{method} {path} HTTP/1.1\r\nHost: x\r\n{bearer}\r\n")?;
    }
    let mut wire = scene.wire()?;
    wire.send(requests)?;
    for number in 0..1000 {
        let is_head = number != deleted && number % 10 == 3;
        let answer = if is_head { wire.answer_to_head()? } else { wire.answer()? };
        let expected = [200, 202, 404][usize::from(number >= deleted) + usize::from(number > deleted)];
        ensure!(answer.status == expected, "the {number}th answer is {}: {}", answer.status, answer.text());
        ensure!(number >= deleted || is_head || answer.body == manifest, "the {number}th answer is another");
    }
    Ok(())
}

fn other_protocols(scene: &mut Scene) {
    const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &str = "\0\0\0\x04\0\0\0\0\0";
    scene.step("HTTP/2 without having been asked", |scene| {
        let mut wire = scene.wire()?;
        wire.send(format!("{PREFACE}{SETTINGS}"))?;
        let answers = wire.rest()?;
        ensure!(answers.starts_with("HTTP/1.1 505 ") && answers.ends_with("HTTP/1.1"), "{}", shown(&answers));
        Ok(())
    });
    scene.step("HTTP/2's frames behind a request", |scene| {
        let mut wire = scene.wire()?;
        wire.send(format!("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n{PREFACE}{SETTINGS}"))?;
        let answers = wire.rest()?;
        ensure!(answers.starts_with("HTTP/1.1 200 ") && answers.contains("HTTP/1.1 505 "), "{}", shown(&answers));
        Ok(())
    });
    scene.step("HTTP/2's frames and nothing else", |scene| {
        let mut wire = scene.wire()?;
        wire.send(SETTINGS.repeat(10))?;
        ensure!(wire.rest()?.starts_with("HTTP/1.1 400 "));
        Ok(())
    });
    scene.step("an upgrade to h2c is not taken up", |scene| {
        let mut wire = scene.wire()?;
        wire.send(format!(
            "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
             HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n{LAST}"
        ))?;
        let answers = wire.rest()?;
        ensure!(answers.matches("HTTP/1.1 200 ").count() == 2 && !answers.contains(" 101 "), "{}", shown(&answers));
        Ok(())
    });
    scene.step("HTTP/2 behind a handshake for HTTP/1.1", |scene| {
        let mut wire = Wire::secure(scene.serving.address(), &Trust::of(&scene.serving, &["h2", "http/1.1"])?)?;
        wire.send(format!("{PREFACE}{SETTINGS}"))?;
        let answers = wire.rest()?;
        ensure!(answers.starts_with("HTTP/1.1 505 "), "{}", shown(&answers));
        Ok(())
    });
    scene.step("a handshake for HTTP/2 alone is refused", |scene| {
        let mut wire = Wire::secure(scene.serving.address(), &Trust::of(&scene.serving, &["h2"])?)?;
        ensure!(wire.send(PREFACE).is_err() || wire.rest()?.is_empty());
        Ok(())
    });
    scene.step("a hello of noise", |scene| {
        let mut wire = scene.wire()?;
        wire.send([&[0x16, 3, 1, 0x3e, 0x80][..], &[0xa5; 16_000]].concat())?;
        ensure!(!wire.rest()?.starts_with("HTTP/"));
        Ok(())
    });
}

/// The beginning of what was answered.
fn shown(answers: &str) -> String {
    answers.chars().take(300).collect()
}
