//! A store's things go into volumes and come out on the other side, whatever happens to the volumes on the way.

#![expect(clippy::unwrap_used, reason = "a test may")]

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use artifact::{Digest, Entry, Repository, Selection, Silent, Trust, media_type};
use bundle::{Error, LoadOptions, Loaded, PackOptions, Packed, key};
use bytes::Bytes;
use serde_json::json;
use store::{Change, Store};

const MIB: usize = 1 << 20;

/// Bytes that do not repeat, and are the same each time.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn descriptor(kind: &str, bytes: &[u8]) -> serde_json::Value {
    json!({"mediaType": kind, "digest": Digest::of(bytes), "size": bytes.len()})
}

fn document(value: &serde_json::Value) -> Bytes {
    serde_json::to_vec(value).unwrap().into()
}

fn put(store: &Store, bytes: &[u8]) -> store::NewBlob {
    let mut writer = store.writer(Some(&Digest::of(bytes))).unwrap();
    writer.write(bytes).unwrap();
    writer.finish().unwrap()
}

fn entry(name: &str, digest: Digest, seen: i64) -> Entry {
    Entry { name: name.to_owned(), digest, size: 1, seen, origin: format!("origin of {name}"), trust: Trust::Tag }
}

/// A store with an image of two platforms (one left out), its signature, and two files, one of them 24 MiB.
async fn filled(folder: &Path) -> Store {
    let store = Store::open(folder).await.unwrap();
    let (large, small) = (noise(1, 24 * MIB), noise(2, 3 * MIB));
    let repository = Repository::image("a.io", "team/app");
    let manifest = document(&json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": descriptor(media_type::OCI_CONFIG, b"{}"), "layers": [descriptor(media_type::OCI_LAYER_GZIP, &small)]}));
    let other = document(&json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "layers": []}));
    let index = document(&json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [
        descriptor(media_type::OCI_MANIFEST, &manifest), descriptor(media_type::OCI_MANIFEST, &other)]}));
    let signature =
        document(&json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "artifactType": "a/sig",
        "config": descriptor(media_type::OCI_EMPTY, b"{}"), "layers": [descriptor("a/sig", b"signature")],
        "subject": descriptor(media_type::OCI_INDEX, &index)}));
    let mut change = Change::new();
    for bytes in [small.as_slice(), b"{}", b"signature"] {
        change.blob(Some(&repository), put(&store, bytes));
    }
    change.manifest(&repository, &Digest::of(&manifest), manifest, "", HashSet::new());
    change.manifest(&repository, &Digest::of(&index), index.clone(), "", HashSet::from([Digest::of(&other)]));
    change.manifest(&repository, &Digest::of(&signature), signature, "", HashSet::new());
    change.entry(&repository, entry("1", Digest::of(&index), 100));
    let files = Repository::files("dl.k8s.io");
    for (name, bytes) in [("release/large", &large), ("release/tiny", &b"tiny".to_vec())] {
        change.blob(Some(&files), put(&store, bytes));
        change.entry(&files, entry(name, Digest::of(bytes), 100));
    }
    store.apply(change).await.unwrap();
    store
}

fn options(out: &Path, volume_size: Option<u64>) -> PackOptions {
    PackOptions { out: out.to_owned(), volume_size, suffix: ".tar".to_owned(), ..PackOptions::default() }
}

async fn packed(folder: &Path, volume_size: Option<u64>) -> (Packed, PathBuf) {
    let store = filled(&folder.join("outside")).await;
    let out = folder.join("medium");
    let packed = bundle::pack(&store, &Selection::All, options(&out, volume_size), Arc::new(Silent)).await.unwrap();
    store.close().await;
    (packed, out)
}

async fn try_load(store: &Store, volumes: &[PathBuf]) -> bundle::Result<Loaded> {
    let files = volumes.iter().map(|path| (path.clone(), File::open(path).unwrap())).collect();
    let mut all = bundle::load(store, files, &LoadOptions::default(), Arc::new(Silent)).await?;
    assert_eq!(all.len(), 1);
    Ok(all.remove(0))
}

async fn inside(folder: &Path) -> Store {
    Store::open(&folder.join("inside")).await.unwrap()
}

