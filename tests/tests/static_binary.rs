//! One binary that does not die inside: no library of the host's is loaded, whatever its nsswitch.conf says; an old
//! kernel and a bare root are enough.

#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use journeys::image::application;
use journeys::{Folder, Naru, Need, Outcome, Registry, binary, find, journey, run};

const NEEDS: &[Need] =
    &[Need::Program("docker-registry"), Need::Program("busybox"), Need::Program("strace"), Need::Root];

/// The whole journey, each command below `strace` with these arguments; what strace wrote.
fn journey_under_strace(folder: &Folder, arguments: &[&str]) -> Result<String> {
    let registry = Registry::start(folder, "one")?;
    let image = application(folder, "traced")?;
    registry.push("library/app", "1", &image)?;
    let (outside, inside) = (Naru::new(folder, "outside")?, Naru::new(folder, "inside")?);
    outside.list(&format!("platforms: [linux/amd64]\nimages:\n- {}/library/app:1\n", registry.host()))?;
    let trace = folder.join("trace");
    let strace = |naru: &Naru, command: &[&str]| -> Result<Outcome> {
        let plain = naru.command(command);
        let mut traced = Command::new(find("strace").context("strace is not here")?);
        traced.args(["-f", "-qq", "-A", "-o"]).arg(&trace).args(arguments).arg(binary()?).args(command).env_clear();
        for (name, value) in plain.get_envs() {
            traced.env(name, value.unwrap_or_default());
        }
        traced.current_dir(naru.folder());
        Outcome::of(&mut traced)
    };
    let bundle = folder.join("bundle");
    let bundle = bundle.to_str().context("a path of our own")?;
    let commands: &[(&Naru, &[&str])] = &[
        (&outside, &["lock"]),
        (&outside, &["pull"]),
        (&outside, &["pack", "-o", bundle]),
        (&outside, &["verify", bundle]),
        (&inside, &["load", bundle]),
        (&inside, &["fsck"]),
        (&inside, &["ls"]),
    ];
    for (naru, command) in commands {
        strace(naru, command)?.ok(&command.join(" "))?;
    }
    // A name that must be looked up, and that nobody has: NSS would be asked for it.
    outside.list("images:\n- registry.naru-journeys.invalid/library/app:1\n")?;
    let outcome = strace(&outside, &["lock"])?;
    ensure!(outcome.status.code().is_some_and(|code| code != 0), "a host that does not exist: {}", outcome.status);

    let mut plain = Command::new(find("strace").context("strace is not here")?);
    plain.args(["-f", "-qq", "-A", "-o"]).arg(&trace).args(arguments).arg(binary()?);
    plain.args(["serve", "--listen", "127.0.0.1:0", "--store"]).arg(inside.store()).env_clear();
    let mut server = journeys::Daemon::start(&mut plain, &folder.join("serve.log"))?;
    server.wait_for("naru serve", |said| said.contains("://127.0.0.1:").then_some(()))?;
    server.signal(rustix::process::Signal::TERM)?;
    drop(server);
    Ok(String::from_utf8_lossy(&std::fs::read(&trace)?).into_owned())
}

#[test]
fn no_command_loads_the_hosts_libraries() {
    journey("no_command_loads_the_hosts_libraries", NEEDS, |folder| {
        // This /etc is the journey's own. It says what Rocky's, RHEL's and Fedora's say.
        std::fs::write(
            "/etc/nsswitch.conf",
            "passwd: sss files systemd\ngroup: sss files systemd\nhosts: sss files myhostname resolve dns\n",
        )?;
        let trace = journey_under_strace(folder, &["-e", "trace=open,openat,openat2,execve"])?;
        ensure!(trace.contains("execve("), "strace saw nothing: {trace}");
        let loaded =
            trace.lines().filter(|line| line.contains("libnss") || line.contains(".so\"") || line.contains(".so."));
        let loaded = loaded.collect::<Vec<_>>();
        ensure!(loaded.is_empty(), "it looked for libraries: {loaded:#?}");
        Ok(())
    });
}

