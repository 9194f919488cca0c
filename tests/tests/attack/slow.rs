//! Clients that take their time, by the server's own limits: no header is ever whole, no hello, no body. Each is hung up
//! on, and hundreds of them at once keep nobody from pulling.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::scene::{NAME, Scene};

/// Connections of each kind.
const EACH: usize = 150;
/// The longest of the server's limits is 75 s; what takes twice as long has none.
const PATIENCE: Duration = Duration::from_secs(150);

/// A kind of slowness: what is sent first, what then again and again, and what the answer begins with.
struct Kind {
    name: &'static str,
    first: Vec<u8>,
    drop: &'static [u8],
    answer: &'static str,
}

/// One of a kind.
struct Slow {
    stream: TcpStream,
    kind: usize,
    came: Vec<u8>,
    is_over: bool,
}

pub(crate) fn steps(mut scene: Scene) -> Result<()> {
    scene.step("who sends byte by byte, or nothing, is hung up on", |scene| {
        let begin = |method: &str, path: &str| format!("{method} {path} HTTP/1.1\r\nHost: x\r\n").into_bytes();
        let with = |head: Vec<u8>, more: &str| [head, more.as_bytes().to_vec()].concat();
        let manifest = format!("/v2/{NAME}/manifests/2");
        let kinds = [
            Kind { name: "nothing", first: Vec::new(), drop: b"", answer: "" },
            Kind {
                name: "a header byte by byte",
                first: with(begin("GET", "/healthz"), "X: "),
                drop: b"a",
                answer: "",
            },
            Kind { name: "headers one by one", first: begin("GET", "/healthz"), drop: b"X: a\r\n", answer: "" },
            Kind { name: "a request line byte by byte", first: b"GET /".to_vec(), drop: b"a", answer: "" },
            Kind { name: "empty lines", first: Vec::new(), drop: b"\r\n", answer: "" },
            Kind { name: "half a hello", first: vec![0x16, 3, 1, 0x20, 0, 1, 0, 0x1f], drop: b"\0", answer: "" },
            Kind {
                name: "a request, and nothing more",
                first: with(begin("GET", "/healthz"), "\r\n"),
                drop: b"",
                answer: "HTTP/1.1 200 ",
            },
            Kind {
                name: "a form byte by byte",
                first: with(begin("POST", "/token"), "Content-Length: 9999\r\n\r\n"),
                drop: b"a",
                answer: "HTTP/1.1 408 ",
            },
            Kind {
                name: "a manifest that stops",
                first: with(begin("PUT", &manifest), &format!("{}Content-Length: 9999\r\n\r\n{{", scene.bearer())),
                drop: b"",
                answer: "HTTP/1.1 408 ",
            },
            Kind {
                name: "a manifest of nobody's",
                first: with(begin("PUT", &manifest), "Content-Length: 9999\r\n\r\n{"),
                drop: b"a",
                answer: "HTTP/1.1 401 ",
            },
        ];
        let mut all = Vec::new();
        for _ in 0..EACH {
            for (kind, Kind { first, .. }) in kinds.iter().enumerate() {
                let mut stream = TcpStream::connect(scene.serving.address())?;
                stream.write_all(first)?;
                stream.set_nonblocking(true)?;
                all.push(Slow { stream, kind, came: Vec::new(), is_over: false });
            }
        }
        let end = Instant::now() + PATIENCE;
        while all.iter().any(|slow| !slow.is_over) && Instant::now() < end {
            sleep(Duration::from_millis(500));
            for slow in all.iter_mut().filter(|slow| !slow.is_over) {
                slow.go_on(kinds[slow.kind].drop);
            }
        }
        for (index, kind) in kinds.iter().enumerate() {
            let left = all.iter().filter(|slow| slow.kind == index && !slow.is_over).count();
            ensure!(left == 0, "{left} of {EACH} that send {} still have their connections", kind.name);
            let one = all.iter().find(|slow| slow.kind == index).context("there are some of each")?;
            let said = String::from_utf8_lossy(&one.came);
            let is_right = if kind.answer.is_empty() { said.is_empty() } else { said.starts_with(kind.answer) };
            ensure!(is_right, "{}: {said}", kind.name);
        }
        Ok(())
    });
    scene.end()
}

impl Slow {
    /// Reads what there is, and sends a little more.
    fn go_on(&mut self, drop: &[u8]) {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.is_over = true,
                Ok(count) => {
                    self.came.extend_from_slice(&buffer[..count]);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.is_over = true,
            }
            break;
        }
        // A broken pipe is seen by the next reading.
        let _ = self.stream.write(drop);
    }
}