/// Everything that `filled` has is here, byte for byte, and nothing is wrong.
async fn is_whole(store: &Store) {
    let repository = Repository::image("a.io", "team/app");
    let tag = store.entry(&repository, "1").await.unwrap().unwrap();
    assert_eq!((tag.seen, tag.trust), (100, Trust::Tag));
    assert!(store.granted_manifest(&repository, &tag.digest).await.unwrap().unwrap().complete);
    let referrers = store.referrers(&repository, &tag.digest).await.unwrap();
    assert_eq!(referrers.len(), 1);
    assert!(store.granted_blob(&repository, &Digest::of(b"signature")).await.unwrap().is_some());
    let files = Repository::files("dl.k8s.io");
    let large = store.entry(&files, "release/large").await.unwrap().unwrap();
    assert_eq!(large.digest, Digest::of(&noise(1, 24 * MIB)));
    assert!(store.granted_blob(&files, &large.digest).await.unwrap().is_some());
    let fsck = store.fsck(false, Arc::new(Silent)).await.unwrap();
    assert!(fsck.findings.is_empty(), "{:?}", fsck.findings);
    assert!(store.documents("bundle/").await.unwrap().is_empty(), "nothing is pending any more");
    assert!(store.documents("pieces/").await.unwrap().is_empty());
}

fn flip(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

#[tokio::test]
async fn one_volume_goes_across() {
    let folder = tempfile::tempdir().unwrap();
    let (packed, out) = packed(folder.path(), None).await;
    assert_eq!((packed.of, packed.words.split(' ').count()), (1, 8));
    let verified = bundle::verify(std::slice::from_ref(&out), &[], Arc::new(Silent)).await.unwrap();
    assert!(verified.is_whole(), "{verified:?}");
    assert_eq!((verified.entries, verified.words), (3, packed.words.clone()));
    let store = inside(folder.path()).await;
    let loaded = try_load(&store, &[packed.volumes[0].path.clone()]).await.unwrap();
    assert!(loaded.pending.is_none() && loaded.damage.is_empty());
    assert_eq!((loaded.entries, loaded.applied.replaced.len(), loaded.written.0), (3, 3, 5));
    is_whole(&store).await;
    // Twice changes nothing.
    let again = try_load(&store, &[packed.volumes[0].path.clone()]).await.unwrap();
    assert_eq!((again.applied.replaced.len(), again.written.0), (0, 0));
    assert_eq!(store.history(9).await.unwrap().len(), 1);
    // `tar` and `sha256sum` read what lies there.
    let run = |program: &str, arguments: &[&str]| {
        std::process::Command::new(program).args(arguments).current_dir(&out).output().unwrap()
    };
    let listed = run("tar", &["-tf", "naru-0001.tar"]);
    assert!(listed.status.success() && listed.stderr.is_empty(), "{}", String::from_utf8_lossy(&listed.stderr));
    assert!(
        String::from_utf8_lossy(&listed.stdout)
            .starts_with("volume.json\nvolume.json.minisig\nmembers.jsonl\nbundle.json\nbundle.jsonl\n")
    );
    assert!(run("sha256sum", &["--strict", "-c", "SHA256SUMS"]).status.success());
    for name in ["CONTENTS.html", "CONTENTS.csv", "README.txt"] {
        assert!(out.join(name).exists(), "{name}");
    }
}

#[tokio::test]
async fn volumes_go_in_any_order_one_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let (packed, out) = packed(folder.path(), Some(10 << 20)).await;
    assert!(packed.of >= 3, "{}", packed.of);
    assert!(packed.volumes.iter().all(|volume| volume.size <= 10 << 20));
    assert!(bundle::verify(&[out], &[], Arc::new(Silent)).await.unwrap().is_whole());
    let store = inside(folder.path()).await;
    // From the middle, whose volumes do not know what the bundle holds.
    let mut order: Vec<usize> = (1..packed.of - 1).rev().collect();
    order.extend([packed.of - 1, 0]);
    for (count, number) in order.iter().enumerate() {
        let volume = packed.volumes[*number].path.clone();
        let loaded = try_load(&store, std::slice::from_ref(&volume)).await.unwrap();
        assert_eq!(loaded.pending.is_none(), count + 1 == order.len(), "{:?}", loaded.pending);
        // Twice does no harm, neither while it is pending nor when it is whole.
        let again = try_load(&store, &[volume]).await.unwrap();
        assert!(again.damage.is_empty(), "{:?}", again.damage);
        assert_eq!(again.pending.is_none(), count + 1 == order.len());
        if let Some(pending) = loaded.pending.filter(|pending| pending.entries.is_some()) {
            // Only what is not on disk yet: the first volume's piece.
            assert!(pending.missing.len() == 1 && pending.missing[0].contains("naru-0001"), "{pending:?}");
        }
    }
    is_whole(&store).await;
    let middle = try_load(&store, &[packed.volumes[1].path.clone()]).await.unwrap();
    assert!(middle.pending.is_none(), "a finished bundle stays finished");
    // It does not know what the bundle holds: whoever prunes must not take that for nothing.
    assert_eq!(middle.names, None);
    let first = try_load(&store, &[packed.volumes[0].path.clone()]).await.unwrap();
    assert!(first.names.is_some_and(|names| !names.is_empty()));
    is_whole(&store).await;
    let missing = PackOptions { only: Some(9..=9), ..options(&folder.path().join("medium"), Some(10 << 20)) };
    let outside = Store::open(&folder.path().join("outside")).await.unwrap();
    let refused = bundle::pack(&outside, &Selection::All, missing, Arc::new(Silent)).await.unwrap_err();
    assert!(matches!(refused, Error::NoSuchVolume { first: 9, .. }), "{refused}");
}

