//! Only what a site lacks goes across, and a site that lacks more than was thought says so.

#![expect(clippy::unwrap_used, reason = "a test may")]

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use artifact::{Digest, Entry, Repository, Selection, Silent, Trust, media_type};
use bundle::{Error, LoadOptions, Loaded, PackOptions, Packed, Receipt, Since, Volume, WantList};
use bytes::Bytes;
use serde_json::json;
use store::{Change, Store};

fn descriptor(kind: &str, bytes: &[u8]) -> serde_json::Value {
    json!({"mediaType": kind, "digest": Digest::of(bytes), "size": bytes.len()})
}

fn put(store: &Store, bytes: &[u8]) -> store::NewBlob {
    let mut writer = store.writer(Some(&Digest::of(bytes))).unwrap();
    writer.write(bytes).unwrap();
    writer.finish().unwrap()
}

/// An image whose layers are these texts, under `a.io/NAME:1`.
async fn image(store: &Store, name: &str, seen: i64, layers: &[&[u8]]) -> Digest {
    let repository = Repository::image("a.io", name);
    let layers_of: Vec<_> = layers.iter().map(|layer| descriptor(media_type::OCI_LAYER_GZIP, layer)).collect();
    let manifest: Bytes = serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": descriptor(media_type::OCI_CONFIG, b"{}"), "layers": layers_of}))
    .unwrap()
    .into();
    let digest = Digest::of(&manifest);
    let mut change = Change::new();
    for layer in layers.iter().copied().chain([b"{}".as_slice()]) {
        change.blob(Some(&repository), put(store, layer));
    }
    change.manifest(&repository, &digest, manifest, "", HashSet::new());
    let entry = Entry { name: "1".into(), digest, size: 1, seen, origin: "o".into(), trust: Trust::Tag };
    change.entry(&repository, entry);
    store.apply(change).await.unwrap();
    digest
}

async fn pack(store: &Store, out: &Path, since: Vec<Since>) -> Packed {
    let options = PackOptions { out: out.to_owned(), suffix: ".tar".into(), since, ..PackOptions::default() };
    bundle::pack(store, &Selection::All, options, Arc::new(Silent)).await.unwrap()
}

async fn load(store: &Store, volume: &Path) -> Vec<Loaded> {
    let files = vec![(volume.to_owned(), File::open(volume).unwrap())];
    bundle::load(store, files, &LoadOptions::default(), Arc::new(Silent)).await.unwrap()
}

/// The blobs and manifests that a volume carries.
fn carried(volume: &Path) -> HashSet<String> {
    let members = Volume::open(volume).unwrap().head.members;
    let names = members.into_iter().map(|member| member.name);
    names.filter(|name| name.starts_with("blobs/") || name.starts_with("manifests/")).collect()
}

fn since(path: &Path) -> Since {
    Since::File(path.to_owned(), File::open(path).unwrap())
}

async fn receipt(store: &Store, path: &Path) -> Receipt {
    let (receipt, bytes) = Receipt::write(store).await.unwrap();
    std::fs::write(path, bytes).unwrap();
    receipt
}

async fn store(folder: &Path, name: &str) -> Store {
    Store::open(&folder.join(name)).await.unwrap()
}

fn volume(packed: &Packed) -> PathBuf {
    packed.volumes[0].path.clone()
}

