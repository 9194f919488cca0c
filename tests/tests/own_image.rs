//! Naru as an image, made by Naru, in a runtime.

use anyhow::ensure;
use journeys::{Containerd, Mirror, Naru, Need, journey};

#[test]
fn a_runtime_runs_naru_s_own_image() {
    let needs = ["containerd", "ctr", "runc"].map(Need::Program);
    journey("a_runtime_runs_naru_s_own_image", &[&needs[..], &[Need::Root]].concat(), |folder| {
        let naru = Naru::new(folder, "inside")?;
        let made = naru.ok(["image"])?.stdout;
        let serving = naru.serve(&[])?;
        let mirror = Mirror { address: serving.address().to_owned(), ca: Some(serving.ca(folder)?) };
        let containerd = Containerd::start(folder, &mirror)?;
        let name = format!("{}/naru:{}", serving.address(), env!("CARGO_PKG_VERSION"));
        let digest = containerd.pull(&name)?;
        ensure!(made.contains(&digest), "{digest} is not the one of: {made}");
        let said = containerd.run(&name, "version", &["/naru", "--version"])?;
        ensure!(said.starts_with("naru "), "it said: {said}");
        // Its user may write its store, where its environment says.
        containerd.run(&name, "store", &["/naru", "key", "new"])?;
        Ok(())
    });
}