#[tokio::test]
async fn a_store_that_rots_is_noticed_before_it_is_carried() {
    // A blob that is cut, and one that goes whole.
    for bytes in [noise(1, 24 * MIB), noise(2, 3 * MIB)] {
        let folder = tempfile::tempdir().unwrap();
        let store = filled(&folder.path().join("outside")).await;
        let blob = store.blob(&Digest::of(&bytes)).await.unwrap().unwrap();
        flip(&folder.path().join("outside/blobs").join(&blob.key), blob.size / 2);
        let out = folder.path().join("medium");
        let refused =
            bundle::pack(&store, &Selection::All, options(&out, Some(10 << 20)), Arc::new(Silent)).await.unwrap_err();
        assert!(matches!(refused, Error::StoreDamaged { digest } if digest == blob.digest), "{refused}");
        let mut left = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(left.all(|name| !name.to_string_lossy().ends_with(".partial")), "{out:?}");
    }
}

#[tokio::test]
async fn a_damaged_volume_is_written_again_and_a_strange_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(&folder.path().join("outside")).await;
    let out = folder.path().join("made");
    let pack = async |only| {
        let options = PackOptions { only, ..options(&out, Some(10 << 20)) };
        bundle::pack(&store, &Selection::All, options, Arc::new(Silent)).await
    };
    let packed = pack(None).await.unwrap();
    // Its head can be read no more: it does not even tell which bundle it is of.
    flip(&packed.volumes[1].path, 600);
    let again = pack(Some(2..=2)).await.unwrap();
    assert_eq!(again.volumes, [packed.volumes[1].clone()]);
    assert!(bundle::verify(std::slice::from_ref(&out), &[], Arc::new(Silent)).await.unwrap().is_whole());
    // Under a name that is none of ours it is somebody's.
    std::fs::copy(&packed.volumes[0].path, out.join("another.tar")).unwrap();
    flip(&out.join("another.tar"), 600);
    let refused = pack(Some(2..=2)).await.unwrap_err();
    assert!(matches!(refused, Error::Occupied { .. }), "{refused}");
}

#[tokio::test]
async fn a_clock_that_was_ahead_pins_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let files = Repository::files("dl.k8s.io");
    let bundle_of = async |name: &str, bytes: &[u8], seen: i64| {
        let store = Store::open(&folder.path().join(name)).await.unwrap();
        let mut change = Change::new();
        change.blob(Some(&files), put(&store, bytes));
        change.entry(&files, entry("stable", Digest::of(bytes), seen));
        store.apply(change).await.unwrap();
        let out = folder.path().join(format!("medium-{name}"));
        bundle::pack(&store, &Selection::All, options(&out, None), Arc::new(Silent)).await.unwrap();
        vec![out.join("naru-0001.tar")]
    };
    let inside = inside(folder.path()).await;
    let now = inside.now();
    try_load(&inside, &bundle_of("ahead", b"of 2099", 4_070_908_800).await).await.unwrap();
    let seen = inside.entry(&files, "stable").await.unwrap().unwrap().seen;
    assert!((now..now + 600).contains(&seen), "{seen}");
    // What is asked of its upstream later comes in.
    try_load(&inside, &bundle_of("later", b"of later", now + 43_200).await).await.unwrap();
    assert_eq!(inside.entry(&files, "stable").await.unwrap().unwrap().digest, Digest::of(b"of later"));
}

