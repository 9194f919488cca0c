use std::io::{BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use artifact::Trust;

use super::*;
use crate::document::{HEAD, MEMBERS, SIGNATURE};
use crate::plan::{Cargo, Item, LaidVolume, Source};
use crate::tree::Tree;
use crate::{SecretKey, tar};

fn item(kind: &str, digest: Digest, bytes: Vec<u8>) -> Item {
    let name = format!("{kind}/sha256/{}", digest.hex());
    let member = Member { name, size: bytes.len() as u64, offset: 0, sha256: digest, part: None };
    Item { member, source: Source::Bytes(bytes.into()) }
}

fn write(volume: &LaidVolume, path: &Path) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    let mut at = 0;
    let mut put = |name: &str, bytes: &[u8]| {
        let header = tar::header(name, bytes.len() as u64, at);
        let padding = tar::padded(bytes.len() as u64) - bytes.len() as u64;
        file.write_all(&header).unwrap();
        file.write_all(bytes).unwrap();
        file.write_all(&vec![0; usize::try_from(padding).unwrap()]).unwrap();
        at += header.len() as u64 + bytes.len() as u64 + padding;
    };
    put(HEAD, &volume.head);
    put(SIGNATURE, &volume.signature);
    put(MEMBERS, &volume.list);
    for item in &volume.items {
        let Source::Bytes(bytes) = &item.source else { panic!("from memory all") };
        put(&item.member.name, bytes);
    }
    file.write_all(&[0; 1024]).unwrap();
    file.flush().unwrap();
}

fn content(n: usize) -> Vec<u8> {
    format!("file {n}\n").into_bytes()
}

/// A bundle of `count` tiny files at three hosts, in volumes of `limit` bytes.
fn generate(folder: &Path, count: usize, limit: Option<u64>) -> Vec<PathBuf> {
    let hosts = ["a.example", "b.example", "c.example"];
    let mut trees: Vec<Tree> = hosts.iter().map(|host| Tree::new(Repository::files(*host))).collect();
    let mut blobs = Vec::new();
    for n in 0..count {
        let bytes = content(n);
        let digest = Digest::of(&bytes);
        let name = format!("pool/{:03}/file-{n:07}.txt", n % 997);
        let (size, origin) = (bytes.len() as u64, format!("https://{}/{name}", hosts[n % 3]));
        let entry = Entry { name: name.clone(), digest, size, seen: 7, origin, trust: Trust::FirstUse };
        trees[n % 3].entries.insert(name, entry);
        blobs.push(item("blobs", digest, bytes));
    }
    let (mut heads, mut documents) = (Vec::new(), Vec::new());
    for tree in &trees {
        let bytes = tree.to_bytes();
        let head = tree.head(&bytes);
        documents.push(item("trees", head.digest, bytes));
        heads.push(head);
    }
    let key = SecretKey::from_seed(&[1; 32]).unwrap();
    let cargo = Cargo { trees: heads, documents, blobs, assumes: Vec::new(), limit, suffix: ".tar", key: &key };
    let layout = plan::lay(cargo, |_, _, _| panic!("nothing is cut")).unwrap();
    let paths = layout.volumes.iter().map(|volume| {
        let path = folder.join(&volume.name);
        write(volume, &path);
        path
    });
    paths.collect()
}

fn bytes_of(lying: &Lying) -> Vec<u8> {
    let mut all = Vec::new();
    for Extent { file, offset, size, .. } in &lying.pieces {
        let mut bytes = vec![0; usize::try_from(*size).unwrap()];
        file.read_exact_at(&mut bytes, *offset).unwrap();
        all.extend(bytes);
    }
    all
}

