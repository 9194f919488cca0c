//! The address that a server says it is reached by, on a machine with several.

use anyhow::{Context as _, Result, ensure};
use journeys::{Daemon, Naru, http, journey, run};

/// What `naru serve` printed first, on every address of the machine.
fn announced(naru: &Naru, folder: &journeys::Folder, name: &str) -> Result<(Daemon, serde_json::Value)> {
    let mut command = naru.command(["serve", "--listen", "0.0.0.0:0", "--plain", "0.0.0.0:0", "--json"]);
    let mut daemon = Daemon::start(&mut command, &folder.join(format!("{name}.log")))?;
    let said = daemon.wait_for("naru serve", |said| {
        let values = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        values.into_iter().find(|value| value.get("url").is_some())
    })?;
    Ok((daemon, said))
}

#[test]
fn the_one_that_the_machine_goes_out_by() {
    journey("the_one_that_the_machine_goes_out_by", &[], |folder| {
        // As a bridge of containers and a network card: the bridge's sorts first.
        for address in ["172.17.0.1/32", "192.168.77.2/32"] {
            run("ip", ["address", "add", address, "dev", "lo"])?;
        }
        run("ip", ["route", "add", "default", "dev", "lo", "src", "192.168.77.2"])?;
        let naru = Naru::new(folder, "naru")?;
        let (mut daemon, said) = announced(&naru, folder, "routed")?;
        let text = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
        ensure!(text("url").starts_with("https://192.168.77.2:"), "{said}");
        ensure!(text("plain").starts_with("http://192.168.77.2:"), "{said}");
        let health = http::get(&format!("{}/healthz", text("plain")))?;
        ensure!(health.status == 200, "{}", health.status);
        // The certificate is for all of them.
        let names = said["names"].as_array().context("names")?;
        for name in ["172.17.0.1", "192.168.77.2", "127.0.0.1", "localhost"] {
            ensure!(names.iter().any(|known| known == name), "{name}: {said}");
        }
        ensure!(naru.ok(["setup", "docker"])?.stdout.contains("192.168.77.2"), "it remembers another");
        daemon.kill()?;
        // Without a route to anywhere, one of them all the same.
        run("ip", ["route", "del", "default"])?;
        let (_daemon, said) = announced(&naru, folder, "sealed")?;
        let url = said["url"].as_str().unwrap_or_default();
        ensure!(url.starts_with("https://172.17.0.1:") || url.starts_with("https://192.168.77.2:"), "{said}");
        Ok(())
    });
}