#[tokio::test]
async fn what_is_local_here_stays() {
    let folder = tempfile::tempdir().unwrap();
    let local = Repository::image("", "tool");
    let made = async |name: &str, text: &[u8], seen: i64| {
        let store = Store::open(&folder.path().join(name)).await.unwrap();
        let mut change = Change::new();
        let manifest = document(&json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "layers": [descriptor(media_type::OCI_LAYER_GZIP, text)]}));
        change.blob(Some(&local), put(&store, text));
        change.manifest(&local, &Digest::of(&manifest), manifest.clone(), "", HashSet::new());
        change.entry(&local, entry("1", Digest::of(&manifest), seen));
        store.apply(change).await.unwrap();
        (store, Digest::of(&manifest))
    };
    let (outside, _) = made("outside", b"theirs", 900).await;
    let (inside, own) = made("inside", b"ours", 100).await;
    let out = folder.path().join("medium");
    let packed = bundle::pack(&outside, &Selection::All, options(&out, None), Arc::new(Silent)).await.unwrap();
    try_load(&inside, &[packed.volumes[0].path.clone()]).await.unwrap();
    assert_eq!(inside.entry(&local, "1").await.unwrap().unwrap().digest, own);
}

#[tokio::test]
async fn the_same_store_gives_the_same_volumes() {
    let folder = tempfile::tempdir().unwrap();
    let (first, out) = packed(folder.path(), Some(10 << 20)).await;
    let store = Store::open(&folder.path().join("outside")).await.unwrap();
    // Only one volume again: byte for byte.
    std::fs::remove_file(&first.volumes[1].path).unwrap();
    let only = PackOptions { only: Some(2..=2), ..options(&out, Some(10 << 20)) };
    let second = bundle::pack(&store, &Selection::All, only, Arc::new(Silent)).await.unwrap();
    assert_eq!((second.id, second.volumes.len()), (first.id, 1));
    assert_eq!(second.volumes[0].sha256, first.volumes[1].sha256);
    // A run that was interrupted keeps what was whole.
    std::fs::remove_file(&first.volumes[0].path).unwrap();
    let again = bundle::pack(&store, &Selection::All, options(&out, Some(10 << 20)), Arc::new(Silent)).await.unwrap();
    assert_eq!(again.volumes.iter().filter(|volume| !volume.kept).count(), 1);
    assert_eq!(
        again.volumes.iter().map(|volume| volume.sha256).collect::<Vec<_>>(),
        first.volumes.iter().map(|volume| volume.sha256).collect::<Vec<_>>()
    );
    // Another bundle does not come to lie among them.
    let refused = bundle::pack(&store, &Selection::All, options(&out, None), Arc::new(Silent)).await.unwrap_err();
    assert!(matches!(refused, Error::Occupied { .. }), "{refused}");
}

/// A lock names manifests; their order, and no other, decides the layout.
#[tokio::test]
async fn a_lock_gives_the_same_bundle_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).await.unwrap();
    let repository = Repository::image("a.io", "many");
    let mut change = Change::new();
    let mut manifests = Vec::new();
    for n in 0..24_u8 {
        change.blob(Some(&repository), put(&store, &[n]));
        let manifest = document(&json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "layers": [descriptor(media_type::OCI_LAYER_GZIP, &[n])]}));
        manifests.push(Digest::of(&manifest));
        change.manifest(&repository, &Digest::of(&manifest), manifest, "", HashSet::new());
    }
    change.entry(&repository, entry("1", manifests[0], 1));
    store.apply(change).await.unwrap();
    let wanted = artifact::Wanted { repository, entry: entry("1", manifests[0], 1), manifests: Some(manifests) };
    let mut ids = HashSet::new();
    for n in 0..5 {
        let out = folder.path().join(n.to_string());
        let selection = Selection::These(vec![wanted.clone()]);
        ids.insert(bundle::pack(&store, &selection, options(&out, None), Arc::new(Silent)).await.unwrap().id);
    }
    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn a_damaged_member_is_named_and_the_rest_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let (packed, out) = packed(folder.path(), None).await;
    let path = &packed.volumes[0].path;
    let volume = bundle::Volume::open(path).unwrap();
    let hurt = volume.head.members.iter().find(|member| member.size == 3 * MIB as u64).unwrap();
    flip(path, hurt.offset + 12345);
    let verified = bundle::verify(&[out], &[], Arc::new(Silent)).await.unwrap();
    assert!(!verified.is_whole());
    assert!(verified.damage[0].contains(&hurt.name), "{:?}", verified.damage);
    assert!(verified.missing[0].contains("a.io/team/app:1"), "{:?}", verified.missing);
    let store = inside(folder.path()).await;
    let loaded = try_load(&store, std::slice::from_ref(path)).await.unwrap();
    assert!(loaded.damage[0].contains(&hurt.name));
    assert_eq!(loaded.pending.unwrap().entries, Some(1));
    assert!(store.entry(&Repository::image("a.io", "team/app"), "1").await.unwrap().is_none());
    assert!(store.entry(&Repository::files("dl.k8s.io"), "release/tiny").await.unwrap().is_some());
    // A good copy of that volume finishes it.
    flip(path, hurt.offset + 12345);
    assert!(try_load(&store, std::slice::from_ref(path)).await.unwrap().pending.is_none());
    is_whole(&store).await;
}

