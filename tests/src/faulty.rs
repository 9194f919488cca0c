//! A server that spoils what passes through it: the upstream as it is on a bad day.

use std::io::{Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::Result;

/// What happens to one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// This status instead, with these header lines and a short body.
    Status(u16, &'static str),
    /// The connection ends after so many bytes of the body.
    Cut(u64),
    /// One bit of the body is another.
    Flip,
    /// What a company's proxy says instead: 200, and a page.
    Page(&'static str),
    /// So many bytes of the body in a millisecond.
    Slow(u64),
    /// One more header line.
    Header(&'static str),
    /// 200 with this type and body, whatever is there.
    Says(&'static str, &'static str),
    /// So many bytes of the body, and the rest when the gate is open.
    Held(u64, Gate),
}

/// What an answer waits at.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<AtomicBool>);

impl Gate {
    /// Lets everything through from now on.
    pub fn open(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Waits until it is open.
    pub fn wait(&self) {
        while !self.0.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl PartialEq for Gate {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Gate {}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// All header lines, as sent.
    pub head: String,
    /// How many requests with this method and path came before.
    pub nth: usize,
}

impl Request {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (header, value) = line.split_once(':')?;
            header.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

type Choice = dyn Fn(&Request) -> Fault + Send + Sync;

/// A proxy before one server; it lives as long as the journey.
#[derive(Debug)]
pub struct Faulty {
    port: u16,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Faulty {
    /// Stands before `to` (`127.0.0.1:PORT`); `choose` says what happens to each request's answer.
    ///
    /// # Errors
    /// When there is no port.
    pub fn before(to: &str, choose: impl Fn(&Request) -> Fault + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let seen = Arc::<Mutex<Vec<Request>>>::default();
        let (to, choose, log) = (to.to_owned(), Arc::<Choice>::from(Box::new(choose) as Box<Choice>), seen.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (to, choose, log) = (to.clone(), choose.clone(), log.clone());
                thread::spawn(move || {
                    // A client that goes away in the middle is no concern of this side.
                    let _ = carry(client, &to, &*choose, &log);
                });
            }
        });
        Ok(Self { port, seen })
    }

    /// Its address.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What was asked so far.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

/// One request a connection: it is told to close.
fn carry(mut client: TcpStream, to: &str, choose: &Choice, log: &Mutex<Vec<Request>>) -> Result<()> {
    let mut first = [0];
    if client.peek(&mut first)? == 1 && first[0] == 0x16 {
        // A TLS hello: what a plain server says to it.
        client.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")?;
        return Ok(());
    }
    let Some((head, _)) = read_head(&mut client)? else { return Ok(()) };
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let request = {
        let mut log = log.lock().unwrap();
        let nth = log.iter().filter(|earlier| earlier.method == method && earlier.path == path).count();
        let request = Request { method, path, head: head.clone(), nth };
        log.push(request.clone());
        request
    };
    let fault = choose(&request);
    match fault {
        Fault::Status(status, headers) => {
            let body = "{\"errors\":[{\"code\":\"FAULT\",\"message\":\"made by the journey\"}]}";
            let length = body.len();
            write!(
                client,
                "HTTP/1.1 {status} Fault\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
            )?;
            if request.method != "HEAD" {
                client.write_all(body.as_bytes())?;
            }
            return Ok(());
        }
        Fault::Page(text) | Fault::Says(_, text) => {
            let length = text.len();
            let kind = if let Fault::Says(kind, _) = fault { kind } else { "text/html" };
            write!(
                client,
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            )?;
            if request.method != "HEAD" || fault == Fault::Page(text) {
                client.write_all(text.as_bytes())?;
            }
            return Ok(());
        }
        _ => {}
    }
    let mut server = TcpStream::connect(to)?;
    let asked = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let asked = asked.collect::<Vec<_>>().join("\r\n");
    write!(server, "{asked}\r\nConnection: close\r\n\r\n")?;
    let Some((head, body)) = read_head(&mut server)? else { return Ok(()) };
    let more = if let Fault::Header(line) = fault { line } else { "" };
    write!(client, "{head}\r\n{more}\r\n")?;
    pour(body, &mut server, &mut client, &fault)
}

/// The head of a message, and what came after it already.
fn read_head(stream: &mut TcpStream) -> Result<Option<(String, Vec<u8>)>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            return Ok(Some((head, bytes.split_off(end + 4))));
        }
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(None);
        }
        bytes.extend_from_slice(&buffer[..count]);
    }
}

fn pour(begun: Vec<u8>, server: &mut TcpStream, client: &mut TcpStream, fault: &Fault) -> Result<()> {
    let mut left = if let Fault::Cut(after) = fault { *after } else { u64::MAX };
    let mut piece = begun;
    let mut buffer = vec![0; 1 << 16];
    let (mut first, mut sent) = (true, 0);
    loop {
        if *fault == Fault::Flip && first && !piece.is_empty() {
            let middle = piece.len() / 2;
            piece[middle] ^= 1;
            first = false;
        }
        let length = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if let Fault::Held(after, gate) = fault {
            let before = usize::try_from(after.saturating_sub(sent)).unwrap_or(usize::MAX).min(length);
            client.write_all(&piece[..before])?;
            if before < length {
                gate.wait();
            }
            client.write_all(&piece[before..length])?;
        } else {
            client.write_all(&piece[..length])?;
        }
        sent += length as u64;
        left -= length as u64;
        if left == 0 {
            client.shutdown(Shutdown::Both)?;
            return Ok(());
        }
        if let Fault::Slow(bytes) = fault {
            thread::sleep(Duration::from_millis(length as u64 / bytes.max(&1)));
        }
        let count = server.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        piece = buffer[..count].to_vec();
    }
}
