//! What cannot be understood or done: an exit code that is not 0, one error that names the thing, a hint, and nothing
//! changed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use journeys::image::{Family, Image, application, large};
use journeys::{
    Daemon, Fault, Faulty, Folder, Naru, Need, Nginx, Outcome, Registry, binary, digest_of, find, journey, run,
};

const REGISTRY: &[Need] = &[Need::Program("docker-registry"), Need::Program("busybox")];

/// The files below a folder, with what is in them.
fn content(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    if !folder.is_dir() {
        return Ok(found);
    }
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(content(&path)?);
        } else if path.is_file() {
            found.insert(path.display().to_string(), digest_of(&std::fs::read(&path)?));
        }
    }
    Ok(found)
}

/// An error in the house's form, that says each of `words`.
fn is_refusal(what: &str, outcome: &Outcome, words: &[&str]) -> Result<()> {
    let Outcome { status, stderr, stdout } = outcome;
    ensure!(!status.success(), "{what}: it ended well:\n{stdout}{stderr}");
    ensure!(status.code().is_some(), "{what}: {status}");
    let count = |start: &str| stderr.lines().filter(|line| line.starts_with(start)).count();
    ensure!(count("error: ") == 1, "{what}: not one error:\n{stderr}");
    ensure!(count("hint: ") == 1, "{what}: no hint:\n{stderr}");
    for word in words {
        ensure!(stderr.contains(word), "{what}: `{word}` is not named:\n{stderr}");
    }
    Ok(())
}

/// What was found wrong, all of it: one run tells everything.
#[derive(Default)]
struct Complaints(Vec<String>);

impl Complaints {
    fn note(&mut self, result: Result<()>) {
        if let Err(error) = result {
            self.0.push(format!("{error:#}"));
        }
    }

    fn end(self) -> Result<()> {
        ensure!(self.0.is_empty(), "{}", self.0.join("\n\n"));
        Ok(())
    }
}

/// `naru ARGUMENTS` is refused, and changes nothing in its folder.
fn refused<A: AsRef<OsStr>>(
    naru: &Naru,
    what: &str,
    arguments: impl IntoIterator<Item = A>,
    words: &[&str],
) -> Result<()> {
    let before = content(naru.folder())?;
    is_refusal(what, &naru.run(arguments)?, words)?;
    let after = content(naru.folder())?;
    ensure!(before == after, "{what}: something changed: {before:#?} {after:#?}");
    Ok(())
}

