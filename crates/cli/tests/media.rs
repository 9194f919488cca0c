//! What lies on a medium, and is not what it should be: it is named, and the rest goes on.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder in which commands run, with a home of its own.
struct Site(tempfile::TempDir);

impl Site {
    /// With three volumes and a parity file in `b`.
    fn with_bundle() -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        // Each file fills a volume.
        for (name, first) in [("f1", 1_u32), ("f2", 2), ("f3", 3)] {
            let bytes =
                (0..2_400_000_u32).flat_map(|at| at.wrapping_mul(2_654_435_761).wrapping_add(first).to_le_bytes());
            fs::write(site.at(name), bytes.collect::<Vec<_>>()).unwrap();
        }
        fs::write(site.at("naru.yaml"), "files: [{ path: ./f1 }, { path: ./f2 }, { path: ./f3 }]\n").unwrap();
        site.does(0, &["pull"], &[]);
        site.pack("b");
        site
    }

    fn pack(&self, out: &str) -> String {
        self.does(0, &["pack", "-o", out, "--volume-size", "12MiB", "--parity", "1"], &["volumes   3"])
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A copy of the bundle, without the parity.
    fn copy(&self, name: &str) -> PathBuf {
        let copy = self.at(name);
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(self.at("b")).unwrap() {
            let name = entry.unwrap().file_name();
            if !name.as_bytes().starts_with(b"naru-parity") {
                fs::copy(self.at("b").join(&name), copy.join(&name)).unwrap();
            }
        }
        copy
    }

    fn run<A: AsRef<OsStr>>(&self, arguments: &[A]) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_naru"))
            .args(arguments)
            .env_clear()
            .env("NARU_STORE", self.at("store"))
            .current_dir(self.0.path())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (output.status.code(), text.concat())
    }

    /// A command ends with that code, and says each of these words.
    fn does<A: AsRef<OsStr> + std::fmt::Debug>(&self, code: i32, arguments: &[A], words: &[&str]) -> String {
        let (found, said) = self.run(arguments);
        assert_eq!(found, Some(code), "{arguments:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{arguments:?}: no `{word}` in {said}");
        }
        said
    }
}

