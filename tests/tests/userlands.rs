//! The one binary in other machines' userlands, older and newer than this one's, whose name look-ups go through modules
//! that would kill a static binary.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use journeys::image::application;
use journeys::{Daemon, Folder, Need, Outcome, Registry, binary, find, http, journey, run, userland};

fn whole_journey(folder: &Folder, suite: &str) -> Result<()> {
    let registry = Registry::start(folder, "one")?;
    registry.push("library/app", "1", &application(folder, suite)?)?;
    let root = folder.make("root")?;
    userland::unpack(suite, &root)?;
    for name in ["proc", "dev", "etc", "work"] {
        folder.make(&format!("root/{name}"))?;
    }
    run("mount", ["-t".as_ref(), "proc".as_ref(), "proc".as_ref(), root.join("proc").as_os_str()])?;
    run("mount", ["--bind".as_ref(), OsStr::new("/dev"), root.join("dev").as_os_str()])?;
    folder.write("root/etc/nsswitch.conf", "passwd: sss files\ngroup: sss files\nhosts: sss files dns myhostname\n")?;
    std::fs::copy(binary()?, root.join("naru"))?;
    let naru = |arguments: &[&str]| -> Result<Command> {
        let mut command = Command::new(find("chroot").context("chroot is not here")?);
        command.arg("--userspec=0:0").arg(&root).arg("/naru").args(arguments);
        command.env_clear().env("HOME", "/root").env("PATH", "/bin");
        Ok(command)
    };
    let ok = |arguments: &[&str]| Outcome::of(&mut naru(arguments)?)?.ok(&arguments.join(" "));
    let list = |text: String| folder.write("root/work/naru.yaml", text);

    // A name that nobody has: the C library would ask `sss` and `myhostname` for it.
    list("images: [registry.naru-journeys.invalid/library/app:1]\n".to_owned())?;
    let outcome = Outcome::of(&mut naru(&["lock", "-f", "/work/naru.yaml"])?)?;
    ensure!(outcome.status.code().is_some_and(|code| code != 0), "lock: {}: {}", outcome.status, outcome.stderr);
    ensure!(outcome.stderr.contains("registry.naru-journeys.invalid"), "lock: {}", outcome.stderr);

    list(format!("platforms: [linux/amd64]\nimages:\n- {}/library/app:1\n", registry.host()))?;
    let outside = ["-f", "/work/naru.yaml", "--store", "/work/outside"];
    for command in [&["lock"][..], &["pull"], &["pack", "-o", "/work/bundle"]] {
        ok(&[command, &outside].concat())?;
    }
    ok(&["verify", "/work/bundle", "--store", "/work/outside"])?;
    ok(&["load", "/work/bundle", "--store", "/work/inside"])?;
    ok(&["fsck", "--store", "/work/inside"])?;
    let mut serve = naru(&["serve", "--store", "/work/inside", "--listen", "127.0.0.1:5000"])?;
    let mut server = Daemon::start(&mut serve, &folder.join("serve.log"))?;
    let url = format!("http://127.0.0.1:5000/v2/{}/library/app/manifests/1", registry.host());
    server.wait_for("naru serve", |_| http::get(&url).is_ok_and(|answer| answer.status == 200).then_some(()))
}

const fn needs(suite: &'static str) -> [Need; 6] {
    [
        Need::Program("docker-registry"),
        Need::Program("busybox"),
        Need::Program("mmdebstrap"),
        Need::Program("chroot"),
        Need::Root,
        Need::Userland(suite),
    ]
}

#[test]
fn an_older_userland_is_enough() {
    journey("an_older_userland_is_enough", &needs("bullseye"), |folder| whole_journey(folder, "bullseye"));
}

#[test]
fn a_newer_userland_is_enough() {
    journey("a_newer_userland_is_enough", &needs("trixie"), |folder| whole_journey(folder, "trixie"));
}