#[test]
fn packing_lists_that_make_no_sense() {
    journey("packing_lists_that_make_no_sense", &[], |folder| {
        let mut complaints = Complaints::default();
        let naru = Naru::new(folder, "outside")?;
        let sum = |digit: &str| digit.repeat(64);
        let cases: &[(&str, String, &[&str])] = &[
            ("malformed", "images: [a, b\nfiles: {".to_owned(), &["naru.yaml:"]),
            ("an unknown key", "imagse:\n- a.example/b:1\n".to_owned(), &["naru.yaml:1:1", "imagse", "images"]),
            (
                "an unknown key of an upstream",
                "upstreams:\n  a.example:\n    insecrue: true\n".to_owned(),
                &["naru.yaml:3", "insecrue", "insecure"],
            ),
            (
                "two digests for one name",
                format!("images:\n- a.example/b:1@sha256:{}\n- a.example/b:1@sha256:{}\n", sum("a"), sum("b")),
                &["2", "3", "a.example/b"],
            ),
            (
                "two sums for one path",
                format!(
                    "files:\n- {{ url: 'https://a.example/x', sha256: {} }}\n- {{ url: 'https://a.example/x', sha256: {} }}\n",
                    sum("a"),
                    sum("b")
                ),
                &["2", "3", "a.example/x"],
            ),
            ("no reference", "images:\n- a.example/Upper:1\n".to_owned(), &["naru.yaml:2", "a.example/Upper"]),
            ("no digest", "images:\n- a.example/b@sha256:12\n".to_owned(), &["naru.yaml:2", "sha256:12"]),
            ("no sum", "files:\n- { url: 'https://a.example/x', sha256: xyz }\n".to_owned(), &["naru.yaml:2", "xyz"]),
            (
                "a path that leaves",
                "files:\n- { url: 'https://a.example/x', path: ../../etc/passwd }\n".to_owned(),
                &[".."],
            ),
            ("no platform", "platforms: [linux]\nimages: [a.example/b]\n".to_owned(), &["naru.yaml:1", "linux"]),
            ("no platforms", "images: [a.example/b]\nplatforms: []\n".to_owned(), &["naru.yaml:2", "platform"]),
            ("no list of them", "platforms: linux/amd64\n".to_owned(), &["naru.yaml:1", "a list"]),
            ("a bare URL", "files: [https://a.example/x]\n".to_owned(), &["naru.yaml:1", "`url: "]),
            ("no host", "upstreams:\n  https://a.example: {}\n".to_owned(), &["naru.yaml:2", "not a host"]),
            ("two documents", "images: []\n---\nimages: []\n".to_owned(), &["naru.yaml:", "a second document"]),
            ("a device", "files:\n- path: /dev/null\n".to_owned(), &["/dev/null", "neither a file nor a folder"]),
            ("nothing there", "files:\n- path: nowhere.txt\n".to_owned(), &["nowhere.txt", "seen from"]),
        ];
        for (what, list, words) in cases {
            naru.list(list)?;
            complaints.note(refused(&naru, what, ["lock"], words));
            complaints.note(refused(&naru, what, ["pull"], words));
        }
        std::fs::write(naru.folder().join("naru.yaml"), b"images:\n- a.example/\xff\n")?;
        complaints.note(refused(&naru, "no UTF-8", ["lock"], &["naru.yaml:2:", "UTF-8"]));
        naru.list("# images:\n")?;
        let outcome = naru.ok(["lock"])?;
        ensure!(outcome.stderr.contains("wishes for nothing"), "{outcome:?}");
        complaints.note(refused(&naru, "nothing", ["pack", "-o", "bundle"], &["nothing to pack"]));
        naru.ok(["pull"])?;
        for all in ["--all", "--from-cache"] {
            complaints.note(is_refusal(all, &naru.run(["pack", all, "-o", "bundle"])?, &["nothing to pack"]));
        }
        std::fs::remove_file(naru.folder().join("naru.lock"))?;
        std::fs::remove_file(naru.folder().join("naru.yaml"))?;
        complaints.note(refused(&naru, "no list at all", ["lock"], &["naru.yaml"]));
        run("mkfifo", [naru.folder().join("naru.yaml")])?;
        complaints.note(refused(&naru, "a pipe", ["lock"], &["naru.yaml", "no file"]));
        complaints.note(refused(&naru, "a folder", ["lock", "-f", "."], &["no file"]));
        complaints.note(refused(&naru, "no folder for it", ["init", "-f", "no/such/x.yaml"], &["mkdir -p no/such"]));
        complaints.note(refused(&naru, "no configuration", ["serve", "--config", "nope"], &["nope"]));
        let outcome = naru.run(["ls", "--kind", "helm"])?;
        ensure!(outcome.status.code() == Some(2) && outcome.stderr.contains("image or file"), "{outcome:?}");
        complaints.end()
    });
}

