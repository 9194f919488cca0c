//! What outlives a server, and a gap.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use journeys::{Folder, Naru, wait_until};

use crate::client::{Algorithm, Client, bytes, expect, index, location, reached, refused};

fn length(client: &Client, place: &str) -> Result<usize> {
    let status = client.status(place)?;
    let range = status.header("range").context("no Range")?;
    Ok(range.strip_prefix("0-").context("no range")?.parse::<usize>()? + 1)
}

/// `kill -9` in the middle of a chunk; another process goes on behind what arrived.
pub(crate) fn uploads_outlive_the_server(folder: &Folder) -> Result<()> {
    let naru = Naru::new(folder, "naru")?;
    let mut serving = naru.serve(&[])?;
    for (by, query) in [(Algorithm::Sha256, ""), (Algorithm::Sha512, "?digest-algorithm=sha512")] {
        let client = Client::new(&naru, &serving)?;
        let blob = bytes(&format!("cut {by:?}"), 3 << 20);
        let place = client.start("restart/app", query)?;
        let empty = client.start("restart/app", "")?;
        let acknowledged = 1 << 20;
        expect(&client.patch(&place, 0, &blob[..acknowledged])?, 202)?;
        // The second chunk comes half, and the server is killed while it waits for the rest.
        let mut stream = TcpStream::connect(serving.address())?;
        write!(
            stream,
            "PATCH {place} HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\nContent-Length: {}\r\n\r\n",
            client.bearer(),
            blob.len() - acknowledged
        )?;
        stream.write_all(&blob[acknowledged..2 << 20])?;
        let file = wait_until("bytes of the second chunk", || {
            let partial = std::fs::read_dir(naru.store().join("partial"))?;
            let files = partial.flatten().filter_map(|entry| entry.metadata().ok().map(|file| file.len()));
            Ok(files.max().filter(|length| *length > acknowledged as u64))
        })?;
        serving.daemon.kill()?;
        drop(stream);
        naru.ok(["fsck"])?;
        serving = naru.serve(&[])?;
        let client = Client::new(&naru, &serving)?;
        let there = length(&client, &place)?;
        ensure!(there as u64 >= file && there <= 2 << 20, "{there} of {file}");
        // Whose it is, is known too.
        let elsewhere = place.replace("restart/app", "restart/other");
        refused(&client.patch(&elsewhere, there, &blob[there..])?, 404, "BLOB_UPLOAD_UNKNOWN")?;
        let answer = client.patch(&place, there, &blob[there..there + 1000])?;
        expect(&answer, 202)?;
        reached(&answer, there + 999)?;
        let rest = client.put(&location(&answer)?, &by.of(&blob), &blob[there + 1000..])?;
        client.is_stored(&rest, &by.of(&blob), &blob)?;
        client.is_stored(&client.put(&empty, &by.of(b"late"), b"late")?, &by.of(b"late"), b"late")?;
        refused(&client.patch(&place, 0, b"x")?, 404, "BLOB_UPLOAD_UNKNOWN")?;
    }
    // One that nobody asked about for a day goes with its bytes; by the file's time, so that no restart keeps it.
    let client = Client::new(&naru, &serving)?;
    let (old, young) = (client.start("restart/app", "")?, client.start("restart/app", "")?);
    serving.daemon.kill()?;
    for entry in std::fs::read_dir(naru.store().join("partial"))?.flatten() {
        let id = old.rsplit('/').next().unwrap_or_default();
        if entry.file_name().to_string_lossy().contains(id) {
            let file = std::fs::File::options().write(true).open(entry.path())?;
            file.set_modified(file.metadata()?.modified()? - Duration::from_hours(25))?;
        }
    }
    let serving = naru.serve(&[])?;
    let client = Client::new(&naru, &serving)?;
    wait_until("the old upload is gone", || {
        let left = std::fs::read_dir(naru.store().join("partial"))?.count();
        Ok((left == 1).then_some(()))
    })?;
    refused(&client.patch(&old, 0, b"x")?, 404, "BLOB_UPLOAD_UNKNOWN")?;
    expect(&client.patch(&young, 0, b"x")?, 202)
}

/// What a client named by sha512 is packed, loaded, scrubbed and served by that name.
pub(crate) fn sha512_goes_across(folder: &Folder) -> Result<()> {
    let by = Algorithm::Sha512;
    let naru = Naru::new(folder, "outside")?;
    let serving = naru.serve(&[])?;
    let client = Client::new(&naru, &serving)?;
    let image = client.image("team/app", "across", by)?;
    client.push_manifest("team/app", None, &image, by)?;
    let over = index(&[&image], by);
    let digest = by.of(over.to_string().as_bytes());
    expect(&client.put_manifest("team/app", &format!("{digest}?tag=1"), &over)?, 201)?;
    drop(serving);
    naru.ok(["fsck"])?;
    let bundle = folder.join("bundle");
    let to = bundle.to_str().context("a path of our own")?;
    naru.ok(["pack", "--all", "-o", to])?;
    naru.ok(["verify", to])?;
    naru.ok(["export", "team/app:1", "-o", folder.join("archive.tar").to_str().context("a path of our own")?])?;

    let inside = Naru::new(folder, "inside")?;
    inside.load(&bundle)?;
    let serving = inside.serve(&[])?;
    let client = Client::new(&inside, &serving)?;
    client.shows("team/app", "1", &over, &digest)?;
    client.shows("team/app", &by.of(image.to_string().as_bytes()), &image, &by.of(image.to_string().as_bytes()))?;
    for blob in [&image["config"], &image["layers"][0], &image["layers"][1]] {
        let name = blob["digest"].as_str().context("a digest")?;
        let answer = client.get(&format!("/v2/team/app/blobs/{name}"))?;
        expect(&answer, 200)?;
        ensure!(by.of(&answer.body) == name, "other bytes");
    }
    Ok(())
}