#[tokio::test]
async fn only_what_every_site_has_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (outside, one, two) = (store(folder, "outside").await, store(folder, "one").await, store(folder, "two").await);
    image(&outside, "base", 1, &[b"base"]).await;
    let first = pack(&outside, &folder.join("first"), Vec::new()).await;
    load(&one, &volume(&first)).await;
    image(&outside, "app", 1, &[b"base", b"app"]).await;
    let second = pack(&outside, &folder.join("second"), Vec::new()).await;
    load(&two, &volume(&second)).await;
    let top = image(&outside, "top", 1, &[b"base", b"app", b"top"]).await;

    let (first_receipt, second_receipt) = (folder.join("one.receipt"), folder.join("two.receipt"));
    let written = receipt(&one, &first_receipt).await;
    assert_eq!(written.bundle, Some(first.id));
    assert_eq!(one.document("receipt/in-force").await.unwrap(), Some(std::fs::read(&first_receipt).unwrap()));
    receipt(&two, &second_receipt).await;
    let both = pack(&outside, &folder.join("both"), vec![since(&first_receipt), since(&second_receipt)]).await;
    let names = carried(&volume(&both));
    let has = |text: &[u8]| names.iter().any(|name| name.contains(&Digest::of(text).hex()));
    assert!(has(b"top") && has(b"app") && !has(b"base") && !has(b"{}"), "{names:?}");
    // Base's config and layer, and its manifest.
    assert_eq!(both.assumed.0, 3);

    // The words of what a store remembers do as well, and so does the bundle that was sent.
    let words = format!("{} {}", written.generation, bundle::words(&written.id));
    assert_eq!(words, written.short());
    for (number, same) in
        [Since::Words(words.to_uppercase()), Since::Words(first.words.clone()), since(&volume(&first))]
            .into_iter()
            .enumerate()
    {
        let out = folder.join(format!("again-{number}"));
        assert_eq!(pack(&outside, &out, vec![same, since(&second_receipt)]).await.id, both.id);
    }
    let options = |words: String| PackOptions {
        out: folder.join("x"),
        suffix: ".tar".into(),
        since: vec![Since::Words(words)],
        ..PackOptions::default()
    };
    let wrong = format!("{} {}", written.generation + 1, bundle::words(&written.id));
    for (text, is_known) in [(wrong, true), (bundle::words(&Digest::of(b"?")), false)] {
        let refused = bundle::pack(&outside, &Selection::All, options(text), Arc::new(Silent)).await.unwrap_err();
        assert_eq!(matches!(refused, Error::Receipt { .. }), is_known, "{refused}");
        assert_eq!(matches!(refused, Error::NotRemembered { .. }), !is_known, "{refused}");
    }

    for site in [&one, &two] {
        let loaded = load(site, &volume(&both)).await.remove(0);
        assert!(loaded.pending.is_none(), "{:?}", loaded.pending);
        assert_eq!(loaded.assumed, (3, 0));
        let entry = site.entry(&Repository::image("a.io", "top"), "1").await.unwrap().unwrap();
        assert_eq!(entry.digest, top);
        assert!(site.fsck(false, Arc::new(Silent)).await.unwrap().findings.is_empty());
        assert!(site.documents("bundle/").await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn verify_counts_what_is_assumed_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (outside, site, empty) =
        (store(folder, "outside").await, store(folder, "site").await, store(folder, "empty").await);
    image(&outside, "base", 1, &[b"base"]).await;
    let first = pack(&outside, &folder.join("first"), Vec::new()).await;
    load(&site, &volume(&first)).await;
    image(&outside, "app", 1, &[b"base", b"app"]).await;
    let (of_site, of_empty) = (folder.join("site.receipt"), folder.join("empty.receipt"));
    let (of_site_read, of_empty_read) = (receipt(&site, &of_site).await, receipt(&empty, &of_empty).await);
    let packed = pack(&outside, &folder.join("difference"), vec![since(&of_site)]).await;
    let verify = async |receipt: Option<Receipt>| {
        bundle::verify_for(&[volume(&packed)], &[], receipt, Arc::new(Silent)).await.unwrap()
    };
    for receipt in [None, Some(of_site_read)] {
        let verified = verify(receipt).await;
        assert!(verified.is_whole(), "{verified:?}");
        assert_eq!((verified.assumed.0, verified.entries), (3, 2));
    }
    let verified = verify(Some(of_empty_read)).await;
    assert!(!verified.is_whole());
    let base = Digest::of(b"base").to_string();
    assert!(verified.missing.iter().any(|text| text.contains(&base)), "{:?}", verified.missing);
}

#[tokio::test]
async fn a_site_that_lacks_what_was_assumed_asks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (outside, site) = (store(folder, "outside").await, store(folder, "site").await);
    image(&outside, "base", 1, &[b"base"]).await;
    let first = pack(&outside, &folder.join("first"), Vec::new()).await;
    image(&outside, "app", 1, &[b"base", b"app"]).await;
    // The first bundle never arrived.
    let difference = pack(&outside, &folder.join("difference"), vec![since(&volume(&first))]).await;
    let loaded = load(&site, &volume(&difference)).await.remove(0);
    assert_eq!(loaded.assumed, (3, 3));
    assert_eq!(loaded.pending.unwrap().entries, Some(2));
    assert!(site.entry(&Repository::image("a.io", "app"), "1").await.unwrap().is_none());
    let path = loaded.want.unwrap();
    let want = WantList::read(&path).unwrap();
    assert_eq!((want.bundle, want.things.len()), (difference.id, 3));
    assert!(want.names().contains("a.io/app:1"), "{want:?}");

    let options =
        PackOptions { out: folder.join("wanted"), suffix: ".tar".into(), want: Some(want), ..PackOptions::default() };
    let wanted = bundle::pack(&outside, &Selection::All, options, Arc::new(Silent)).await.unwrap();
    assert_eq!(carried(&volume(&wanted)).len(), 3);
    let finished = load(&site, &volume(&wanted)).await;
    // What was waiting is finished by what arrived, though it is another bundle's.
    assert!(finished.iter().all(|loaded| loaded.pending.is_none()), "{finished:?}");
    assert!(finished.iter().any(|loaded| loaded.id == difference.id.hex()));
    for name in ["base", "app"] {
        assert!(site.entry(&Repository::image("a.io", name), "1").await.unwrap().is_some(), "{name}");
    }
    assert!(site.fsck(false, Arc::new(Silent)).await.unwrap().findings.is_empty());
    assert!(site.documents("bundle/").await.unwrap().is_empty());
    assert!(!path.exists(), "a want-list goes with its bundle");
}