#[test]
fn locks_that_are_not_what_naru_wrote() {
    journey("locks_that_are_not_what_naru_wrote", REGISTRY, |folder| {
        let mut complaints = Complaints::default();
        let registry = Registry::start(folder, "one")?;
        registry.push("library/app", "1", &application(folder, "lock")?)?;
        let naru = Naru::new(folder, "outside")?;
        naru.list(&format!("platforms: [linux/amd64]\nimages:\n- {}/library/app:1\n", registry.host()))?;
        naru.ok(["lock"])?;
        let path = naru.folder().join("naru.lock");
        let good = std::fs::read_to_string(&path)?;
        let at = good.find("sha256:").context("a lock names digests")? + "sha256:".len();
        let other = if good[at..].starts_with('0') { "1" } else { "0" };
        std::fs::write(&path, format!("{}{other}{}", &good[..at], &good[at + 1..]))?;
        complaints.note(refused(&naru, "a lock edited by hand", ["pull"], &["naru.lock", "edited by hand"]));
        std::fs::write(&path, "version: 1\nimages: [")?;
        complaints.note(refused(&naru, "a lock that is no document", ["pull"], &["naru.lock"]));
        std::fs::write(&path, good)?;
        naru.list(&format!("platforms: [linux/amd64]\nimages:\n- {}/library/other:1\n", registry.host()))?;
        complaints.note(refused(&naru, "a lock that does not cover the list", ["pull"], &["library/other"]));
        complaints.note(refused(&naru, "pack with it", ["pack", "-o", "bundle"], &["library/other"]));
        complaints.note(refused(&naru, "and --check", ["lock", "--check"], &["library/other"]));
        complaints.end()
    });
}

#[test]
fn upstreams_that_answer_nonsense() {
    journey("upstreams_that_answer_nonsense", &[Need::Program("nginx"), Need::Program("busybox")], |folder| {
        let mut complaints = Complaints::default();
        // nginx says whatever is in its files.
        let nginx = Nginx::start(folder, "files")?;
        let answer = |name: &str, bytes: &[u8]| -> Result<String> {
            let path = nginx.root().join(format!("v2/library/{name}/manifests"));
            std::fs::create_dir_all(&path)?;
            std::fs::write(path.join("1"), bytes)?;
            std::fs::write(path.join(digest_of(bytes)), bytes)?;
            Ok(format!("{}/library/{name}", nginx.host()))
        };
        let huge = format!("{{ \"schemaVersion\": 2, \"padding\": \"{}\" }}", "x".repeat(5 << 20));
        let cases = [
            ("huge", huge.into_bytes(), "4194304"),
            (
                "first",
                br#"{ "schemaVersion": 1, "name": "library/first", "tag": "1", "fsLayers": [], "history": [], "signatures": [] }"#.to_vec(),
                "schema 1",
            ),
            ("text", b"hello".to_vec(), "library/text"),
        ];
        for (name, bytes, word) in cases {
            let naru = Naru::new(folder, name)?;
            let repository = answer(name, &bytes)?;
            naru.list(&format!("platforms: [linux/amd64]\nimages:\n- {repository}:1\n"))?;
            let outcome = naru.run(["lock"])?;
            complaints.note(is_refusal(name, &outcome, &[&format!("library/{name}")]));
            let said = outcome.stderr.replace("schema1", "schema 1").replace("schemaVersion 1", "schema 1");
            if !said.to_lowercase().contains(&word.to_lowercase()) {
                complaints.note(Err(anyhow::anyhow!("{name}: `{word}` is not named: {said}")));
            }
            ensure!(!naru.folder().join("naru.lock").exists(), "{name}: a lock was written");
        }
        let naru = Naru::new(folder, "lies")?;
        let repository = answer("lies", b"{ \"schemaVersion\": 2 }")?;
        let pinned = digest_of(b"something else");
        std::fs::copy(
            nginx.root().join("v2/library/lies/manifests/1"),
            nginx.root().join(format!("v2/library/lies/manifests/{pinned}")),
        )?;
        naru.list(&format!("platforms: [linux/amd64]\nimages:\n- {repository}@{pinned}\n"))?;
        complaints.note(refused(&naru, "a manifest that is not what its digest says", ["lock"], &[&pinned]));
        complaints.end()
    });
}