fn flip(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn a_volume_that_lies_there_is_kept_only_when_it_is_right() {
    let site = Site::with_bundle();
    assert_eq!(site.pack("b").matches("(was there)").count(), 3);
    let whole = fs::read(site.at("b/naru-0002.tar")).unwrap();
    // In a member, in a header of the tar, in the signature's member, and in the padding at the end.
    for at in [5_000_000, 520, whole.len() as u64 - 3] {
        flip(&site.at("b/naru-0002.tar"), at);
        assert_eq!(site.pack("b").matches("(was there)").count(), 2, "byte {at}");
        assert!(fs::read(site.at("b/naru-0002.tar")).unwrap() == whole, "byte {at}");
    }
}

#[test]
fn what_has_a_volumes_name_is_damaged_and_not_missing() {
    let site = Site::with_bundle();
    let copy = site.copy("c");
    fs::File::options().write(true).open(copy.join("naru-0002.tar")).unwrap().write_all_at(&[0; 512], 0).unwrap();
    site.does(3, &["verify", "c"], &["DAMAGED  c/naru-0002.tar", "volumes   2 of 3"]);
    site.does(3, &["load", "c", "--store", "s1"], &["DAMAGED  c/naru-0002.tar", "2 whole"]);
    fs::write(copy.join("naru-0001.tar"), "").unwrap();
    site.does(3, &["verify", "c"], &["DAMAGED  c/naru-0001.tar", "DAMAGED  c/naru-0002.tar", "volumes   1 of 3"]);
    site.does(0, &["report", "c"], &["local/f2"]);
    fs::write(copy.join("naru-0002.tar"), "").unwrap();
    fs::write(copy.join("naru-0003.tar"), "").unwrap();
    site.does(3, &["verify", "c"], &["naru-0001.tar", "naru-0002.tar", "naru-0003.tar"]);
    // A parity file that is damaged keeps no volume out.
    let copy = site.copy("d");
    fs::write(copy.join("naru-parity-01.tar"), "x").unwrap();
    site.does(3, &["verify", "d"], &["DAMAGED  d/naru-parity-01.tar", "3 whole"]);
    site.does(0, &["load", "d", "--store", "s2"], &["naru-parity-01.tar", "3 whole"]);
    fs::create_dir(site.at("p")).unwrap();
    fs::copy(site.at("b/naru-parity-01.tar"), site.at("p/naru-parity-01.tar")).unwrap();
    site.does(1, &["load", "p", "--store", "s3"], &["1 of 1 parity files lie there, and none of the 3", "one folder"]);
}

#[test]
fn what_lies_beside_the_volumes_is_hashed_too() {
    let site = Site::with_bundle();
    site.does(0, &["verify", "b"], &["whole: bundle"]);
    let copy = site.copy("c");
    flip(&copy.join("naru"), 100_000);
    fs::remove_file(copy.join("CONTENTS.csv")).unwrap();
    let said = site.does(3, &["verify", "c"], &["DAMAGED  c/naru:", "without it: CONTENTS.csv", "NOT WHOLE"]);
    assert!(!said.contains("DAMAGED  c/README"), "{said}");
    // Nobody signed that list: what it names elsewhere is not read.
    let sums = format!("{}  ../f1\n{}  /etc/passwd\n", "0".repeat(64), "0".repeat(64));
    fs::write(copy.join("SHA256SUMS"), sums).unwrap();
    site.does(0, &["verify", "c"], &["whole: bundle"]);
    // The same volumes twice are no more volumes.
    site.does(0, &["verify", "b", "b", "b/naru-0001.tar", "c"], &["volumes   3 of 3"]);
}

#[test]
fn a_pipe_is_not_waited_for() {
    let site = Site::with_bundle();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let path = site.at("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    for verb in ["load", "verify", "report"] {
        site.does(1, &[verb, "pipe"], &["error: pipe is a pipe, and must be a file", "hint: "]);
    }
}

#[test]
fn a_load_of_nothing_is_an_error() {
    let site = Site(tempfile::tempdir().unwrap());
    fs::create_dir_all(site.at("empty/blobs")).unwrap();
    fs::write(site.at("empty/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(site.at("empty/index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
    site.does(1, &["load", "empty"], &["empty is a layout with no image in it"]);
    fs::create_dir(site.at("folder")).unwrap();
    let packed =
        Command::new("tar").args(["-cf", "folder/a.tar", "empty/oci-layout"]).current_dir(site.0.path()).status();
    assert!(packed.unwrap().success());
    site.does(1, &["load", "folder"], &["folder/a.tar is an archive with no image in it"]);
    site.does(0, &["image", "-o", "naru.tar"], &[]);
    site.does(0, &["load", "naru.tar", "naru.tar"], &["images    1"]);
    site.does(2, &["load", "naru.tar", "--until-whole"], &["--watch"]);
    site.does(1, &["image", "-o", "folder"], &["folder"]);
    site.does(2, &["load", "naru.tar", "--as", "image:Foo/Bar:1"], &["lower case"]);
}

#[test]
fn the_key_of_a_bundle_can_be_trusted() {
    let site = Site::with_bundle();
    let said = site.does(0, &["load", "b", "--store", "s"], &["naru key trust RW"]);
    let key = said.split("naru key trust ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    assert!(fs::read_to_string(site.at("b/README.txt")).unwrap().contains(key));
    site.does(0, &["verify", "b", "--store", "s"], &[key]);
    for volume in ["b", "b/naru-0002.tar", key] {
        site.does(0, &["key", "trust", volume, "--name", "them", "--store", "s"], &["trusted: them"]);
        site.does(0, &["load", "b", "--store", "s"], &["them, trusted"]);
        site.does(0, &["key", "distrust", "them", "--store", "s"], &[]);
    }
    site.does(1, &["key", "trust", "f1", "--store", "s"], &["not a key"]);
}

#[test]
fn verify_needs_no_store() {
    let site = Site::with_bundle();
    let naru = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_naru"));
        command.env_clear().current_dir(site.0.path());
        command
    };
    // Root has a store without a home: a store in nobody's hands is the same.
    fs::create_dir(site.at("foreign")).unwrap();
    fs::write(site.at("foreign/naru.db"), "no database").unwrap();
    let output = naru().args(["verify", "b", "--store", "foreign"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("no key is known here"), "{said}");
    let output = naru().args(["receipt", "-o", "-", "--store", "store"]).output().unwrap();
    assert!(output.status.success() && !site.at("-").exists());
    fs::write(site.at("receipt"), &output.stdout).unwrap();
    site.does(0, &["verify", "b", "--receipt", "receipt"], &["whole"]);
}

#[test]
fn paths_that_are_not_utf8_end_nothing() {
    let site = Site::with_bundle();
    let odd = |name: &str| PathBuf::from(OsStr::from_bytes(&[b"\xff", name.as_bytes()].concat()));
    let bundle = odd("bundle");
    let [o, list, repair] = ["-o", "-f", "--repair"].map(PathBuf::from);
    let verb = |verb: &str| PathBuf::from(verb);
    site.does(0, &[verb("pack"), o.clone(), bundle.clone(), verb("--parity"), verb("1")], &["bundle.tar"][..0]);
    site.does(0, &[verb("verify"), bundle.clone()], &["whole"]);
    fs::write(site.at("b/naru-0001.tar"), "").unwrap();
    site.does(0, &[verb("verify"), verb("b"), repair, odd("back")], &["rebuilt"]);
    site.does(0, &[verb("load"), bundle, verb("--store"), verb("s")], &["loaded"]);
    site.does(0, &[verb("image"), o.clone(), odd("i.tar")], &["i.tar"]);
    site.does(0, &[verb("load"), odd("i.tar")], &["images    1"]);
    let name = concat!("naru:", env!("CARGO_PKG_VERSION"));
    site.does(0, &[verb("export"), verb(name), o, odd("e.tar")], &["e.tar"]);
    site.does(0, &[verb("init"), list.clone(), odd("list.yaml")], &["list.yaml"]);
    fs::write(site.at("naru.yaml"), "files: [{ path: ./f1 }]\n").unwrap();
    fs::copy(site.at("naru.yaml"), site.0.path().join(odd("list.yaml"))).unwrap();
    site.does(0, &[verb("lock"), list, odd("list.yaml")], &["1 files"]);
    site.does(0, &[verb("key"), verb("new"), odd("key")], &["fingerprint"]);
    site.does(1, &[verb("load"), odd("i.tar"), verb("--store"), odd("store")], &["not UTF-8", "--store"]);
}

#[test]
fn what_names_nothing_is_said() {
    let site = Site::with_bundle();
    site.does(2, &["report", "naru.yaml"], &["neither a lock nor a volume", "naru.lock"]);
    site.does(1, &["pack", "-o", "naru.yaml"], &["a file lies there"]);
    let want = format!("# naru want-list 1\n# bundle {}\n", "0".repeat(64));
    fs::write(site.at("want.txt"), want).unwrap();
    site.does(2, &["pack", "--want", "want.txt", "-o", "w"], &["want.txt", "lists nothing"]);
}