/// The head, its signature and the list of members: where one volume is hurt there, the others are read.
#[tokio::test]
async fn a_volume_whose_head_is_damaged_keeps_no_other_out() {
    let folder = tempfile::tempdir().unwrap();
    let (packed, out) = packed(folder.path(), Some(10 << 20)).await;
    let path = &packed.volumes[1].path;
    let whole = std::fs::read(path).unwrap();
    let place = |needle: &[u8]| whole.windows(needle.len()).position(|window| window == needle).unwrap() as u64;
    for (number, at) in
        [place(b"\"bundle\""), place(b"trusted comment"), place(b"{\"name\":\"parts/")].into_iter().enumerate()
    {
        flip(path, at + 3);
        let verified = bundle::verify(std::slice::from_ref(&out), &[], Arc::new(Silent)).await.unwrap();
        assert!(verified.damage.iter().any(|text| text.contains("naru-0002")), "{number}: {:?}", verified.damage);
        let store = Store::open(&folder.path().join(format!("site-{number}"))).await.unwrap();
        let paths: Vec<PathBuf> = packed.volumes.iter().map(|volume| volume.path.clone()).collect();
        let loaded = try_load(&store, &paths).await.unwrap();
        assert!(loaded.damage[0].contains("naru-0002") && loaded.pending.is_some(), "{number}: {loaded:?}");
        flip(path, at + 3);
        assert!(try_load(&store, std::slice::from_ref(path)).await.unwrap().pending.is_none());
        is_whole(&store).await;
    }
}

#[tokio::test]
async fn a_missing_volume_is_named_with_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let (packed, out) = packed(folder.path(), Some(10 << 20)).await;
    std::fs::rename(&packed.volumes[1].path, folder.path().join("lost")).unwrap();
    let verified = bundle::verify(&[out], &[], Arc::new(Silent)).await.unwrap();
    assert!(
        verified.missing.iter().any(|text| text.contains("naru-0002") && text.contains("dl.k8s.io/release/large")),
        "{:?}",
        verified.missing
    );
}

#[tokio::test]
async fn only_trusted_keys_are_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let (packed, out) = packed(folder.path(), None).await;
    let path = packed.volumes[0].path.clone();
    let store = inside(folder.path()).await;
    let stranger = bundle::SecretKey::generate().unwrap();
    key::trust(&store, &stranger.public(), "stranger").await.unwrap();
    let refused = try_load(&store, std::slice::from_ref(&path)).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Untrusted { fingerprint, .. } if *fingerprint == packed.fingerprint),
        "{refused}"
    );
    assert_eq!(store.usage().await.unwrap().blobs, 0);
    let trusted = key::trusted(&store).await.unwrap();
    bundle::verify(&[out], &trusted, Arc::new(Silent)).await.unwrap_err();
    key::trust(&store, &bundle::PublicKey::parse(&packed.public_key, "k").unwrap(), "outside").await.unwrap();
    assert_eq!(try_load(&store, std::slice::from_ref(&path)).await.unwrap().trusted.as_deref(), Some("outside"));

    // A head that was changed, and a signature that is not there.
    flip(&path, 600);
    assert!(matches!(try_load(&store, &[path]).await.unwrap_err(), Error::Signature { .. } | Error::NotAVolume { .. }));
}

#[tokio::test]
async fn no_byte_of_a_header_is_another_s_unnoticed() {
    let folder = tempfile::tempdir().unwrap();
    let (packed, _) = packed(folder.path(), None).await;
    let whole = std::fs::read(&packed.volumes[0].path).unwrap();
    let member = bundle::Volume::open(&packed.volumes[0].path).unwrap().head.members[0].offset;
    let path = folder.path().join("altered.tar");
    std::fs::write(&path, &whole).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let opened = |at: usize, bytes: &[u8]| {
        file.write_all_at(bytes, at as u64).unwrap();
        let opened = bundle::Volume::open(&path);
        file.write_all_at(&whole[at..at + bytes.len()], at as u64).unwrap();
        opened
    };
    assert_eq!(opened(0, &whole[..1]).unwrap().rewritten, 0);
    for header in [0, usize::try_from(member).unwrap() - 512] {
        for at in (0..512).filter(|at| !(148..156).contains(at)) {
            let mut bytes = whole[header..header + 512].to_vec();
            bytes[at] ^= 1;
            // With a checksum that is right again.
            bytes[148..156].fill(b' ');
            let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
            bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            let noticed = opened(header, &bytes).map_or(true, |volume| volume.rewritten > 0);
            assert!(noticed, "byte {at} of the header at {header}");
        }
    }
    // What fills the last block up, behind the head.
    let size = usize::from_str_radix(std::str::from_utf8(&whole[124..135]).unwrap(), 8).unwrap();
    assert_ne!(size % 512, 0);
    assert!(opened(512 + size, &[1]).unwrap_err().to_string().contains("where nothing is listed"));
}