#[test]
fn stores_that_cannot_be_used() {
    journey("stores_that_cannot_be_used", &[REGISTRY, &[Need::Root]].concat(), |folder| {
        let mut complaints = Complaints::default();
        let registry = Registry::start(folder, "one")?;
        registry.push(
            "library/app",
            "1",
            &Image::single(Family::Oci, "linux/amd64", &[large(folder, 20 << 20, 5)?]),
        )?;
        let slow = Faulty::before(&registry.host(), |_| Fault::Slow(2_000))?;
        let naru = Naru::new(folder, "outside")?;
        naru.list(&format!("platforms: [linux/amd64]\nimages:\n- {}/library/app:1\n", slow.host()))?;
        naru.ok(["lock"])?;

        // Held: a pull is under way.
        let mut pull = Daemon::start(&mut naru.command(["pull"]), &folder.join("pull.log"))?;
        pull.wait_for("the store", |_| naru.store().join("lock").exists().then_some(()))?;
        journeys::wait_until("the pull's requests", || {
            Ok(slow.seen().iter().any(|request| request.path.contains("/blobs/")).then_some(()))
        })?;
        let store = naru.store().display().to_string();
        complaints.note(is_refusal("held", &naru.run(["ls"])?, &[&store, "held"]));
        pull.kill()?;

        // A store that a newer naru wrote: the format is at byte 60 of an SQLite file.
        let newer = Naru::new(folder, "newer")?;
        newer.ok(["token", "new"])?;
        let catalog = std::fs::read_dir(newer.store())?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"SQLite format 3")));
        let mut file = std::fs::File::options().write(true).open(catalog.context("a catalog")?)?;
        file.seek(SeekFrom::Start(60))?;
        file.write_all(&99_u32.to_be_bytes())?;
        drop(file);
        complaints.note(is_refusal("newer", &newer.run(["ls"])?, &[&newer.store().display().to_string(), "99"]));

        // No permission: somebody else's store.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        std::fs::set_permissions(naru.store(), std::fs::Permissions::from_mode(0o700))?;
        let nobody = folder.make("nobody")?;
        let copy = nobody.join("naru");
        std::fs::copy(binary()?, &copy)?;
        let as_nobody = |arguments: &[&str], home: bool| {
            let mut command = Command::new(find("setpriv").context("setpriv is not here")?);
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy).args(arguments);
            command.env_clear().current_dir("/");
            if home {
                command.env("HOME", "/nonexistent");
            }
            Outcome::of(&mut command)
        };
        complaints.note(is_refusal("no permission", &as_nobody(&["ls", "--store", &store], true)?, &[&store]));
        complaints.note(is_refusal("HOME unset", &as_nobody(&["ls"], false)?, &["HOME", "--store"]));

        // No space: a store on a file system that is too small.
        let small = folder.make("small")?;
        run("mount", ["-t", "tmpfs", "-o", "size=6m", "small", small.to_str().context("a path of our own")?])?;
        let place = small.join("store");
        let pulled = naru.run(["pull".as_ref(), "--store".as_ref(), place.as_os_str()])?;
        complaints.note(is_refusal("no space", &pulled, &[]));
        run("umount", [small])?;
        complaints.end()
    });
}

#[test]
fn servers_that_cannot_begin() {
    journey("servers_that_cannot_begin", &[], |folder| {
        let mut complaints = Complaints::default();
        let naru = Naru::new(folder, "inside")?;
        let serving = naru.serve(&[])?;
        let other = Naru::new(folder, "other")?;
        let address = serving.address();
        complaints.note(is_refusal("a port in use", &other.run(["serve", "--listen", address])?, &[address]));
        complaints.note(is_refusal(
            "a store in use",
            &naru.run(["serve", "--listen", "127.0.0.1:0"])?,
            &[&naru.store().display().to_string()],
        ));
        complaints.note(is_refusal(
            "a certificate that is none",
            &other.run(["serve", "--listen", "127.0.0.1:0", "--cert", "/dev/null", "--key", "/dev/null"])?,
            &["/dev/null"],
        ));
        complaints.end()
    });
}

