//! A web server and registry on loopback: what it was given, by path, and a list of what it was asked.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use artifact::Digest;

#[derive(Clone)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

#[derive(Default)]
struct State {
    answers: HashMap<String, Answer>,
    asked: Vec<String>,
}

/// The server; its threads end with the process.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) host: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let served = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = served.clone();
                std::thread::spawn(move || answer(stream, &state));
            }
        });
        let server = Self { host, state };
        server.put("/v2/", 200, &[], b"{}");
        server
    }

    pub(crate) fn put(&self, path: &str, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let answer = Answer { status, headers, body: body.to_vec() };
        self.state.lock().unwrap().answers.insert(path.to_owned(), answer);
    }

    /// A manifest under its digest, and under a tag.
    pub(crate) fn manifest(&self, name: &str, tag: Option<&str>, media_type: &str, body: &str) -> Digest {
        let digest = Digest::of(body.as_bytes());
        let headers = [("Content-Type", media_type), ("Docker-Content-Digest", &digest.to_string())];
        for reference in tag.map(str::to_owned).into_iter().chain([digest.to_string()]) {
            self.put(&format!("/v2/{name}/manifests/{reference}"), 200, &headers, body.as_bytes());
        }
        digest
    }

    /// A blob; its descriptor.
    pub(crate) fn blob(&self, name: &str, media_type: &str, body: &[u8]) -> String {
        let digest = Digest::of(body);
        let headers = [("Content-Type", "application/octet-stream")];
        self.put(&format!("/v2/{name}/blobs/{digest}"), 200, &headers, body);
        descriptor(media_type, &digest, body.len())
    }

    pub(crate) fn file(&self, path: &str, body: &[u8]) -> String {
        let headers =
            [("Content-Type", "application/octet-stream"), ("Last-Modified", "Tue, 18 Nov 2025 01:02:03 GMT")];
        self.put(path, 200, &headers, body);
        format!("http://{}{path}", self.host)
    }

    /// What was asked since the last call.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }
}

pub(crate) fn descriptor(media_type: &str, digest: &Digest, size: usize) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
}

fn answer(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    // A client that tries TLS first learns at once that there is none.
    if reader.fill_buf().ok().and_then(<[u8]>::first) == Some(&0x16) {
        return;
    }
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        match reader.read_line(&mut line) {
            Ok(count) if count > 2 => lines.push(line.trim_end().to_owned()),
            Ok(2) => break,
            _ => return,
        }
    }
    let Some((method, path)) = lines.first().and_then(|line| line.split_once(' ')) else { return };
    let path = path.rsplit_once(' ').map_or(path, |(path, _)| path).to_owned();
    let from = lines.iter().find_map(|line| {
        line.to_ascii_lowercase().strip_prefix("range: bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
    });
    let found = {
        let mut state = state.lock().unwrap();
        let range = from.map(|from| format!(" from {from}")).unwrap_or_default();
        state.asked.push(format!("{method} {path}{range}"));
        state.answers.get(&path).cloned()
    };
    let mut found = found.unwrap_or(Answer { status: 404, headers: Vec::new(), body: b"{}".to_vec() });
    if let Some(from) = from.filter(|from| found.status == 200 && *from < found.body.len()) {
        let last = found.body.len() - 1;
        found.headers.push(("Content-Range".to_owned(), format!("bytes {from}-{last}/{}", last + 1)));
        found.body.drain(..from);
        found.status = 206;
    }
    let mut text =
        format!("HTTP/1.1 {} X\r\nConnection: close\r\nContent-Length: {}\r\n", found.status, found.body.len());
    for (name, value) in &found.headers {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.push_str("\r\n");
    let mut stream = stream;
    let _ = stream.write_all(text.as_bytes());
    if method != "HEAD" {
        let _ = stream.write_all(&found.body);
    }
}