/// A gateway's scanner unpacks a volume, and packs what it lets through.
#[tokio::test]
async fn a_member_that_was_taken_out_is_named_and_sent_for() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (outside, site) = (store(folder, "outside").await, store(folder, "site").await);
    image(&outside, "base", 1, &[b"base"]).await;
    let other = vec![7; 3 << 20];
    image(&outside, "app", 1, &[b"app", &other]).await;
    let packed = pack(&outside, &folder.join("medium"), Vec::new()).await;
    let member = format!("blobs/sha256/{}", Digest::of(b"app").hex());
    let path = volume(&packed);
    let unpacked = folder.join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    let tar = |arguments: &[&str]| {
        let output = std::process::Command::new("tar").args(arguments).current_dir(&unpacked).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let name = path.to_str().unwrap();
    let listed = tar(&["-tf", name]);
    tar(&["-xf", name]);
    let kept: Vec<&str> = listed.lines().filter(|line| *line != member).collect();
    tar(&[["-cf", name, "--format=ustar", "--no-recursion"].as_slice(), &kept].concat());
    let verified = bundle::verify(std::slice::from_ref(&path), &[], Arc::new(Silent)).await.unwrap();
    assert!(verified.damage.iter().any(|text| text.contains(&member) && text.contains("taken out")), "{verified:?}");
    assert!(verified.rewritten[0].contains("another program"), "{verified:?}");
    let loaded = load(&site, &path).await.remove(0);
    assert!(loaded.damage[0].contains(&member), "{:?}", loaded.damage);
    assert_eq!(loaded.pending.unwrap().entries, Some(1));
    assert!(site.entry(&Repository::image("a.io", "base"), "1").await.unwrap().is_some());
    let want = WantList::read(&loaded.want.unwrap()).unwrap();
    assert_eq!(want.things.keys().collect::<Vec<_>>(), [&Digest::of(b"app")]);
    let options =
        PackOptions { out: folder.join("wanted"), suffix: ".tar".into(), want: Some(want), ..PackOptions::default() };
    let wanted = bundle::pack(&outside, &Selection::All, options, Arc::new(Silent)).await.unwrap();
    assert_eq!(carried(&volume(&wanted)), HashSet::from([member]));
    assert!(load(&site, &volume(&wanted)).await.iter().all(|loaded| loaded.pending.is_none()));
    assert!(site.entry(&Repository::image("a.io", "app"), "1").await.unwrap().is_some());
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..length).map(step).collect()
}

