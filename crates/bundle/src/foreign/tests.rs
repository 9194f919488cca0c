//! Archives as nobody should write them, and as people do.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;

use ::tar::{Builder, EntryType, Header};
use artifact::{Digest, Entry, Progress, Repository, Silent, Trust, media_type};
use serde_json::{Value, json};
use store::Store;

use super::archive::{Refused, Tape, Walk, What};
use super::*;
use crate::{LoadOptions, Result, key};

/// A tar of these files.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn link(kind: EntryType, name: &str, target: &str) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_path(name).unwrap();
    header.set_link_name_literal(target).unwrap();
    header.set_size(0);
    header.set_cksum();
    header
}

/// Headers before, then the files.
fn linked(links: &[Header], files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes: Vec<u8> = links.iter().flat_map(|header| header.as_bytes().to_vec()).collect();
    bytes.extend(tar(files));
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

fn config(layers: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}})
        .to_string()
        .into_bytes()
}

/// One image of docker's kind: its list, its config, its layer.
fn saved(layer: &[u8], tags: &Value) -> Vec<u8> {
    let list = json!([{"Config": "c.json", "RepoTags": tags, "Layers": ["1/layer.tar"]}]).to_string();
    tar(&[("1/layer.tar", layer), ("c.json", &config(&[layer])), ("manifest.json", list.as_bytes())])
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": Digest::of(bytes), "size": bytes.len()})
}

fn place(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", Digest::of(bytes).hex())
}

/// A layout of one image with these names, whose layer may be other bytes than it should be; and its manifest.
fn layout(names: &[&str], layer: &[u8], found: Option<&[u8]>) -> (Vec<u8>, Vec<u8>) {
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": descriptor(media_type::OCI_CONFIG, b"{}"), "layers": [descriptor(media_type::OCI_LAYER, layer)]})
    .to_string()
    .into_bytes();
    let lines: Vec<Value> = names
        .iter()
        .map(|name| {
            let mut line = descriptor(media_type::OCI_MANIFEST, &manifest);
            line["annotations"] = json!({"org.opencontainers.image.ref.name": name});
            line
        })
        .collect();
    let index = json!({"schemaVersion": 2, "manifests": lines}).to_string().into_bytes();
    let places = (place(layer), place(&manifest), place(b"{}"));
    let mut files: Vec<(&str, &[u8])> =
        vec![("oci-layout", b"{}"), ("index.json", &index), (&places.1, &manifest), (&places.2, b"{}")];
    if let Some(found) = found {
        files.push((&places.0, found));
    }
    (tar(&files), manifest)
}

struct Place {
    folder: tempfile::TempDir,
    store: Store,
}

impl Place {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).await.unwrap();
        Self { folder, store }
    }

    async fn load(&self, bytes: &[u8]) -> Result<Imported> {
        self.load_as(bytes, None).await
    }

    async fn load_as(&self, bytes: &[u8], rename: Option<&str>) -> Result<Imported> {
        let path = self.folder.path().join("archive");
        std::fs::write(&path, bytes).unwrap();
        let rename = rename.map(|text| text.parse().unwrap());
        let options = LoadOptions { rename, ..LoadOptions::default() };
        let pieces = pieces(std::slice::from_ref(&path))?;
        let files = pieces.into_iter().map(|piece| (piece, File::open(&path).unwrap())).collect();
        let progress: Arc<dyn Progress> = Arc::new(Silent);
        Ok(import(&self.store, files, &options, &progress).await?.remove(0))
    }

    /// What went wrong, in words; nothing has changed and nothing was left behind.
    async fn refused(&self, bytes: &[u8]) -> String {
        let why = match self.load(bytes).await {
            Ok(imported) => {
                assert_eq!(imported.images, 0, "{imported:?}");
                imported.refused.join("; ")
            }
            Err(error) => {
                assert!(error.hint().is_some(), "{error}");
                error.to_string()
            }
        };
        assert!(self.store.repositories(None, None, 10).await.unwrap().is_empty());
        assert!(std::fs::read_dir(self.store.folder().join("partial")).unwrap().next().is_none());
        why
    }

    async fn tag(&self, host: &str, name: &str, tag: &str) -> Option<Entry> {
        self.store.entry(&Repository::image(host, name), tag).await.unwrap()
    }

    async fn is_clean(&self) {
        let fsck = self.store.fsck(false, Arc::new(Silent)).await.unwrap();
        assert!(fsck.findings.is_empty(), "{:?}", fsck.findings);
    }
}