/// Writes a tar of these members with the `tar` crate, which is not what wrote ours.
fn tar_of(path: &Path, members: &[(&str, tar::EntryType, &[u8])]) {
    let mut builder = tar::Builder::new(File::create(path).unwrap());
    for (name, kind, bytes) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_entry_type(*kind);
        header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        if *kind == tar::EntryType::Symlink {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_username("root").unwrap();
        header.set_groupname("root").unwrap();
        header.set_cksum();
        let sum = format!("{:06o}\0 ", header.cksum().unwrap());
        header.as_mut_bytes()[148..156].copy_from_slice(sum.as_bytes());
        builder.append(&header, *bytes).unwrap();
    }
    builder.finish().unwrap();
}

#[tokio::test]
async fn hostile_volumes_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let store = inside(folder.path()).await;
    let before = std::fs::read_dir(folder.path()).unwrap().count();
    let key = bundle::SecretKey::from_seed(&[3; 32]).unwrap();
    let digest = Digest::of(b"abc");
    let blob = format!("blobs/sha256/{}", digest.hex());
    let plain = tar::EntryType::Regular;
    // A head as its own signer makes it: right in every way but the one under test.
    let head = |reader: u32, members: &[serde_json::Value]| {
        let list = members.iter().fold(String::new(), |list, member| format!("{list}{member}\n"));
        let head = json!({"format": 1, "reader": reader, "bundle": digest, "volume": 1, "of": 1,
            "key": key.public().to_line(), "list": {"size": list.len(), "pages": [Digest::of(list.as_bytes())]}});
        let mut bytes = serde_json::to_vec(&head).unwrap();
        bytes.resize(1024, b' ');
        let signature = key.sign(&bytes, "comment").to_text().into_bytes();
        [bytes, signature, list.into_bytes()]
    };
    let member =
        |name: &str, offset: u64, size: u64| json!({"name": name, "size": size, "offset": offset, "sha256": digest});
    let path = folder.path().join("evil.tar");
    let names = ["volume.json", "volume.json.minisig", "members.jsonl"];
    let volume = |documents: &[Vec<u8>; 3], more: &[(&str, tar::EntryType, &[u8])]| {
        let mut members: Vec<_> =
            names.iter().zip(documents).map(|(name, bytes)| (*name, plain, bytes.as_slice())).collect();
        members.extend_from_slice(more);
        tar_of(&path, &members);
    };
    let offset = 4096;
    let right = head(1, &[member(&blob, offset, 3)]);
    volume(&right, &[(&blob, plain, b"abc")]);
    bundle::Volume::open(&path).unwrap();

    let refused = async |what: &str| {
        let error = try_load(&store, std::slice::from_ref(&path)).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(what), "expected `{what}` in: {text}");
        assert!(text.contains("evil.tar") && error.hint().is_some(), "{text}");
    };
    for name in ["../../evil", "/etc/evil", "blobs/sha256/../../evil", "BLOBS/x"] {
        volume(&head(1, &[member(name, offset, 3)]), &[(name, plain, b"abc")]);
        refused("is not the name of a member").await;
        volume(&right, &[(name, plain, b"abc")]);
        refused("should be, there is").await;
    }
    volume(&right, &[(&blob, tar::EntryType::Symlink, b"")]);
    refused("is a symbolic link").await;
    volume(&right, &[(&blob, tar::EntryType::Link, b"")]);
    refused("is a hard link").await;
    volume(
        &head(1, &[member(&blob, offset, 3), member(&blob, offset + 1024, 3)]),
        &[(&blob, plain, b"abc"), (&blob, plain, b"abc")],
    );
    refused("is there twice").await;
    volume(&head(1, &[member(&blob, offset, u64::MAX - 4096)]), &[(&blob, plain, b"abc")]);
    refused("").await;
    volume(&head(1, &[member(&blob, offset, 1 << 40)]), &[(&blob, plain, b"abc")]);
    refused("it is cut").await;
    volume(&right, &[(&blob, plain, b"abc"), ("extra", plain, b"what nobody listed")]);
    refused("where nothing is listed").await;
    volume(&head(2, &[]), &[]);
    refused("reader of bundle format 2").await;
    let mut other = right.clone();
    other[1][80] = if other[1][80] == b'A' { b'B' } else { b'A' };
    volume(&other, &[(&blob, plain, b"abc")]);
    refused("signature is not right").await;
    let mut other = right.clone();
    other[2][30] ^= 1;
    volume(&other, &[(&blob, plain, b"abc")]);
    refused("`members.jsonl` is damaged").await;
    tar_of(&path, &[("volume.json", plain, &right[0]), (&blob, plain, b"abc")]);
    refused("it is missing").await;
    volume(&right, &[(&blob, plain, b"abd")]);
    let loaded = try_load(&store, std::slice::from_ref(&path)).await.unwrap();
    assert!(loaded.damage[0].contains("is damaged"), "{:?}", loaded.damage);
    for length in [0, 100, 600, 2000, 3000, 4098] {
        volume(&right, &[(&blob, plain, b"abc")]);
        File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
        try_load(&store, std::slice::from_ref(&path)).await.unwrap_err();
    }
    std::fs::write(&path, "<html>blocked by your gateway</html>".repeat(100)).unwrap();
    refused("not a volume").await;
    assert_eq!(store.usage().await.unwrap().blobs, 0);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), before + 1);
}