/// Four volumes or more of 10 MiB, and two parity files.
async fn covered(folder: &Path) -> (Packed, PathBuf) {
    let outside = store(folder, "outside").await;
    let (one, two) = (noise(1, 26 << 20), noise(2, 9 << 20));
    image(&outside, "large", 1, &[&one, &two, b"small"]).await;
    let out = folder.join("medium");
    let options = PackOptions {
        out: out.clone(),
        suffix: ".tar".into(),
        volume_size: Some(10 << 20),
        parity: 2,
        ..PackOptions::default()
    };
    let packed = bundle::pack(&outside, &Selection::All, options, Arc::new(Silent)).await.unwrap();
    assert!(packed.of >= 4 && packed.parity.len() == 2, "{packed:?}");
    // All of it fits where a volume fits.
    assert!(packed.volumes.iter().chain(&packed.parity).all(|file| file.size <= 10 << 20), "{packed:?}");
    (packed, out)
}

async fn load_all(store: &Store, folder: &Path) -> Loaded {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "tar"));
    let files = files.map(|path| (path.clone(), File::open(path).unwrap())).collect();
    bundle::load(store, files, &LoadOptions::default(), Arc::new(Silent)).await.unwrap().remove(0)
}

#[tokio::test]
async fn lost_and_damaged_volumes_come_back_from_parity() {
    let folder = tempfile::tempdir().unwrap();
    let (packed, out) = covered(folder.path()).await;
    let verify = async || bundle::verify(std::slice::from_ref(&out), &[], Arc::new(Silent)).await.unwrap();
    let verified = verify().await;
    assert!(verified.is_whole() && verified.parity == (0, 2), "{verified:?}");
    assert!(std::fs::read_to_string(out.join("SHA256SUMS")).unwrap().contains("naru-parity-02.tar"));

    // The one with the list goes, and another has a bit flipped in the middle.
    let (gone, hurt) = (&packed.volumes[0].path, &packed.volumes[2].path);
    let kept = std::fs::read(gone).unwrap();
    std::fs::remove_file(gone).unwrap();
    let mut bytes = std::fs::read(hurt).unwrap();
    bytes[5 << 20] ^= 1;
    std::fs::write(hurt, &bytes).unwrap();
    let verified = verify().await;
    assert!(!verified.is_whole() && verified.is_covered() && verified.parity == (2, 2), "{verified:?}");

    let site = store(folder.path(), "site").await;
    let before: BTreeSet<PathBuf> = names_in(&out);
    let loaded = load_all(&site, &out).await;
    assert!(loaded.pending.is_none() && loaded.damage.is_empty(), "{loaded:?}");
    assert_eq!(loaded.rebuilt, [1, 3]);
    assert!(site.entry(&Repository::image("a.io", "large"), "1").await.unwrap().is_some());
    assert!(site.fsck(false, Arc::new(Silent)).await.unwrap().findings.is_empty());
    assert_eq!(names_in(&out), before, "nothing is written to the medium");
    assert_eq!(names_in(&folder.path().join("site/partial")).len(), 0);

    let back = folder.path().join("back");
    let repaired = bundle::repair(std::slice::from_ref(&out), &[], &back, &Silent).unwrap();
    assert_eq!(repaired.len(), 2);
    assert!(std::fs::read(back.join("naru-0001.tar")).unwrap() == kept);

    // A copy of a parity file is no second one.
    let (one, two) = (&packed.parity[0].path, &packed.parity[1].path);
    let kept = std::fs::read(two).unwrap();
    std::fs::copy(one, two).unwrap();
    let verified = verify().await;
    assert!(!verified.is_covered() && verified.parity == (2, 1), "{verified:?}");
    std::fs::write(two, kept).unwrap();

    // One more than there is parity for.
    std::fs::remove_file(&packed.volumes[1].path).unwrap();
    let verified = verify().await;
    assert!(!verified.is_covered() && verified.parity == (3, 2), "{verified:?}");
    let other = store(folder.path(), "other").await;
    let loaded = load_all(&other, &out).await;
    assert!(loaded.pending.is_some() && loaded.rebuilt.is_empty());
}

