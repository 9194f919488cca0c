//! Naru as an image, made by Naru, in a runtime.

use anyhow::ensure;
use journeys::{Containerd, Mirror, Naru, Need, http, journey};

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
        let log = folder.join("serve.log");
        let mut served = containerd.begin(&name, "serve", &["/naru", "serve", "--listen", "127.0.0.1:0"], &log)?;
        let url = served.wait_for("naru in a container", |said| {
            let (_, rest) = said.split_once("serving /var/lib/naru on ")?;
            rest.lines().next().map(str::to_owned)
        })?;
        let answer = http::request(&format!("{url}/readyz"), &["--insecure"], None)?;
        ensure!(answer.status == 200, "{}", answer.status);
        containerd.ctr(&["tasks", "kill", "--signal", "SIGTERM", "serve"])?.ok("ctr tasks kill")?;
        ensure!(served.wait()?.success(), "it did not end well: {}", served.said());
        Ok(())
    });
}
