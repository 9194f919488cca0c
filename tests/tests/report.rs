//! The list for whoever must approve the medium: what is known of each thing, and what scanners found.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use journeys::image::application;
use journeys::{Folder, Image, Naru, Need, Outcome, Registry, find, journey};
use serde_json::{Value, json};

const NEEDS: &[Need] = &[Need::Program("docker-registry"), Need::Program("busybox"), Need::Program("openssl")];

fn openssl(folder: &Folder, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(find("openssl").context("openssl is not here")?);
    Outcome::of(command.args(arguments).current_dir(folder.path()))?.ok("openssl")
}

/// The row of the thing whose name ends so.
fn row<'a>(rows: &'a Value, name: &str) -> Result<&'a Value> {
    let all = rows["things"].as_array().context("things")?;
    let found = all.iter().find(|row| row["name"].as_str().is_some_and(|own| own.ends_with(name)));
    found.with_context(|| format!("no {name} in {rows}"))
}

#[test]
fn what_is_known_of_a_bundle_is_reported() {
    journey("what_is_known_of_a_bundle_is_reported", NEEDS, |folder| {
        let registry = Registry::start(folder, "one")?;
        let (signed, other) = (application(folder, "signed")?, application(folder, "other")?);
        registry.push("library/signed", "1", &signed)?;
        registry.push("library/other", "1", &other)?;
        // As cosign signs, with the openssl that everybody has.
        openssl(folder, &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem"])?;
        openssl(folder, &["ec", "-in", "key.pem", "-pubout", "-out", "cosign.pub"])?;
        openssl(folder, &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "other.pem"])?;
        openssl(folder, &["ec", "-in", "other.pem", "-pubout", "-out", "other.pub"])?;
        let sign = |claim: &[u8]| -> Result<String> {
            folder.write("claim", claim)?;
            openssl(folder, &["dgst", "-sha256", "-sign", "key.pem", "-out", "signature", "claim"])?;
            Ok(openssl(folder, &["base64", "-A", "-in", "signature"])?.trim().to_owned())
        };
        let mut failed = None;
        let signature = Image::signed(&signed, |claim| {
            sign(claim).unwrap_or_else(|error| {
                failed = Some(error);
                String::new()
            })
        });
        if let Some(error) = failed {
            return Err(error);
        }
        registry.push("library/signed", &format!("{}.sig", signed.tag_for_referrers()), &signature)?;

        let outside = Naru::new(folder, "outside")?;
        std::fs::write(outside.folder().join("tool"), "#!/bin/sh\n")?;
        std::fs::write(outside.folder().join("text"), "words\n")?;
        let host = registry.host();
        outside.list(&format!(
            "platforms: [linux/amd64, linux/arm64]\nimages:\n- {host}/library/signed:1\n- {host}/library/other:1\n\
             files:\n- path: tool\n- path: text\n"
        ))?;
        let bundle = folder.join("bundle");
        outside.pack(&bundle, &[])?;
        let bundle = bundle.to_str().context("a path of our own")?;

        let report = |more: &[&str]| -> Result<(Value, String)> {
            let outcome = outside.ok(["report", "--format", "json", bundle].into_iter().chain(more.iter().copied()))?;
            Ok((serde_json::from_str(&outcome.stdout)?, outcome.stderr))
        };
        let (known, _) = report(&[])?;
        let image = row(&known, "library/signed:1")?;
        ensure!(image["licence"] == "GPL-2.0-only" && image["why"] == "wished", "{image}");
        ensure!(image["signature"] == "carried, not verified" && image["volumes"] == json!([1]), "{image}");
        ensure!(row(&known, "library/other:1")?["signature"] == "none carried", "{known}");
        ensure!(row(&known, ".sig")?["why"].as_str().is_some_and(|why| why.starts_with("signature of")), "{known}");
        ensure!(row(&known, "tool")?["executable"] == true && row(&known, "text")?["executable"] == false, "{known}");

        let key = |name: &str| folder.join(name).display().to_string();
        let (known, _) = report(&["--cosign-key", &key("other.pub"), "--cosign-key", &key("cosign.pub")])?;
        let said = row(&known, "library/signed:1")?["signature"].as_str().context("a signature")?;
        ensure!(said == format!("verified by {}", key("cosign.pub")), "{said}");
        let (known, _) = report(&["--cosign-key", &key("other.pub")])?;
        ensure!(row(&known, "library/signed:1")?["signature"] == "carried, not by a key that was given", "{known}");

        // Findings by the digest of a platform's manifest, and of nothing that is carried.
        let found = |id: &str, severity: &str| json!({ "VulnerabilityID": id, "Severity": severity });
        let trivy = json!({
            "SchemaVersion": 2, "ArtifactName": "other", "Metadata": { "RepoDigests": [format!("x@{}", other.documents[0].digest)] },
            "Results": [{ "Target": "t", "Vulnerabilities": [found("CVE-1", "CRITICAL"), found("CVE-2", "LOW")] }],
        });
        let trivy = folder.write("trivy.json", trivy.to_string())?;
        let grype = json!({ "matches": [], "source": { "type": "image", "target": { "userInput": "elsewhere:1",
            "manifestDigest": format!("sha256:{}", "0".repeat(64)), "repoDigests": [] } } });
        let grype = folder.write("grype.json", grype.to_string())?;
        let joined = ["--findings", trivy.to_str().context("a path")?, grype.to_str().context("a path")?];
        let (known, said) = report(&joined)?;
        let first = &known["things"][0];
        ensure!(first["name"] == format!("{host}/library/other:1"), "the worst is not the first: {known}");
        ensure!(first["findings"] == json!({ "critical": 1, "high": 0, "medium": 0, "low": 1 }), "{first}");
        ensure!(said.contains("elsewhere:1") && !said.contains("for other "), "{said}");
        // The same, before anything is packed.
        let outcome = outside.ok(["report", "naru.lock", "--format", "json"].into_iter().chain(joined))?;
        let known: Value = serde_json::from_str(&outcome.stdout)?;
        ensure!(known["things"][0]["name"] == format!("{host}/library/other:1"), "{known}");

        let spdx: Value = serde_json::from_str(&outside.ok(["report", "--format", "spdx", bundle])?.stdout)?;
        ensure!(
            spdx["spdxVersion"] == "SPDX-2.3" && spdx["packages"].as_array().is_some_and(|all| all.len() == 5),
            "{spdx}"
        );
        let html = std::fs::read_to_string(folder.join("bundle/CONTENTS.html"))?;
        ensure!(html.contains("licence · 라이선스") && html.contains("GPL-2.0-only"), "{html}");
        Ok(())
    });
}
