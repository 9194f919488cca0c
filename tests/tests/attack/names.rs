//! Paths that lead out of a store, spelled in every way, at every place where a name stands.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use journeys::Folder;

use crate::scene::{NAME, Scene};

const SECRET: &str = "what lies beside the store is nobody's";
/// The first bytes of the catalog.
const CATALOG: &str = "SQLite format 3";
/// What a path that leads out would make.
const MADE: &str = "naru-was-here";

pub(crate) fn steps(folder: &Folder, mut scene: Scene) -> Result<()> {
    let store = scene.naru.store().to_owned();
    std::fs::write(scene.naru.folder().join("secret"), SECRET)?;
    std::fs::write(store.join("secret"), SECRET)?;
    let spellings = spellings(&store);
    let outside = || files(folder.path(), &store);
    let before = outside()?;
    for (step, method, place) in [
        ("a repository's name, manifests", "GET", "/v2/{}/manifests/1"),
        ("a repository's name, blobs", "HEAD", "/v2/{}/blobs/sha256:0"),
        ("a repository's name, tags", "GET", "/v2/{}/tags/list"),
        ("a repository's name, a manifest that is pushed", "PUT", "/v2/{}/manifests/1"),
        ("a repository's name, an upload", "POST", "/v2/{}/blobs/uploads/"),
        ("a name below another", "GET", "/v2/app/{}/manifests/1"),
        ("a tag", "GET", "/v2/app/manifests/{}"),
        ("a tag that is pushed", "PUT", "/v2/app/manifests/{}"),
        ("a tag that is deleted", "DELETE", "/v2/app/manifests/{}"),
        ("a digest", "GET", "/v2/app/blobs/{}"),
        ("a digest behind its hash's name", "GET", "/v2/app/blobs/sha256:{}"),
        ("a digest in place of its hash's name", "GET", "/v2/app/blobs/{}:0"),
        ("a digest that is deleted", "DELETE", "/v2/app/blobs/{}"),
        ("a digest that is referred to", "GET", "/v2/app/referrers/{}"),
        ("a digest that ends an upload", "POST", "/v2/app/blobs/uploads/?digest={}"),
        ("a digest that is mounted", "POST", "/v2/app/blobs/uploads/?mount={}&from=app"),
        (
            "where a blob is mounted from",
            "POST",
            "/v2/app/blobs/uploads/?mount=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855&from={}",
        ),
        ("an upload's id, asked for", "GET", "/v2/app/blobs/uploads/{}"),
        ("an upload's id, gone on with", "PATCH", "/v2/app/blobs/uploads/{}"),
        (
            "an upload's id, ended",
            "PUT",
            "/v2/app/blobs/uploads/{}?digest=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ),
        ("an upload's id, given up", "DELETE", "/v2/app/blobs/uploads/{}"),
        ("ns", "GET", "/v2/app/manifests/1?ns={}"),
        ("a page's last name", "GET", "/v2/_catalog?last={}"),
        ("a file's host", "GET", "/files/{}/x"),
        ("a file's path", "GET", "/files/example.org/{}"),
        ("a path of ours", "GET", "/{}"),
        ("a client", "GET", "/setup/{}"),
        ("what is searched", "GET", "/?q={}"),
    ] {
        scene.step(step, |scene| {
            for spelling in &spellings {
                let place = [
                    place.split_once("{}").unwrap().0.as_bytes(),
                    spelling,
                    place.split_once("{}").unwrap().1.as_bytes(),
                ]
                .concat();
                ask(scene, method, &place, b"127.0.0.1")?;
            }
            Ok(())
        });
    }
    scene.step("Host", |scene| {
        for spelling in &spellings {
            for place in ["/", "/secret", "/v2/app/manifests/1", "/setup/containerd"] {
                ask(scene, "GET", place.as_bytes(), spelling)?;
            }
        }
        Ok(())
    });
    scene.step("nothing was written outside of the store", |_| {
        let after = outside()?;
        // The log of the server is the harness's.
        ensure!(after == before, "{:?}", after.symmetric_difference(&before).collect::<Vec<_>>());
        let inside = files(&store, Path::new("/nowhere"))?;
        ensure!(!inside.iter().any(|path| path.to_string_lossy().contains(MADE)), "a path in the store is a client's");
        Ok(())
    });
    scene.step("what was there is what it was", |scene| {
        let mut wire = scene.wire()?;
        wire.send(format!("GET /v2/{NAME}/manifests/1 HTTP/1.1\r\nHost: x\r\n\r\n"))?;
        ensure!(wire.answer()?.body == scene.manifest);
        Ok(())
    });
    scene.end()
}

fn spellings(store: &Path) -> Vec<Vec<u8>> {
    let mut spellings = Vec::new();
    for target in ["secret", "admin.token", "naru.db", "audit/audit.jsonl", MADE, "etc/passwd"] {
        let slashed =
            |up: &str, slash: &str| format!("{}{}", format!("{up}{slash}").repeat(3), target.replace('/', slash));
        spellings.extend(
            [
                target.to_owned(),
                format!("../{target}"),
                format!("../../{target}"),
                format!("./{target}"),
                format!("/{target}"),
                format!("//{target}"),
                format!("{}/{target}", store.display()),
                format!("file://{}/{target}", store.display()),
                slashed("..", "%2f"),
                slashed("%2e%2e", "/"),
                slashed("%2e%2e", "%2F"),
                slashed("%252e%252e", "%252f"),
                slashed("..", "\\"),
                slashed("..", "%5c"),
                slashed("....", "//"),
                slashed("..;", "/"),
                slashed("..%00", "/"),
                slashed("%c0%ae%c0%ae", "%c0%af"),
                slashed("%e0%80%ae%e0%80%ae", "%e0%80%af"),
                slashed("%uff0e%uff0e", "%u2215"),
                slashed("..%0d%0a", "/"),
                format!("{target}%00.txt"),
                format!("x%0d%0a{target}"),
                format!("app/..%2f..%2f{target}"),
                format!("app/../../{target}"),
            ]
            .map(String::into_bytes),
        );
        spellings.push([b"\xc0\xae\xc0\xae\xc0\xaf".as_slice(), target.as_bytes()].concat());
        spellings.push([b"..\x00/".as_slice(), target.as_bytes()].concat());
    }
    spellings
}

/// Asks as the admin, with a body where one is sent, and looks for what must not come.
fn ask(scene: &Scene, method: &str, place: &[u8], host: &[u8]) -> Result<()> {
    let mut wire = scene.wire()?;
    let body = if matches!(method, "PUT" | "POST" | "PATCH") { MADE } else { "" };
    let rest = format!("\r\n{}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", scene.bearer(), body.len());
    wire.send([method.as_bytes(), b" ", place, b" HTTP/1.1\r\nHost: ", host, rest.as_bytes()].concat())?;
    let answer = wire.rest()?;
    let shown =
        || format!("{method} {} of {}: {answer}", String::from_utf8_lossy(place), String::from_utf8_lossy(host));
    ensure!(answer.starts_with("HTTP/1.1 ") && !answer.starts_with("HTTP/1.1 5"), "{}", shown());
    for secret in [SECRET, CATALOG, scene.token.as_str(), "root:x:0"] {
        ensure!(!answer.contains(secret), "{}", shown());
    }
    // A line of ours is not broken by what stands in it.
    let head = answer.split("\r\n\r\n").next().unwrap_or_default();
    ensure!(!head.lines().any(|line| line.starts_with(MADE)), "{}", shown());
    Ok(())
}

/// Every file below a folder, but for one of its folders and the logs of the harness.
fn files(folder: &Path, but: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut left = vec![folder.to_owned()];
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(next)? {
            let path = entry?.path();
            if path == but {
                continue;
            }
            if path.is_dir() && !path.is_symlink() {
                left.push(path.clone());
            }
            found.insert(path);
        }
    }
    Ok(found)
}