#[tokio::test]
async fn another_pull_changes_nothing_of_what_a_lock_packs() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(&folder.path().join("outside")).await;
    let repository = Repository::files("dl.k8s.io");
    let locked = entry("release/tiny", Digest::of(b"tiny"), 4);
    let wanted = artifact::Wanted { repository: repository.clone(), entry: locked.clone(), manifests: None };
    let selection = Selection::These(vec![wanted]);
    let pack = async |name: &str| {
        let out = folder.path().join(name);
        bundle::pack(&store, &selection, options(&out, None), Arc::new(Silent)).await.unwrap().id
    };
    let before = pack("before").await;
    // Another list asked for the same, later and in another way.
    let later = Entry { seen: 999, origin: "elsewhere".to_owned(), trust: Trust::FirstUse, ..locked };
    let mut change = Change::new();
    change.force().entry(&repository, later);
    store.apply(change).await.unwrap();
    assert_eq!(store.entry(&repository, "release/tiny").await.unwrap().unwrap().seen, 999);
    assert_eq!(pack("after").await, before);
}

#[tokio::test]
async fn volumes_of_two_bundles_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let (one, out) = packed(folder.path(), None).await;
    let store = Store::open(&folder.path().join("outside")).await.unwrap();
    let other = folder.path().join("other");
    let files = Repository::files("dl.k8s.io");
    let tiny =
        artifact::Wanted { repository: files, entry: entry("release/tiny", Digest::of(b"tiny"), 4), manifests: None };
    let two =
        bundle::pack(&store, &Selection::These(vec![tiny]), options(&other, None), Arc::new(Silent)).await.unwrap();
    let both = [one.volumes[0].path.clone(), two.volumes[0].path.clone()];
    let refused = bundle::verify(&both, &[], Arc::new(Silent)).await.unwrap_err();
    assert!(matches!(refused, Error::OtherBundle { .. }), "{refused}");
    let store = inside(folder.path()).await;
    let files = both.iter().map(|path| (path.clone(), File::open(path).unwrap())).collect();
    assert_eq!(bundle::load(&store, files, &LoadOptions::default(), Arc::new(Silent)).await.unwrap().len(), 2);
    is_whole(&store).await;
    drop(out);
}

#[tokio::test]
async fn what_is_not_there_is_refused_before_a_byte_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(&folder.path().join("outside")).await;
    let gone = artifact::Wanted {
        repository: Repository::image("b.io", "x"),
        entry: entry("9", Digest::of(b"?"), 1),
        manifests: None,
    };
    let out = folder.path().join("medium");
    let refused =
        bundle::pack(&store, &Selection::These(vec![gone]), options(&out, None), Arc::new(Silent)).await.unwrap_err();
    assert!(refused.to_string().contains("b.io/x:9"), "{refused}");
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
    let refused = bundle::pack(&store, &Selection::All, options(&out, Some(1000)), Arc::new(Silent)).await.unwrap_err();
    assert!(matches!(refused, Error::VolumeSize { .. }), "{refused}");
}