/// `NARU_MEMBERS=1000000 NARU_MEMBERS_OUT=DIR` makes a large one to measure `naru serve --bundle` with.
#[test]
fn every_file_of_many_is_found() {
    let count = std::env::var("NARU_MEMBERS").map_or(20_000, |count| count.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let out = std::env::var_os("NARU_MEMBERS_OUT").map_or(folder.path().to_owned(), PathBuf::from);
    generate(&out, count, None);
    let shelf = Shelf::open(&[out], &[]).unwrap();
    assert_eq!((shelf.volumes(), shelf.usage().entries.cast_unsigned()), ((1, 1), count as u64));
    let hosts = ["a.example", "b.example", "c.example"].map(Repository::files);
    for n in (0..count).step_by(count / 500) {
        let (repository, name) = (&hosts[n % 3], format!("pool/{:03}/file-{n:07}.txt", n % 997));
        let entry = shelf.entry(repository, &name).unwrap().unwrap();
        let lying = shelf.granted_blob(repository, &entry.digest).unwrap().unwrap();
        assert_eq!(bytes_of(&lying), content(n));
        assert_eq!(shelf.entry(repository, &format!("{name}x")).unwrap(), None);
        assert_eq!(shelf.entry(&hosts[(n + 1) % 3], &name).unwrap(), None);
    }
    // Page by page, as a server lists a folder.
    let (mut seen, mut after) = (0, String::new());
    loop {
        let page = shelf.entries(&hosts[1], &after, 1000).unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.is_sorted_by(|one, other| one.name < other.name) && page[0].name > after);
        after.clone_from(&last.name);
        seen += page.len();
    }
    assert_eq!(seen, (count + 1) / 3);
    assert_eq!(shelf.search("FILE-0000012", 10).unwrap().len(), 1);
    assert_eq!(shelf.hosts(Kind::File), ["a.example", "b.example", "c.example"]);
    assert_eq!(shelf.entry(&Repository::files("d.example"), "x").unwrap(), None);
}

#[test]
fn a_missing_volume_is_named_by_what_it_holds_and_a_damaged_one_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let paths = generate(folder.path(), 40_000, Some(40 << 20));
    assert!(paths.len() > 2, "{} volumes", paths.len());
    let whole = Shelf::open(&paths, &[]).unwrap();
    let repository = Repository::files("a.example");
    let all = whole.entries(&repository, "", 1_000_000).unwrap();

    // Not the second; and the first has lost what follows its head, as a bad stick loses it.
    let mut some = paths.clone();
    some.remove(1);
    let file = File::options().write(true).open(&paths[0]).unwrap();
    let head = tar::read(0, |at, buffer| File::open(&paths[0])?.read_exact_at(buffer, at)).unwrap().unwrap().unwrap();
    for at in (head.offset + head.size + 8192..file.metadata().unwrap().len()).step_by(16384) {
        file.write_all_at(b"!", at).unwrap();
    }
    let shelf = Shelf::open(&some, &[]).unwrap();
    let missing: Vec<(u32, Share)> = shelf.missing().collect();
    assert_eq!((missing.len(), missing[0].0), (1, 2));
    let (names, more) = shelf.held_by(2, 3).unwrap();
    assert!(!names.is_empty() && more, "{names:?}");
    let mut elsewhere = 0;
    for entry in all.iter().step_by(50) {
        match shelf.entry(&repository, &entry.name) {
            Ok(found) => assert_eq!(found.as_ref(), Some(entry)),
            Err(Error::Elsewhere { names, .. }) => {
                assert_eq!(names, ["naru-0002"]);
                elsewhere += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(elsewhere > 10 && elsewhere < all.len() / 50, "{elsewhere} of {}", all.len());
    // Neither of those that say what there is.
    let error = Shelf::open(&paths[1..2], &[]).unwrap_err();
    assert!(error.to_string().contains("the first and in the last"), "{error}");
    let stranger = SecretKey::generate().unwrap().public();
    let trusted = [Trusted { name: "stranger".to_owned(), key: stranger }];
    assert!(matches!(Shelf::open(&paths, &trusted).unwrap_err(), Error::Untrusted { .. }));
}
