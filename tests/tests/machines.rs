//! Other machines than the one that built it: userlands older and newer, and one with systemd that Naru is installed on.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use journeys::image::application;
use journeys::{Daemon, Machine, Naru, Need, Outcome, Registry, Userland, binary, find, http, journey, wait_until};

const SERVICES: &str = "libnss-myhostname,libnss-sss";
const OLD: Userland = Userland { suite: "bullseye", variant: "extract", packages: SERVICES };
const NEW: Userland = Userland { suite: "trixie", variant: "extract", packages: SERVICES };
const BOOTED: Userland =
    Userland { suite: "bookworm", variant: "apt", packages: "systemd,systemd-sysv,dbus,libnss-myhostname,libnss-sss" };

#[test]
fn older_and_newer_userlands_are_enough() {
    let needs = [
        Need::Program("docker-registry"),
        Need::Program("busybox"),
        Need::Program("chroot"),
        Need::Root,
        Need::Userland(OLD),
        Need::Userland(NEW),
    ];
    journey("older_and_newer_userlands_are_enough", &needs, |folder| {
        let registry = Registry::start(folder, "one")?;
        registry.push("library/app", "1", &application(folder, "elsewhere")?)?;
        for userland in [OLD, NEW] {
            let root = userland.unpack(folder)?;
            ensure!(
                Outcome::of(Command::new("find").arg(&root).args(["-name", "libnss_sss*"]))?
                    .stdout
                    .contains("libnss_sss"),
                "{} has nothing that could be loaded by mistake",
                userland.suite
            );
            std::fs::copy(binary()?, root.join("naru"))?;
            std::fs::write(
                root.join("etc/nsswitch.conf"),
                "passwd: sss files systemd\ngroup: sss files systemd\nhosts: sss files dns myhostname\n",
            )?;
            std::fs::write(
                root.join("naru.yaml"),
                format!("platforms: [linux/amd64]\nimages:\n- {}/library/app:1\n", registry.host()),
            )?;
            let naru = |arguments: &[&str]| -> Result<Command> {
                let mut command = Command::new(find("chroot").context("chroot is not here")?);
                command.arg(&root).arg("/naru").args(arguments).env_clear();
                Ok(command)
            };
            for arguments in [
                &["--version"][..],
                &["lock", "-f", "/naru.yaml"],
                &["pull", "-f", "/naru.yaml", "--store", "/outside"],
                &["pack", "-f", "/naru.yaml", "--store", "/outside", "-o", "/medium"],
                &["verify", "/medium"],
                &["load", "--store", "/inside", "/medium"],
                &["fsck", "--store", "/inside"],
            ] {
                Outcome::of(&mut naru(arguments)?)?.ok(&format!("{}: naru {}", userland.suite, arguments.join(" ")))?;
            }
            // A name that nobody has: here the C library would ask sss and myhostname.
            std::fs::write(root.join("nowhere.yaml"), "images: [registry.naru-journeys.invalid/library/app:1]\n")?;
            let outcome = Outcome::of(&mut naru(&["lock", "-f", "/nowhere.yaml"])?)?;
            ensure!(outcome.status.code().is_some_and(|code| code > 0), "{}: {}", userland.suite, outcome.status);
            ensure!(outcome.stderr.contains("registry.naru-journeys.invalid"), "{}", outcome.stderr);
            let log = folder.join(format!("{}.log", userland.suite));
            let mut server =
                Daemon::start(&mut naru(&["serve", "--store", "/inside", "--listen", "127.0.0.1:5001"])?, &log)?;
            let url = format!("http://127.0.0.1:5001/v2/{}/library/app/manifests/1", registry.host());
            server
                .wait_for("naru serve", |_| http::head(&url).is_ok_and(|answer| answer.status == 200).then_some(()))?;
        }
        Ok(())
    });
}

#[test]
fn install_makes_a_service_that_serves() {
    let needs = [
        Need::Program("docker-registry"),
        Need::Program("busybox"),
        Need::Program("nsenter"),
        Need::Root,
        Need::Userland(BOOTED),
    ];
    journey("install_makes_a_service_that_serves", &needs, |folder| {
        let registry = Registry::start(folder, "one")?;
        let image = application(folder, "installed")?;
        registry.push("library/app", "1", &image)?;
        let outside = Naru::new(folder, "outside")?;
        outside
            .list(&format!("platforms: [linux/amd64, linux/arm64]\nimages:\n- {}/library/app:1\n", registry.host()))?;
        let root = BOOTED.unpack(folder)?;
        // The medium, with the binary on it, as it lies on a sealed machine that has nothing else.
        outside.pack(&root.join("root/medium"), &[])?;

        let machine = Machine::boot(&root)?;
        machine.ok(&["/root/medium/naru", "install"])?;
        let state = machine.outcome(&["systemctl", "status", "naru"])?.stdout;
        ensure!(machine.outcome(&["systemctl", "is-active", "naru"])?.status.success(), "it does not run: {state}");
        ensure!(machine.ok(&["systemctl", "is-enabled", "naru"])?.trim() == "enabled", "it will not run after a boot");
        ensure!(
            machine.ok(&["systemd-analyze", "verify", "/etc/systemd/system/naru.service"])?.is_empty(),
            "systemd is not content"
        );
        wait_until("the server", || {
            Ok(http::get("http://127.0.0.1:5000/readyz").ok().filter(|answer| answer.status == 200))
        })?;

        // Root loads from a folder that the server's user may not read; the server carries it out.
        machine.ok(&["chmod", "0700", "/root/medium"])?;
        machine.ok(&["naru", "load", "/root/medium"])?;
        let url = format!("http://127.0.0.1:5000/v2/{}/library/app/manifests/1", registry.host());
        let answer = http::head(&url)?;
        ensure!(answer.header("docker-content-digest") == Some(image.digest()), "{url}: {}", answer.status);
        let owner = machine.ok(&["find", "/var/lib/naru", "!", "-user", "naru"])?;
        ensure!(owner.is_empty(), "root's among the server's: {owner}");

        // It reads its settings again, goes, comes back, and is installed again over what is there.
        machine.ok(&["systemctl", "reload", "naru"])?;
        machine.ok(&["systemctl", "restart", "naru"])?;
        wait_until("the server", || Ok(http::head(&url).ok().filter(|answer| answer.status == 200)))?;
        machine.ok(&["/root/medium/naru", "install"])?;
        wait_until("the server", || Ok(http::head(&url).ok().filter(|answer| answer.status == 200)))?;
        machine.ok(&["systemctl", "stop", "naru"])?;
        ensure!(machine.ok(&["journalctl", "-u", "naru", "--no-pager"])?.contains("naru_"), "no token in the journal");
        machine.ok(&["naru", "fsck"])?;
        let owner = machine.ok(&["find", "/var/lib/naru", "!", "-user", "naru"])?;
        ensure!(owner.is_empty(), "root's among the server's: {owner}");
        Ok(())
    });
}