#[tokio::test]
async fn reports_put_weak_trust_first_and_escape_names() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(&folder.path().join("outside")).await;
    let files = Repository::files("evil.example");
    let mut change = Change::new();
    change.blob(Some(&files), put(&store, b"evil"));
    let name = "=cmd<script>alert(1)</script>,\"x\"";
    change
        .entry(&files, Entry { trust: Trust::FirstUse, origin: "=1+1".into(), ..entry(name, Digest::of(b"evil"), 1) });
    store.apply(change).await.unwrap();
    let out = folder.path().join("medium");
    bundle::pack(&store, &Selection::All, options(&out, None), Arc::new(Silent)).await.unwrap();
    let html = std::fs::read_to_string(out.join("CONTENTS.html")).unwrap();
    assert!(!html.contains("<script>") && html.contains("&lt;script&gt;"));
    let csv = std::fs::read_to_string(out.join("CONTENTS.csv")).unwrap();
    assert!(csv.lines().nth(1).unwrap().contains("first-use"), "{csv}");
    assert!(csv.contains(",'=1+1,"), "{csv}");
    let again = bundle::report_of_bundle(std::slice::from_ref(&out), bundle::Format::Csv, &bundle::Beside::default())
        .unwrap()
        .0;
    assert_eq!(again, csv);
    insta::assert_snapshot!(csv);
    let spdx = |out| bundle::report_of_bundle(&[out], bundle::Format::Spdx, &bundle::Beside::default()).unwrap().0;
    let text = spdx(out.clone());
    assert_eq!(text, spdx(out));
    insta::assert_snapshot!("spdx", text);
}

#[tokio::test]
async fn a_shelf_answers_as_a_store_that_has_loaded_it() {
    let folder = tempfile::tempdir().unwrap();
    let (packed, out) = packed(folder.path(), Some(10 << 20)).await;
    let store = inside(folder.path()).await;
    let volumes: Vec<PathBuf> = packed.volumes.iter().map(|volume| volume.path.clone()).collect();
    try_load(&store, &volumes).await.unwrap();
    let shelf = bundle::Shelf::open(&[out], &[]).unwrap();
    for repository in store.repositories(None, None, 10).await.unwrap() {
        let entries = store.entries(&repository, "", 10).await.unwrap();
        assert_eq!(shelf.entries(&repository, "", 10).unwrap(), entries);
        for entry in &entries {
            assert_eq!(shelf.entry(&repository, &entry.name).unwrap().as_ref(), Some(entry));
            let manifest = store.granted_manifest(&repository, &entry.digest).await.unwrap();
            assert_eq!(shelf.granted_manifest(&repository, &entry.digest).unwrap(), manifest);
            let referrers = store.referrers(&repository, &entry.digest).await.unwrap();
            assert_eq!(shelf.referrers(&repository, &entry.digest).unwrap(), referrers);
            let candidates = store.candidates(&repository.name, &entry.name).await.unwrap();
            assert_eq!(shelf.candidates(&repository.name, &entry.name).unwrap(), candidates);
        }
    }
    for kind in [artifact::Kind::Image, artifact::Kind::File] {
        assert_eq!(shelf.hosts(kind), store.hosts(kind).await.unwrap());
    }
    assert_eq!(shelf.repository_names(artifact::Kind::Image, "", 9), ["a.io/team/app"]);
    let (from_shelf, from_store) = (shelf.usage(), store.usage().await.unwrap());
    assert_eq!((from_shelf.entries, from_shelf.manifests), (from_store.entries, from_store.manifests));
    // What was left out is known to be so; a blob of another repository is not shown; a cut one lies in pieces.
    let repository = Repository::image("a.io", "team/app");
    let index = shelf.entry(&repository, "1").unwrap().unwrap().digest;
    let other = document(&json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "layers": []}));
    assert_eq!(shelf.left_out(&repository, &Digest::of(&other)).unwrap(), Some((index, true)));
    assert!(shelf.granted_blob(&repository, &Digest::of(b"tiny")).unwrap().is_none());
    assert!(shelf.granted_blob(&repository, &Digest::of(b"signature")).unwrap().is_some());
    let large = Digest::of(&noise(1, 24 * MIB));
    let lying = shelf.granted_blob(&Repository::files("dl.k8s.io"), &large).unwrap().unwrap();
    assert!(lying.pieces.len() > 1 && lying.size == 24 * MIB as u64);
    let mut bytes = Vec::new();
    for piece in &lying.pieces {
        let mut part = vec![0; usize::try_from(piece.size).unwrap()];
        piece.file.read_exact_at(&mut part, piece.offset).unwrap();
        bytes.extend(part);
    }
    assert_eq!(Digest::of(&bytes), large);
}