#[test]
fn an_old_kernel_is_enough() {
    journey("an_old_kernel_is_enough", NEEDS, |folder| {
        // What 3.10 does not have.
        let newer = [
            "openat2",
            "copy_file_range",
            "preadv2",
            "pwritev2",
            "statx",
            "renameat2",
            "getrandom",
            "memfd_create",
            "execveat",
            "close_range",
            "faccessat2",
            "pidfd_open",
            "clone3",
            "rseq",
            "io_uring_setup",
            "epoll_pwait2",
            "membarrier",
            "mlock2",
            "userfaultfd",
            "landlock_create_ruleset",
        ];
        let inject = newer.map(|call| format!("--inject={call}:error=ENOSYS"));
        let mut arguments = vec!["-e", "trace=execve"];
        arguments.extend(inject.iter().map(String::as_str));
        journey_under_strace(folder, &arguments)?;
        Ok(())
    });
}

#[test]
fn a_root_with_nothing_in_it_is_enough() {
    journey("a_root_with_nothing_in_it_is_enough", &[Need::Root, Need::Program("chroot")], |folder| {
        let root = folder.make("root")?;
        folder.make("root/dev")?;
        let path = |name: &str| root.join(name).to_str().map(str::to_owned).context("a path of our own");
        std::fs::copy(binary()?, root.join("naru"))?;
        run("mknod", ["-m", "666", &path("dev/random")?, "c", "1", "8"])?;
        run("mknod", ["-m", "666", &path("dev/urandom")?, "c", "1", "9"])?;
        let naru = |arguments: &[&str]| -> Result<Command> {
            let mut command = Command::new(find("chroot").context("chroot is not here")?);
            command.arg(&root).arg("/naru").args(arguments).env_clear();
            Ok(command)
        };
        Outcome::of(&mut naru(&["--version"])?)?.ok("--version")?;
        Outcome::of(&mut naru(&["init", "-f", "/naru.yaml"])?)?.ok("init")?;
        Outcome::of(&mut naru(&["token", "new", "--store", "/store"])?)?.ok("token new")?;
        Outcome::of(&mut naru(&["ls", "--store", "/store"])?)?.ok("ls")?;
        Outcome::of(&mut naru(&["fsck", "--store", "/store"])?)?.ok("fsck")?;
        std::fs::write(root.join("naru.yaml"), "images: [registry.naru-journeys.invalid/library/app:1]\n")?;
        let outcome = Outcome::of(&mut naru(&["lock", "-f", "/naru.yaml"])?)?;
        ensure!(outcome.stderr.contains("registry.naru-journeys.invalid"), "{}: {}", outcome.status, outcome.stderr);
        ensure!(outcome.status.code().is_some(), "lock: {}", outcome.status);
        let mut serve = naru(&["serve", "--store", "/store", "--listen", "127.0.0.1:0"])?;
        let mut server = journeys::Daemon::start(&mut serve, &folder.join("serve.log"))?;
        server.wait_for("naru serve", |said| said.contains("://127.0.0.1:").then_some(()))
    });
}

#[test]
fn the_release_binary_is_small_static_and_quick() {
    // The one that `make release` and `make run` build, where it is there.
    let Ok(debug) = binary() else { return };
    let release = debug.parent().and_then(|debug| Some(debug.parent()?.join("release/naru")));
    let Some(release) = release.filter(|path| path.is_file()) else {
        eprintln!("there is no release binary here: `make release` looks at it");
        return;
    };
    let bytes = std::fs::read(&release).unwrap();
    assert!(bytes.len() < 40 << 20, "{} bytes", bytes.len());
    assert!(!bytes.windows(11).any(|window| window == b"/lib64/ld-l"), "it wants a dynamic linker");
    let best = (0..20).map(|_| {
        let begun = Instant::now();
        let status = Command::new(&release).arg("--version").stdout(std::process::Stdio::null()).status().unwrap();
        assert!(status.success());
        begun.elapsed()
    });
    // The best of many: what the machine does besides is not the binary's.
    assert!(best.min().unwrap().as_millis() < 50);
}
