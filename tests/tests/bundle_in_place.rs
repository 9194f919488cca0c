//! `naru serve --bundle`: clients pull from volumes on a medium that cannot be written, without a store. What lies in a
//! volume that is not there is named, and what is damaged is never handed out whole.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use journeys::image::{Family, Image, application, large};
use journeys::{
    Containerd, Folder, Mirror, Naru, Need, Outcome, Podman, Registry, Serving, http, journey, run, wait_until,
};

const NEEDS: &[Need] = &[
    Need::Program("docker-registry"),
    Need::Program("containerd"),
    Need::Program("ctr"),
    Need::Program("podman"),
    Need::Root,
];

/// A bundle of an image that runs, one with a large layer, and some files; on a medium that is mounted read-only.
fn medium(folder: &Folder, arguments: &[&str]) -> Result<(PathBuf, Image, Image, String)> {
    let registry = Registry::start(folder, "one")?;
    let (small, big) =
        (application(folder, "one")?, Image::single(Family::Oci, "linux/amd64", &[large(folder, 25 << 20, 4)?]));
    registry.push("library/app", "1", &small)?;
    registry.push("team/big", "1", &big)?;
    let outside = Naru::new(folder, "outside")?;
    let content = folder.make("outside/content")?;
    for number in 0..40 {
        std::fs::write(content.join(format!("file-{number:02}")), format!("the content of {number}\n").repeat(9000))?;
    }
    let host = registry.host();
    outside.list(&format!(
        "platforms: [linux/amd64, linux/arm64]\nimages:\n- {host}/library/app:1\n- {host}/team/big:1\nfiles:\n- path: ./content\n"
    ))?;
    let bundle = folder.join("bundle");
    outside.pack(&bundle, arguments)?;
    let medium = folder.make("medium")?;
    let (from, to) = (bundle.to_str().context("our own")?, medium.to_str().context("our own")?);
    run("mount", ["--bind", from, to])?;
    run("mount", ["-o", "remount,bind,ro", to])?;
    Ok((medium, small, big, host))
}

/// Serves it, from a side whose own store does not exist.
fn serve(folder: &Folder, name: &str, medium: &Path, more: &[&str]) -> Result<(Naru, Serving)> {
    let inside = Naru::new(folder, name)?;
    let mut arguments = vec!["--bundle", medium.to_str().context("our own")?];
    arguments.extend_from_slice(more);
    let serving = inside.serve(&arguments)?;
    Ok((inside, serving))
}

fn log(side: &Naru) -> Result<String> {
    Ok(std::fs::read_to_string(side.folder().join("serve.log"))?)
}

#[test]
fn clients_pull_from_a_medium_that_cannot_be_written() {
    journey("clients_pull_from_a_medium_that_cannot_be_written", NEEDS, |folder| {
        let (medium, small, big, host) = medium(folder, &[])?;
        let (inside, serving) = serve(folder, "inside", &medium, &[])?;
        ensure!(!inside.store().exists(), "a store was made");
        serving.holds(&format!("{host}/library/app"), &small)?;
        // Twice: the second time it is known to be right, and goes by sendfile.
        serving.holds(&format!("{host}/team/big"), &big)?;
        serving.holds(&format!("{host}/team/big"), &big)?;
        let file = http::get(&serving.url("/files/local/content/file-07"))?;
        ensure!(file.body == "the content of 7\n".repeat(9000).into_bytes(), "file-07 has {} bytes", file.body.len());
        let listing = http::get(&serving.url("/files/local/content/"))?.text();
        ensure!(listing.matches("file-").count() >= 40, "{listing}");
        let tags = http::get(&serving.url(&format!("/v2/{host}/team/big/tags/list")))?.text();
        ensure!(tags.contains("\"1\""), "{tags}");
        let found = http::get(&serving.url("/?q=file-3"))?.text();
        ensure!(found.contains("file-30") && found.contains("file-39"), "{found}");
        let part = http::request(&serving.url("/files/local/content/file-08"), &["--range", "4-10"], None)?;
        ensure!((part.status, part.text().as_str()) == (206, "content"), "{} {}", part.status, part.text());

        let mirror = Mirror { address: serving.address().to_owned(), ca: Some(serving.ca(folder)?) };
        let containerd = Containerd::start(folder, &mirror)?;
        let digest = containerd.pull(&format!("{host}/library/app:1"))?;
        ensure!(digest == small.digest(), "ctr: {digest}");
        let said = containerd.run(&format!("{host}/library/app:1"), "runs", &["/bin/cat", "/etc/marker"])?;
        ensure!(said == "one\n", "ctr run: {said}");
        let podman =
            Podman::new(folder, &[(host.clone(), format!("{}/{}", serving.address(), host.replace(':', "_")))])?;
        let digests = podman.pull(&format!("{host}/team/big:1"))?;
        ensure!(digests.contains(big.digest()), "podman: {digests}");

        // Nothing can be pushed to a medium; whoever may push elsewhere is told so.
        let said = log(&inside)?;
        let state = said.split("admin token are in ").nth(1).and_then(|rest| rest.split(',').next());
        let state = Path::new(state.context("where the state is was not said")?);
        let token = std::fs::read_to_string(state.join("admin.token"))?;
        let login = format!("admin:{}", token.trim());
        let answer =
            http::request(&serving.url("/v2/own/app/blobs/uploads/"), &["-X", "POST", "--user", &login], None)?;
        ensure!(answer.status == 405 && answer.text().contains("--bundle"), "{} {}", answer.status, answer.text());
        Ok(())
    });
}

