//! Pushes by a real client, and Naru as an upstream: what was pushed, with what refers to it, goes across a gap again.

use anyhow::{Context as _, Result, ensure};
use journeys::image::{Content, Image, application};
use journeys::{Naru, Need, Registry, Serving, http, journey, run};

const NEEDS: &[Need] = &[Need::Program("docker-registry"), Need::Program("busybox"), Need::Program("skopeo")];

/// Uploads an artifact as oras does: its blobs in one POST each, then the manifest by its digest.
fn attach(serving: &Serving, token: &str, repository: &str, artifact: &Image) -> Result<()> {
    let user = format!("anyone:{token}");
    for blob in &artifact.blobs {
        let Content::Here(bytes) = &blob.content else { anyhow::bail!("a small blob") };
        let url = serving.url(&format!("/v2/{repository}/blobs/uploads/?digest={}", blob.digest));
        let header = "Content-Type: application/octet-stream";
        let answer = http::request(&url, &["--request", "POST", "--user", &user, "--header", header], Some(bytes))?;
        ensure!(answer.status == 201, "{url}: {}: {}", answer.status, answer.text());
    }
    let document = artifact.top();
    let url = serving.url(&format!("/v2/{repository}/manifests/{}", document.digest));
    let header = format!("Content-Type: {}", document.media_type);
    let arguments = ["--request", "PUT", "--user", &user, "--header", &header];
    let answer = http::request(&url, &arguments, Some(&document.bytes))?;
    ensure!(answer.status == 201, "{url}: {}: {}", answer.status, answer.text());
    ensure!(answer.header("oci-subject").is_some(), "{url}: it does not say that it knows subjects");
    Ok(())
}

#[test]
fn what_was_pushed_goes_on_with_what_refers_to_it() {
    journey("what_was_pushed_goes_on_with_what_refers_to_it", NEEDS, |folder| {
        let registry = Registry::start(folder, "one")?;
        let image = application(folder, "pushed")?;
        registry.push("library/app", "1", &image)?;
        let origin = Naru::new(folder, "origin")?;
        let upstream = origin.serve(&[])?;
        let token = std::fs::read_to_string(origin.store().join("admin.token"))?.trim().to_owned();

        let from = format!("docker://{}/library/app:1", registry.host());
        let to = format!("docker://{}/team/app:1", upstream.address());
        let credentials = format!("anyone:{token}");
        let copy =
            ["--insecure-policy", "copy", "--quiet", "--all", "--src-tls-verify=false", "--dest-tls-verify=false"];
        let push = |more: &[&str]| run("skopeo", [&copy, more, &[from.as_str(), to.as_str()]].concat());
        ensure!(push(&["--dest-no-creds"]).is_err(), "it took a push from anybody");
        ensure!(push(&["--dest-creds", "anyone:wrong"]).is_err(), "it took a wrong token");
        push(&["--dest-creds", &credentials])?;
        upstream.holds("team/app", &image)?;

        // Another token ends the first, also while the server holds the store.
        let other = origin.ok(["token", "new"])?.stdout.trim().to_owned();
        ensure!(push(&["--dest-creds", &credentials]).is_err(), "the token before still opens");
        let signature = Image::artifact("application/vnd.example.signature", Some(&image));
        attach(&upstream, &other, "team/app", &signature)?;

        // A server like any other, with a CA of its own: a second Naru collects from it.
        let ca = upstream.ca(folder)?;
        let host = upstream.address().to_owned();
        let outside = Naru::new(folder, "outside")?;
        outside.list(&format!(
            "platforms: [all]\nimages:\n- {host}/team/app:1\nupstreams:\n  '{host}':\n    ca: '{}'\n",
            ca.display()
        ))?;
        let bundle = folder.join("bundle");
        outside.pack(&bundle, &[])?;
        drop(upstream);
        let inside = Naru::new(folder, "inside")?;
        inside.load(&bundle)?;
        let serving = inside.serve(&[])?;
        let repository = format!("{host}/team/app");
        serving.holds(&repository, &image)?;
        serving.holds(&repository, &signature)?;
        let referrers = http::get(&serving.url(&format!("/v2/{repository}/referrers/{}", image.digest())))?;
        let list: serde_json::Value = serde_json::from_slice(&referrers.body).context("a list of referrers")?;
        ensure!(list["manifests"][0]["digest"] == signature.digest(), "{list}");
        Ok(())
    });
}

/// The path of a mirrored image is taken as a local name too: the layers that an upstream's image has are not the
/// pushed one's until they are pushed.
#[test]
fn a_local_name_that_is_mirrored_too() {
    journey("a_local_name_that_is_mirrored_too", NEEDS, |folder| {
        let registry = Registry::start(folder, "one")?;
        let image = application(folder, "both")?;
        registry.push("library/app", "1", &image)?;
        let naru = Naru::new(folder, "naru")?;
        naru.list(&format!("platforms: [all]\nimages:\n- {}/library/app:1\n", registry.host()))?;
        naru.ok(["pull"])?;
        let serving = naru.serve(&[])?;
        let token = std::fs::read_to_string(naru.store().join("admin.token"))?.trim().to_owned();
        // What reads has asked for it before: its answers are no push's.
        serving.holds("library/app", &image)?;
        run(
            "skopeo",
            [
                "--insecure-policy",
                "copy",
                "--quiet",
                "--all",
                "--src-tls-verify=false",
                "--dest-tls-verify=false",
                "--dest-creds",
                &format!("anyone:{token}"),
                &format!("docker://{}/library/app:1", registry.host()),
                &format!("docker://{}/library/app:mine", serving.address()),
            ],
        )?;
        ensure!(serving.digest_of("library/app", "mine")? == image.digest());
        serving.holds("library/app", &image)?;
        let listed = naru.ok(["ls"])?.stdout;
        ensure!(listed.contains("library/app:mine") && listed.contains("/library/app:1"), "{listed}");
        Ok(())
    });
}
