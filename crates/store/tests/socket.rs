//! A command reaches the store that a server holds.

#![expect(clippy::unwrap_used, reason = "a test may")]

use std::io::{Read, Write};
use std::sync::Mutex;

use artifact::Progress;
use serde_json::json;
use store::Store;

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Progress for Heard {
    fn say(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
    fn warn(&self, line: &str) {
        self.0.lock().unwrap().push(format!("warning: {line}"));
    }
    fn begin(&self, phase: &str, total: u64) {
        self.0.lock().unwrap().push(format!("{phase} {total}"));
    }
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

fn file(text: &str) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    file
}

async fn next(socket: &store::Socket) -> store::Call {
    let caller = socket.accept().await;
    tokio::task::spawn_blocking(|| caller.call()).await.unwrap().unwrap()
}

/// A caller that has connected. The store's folder is deeper than a socket's path may be.
fn silent(folder: &std::path::Path) -> std::os::unix::net::UnixStream {
    let folder = std::fs::File::open(folder).unwrap();
    let path = format!("/proc/self/fd/{}/naru.sock", std::os::fd::AsRawFd::as_raw_fd(&folder));
    std::os::unix::net::UnixStream::connect(path).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_progress_cross_it() {
    // Deeper than a socket's path may be.
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("d".repeat(120));
    let store = Store::open(&deep).await.unwrap();
    let socket = store.listen().unwrap();
    // One that says nothing keeps nobody waiting.
    let quiet = silent(&deep);
    let server = tokio::spawn(async move {
        let _quiet = (socket.accept().await, quiet);
        let mut call = next(&socket).await;
        assert!(call.by.starts_with("uid "), "{}", call.by);
        let mut text = String::new();
        for file in &mut call.files {
            file.read_to_string(&mut text).unwrap();
        }
        call.progress().begin("load", 7);
        call.progress().warn("slow");
        call.answers()(json!("one"));
        let answer = json!({ "read": text, "asked": call.request });
        call.answer(Ok(answer));
        let call = next(&socket).await;
        call.answer(Err(json!("no")));
        next(&socket).await.gone().await;
    });
    let heard = Heard::default();
    let answer = tokio::task::spawn_blocking(move || {
        let files: Vec<_> = (0..200).map(|n| file(&format!("{n},"))).collect();
        let mut parts = Vec::new();
        let first =
            store::call(&deep, &json!("load"), &files, &heard, &mut |part| parts.push(part)).unwrap().unwrap().unwrap();
        let second = store::call(&deep, &json!("again"), &[], &heard, &mut |_| {}).unwrap().unwrap().unwrap_err();
        assert_eq!(second, json!("no"));
        assert_eq!(parts, [json!("one")]);
        // A caller that goes away is noticed.
        let mut stream = silent(&deep);
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0]).unwrap();
        stream.write_all(b"null").unwrap();
        drop(stream);
        (first, heard.0.into_inner().unwrap())
    })
    .await
    .unwrap();
    server.await.unwrap();
    let expected: String = (0..200).flat_map(|n| [n.to_string(), ",".to_owned()]).collect();
    assert_eq!(answer.0, json!({ "read": expected, "asked": "load" }));
    assert_eq!(answer.1, ["load 7", "warning: slow"]);
    assert!(store::call(folder.path(), &json!(null), &[], &artifact::Silent, &mut |_| {}).unwrap().is_none());
}