fn names_in(folder: &Path) -> BTreeSet<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// What was loaded volume by volume is finished by what is left and the parity.
#[tokio::test]
async fn parity_finishes_what_was_begun() {
    let folder = tempfile::tempdir().unwrap();
    let (packed, out) = covered(folder.path()).await;
    let site = store(folder.path(), "site").await;
    let first = load(&site, &packed.volumes[0].path).await.remove(0);
    assert!(first.pending.is_some());
    std::fs::remove_file(&packed.volumes[1].path).unwrap();
    let loaded = load_all(&site, &out).await;
    assert!(loaded.pending.is_none(), "{:?}", loaded.pending);
    assert_eq!(loaded.rebuilt, [2]);
    assert!(site.documents("pieces/").await.unwrap().is_empty());
}

/// A volume's members by name: where they begin.
fn places(volume: &Path) -> Vec<(String, u64)> {
    let read = bundle::Volume::open(volume).unwrap();
    read.head.members.into_iter().map(|member| (member.name, member.offset)).collect()
}

fn hurt(volume: &Path, at: u64) {
    let mut bytes = std::fs::read(volume).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 1;
    std::fs::write(volume, bytes).unwrap();
}

#[tokio::test]
async fn a_damaged_manifest_is_named_and_sent_for() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (outside, site) = (store(folder, "outside").await, store(folder, "site").await);
    let digest = image(&outside, "app", 1, &[b"app"]).await;
    let path = volume(&pack(&outside, &folder.join("medium"), Vec::new()).await);
    let (name, at) = places(&path).into_iter().find(|(name, _)| name.starts_with("manifests/")).unwrap();
    hurt(&path, at);
    let loaded = load(&site, &path).await.remove(0);
    assert!(loaded.damage.len() == 1 && loaded.damage[0].contains(&name), "{:?}", loaded.damage);
    let pending = loaded.pending.unwrap();
    assert!(pending.missing[0].contains("volume 1 (naru-0001): 1 members"), "{pending:?}");
    let want = WantList::read(&loaded.want.unwrap()).unwrap();
    assert_eq!(
        want.things.iter().map(|(digest, wanting)| (*digest, wanting.manifest)).collect::<Vec<_>>(),
        [(digest, true)]
    );
    let options =
        PackOptions { out: folder.join("wanted"), suffix: ".tar".into(), want: Some(want), ..PackOptions::default() };
    let wanted = bundle::pack(&outside, &Selection::All, options, Arc::new(Silent)).await.unwrap();
    assert!(load(&site, &volume(&wanted)).await.iter().all(|loaded| loaded.pending.is_none()));
    assert!(site.entry(&Repository::image("a.io", "app"), "1").await.unwrap().is_some());
}

/// A stick and its copy, each with another bad spot.
#[tokio::test]
async fn what_is_damaged_in_one_copy_comes_from_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let outside = store(folder, "outside").await;
    let (large, small) = (noise(1, 26 << 20), noise(2, 3 << 20));
    image(&outside, "large", 1, &[&large, &small]).await;
    let out = folder.join("medium");
    let options = PackOptions { out, suffix: ".tar".into(), volume_size: Some(10 << 20), ..PackOptions::default() };
    let packed = bundle::pack(&outside, &Selection::All, options, Arc::new(Silent)).await.unwrap();
    let (one, other) = (folder.join("one"), folder.join("other"));
    let mut copies = Vec::new();
    for volume in &packed.volumes {
        let name = volume.path.file_name().unwrap();
        for copy in [&one, &other] {
            std::fs::create_dir_all(copy).unwrap();
            std::fs::copy(&volume.path, copy.join(name)).unwrap();
            copies.push(copy.join(name));
        }
        // Every blob and piece is wrong in one of them, by turns.
        let mut turn = [&one, &other].into_iter().cycle();
        for (name_inside, at) in places(&volume.path) {
            if name_inside.starts_with("blobs/") || name_inside.starts_with("parts/") {
                hurt(&turn.next().unwrap().join(name), at + 1);
            }
        }
    }
    copies.sort();
    let site = store(folder, "site").await;
    let files = copies.iter().map(|path| (path.clone(), File::open(path).unwrap())).collect();
    let loaded = bundle::load(&site, files, &LoadOptions::default(), Arc::new(Silent)).await.unwrap().remove(0);
    assert!(loaded.pending.is_none() && loaded.damage.is_empty(), "{loaded:?}");
    assert!(site.entry(&Repository::image("a.io", "large"), "1").await.unwrap().is_some());
    assert!(site.fsck(false, Arc::new(Silent)).await.unwrap().findings.is_empty());
}

