//! While a server holds the store, commands reach it all the same: through the holder's socket.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_naru"));
    command.args(arguments).env_clear().env("NARU_STORE", folder.join("store")).current_dir(folder);
    command
}

fn naru(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

/// A server that is killed with its test.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(folder: &Path) -> Self {
        let mut child = command(folder, &["serve", "--listen", "127.0.0.1:0", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        Self { child, url: said["url"].as_str().unwrap().to_owned() }
    }

    fn end(mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn commands_reach_a_store_that_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("naru.yaml"), "files:\n  - path: ./a\n").unwrap();
    std::fs::write(folder.join("a"), "abc").unwrap();
    let server = Server::start(folder);

    assert!(out(&naru(folder, &["pull"])).contains("added    local/a"));
    assert!(out(&naru(folder, &["ls"])).starts_with("file   local/a  sha256:ba7816bf"));
    let value: serde_json::Value = serde_json::from_str(&out(&naru(folder, &["ls", "--json"]))).unwrap();
    assert_eq!(value["name"], "local/a");
    assert!(out(&naru(folder, &["fsck"])).starts_with("clean"));
    assert!(out(&naru(folder, &["setup", "containerd"])).contains(&server.url));

    // What goes wrong there is said here, with its hint and exit code.
    let refused = naru(folder, &["rm", "local/b"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("error: the store has nothing named `local/b`") && said.contains("hint: "), "{said}");

    // A call is text: what it cannot say is refused by name.
    let odd = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff.tar");
    assert!(naru(folder, &["image", "-o", "i.tar"]).status.success());
    std::fs::copy(folder.join("i.tar"), folder.join(odd)).unwrap();
    let refused = command(folder, &["load"]).arg(odd).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("UTF-8") && said.contains("hint: "), "{said}");

    assert_eq!(server.end(Signal::TERM), Some(0));
    assert!(!folder.join("store/naru.sock").exists());
    assert!(out(&naru(folder, &["ls"])).starts_with("file   local/a"));

    // What is removed stays for a day, unless it shall go at once: in the very same second.
    out(&naru(folder, &["rm", "local/a"]));
    assert!(out(&naru(folder, &["gc"])).ends_with("gone: 0 tags, 0 manifests, 0 blobs (0 B)\n"));
    let would = out(&naru(folder, &["gc", "--grace", "0", "--dry-run"]));
    assert!(
        would.contains("unnamed  local  sha256:ba7816bf")
            && would.ends_with("would go: 0 tags, 0 manifests, 1 blobs (3 B)\n"),
        "{would}"
    );
    assert!(out(&naru(folder, &["gc", "--grace", "0"])).ends_with("gone: 0 tags, 0 manifests, 1 blobs (3 B)\n"));
}

/// A server that was told to end hangs up a moment before it lets the store go; who comes then waits for that.
#[test]
fn a_server_that_is_ending_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..5 {
        let mut server = Server::start(folder.path());
        kill_process(Pid::from_child(&server.child), Signal::TERM).unwrap();
        out(&naru(folder.path(), &["ls"]));
        assert_eq!(server.child.wait().unwrap().code(), Some(0));
    }
    // Whoever holds it without a socket, for as long as it likes.
    let lock = std::fs::File::open(folder.path().join("store/lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let waiting = command(folder.path(), &["ls"]).stderr(Stdio::piped()).spawn().unwrap();
    assert_eq!(naru(folder.path(), &["ls"]).status.code(), Some(6));
    assert_eq!(waiting.wait_with_output().unwrap().status.code(), Some(6));
    let serving = command(folder.path(), &["ls"]).stderr(Stdio::piped()).spawn().unwrap();
    drop(lock);
    assert_eq!(serving.wait_with_output().unwrap().status.code(), Some(0));
}

#[test]
fn a_second_server_is_told_who_holds_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let second = naru(folder.path(), &["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(second.status.code(), Some(6));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains(&format!("{}", server.child.id())), "{said}");
    drop(server);
}

#[test]
fn a_port_in_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = naru(folder.path(), &["serve", "--listen", &address]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains(&address) && said.contains("hint: "), "{said}");
}

#[test]
fn ctrl_c_has_an_exit_code_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let child = command(folder.path(), &["quickstart"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut server = Server { child, url: String::new() };
    let mut lines = BufReader::new(server.child.stderr.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("The whole journey"));
    kill_process(Pid::from_child(&server.child), Signal::INT).unwrap();
    assert_eq!(server.child.wait().unwrap().code(), Some(130));
}