#[test]
fn what_a_missing_volume_holds_is_named_and_the_rest_is_served() {
    journey("what_a_missing_volume_holds_is_named_and_the_rest_is_served", NEEDS, |folder| {
        let (medium, small, big, host) = medium(folder, &["--volume-size", "10MiB"])?;
        let (whole, serving) = serve(folder, "whole", &medium, &[])?;
        // Cut into pieces over volumes, and one again.
        serving.holds(&format!("{host}/team/big"), &big)?;
        serving.holds(&format!("{host}/team/big"), &big)?;
        drop((whole, serving));

        // The first volume is damaged where it lists what the bundle holds, and another is not there at all.
        let some = folder.make("some")?;
        let mut volumes: Vec<_> = std::fs::read_dir(&medium)?.collect::<std::io::Result<_>>()?;
        volumes.retain(|entry| entry.file_name().to_string_lossy().ends_with(".tar"));
        volumes.sort_by_key(std::fs::DirEntry::file_name);
        ensure!(volumes.len() > 3, "{} volumes", volumes.len());
        for volume in volumes.iter().filter(|entry| entry.file_name() != "naru-0002.tar") {
            std::fs::copy(volume.path(), some.join(volume.file_name()))?;
        }
        let first = File::options().write(true).read(true).open(some.join("naru-0001.tar"))?;
        let mut bytes = vec![0; 1 << 20];
        let read = first.read_at(&mut bytes, 0)?;
        // In `bundle.json`.
        let place = bytes[..read].windows(9).position(|window| window == b"\"shares\":").context("the plan")?;
        first.write_all_at(b"X", place as u64 + 2)?;

        let (side, serving) = serve(folder, "inside", &some, &[])?;
        serving.holds(&format!("{host}/library/app"), &small)?;
        let tag = http::get(&serving.url(&format!("/v2/{host}/team/big/manifests/1")))?;
        ensure!(tag.status == 404 && tag.text().contains("naru-0002"), "{} {}", tag.status, tag.text());
        let layer = &big.blobs.last().context("the layer")?.digest;
        let blob = http::get(&serving.url(&format!("/v2/{host}/team/big/blobs/{layer}")))?;
        ensure!(blob.status == 404 && blob.text().contains("naru-0002"), "{} {}", blob.status, blob.text());
        wait_until("what is missing is said", || {
            let said = log(&side)?;
            let mut lines = said.lines().filter(|line| line.contains("volume 2 (naru-0002) is not here"));
            Ok(lines.any(|line| line.contains("team/big:1")).then_some(()))
        })?;
        Ok(())
    });
}

#[test]
fn what_is_damaged_is_never_handed_out_whole() {
    journey("what_is_damaged_is_never_handed_out_whole", NEEDS, |folder| {
        let (medium, small, big, host) = medium(folder, &[])?;
        let hurt = folder.make("hurt")?;
        let volume = hurt.join("naru-0001.tar");
        std::fs::copy(medium.join("naru-0001.tar"), &volume)?;
        let layer = big.blobs.last().context("the layer")?;
        let (size, name) = (layer.size, layer.digest.trim_start_matches("sha256:"));
        // Its place as the volume's own list says it.
        let mut tar = Command::new("tar");
        let list = Outcome::of(tar.arg("-xOf").arg(&volume).arg("members.jsonl").current_dir(folder.path()))?;
        let line =
            list.stdout.lines().find(|line| line.contains(&format!("\"blobs/sha256/{name}\""))).context("its line")?;
        let line: serde_json::Value = serde_json::from_str(line)?;
        let place = line["offset"].as_u64().context("an offset")?;
        let mut file = File::options().write(true).read(true).open(&volume)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, place + 1000)?;
        file.seek(SeekFrom::Start(place + 1000))?;
        file.write_all(&[byte[0] ^ 1])?;

        let (side, serving) = serve(folder, "inside", &hurt, &[])?;
        let url = serving.url(&format!("/v2/{host}/team/big/blobs/{}", layer.digest));
        // The end asked for alone is held back too.
        ensure!(http::request(&url, &["--range", "-10"], None).is_err(), "the end was handed out");
        let (side_two, second) = serve(folder, "second", &hurt, &[])?;
        let whole = second.url(&format!("/v2/{host}/team/big/blobs/{}", layer.digest));
        let got = folder.join("got");
        let outcome = run("curl", ["--silent", "--output", got.to_str().context("our own")?, &whole]);
        ensure!(outcome.is_err(), "curl did not see that it was cut");
        let length = std::fs::metadata(&got)?.len();
        ensure!(length > 0 && length <= size - (64 << 10), "{length} of {size} bytes were handed out");
        for (side, url) in [(&side, &url), (&side_two, &whole)] {
            let again = http::get(url)?;
            ensure!(again.status == 500, "{}: {}", again.status, again.text());
            let said = log(side)?;
            ensure!(said.contains(name) && said.contains("naru-0001.tar"), "the log does not name it: {said}");
        }
        serving.holds(&format!("{host}/library/app"), &small)?;

        // The medium goes away while it is served: an answer is cut, the rest of the server goes on.
        File::options().write(true).open(&volume)?.set_len(place)?;
        let answer = http::get(&serving.url("/readyz"))?;
        ensure!(answer.status == 200, "{}", answer.status);
        Ok(())
    });
}
