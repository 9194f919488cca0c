//! How the built binary behaves towards its user: exit codes, what goes to which stream, hints.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn naru(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_naru"))
        .args(arguments)
        .env_clear()
        .env("NARU_STORE", folder.join("store"))
        .env("NARU_OFFLINE", "1")
        .current_dir(folder)
        .output()
        .unwrap()
}

/// Exit code, stdout and stderr, with the folder's name taken out.
fn said(folder: &Path, output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(folder.to_str().unwrap(), "DIR");
    format!(
        "exit {}\n--- stdout\n{}--- stderr\n{}",
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr)
    )
}

macro_rules! says {
    ($name:literal, $folder:expr, $($argument:expr),*) => {{
        let folder: &Path = $folder;
        insta::assert_snapshot!($name, said(folder, &naru(folder, &[$($argument),*])));
    }};
}

#[test]
fn mistakes_are_named_and_hinted_at() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    says!("no-list", folder, "lock");
    std::fs::write(folder.join("naru.yaml"), "imagse:\n  - nginx\n").unwrap();
    says!("unknown-key", folder, "lock");
    std::fs::write(folder.join("naru.yaml"), "images:\n  - NGINX:\n").unwrap();
    says!("not-a-reference", folder, "lock");
    std::fs::write(folder.join("naru.yaml"), "images: []\nfiles:\n  - path: ./a\n").unwrap();
    std::fs::write(folder.join("a"), "a").unwrap();
    says!("pull-locked-without-lock", folder, "pull", "--locked");
    assert!(naru(folder, &["lock"]).status.success());
    std::fs::write(folder.join("naru.yaml"), "images: [nginx]\nfiles:\n  - path: ./a\n").unwrap();
    says!("stale-lock", folder, "pull");
    says!("stale-lock-checked", folder, "lock", "--check");
    std::fs::write(folder.join("naru.lock"), "version: 99\n").unwrap();
    says!("newer-lock", folder, "pull");
    says!("no-store", folder, "show", "nginx");
    assert!(!folder.join("store").exists(), "who only looks makes no store");
    assert!(naru(folder, &["token", "new"]).status.success());
    says!("not-there", folder, "show", "nginx");
    says!("init-over-a-list", folder, "init");
    says!("no-such-generation", folder, "restore", "7");
    says!("unknown-client", folder, "setup", "dnf", "--server", "https://a:5000");
    says!("not-a-server", folder, "setup", "docker", "--server", "a:5000");
    says!("never-served", folder, "setup", "docker");
}

#[test]
fn errors_are_values_for_machines() {
    let folder = tempfile::tempdir().unwrap();
    says!("json-error", folder.path(), "--json", "show", "nginx");
    says!("json-usage", folder.path(), "--json", "shwo", "nginx");
    says!("json-usage-flag", folder.path(), "ls", "--jso", "--json");
    says!("json-usage-nothing", folder.path(), "--json");
}

#[test]
fn what_only_looks_makes_no_store() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &["ls"][..],
        &["show", "a"],
        &["search", "a"],
        &["why", "a"],
        &["history"],
        &["fsck"],
        &["rm", "a"],
        &["restore", "1"],
        &["key", "ls"],
        &["key", "export"],
        &["key", "rotate"],
        &["pack", "--all", "-o", "out"],
        &["setup", "docker"],
    ] {
        let output = naru(folder.path(), arguments);
        let said = said(folder.path(), &output);
        assert_eq!(output.status.code(), Some(if arguments[0] == "setup" { 2 } else { 1 }), "{said}");
        assert!(said.contains("there is no store") && said.contains("hint: "), "{said}");
        assert!(!folder.path().join("store").exists(), "{arguments:?}");
    }
}

#[test]
fn what_was_local_comes_back_as_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| said(folder.path(), &naru(folder.path(), arguments));
    run(&["image"]);
    let name = concat!("naru:", env!("CARGO_PKG_VERSION"));
    assert!(run(&["ls"]).contains(name));
    let removed = run(&["rm", name]);
    assert!(removed.contains("`naru restore 1 --local` takes it back"), "{removed}");
    run(&["restore", "1", "--local"]);
    assert!(run(&["ls"]).contains(name));
}

#[test]
fn what_is_no_store_is_not_given_away() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("thesis.txt"), "years").unwrap();
    let place = folder.path().to_str().unwrap();
    for place in [place, "/"] {
        let output = naru(folder.path(), &["install", "--dry-run", "--store", place]);
        let said = said(folder.path(), &output);
        assert!(output.status.code() == Some(2) && said.contains("is no store") && !said.contains("chown"), "{said}");
    }
    // Without a flag it is the store that every other command means.
    let said = said(folder.path(), &naru(folder.path(), &["install", "--dry-run"]));
    assert!(said.contains("DIR/store"), "{said}");
}

#[test]
fn offline_asks_nobody() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("naru.yaml"), "images: [nginx]\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_naru"));
    command.args(["lock", "--offline"]).env_clear().env("HOME", folder.path()).current_dir(folder.path());
    let said = said(folder.path(), &command.output().unwrap());
    assert!(said.starts_with("exit 1") && said.contains("not asked, because --offline"), "{said}");
}

#[test]
fn a_store_needs_a_place() {
    let run = |variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_naru"));
        command.arg("ls").env_clear().envs(variables.iter().copied()).stdin(Stdio::null());
        command.output().unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("something"), "else").unwrap();
    says!("not-a-store", folder.path(), "--store", ".", "token", "new");
    // As root there is a default place, which a test must not touch.
    if std::env::var_os("USER").is_some_and(|user| user != "root") {
        let output = run(&[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("HOME"));
    }
}

#[test]
fn a_pull_of_local_files_gets_through() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("naru.yaml"), "files:\n  - path: ./a\n").unwrap();
    std::fs::write(folder.join("a"), "abc").unwrap();
    let pulled = naru(folder, &["pull"]);
    assert!(pulled.status.success(), "{}", said(folder, &pulled));
    let listed = naru(folder, &["ls"]);
    let digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(String::from_utf8_lossy(&listed.stdout), format!("file   local/a  {digest}  3 B\n"));
    assert!(naru(folder, &["fsck"]).status.success());
    assert!(naru(folder, &["lock", "--check"]).status.success());
}

#[test]
fn a_reader_who_leaves_ends_nothing_badly() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_naru"))
        .args(["--store", folder.path().join("store").to_str().unwrap(), "image"])
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
