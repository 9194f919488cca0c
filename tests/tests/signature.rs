//! What Naru signs, minisign checks; and Naru signs with minisign's key.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use journeys::image::application;
use journeys::{Naru, Need, Outcome, Registry, find, journey, run};

#[test]
fn minisign_and_naru_read_each_other() {
    let needs = ["docker-registry", "busybox", "minisign", "tar"].map(Need::Program);
    journey("minisign_and_naru_read_each_other", &needs, |folder| {
        let registry = Registry::start(folder, "one")?;
        registry.push("library/app", "1", &application(folder, "signed")?)?;
        let outside = Naru::new(folder, "outside")?;
        outside.list(&format!("platforms: [linux/amd64]\nimages:\n- {}/library/app:1\n", registry.host()))?;
        let minisign = |arguments: &[&str]| -> Result<Outcome> {
            let mut command = Command::new(find("minisign").context("minisign is not here")?);
            Outcome::of(command.args(arguments).current_dir(folder.path()).env("HOME", folder.path()))
        };
        minisign(&["-G", "-W", "-p", "theirs.pub", "-s", "theirs"])?.ok("minisign -G")?;
        outside.ok(["key".as_ref(), "new".as_ref(), folder.join("ours").as_os_str()])?;

        for (key, stranger) in [("theirs", "ours"), ("ours", "theirs")] {
            let bundle = folder.join(format!("bundle-{key}"));
            let sign = folder.join(key).display().to_string();
            outside.pack(&bundle, &["--sign", &sign])?;
            let volume = bundle.join("naru-0001.tar");
            let only = ["volume.json", "volume.json.minisig"].map(std::ffi::OsStr::new);
            run(
                "tar",
                ["-C".as_ref(), folder.path().as_os_str(), "-xf".as_ref(), volume.as_os_str()].into_iter().chain(only),
            )?;
            let check = |key: &str| minisign(&["-V", "-m", "volume.json", "-p", &format!("{key}.pub")]);
            check(key)?.ok("minisign -V")?;
            ensure!(!check(stranger)?.status.success(), "minisign takes {stranger}'s word for {key}'s");

            let inside = Naru::new(folder, &format!("inside-{key}"))?;
            inside.ok(["key".as_ref(), "trust".as_ref(), folder.join(format!("{stranger}.pub")).as_os_str()])?;
            let refused = inside.run(["load".as_ref(), bundle.as_os_str()])?;
            ensure!(!refused.status.success() && refused.stderr.contains("naru key trust"), "{}", refused.stderr);
            inside.ok(["key".as_ref(), "trust".as_ref(), folder.join(format!("{key}.pub")).as_os_str()])?;
            inside.load(&bundle)?;
        }
        Ok(())
    });
}
