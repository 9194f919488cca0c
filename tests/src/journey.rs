//! A journey: a test that needs real programs, and namespaces of its own.

use std::io::Write as _;
use std::process::Command;

use anyhow::Result;

use crate::folder::Folder;
use crate::process::{find, run};
use crate::userland::Userland;

/// What a journey cannot do without.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// A program in PATH or one of the system's folders.
    Program(&'static str),
    /// Real root: containerd, dockerd, loop devices.
    Root,
    /// A userland of another machine, made here once.
    Userland(Userland),
}

impl Need {
    fn missing(self) -> Option<String> {
        match self {
            Self::Program(name) => find(name).is_none().then(|| format!("{name} is not here")),
            Self::Root => (!is_root()).then(|| "it needs root".to_owned()),
            Self::Userland(userland) => userland.archive().err().map(|error| format!("{error:#}")),
        }
    }
}

/// The journey's folder, for the process inside the namespaces.
const INSIDE: &str = "NARU_JOURNEY";

/// Runs `body` in a folder of its own, with a network, mounts and processes of its own.
///
/// The test runs itself again below `unshare`: that is the whole isolation, and whatever the journey started ends with
/// it. `name` is the test's own, as the test runner knows it. Where a need is missing, the journey is named as skipped;
/// under CI (`CI` is set) that is a failure.
///
/// # Panics
/// When the journey fails; its folder is kept then, and named.
pub fn journey(name: &str, needs: &[Need], body: impl FnOnce(&Folder) -> Result<()>) {
    if let Some(path) = std::env::var_os(INSIDE) {
        let folder = Folder::lent(path.into());
        if let Err(error) = prepare(&folder).and_then(|()| body(&folder)) {
            panic!("{name}: {error:?}");
        }
        return;
    }
    let missing = needs.iter().copied().chain([Need::Program("unshare"), Need::Program("curl"), Need::Program("ip")]);
    let missing = missing.filter_map(Need::missing).collect::<Vec<_>>();
    if !missing.is_empty() {
        return skip(name, &missing.join(", "));
    }
    let namespaces =
        ["--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let as_user: &[&str] = if is_root() { &[] } else { &["--user", "--map-root-user"] };
    // Made and removed out here, where the mounts of the journey are no more.
    let folder = Folder::new(name).expect("a temporary folder");
    let here = std::env::current_exe().expect("a test knows its own path");
    let status = Command::new(find("unshare").expect("looked for above"))
        .args(as_user)
        .args(namespaces)
        .arg(here)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, folder.path())
        // What went wrong stands in the error; the frames of a test runner tell nothing.
        .env("RUST_BACKTRACE", "0")
        .env("NARU_JOURNEY_ROOT", if is_root() { "1" } else { "0" })
        .status()
        .expect("unshare starts");
    assert!(status.success(), "the journey {name} failed: {status}");
}

/// Loopback up; and, for daemons that write where nobody told them to, an /etc that only this journey changes and a /run
/// that only it has.
fn prepare(folder: &Folder) -> Result<()> {
    run("ip", ["link", "set", "lo", "up"])?;
    if is_root() {
        let cover = folder.make("cover")?;
        let cover = cover.display();
        run("mount", ["-t", "tmpfs", "cover", &cover.to_string()])?;
        std::fs::create_dir(format!("{cover}/upper"))?;
        std::fs::create_dir(format!("{cover}/work"))?;
        let layers = format!("lowerdir=/etc,upperdir={cover}/upper,workdir={cover}/work");
        run("mount", ["-t", "overlay", "cover", "-o", &layers, "/etc"])?;
        run("mount", ["-t", "tmpfs", "run", "/run"])?;
    }
    Ok(())
}

fn skip(name: &str, why: &str) {
    let line = format!("SKIP {name}: {why}");
    assert!(std::env::var_os("CI").is_none(), "{line}, and CI leaves nothing out");
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("NARU_SKIPPED") {
        let file = std::fs::File::options().append(true).create(true).open(path);
        file.and_then(|mut file| writeln!(file, "{line}")).expect("the list of what was skipped can be written");
    }
}

/// Whether the process that began the journey is root; inside a user namespace everybody looks like it.
fn is_root() -> bool {
    match std::env::var("NARU_JOURNEY_ROOT").as_deref() {
        Ok(value) => value == "1",
        Err(_) => rustix::process::geteuid().is_root(),
    }
}