/// As many parity files as volumes, and not one volume left.
#[tokio::test]
async fn parity_alone_is_enough_where_there_is_enough_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let outside = store(folder, "outside").await;
    image(&outside, "app", 1, &[b"app"]).await;
    let out = folder.join("medium");
    let options = PackOptions { out: out.clone(), suffix: ".tar".into(), parity: 1, ..PackOptions::default() };
    let packed = bundle::pack(&outside, &Selection::All, options, Arc::new(Silent)).await.unwrap();
    let kept = std::fs::read(&packed.volumes[0].path).unwrap();
    std::fs::remove_file(&packed.volumes[0].path).unwrap();
    // A stranger's parity lies beside it, and comes first by its name.
    let stranger = store(folder, "stranger").await;
    image(&stranger, "other", 1, &[b"other"]).await;
    let options =
        PackOptions { out: folder.join("theirs"), suffix: ".tar".into(), parity: 1, ..PackOptions::default() };
    let theirs = bundle::pack(&stranger, &Selection::All, options, Arc::new(Silent)).await.unwrap();
    std::fs::copy(&theirs.parity[0].path, out.join("a.tar")).unwrap();
    let site = store(folder, "site").await;
    let key = bundle::PublicKey::parse(&packed.public_key, "theirs").unwrap();
    bundle::key::trust(&site, &key, "ours").await.unwrap();
    let loaded = load_all(&site, &out).await;
    assert!(loaded.pending.is_none() && loaded.damage.is_empty(), "{loaded:?}");
    assert_eq!((loaded.rebuilt.as_slice(), &loaded.fingerprint), ([1].as_slice(), &packed.fingerprint));
    assert!(loaded.trusted.is_some());
    assert!(site.entry(&Repository::image("a.io", "app"), "1").await.unwrap().is_some());

    let trusted = bundle::key::trusted(&site).await.unwrap();
    let verified = bundle::verify(std::slice::from_ref(&out), &trusted, Arc::new(Silent)).await.unwrap();
    assert!(!verified.is_whole() && verified.is_covered() && verified.parity == (1, 1), "{verified:?}");
    assert_eq!(verified.id, packed.id.hex());
    bundle::repair(std::slice::from_ref(&out), &trusted, &folder.join("back"), &Silent).unwrap();
    assert!(std::fs::read(folder.join("back/naru-0001.tar")).unwrap() == kept);
}

/// Keeps what is warned of.
#[derive(Default)]
struct Warned(std::sync::Mutex<Vec<String>>);

impl artifact::Progress for Warned {
    fn say(&self, _: &str) {}
    fn warn(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

/// Any key signs a receipt: a new site is said to be new, once, and an older receipt to be older.
#[tokio::test]
async fn whose_receipt_it_is_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (outside, site) = (store(folder, "outside").await, store(folder, "site").await);
    image(&outside, "app", 1, &[b"app"]).await;
    let packed = pack(&outside, &folder.join("medium"), Vec::new()).await;
    let (early, late) = (folder.join("early"), folder.join("late"));
    receipt(&site, &early).await;
    load(&site, &volume(&packed)).await;
    receipt(&site, &late).await;
    let warned = async |path: &Path, out: &str| {
        let heard = Arc::new(Warned::default());
        let options = PackOptions {
            out: folder.join(out),
            suffix: ".tar".into(),
            since: vec![since(path)],
            ..PackOptions::default()
        };
        bundle::pack(&outside, &Selection::All, options, heard.clone()).await.unwrap();
        std::mem::take(&mut *heard.0.lock().unwrap())
    };
    let first = warned(&late, "one").await;
    assert!(first.len() == 1 && first[0].contains("is new here"), "{first:?}");
    assert_eq!(warned(&late, "two").await, [] as [&str; 0]);
    let older = warned(&early, "three").await;
    assert!(older.len() == 1 && older[0].contains("is older than"), "{older:?}");
}