/// A bundle of one small image, packed by `naru`.
fn bundle(folder: &Folder, naru: &Naru, name: &str) -> Result<std::path::PathBuf> {
    let registry = Registry::start(folder, name)?;
    registry.push("library/app", "1", &application(folder, name)?)?;
    naru.list(&format!("platforms: [linux/amd64]\nimages:\n- {}/library/app:1\n", registry.host()))?;
    let bundle = folder.join(format!("bundle-{name}"));
    naru.pack(&bundle, &[])?;
    Ok(bundle)
}

#[test]
fn volumes_that_are_not_what_they_say() {
    journey("volumes_that_are_not_what_they_say", &[REGISTRY, &[Need::Program("tar")]].concat(), |folder| {
        let mut complaints = Complaints::default();
        let outside = Naru::new(folder, "outside")?;
        let good = std::fs::read(bundle(folder, &outside, "good")?.join("naru-0001.tar"))?;
        let inside = Naru::new(folder, "inside")?;
        // What only looks makes no store, and there shall be one that nothing is loaded into.
        inside.ok(["token", "new"])?;
        let mut wrong = |what: &str, bytes: &[u8], words: &[&str]| -> Result<()> {
            let path = folder.write(format!("{}/naru-0001.tar", what.replace(' ', "-")), bytes)?;
            let name = path.display().to_string();
            complaints.note(is_refusal(&format!("verify, {what}"), &outside.run(["verify", &name])?, words));
            complaints.note(is_refusal(&format!("load, {what}"), &inside.run(["load", &name])?, words));
            ensure!(inside.ok(["ls"])?.stdout.is_empty(), "{what}: something was loaded");
            inside.ok(["fsck"])?;
            Ok(())
        };
        wrong("not a tar", &[b'x'; 4096], &["naru-0001.tar"])?;
        wrong("empty", b"", &["naru-0001.tar"])?;
        wrong("cut in its head", &good[..700], &["naru-0001.tar"])?;
        let mut signed = good.clone();
        // The plan is the first member: another byte in it is another plan than the one that was signed.
        let at = signed.windows(9).position(|nine| nine == b"\"sha256\":").context("a plan names digests")? + 20;
        signed[at] = if signed[at] == b'0' { b'1' } else { b'0' };
        wrong("a plan that was changed", &signed, &["naru-0001.tar"])?;
        for (what, name, options) in [
            ("a path that leaves", "../../evil", &["--transform=s,.*,../../evil,"][..]),
            ("an absolute path", "/evil", &["--transform=s,.*,/evil,"][..]),
        ] {
            let tar = folder.join("evil.tar");
            let file = folder.write("file", "evil")?;
            let mut command = Command::new(find("tar").context("tar")?);
            command.arg("-P").args(options).arg("-cf").arg(&tar).arg(file);
            Outcome::of(&mut command)?.ok(what)?;
            wrong(what, &std::fs::read(&tar)?, &[])?;
            ensure!(
                !Path::new("/evil").exists() && !folder.join(name.trim_start_matches('/')).exists(),
                "{what}: written"
            );
        }

        // Cut in its middle: what is missing is named; and the whole volume finishes it later.
        let cut = folder.write("cut/naru-0001.tar", &good[..good.len() / 2])?;
        complaints.note(is_refusal("cut", &inside.run(["load".as_ref(), cut.as_os_str()])?, &["naru-0001.tar"]));
        ensure!(!inside.ok(["ls"])?.stdout.contains("library/app"), "cut: it is shown");

        // A key is trusted, and it is not this one.
        let picky = Naru::new(folder, "picky")?;
        picky.ok(["key", "new", "mine"])?;
        picky.ok(["key", "trust", "mine.pub"])?;
        let whole = folder.write("whole/naru-0001.tar", &good)?;
        complaints.note(is_refusal(
            "untrusted",
            &picky.run(["load".as_ref(), whole.as_os_str()])?,
            &["naru key trust"],
        ));
        ensure!(picky.ok(["ls"])?.stdout.is_empty(), "untrusted: something was loaded");
        inside.load(&whole)?;
        complaints.end()
    });
}