/// A layer that is a tar and does not fit into memory's share of a stream.
fn layer(seed: u8) -> Vec<u8> {
    let noise: Vec<u8> = (0..200_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2] ^ seed).collect();
    tar(&[("data", &noise)])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_image_however_it_is_compressed() {
    let saved = saved(&layer(1), &json!(["app:1"]));
    let mut digests = Vec::new();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
    xz.write_all(&saved).unwrap();
    for bytes in [saved.clone(), gzip(&saved), zst(&saved), xz.finish().unwrap()] {
        let place = Place::new().await;
        let imported = place.load(&bytes).await.unwrap();
        assert_eq!(imported.renamed, [("app:1".to_owned(), "docker.io/library/app:1".to_owned())]);
        let entry = place.tag("docker.io", "library/app", "1").await.unwrap();
        assert_eq!((entry.seen, entry.trust), (0, Trust::FirstUse));
        digests.push(entry.digest);
        place.is_clean().await;
    }
    digests.dedup();
    assert_eq!(digests.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_layers_stay_as_they_are() {
    let layer = layer(2);
    for (packed, kind) in [(gzip(&layer), media_type::OCI_LAYER_GZIP), (zst(&layer), media_type::OCI_LAYER_ZSTD)] {
        let list = json!([{"Config": "c.json", "RepoTags": ["a.io/b:1"], "Layers": ["l.tar.gz"]}]).to_string();
        let files: [(&str, &[u8]); 3] =
            [("l.tar.gz", &packed), ("c.json", &config(&[&layer])), ("manifest.json", list.as_bytes())];
        for bytes in [tar(&files), gzip(&tar(&files))] {
            let place = Place::new().await;
            place.load(&bytes).await.unwrap();
            let entry = place.tag("a.io", "b", "1").await.unwrap();
            let manifest = place.store.manifest(&entry.digest).await.unwrap().unwrap();
            let manifest: Value = serde_json::from_slice(&manifest.bytes).unwrap();
            assert_eq!(manifest["layers"][0]["digest"], Digest::of(&packed).to_string());
            assert_eq!(manifest["layers"][0]["mediaType"], kind);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_another_name_once_and_inside() {
    let (layer, place) = (layer(3), Place::new().await);
    let list = json!([{"Config": "c.json", "RepoTags": ["a.io/b:1"], "Layers": ["1/layer.tar"]}]).to_string();
    let config = config(&[&layer]);
    let files: [(&str, &[u8]); 3] = [("2/layer.tar", &layer), ("c.json", &config), ("manifest.json", list.as_bytes())];
    let to = |target: &str| link(EntryType::Symlink, "1/layer.tar", target);
    for target in ["/etc/passwd", "../../../etc/passwd", "../3/layer.tar", "layer.tar"] {
        let why = place.refused(&linked(&[to(target)], &files)).await;
        assert!(why.contains("1/layer.tar") && why.contains(target), "{why}");
    }
    // A link to a link is one too many.
    let second = link(EntryType::Symlink, "0/layer.tar", "../1/layer.tar");
    let why = place.refused(&linked(&[to("../2/layer.tar"), second], &files)).await;
    assert!(why.contains("0/layer.tar"), "{why}");
    for (kind, word) in [(EntryType::Link, "hard link"), (EntryType::Fifo, "pipe"), (EntryType::Block, "device")] {
        let why = place.refused(&linked(&[link(kind, "evil", "x")], &files)).await;
        assert!(why.contains("evil") && why.contains(word), "{why}");
    }
    for bytes in [linked(&[to("../2/layer.tar")], &files), gzip(&linked(&[to("../2/layer.tar")], &files))] {
        let place = Place::new().await;
        assert_eq!(place.load(&bytes).await.unwrap().images, 1);
        place.is_clean().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_right_is_refused_by_name() {
    let (one, place) = (layer(4), Place::new().await);
    let (whole, _) = layout(&["a.io/b:1"], &one, Some(&one));
    let mut other = one.clone();
    other[1000] ^= 1;
    let (damaged, _) = layout(&["a.io/b:1"], &one, Some(&other));
    let (missing, _) = layout(&["a.io/b:1"], &one, None);
    let (shorter, _) = layout(&["a.io/b:1"], &one, Some(&one[..512]));
    let twice = tar(&[("index.json", b"{}"), ("oci-layout", b"{}"), ("index.json", b"{}")]);
    let layer_name = Digest::of(&one).hex();
    for (bytes, word) in [
        (damaged.as_slice(), layer_name.as_str()),
        (&missing, &layer_name),
        (&shorter, "bytes, not"),
        (&twice, "`index.json` twice"),
        (&whole[..whole.len() / 2], "cut"),
        (&saved(&one, &json!(["Not A Name"])), "lower case"),
        (&saved(&one, &json!(null)), "has no name"),
        (b"", "an empty file"),
        (b"\n<!DOCTYPE html><html>", "an HTML page"),
        (b"BZh91AY", "bzip2"),
        (&gzip(b"only text"), "no archive when unpacked"),
        (&[0x1f, 0x8b, 8, 0, 1, 2, 3], "damaged"),
        (&tar(&[("readme", b"nothing here")]), "no image in it"),
        (&tar(&[("manifest.json", b"[{\"Layers\": 7}]")]), "manifest.json"),
        (&tar(&[("manifest.json", b"[]")]), "no image in it"),
    ] {
        let why = place.refused(bytes).await;
        assert!(why.contains(word), "{word}: {why}");
        if !bytes.is_empty() && ::tar::Archive::new(bytes).entries().unwrap().next().is_some_and(|entry| entry.is_ok())
        {
            let why = place.refused(&gzip(bytes)).await;
            assert!(why.contains(word), "compressed, {word}: {why}");
        }
    }
    // The config speaks of another layer.
    let list = json!([{"Config": "c.json", "RepoTags": ["a.io/b:1"], "Layers": ["l"]}]).to_string();
    let lying = tar(&[("l", &one), ("c.json", &config(&[&other])), ("manifest.json", list.as_bytes())]);
    for bytes in [lying.clone(), gzip(&lying)] {
        let why = place.refused(&bytes).await;
        assert!(why.contains(&Digest::of(&one).to_string()), "{why}");
    }
    let fewer = tar(&[("l", &one), ("c.json", &config(&[])), ("manifest.json", list.as_bytes())]);
    assert!(place.refused(&fewer).await.contains("1 layers"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_image_that_is_not_whole_does_not_keep_the_others_out() {
    let (one, two) = (layer(5), layer(6));
    let list = json!([
        {"Config": "1.json", "RepoTags": ["a.io/one:1"], "Layers": ["one"]},
        {"Config": "2.json", "RepoTags": ["a.io/two:1", "a.io/two:2"], "Layers": ["two", "one"]},
        {"Config": "3.json", "RepoTags": ["a.io/three:1"], "Layers": ["three"]},
    ])
    .to_string();
    let bytes = tar(&[
        ("one", &one),
        ("two", &two),
        ("1.json", &config(&[&one])),
        ("2.json", &config(&[&two, &one])),
        ("3.json", &config(&[&one])),
        ("manifest.json", list.as_bytes()),
    ]);
    let place = Place::new().await;
    let imported = place.load(&bytes).await.unwrap();
    assert_eq!((imported.images, imported.written.0), (2, 4));
    assert!(imported.refused[0].contains("a.io/three:1") && imported.refused[0].contains("`three`"));
    for (name, tag) in [("one", "1"), ("two", "1"), ("two", "2")] {
        assert!(place.tag("a.io", name, tag).await.is_some(), "{name}:{tag}");
    }
    // Again: nothing is written, and nothing changes.
    let again = place.load(&bytes).await.unwrap();
    assert_eq!((again.written.0, again.present, again.applied.replaced.len()), (0, 4, 0));
    place.is_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_what_becomes_of_them() {
    let one = layer(7);
    // Tags alone go where --as says; several names are several entries.
    let (tagged, manifest) = layout(&["1", "latest"], &one, Some(&one));
    let place = Place::new().await;
    place.load_as(&tagged, Some("image:quay.io/team/app")).await.unwrap();
    for tag in ["1", "latest"] {
        assert_eq!(place.tag("quay.io", "team/app", tag).await.unwrap().digest, Digest::of(&manifest));
    }
    // Podman's localhost is no registry.
    place.load(&saved(&one, &json!(["localhost/mine:1"]))).await.unwrap();
    assert!(place.tag("", "mine", "1").await.is_some());
    // A digest in a name must be the image's.
    let (right, _) = layout(&[&format!("a.io/b@{}", Digest::of(&manifest))], &one, Some(&one));
    place.load(&right).await.unwrap();
    assert!(place.tag("a.io", "b", &Digest::of(&manifest).to_string()).await.is_some());
    let (wrong, _) = layout(&[&format!("a.io/b@{}", Digest::of(b"other"))], &one, Some(&one));
    assert!(place.load(&wrong).await.unwrap().refused[0].contains("its name is of"));
    // Last wins, whatever is there.
    let later = saved(&layer(8), &json!(["quay.io/team/app:1"]));
    let applied = place.load(&later).await.unwrap().applied;
    assert_eq!(applied.replaced[0].old, Some(Digest::of(&manifest)));
    place.is_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_refers_to_an_image_comes_with_it() {
    let one = layer(9);
    let (_, manifest) = layout(&["a.io/b:1"], &one, Some(&one));
    let signature = json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "artifactType": "a/sig",
        "config": descriptor(media_type::OCI_EMPTY, b"{}"), "layers": [],
        "subject": descriptor(media_type::OCI_MANIFEST, &manifest)})
    .to_string()
    .into_bytes();
    let mut image = descriptor(media_type::OCI_MANIFEST, &manifest);
    image["annotations"] = json!({"io.containerd.image.name": "a.io/b:1"});
    let index =
        json!({"schemaVersion": 2, "manifests": [descriptor(media_type::OCI_MANIFEST, &signature), image]}).to_string();
    let bytes = tar(&[
        ("./oci-layout", b"{}"),
        ("./index.json", index.as_bytes()),
        (&place(&manifest), &manifest),
        (&place(&signature), &signature),
        (&place(b"{}"), b"{}"),
        (&place(&one), &one),
    ]);
    let place = Place::new().await;
    let imported = place.load(&bytes).await.unwrap();
    assert!(imported.refused.is_empty(), "{:?}", imported.refused);
    let referrers = place.store.referrers(&Repository::image("a.io", "b"), &Digest::of(&manifest)).await.unwrap();
    assert_eq!(referrers.len(), 1);
    place.is_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_truth_where_an_archive_has_two() {
    // As docker since 25 and containerd write it: an index with whole names beside docker's list with short ones.
    let (one, two) = (layer(10), layer(11));
    let (one_config, two_config) = (config(&[&one]), config(&[&two]));
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": descriptor(media_type::OCI_CONFIG, &one_config),
        "layers": [descriptor(media_type::OCI_LAYER, &one)]})
    .to_string()
    .into_bytes();
    let archive = |manifest_bytes: &[u8]| {
        let mut line = descriptor(media_type::OCI_MANIFEST, &manifest);
        line["annotations"] = json!({"io.containerd.image.name": "docker.io/library/app:1",
            "org.opencontainers.image.ref.name": "1"});
        let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [line]}).to_string();
        let list = json!([
            {"Config": place(&one_config), "RepoTags": ["app:1"], "Layers": [place(&one)]},
            {"Config": place(&two_config), "RepoTags": ["other:1"], "Layers": [place(&two)]},
        ])
        .to_string();
        tar(&[
            (&place(&one), &one),
            (&place(&two), &two),
            (&place(&one_config), &one_config),
            (&place(&two_config), &two_config),
            (&place(&manifest), manifest_bytes),
            ("index.json", index.as_bytes()),
            ("manifest.json", list.as_bytes()),
            ("oci-layout", b"{}"),
        ])
    };
    for bytes in [archive(&manifest), gzip(&archive(&manifest))] {
        let place = Place::new().await;
        assert_eq!(place.load(&bytes).await.unwrap().images, 2);
        let app = place.tag("docker.io", "library/app", "1").await.unwrap();
        assert_eq!(app.digest, Digest::of(&manifest));
        // What only docker's list knows comes too.
        assert!(place.tag("docker.io", "library/other", "1").await.is_some());
        place.is_clean().await;
    }
    // Where the index's image is damaged, docker's list does not bring it under another digest.
    let mut damaged = manifest.clone();
    damaged[3] ^= 1;
    let place = Place::new().await;
    let imported = place.load(&archive(&damaged)).await.unwrap();
    assert_eq!((imported.images, imported.refused.len()), (1, 1), "{imported:?}");
    assert!(place.tag("docker.io", "library/app", "1").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_trusts_keys_takes_what_is_unsigned_only_when_told() {
    let place = Place::new().await;
    let trusted = crate::SecretKey::generate().unwrap().public();
    key::trust(&place.store, &trusted, "site").await.unwrap();
    let why = place.refused(&saved(&layer(1), &json!(["app:1"]))).await;
    assert!(why.contains("signed by nobody"), "{why}");
}

fn walked(bytes: &[u8], as_stream: bool) -> Vec<(String, Option<Vec<u8>>)> {
    let tape = if as_stream {
        Tape::Stream(Box::new(std::io::Cursor::new(bytes.to_vec())))
    } else {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Tape::Range { file: Arc::new(file), at: 0, end: bytes.len() as u64 }
    };
    let mut walk = Walk::new(tape);
    let mut found = Vec::new();
    while let Ok(Some(member)) = walk.next() {
        let What::File(size) = member.what else {
            found.push((member.name, None));
            continue;
        };
        // Every other one is passed over unread.
        let mut content = vec![0; usize::try_from(size).unwrap().min(1 << 20)];
        if found.len() % 2 == 0 {
            let Ok(read) = walk.read(&mut content) else { break };
            content.truncate(read);
        } else {
            content.clear();
        }
        found.push((member.name, Some(content)));
    }
    found
}

#[test]
fn long_names_and_both_ways_of_reading() {
    let names = ["a".to_owned(), format!("{}/b", "d".repeat(200)), "e".repeat(400)];
    let mut pax = Builder::new(Vec::new());
    for name in &names {
        let mut header = Header::new_ustar();
        header.set_size(3);
        let records = [("path", name.as_bytes()), ("SCHILY.xattr.user.x", b"\n=\xff\n")];
        pax.append_pax_extensions(records).unwrap();
        header.set_path("short").unwrap();
        header.set_cksum();
        pax.append(&header, &b"abc"[..]).unwrap();
    }
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"abc"[..])).collect();
    for bytes in [tar(&files), pax.into_inner().unwrap()] {
        let found = walked(&bytes, false);
        assert_eq!(found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), names);
        assert_eq!(found[0].1.as_deref(), Some(&b"abc"[..]));
        assert_eq!(found, walked(&bytes, true));
    }
    let mut walk = Walk::new(Tape::Stream(Box::new(std::io::Cursor::new(tar(&[("f".repeat(2000).as_str(), b"")])))));
    assert!(matches!(walk.next(), Err(Refused::Archive(why)) if why.contains("2000 bytes")));
}

#[test]
fn what_is_no_file_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/zero", folder.path().join("manifest.json")).unwrap();
    assert!(matches!(pieces(&[folder.path().to_owned()]), Err(crate::Error::NothingToLoad { .. })));
}

proptest::proptest! {
    #[test]
    fn a_tar_with_a_fault_never_panics_and_reads_the_same_both_ways(at in 0..6000_usize, byte: u8, mend: bool) {
        let mut bytes = linked(
            &[link(EntryType::Symlink, "l", "../x")],
            &[("a", b"abc"), (&"d".repeat(200), &[7; 700]), ("b", b"")],
        );
        let at = at % bytes.len();
        bytes[at] = byte;
        if mend {
            // Past the checksum, into the fields.
            let block = at / 512 * 512;
            let sum: u64 = bytes[block..block + 512].iter().enumerate()
                .map(|(n, byte)| if (148..156).contains(&n) { 32 } else { u64::from(*byte) }).sum();
            bytes[block + 148..block + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let (file, mut stream) = (walked(&bytes, false), walked(&bytes, true));
        // That a member which nobody reads is cut, a file tells at once, and a stream only behind it.
        if stream.len() == file.len() + 1 && file.len() % 2 == 1 {
            stream.pop();
        }
        proptest::prop_assert_eq!(file, stream);
    }
}
