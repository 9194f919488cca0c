//! From a packing list to a store, against a registry and web server on loopback.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod server;

use std::path::Path;
use std::sync::Mutex;

use artifact::media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST};
use artifact::{Digest, Progress, Repository, Trust};
use collect::lock::{changed_here, lock};
use collect::{Error, Lock, PackingList, pull};
use server::{Server, descriptor};
use store::Store;
use upstream::{Client, Surroundings, Upstreams};

/// What was said, to look at afterwards.
#[derive(Default)]
struct Said(Mutex<Vec<String>>);

impl Said {
    fn has(&self, text: &str) -> bool {
        self.0.lock().unwrap().iter().any(|line| line.contains(text))
    }
}

impl Progress for Said {
    fn say(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
    fn warn(&self, line: &str) {
        self.0.lock().unwrap().push(format!("warning: {line}"));
    }
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

/// A folder with a packing list and a store, and an upstream.
struct Site {
    folder: tempfile::TempDir,
    server: Server,
    client: Client,
    store: Store,
    said: Said,
}

impl Site {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).await.unwrap();
        let client = Client::new(Upstreams::default(), &Surroundings::default()).unwrap();
        Self { folder, server: Server::start(), client, store, said: Said::default() }
    }

    fn list(&self, text: &str) -> PackingList {
        let text = text.replace("HOST", &self.server.host);
        PackingList::parse(&self.folder.path().join("naru.yaml"), &text).unwrap()
    }

    async fn lock(
        &self,
        list: &PackingList,
        previous: Option<&Lock>,
        update: &[&str],
        now: i64,
    ) -> collect::Result<Lock> {
        let update: Vec<String> = update.iter().map(|name| (*name).to_owned()).collect();
        lock(list, previous, &update, &self.client, now, &self.said).await
    }

    async fn pull(&self, lock: &Lock) -> collect::Result<collect::Pulled> {
        pull(lock, self.folder.path(), &self.client, &self.store, &self.said).await
    }

    fn repository(&self, name: &str) -> Repository {
        Repository::image(&self.server.host, name)
    }

    /// An image of one layer; its manifest.
    fn image(&self, name: &str, tag: Option<&str>, platform: &str, media_type: &str) -> (Digest, String) {
        let (os, architecture) = platform.split_once('/').unwrap();
        let config = format!(r#"{{"os":"{os}","architecture":"{architecture}"}}"#);
        let config = self.server.blob(name, OCI_CONFIG, config.as_bytes());
        let own = self.server.blob(name, OCI_LAYER_GZIP, format!("layer of {platform}").repeat(1000).as_bytes());
        let shared = self.server.blob(name, OCI_LAYER_GZIP, &vec![7; 100_000]);
        let body =
            format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{config},"layers":[{shared},{own}]}}"#);
        (self.server.manifest(name, tag, media_type, &body), body)
    }

    /// An artifact that refers to `subject`, or to nothing.
    fn artifact(&self, name: &str, tag: Option<&str>, content: &str, subject: Option<&str>) -> (Digest, String) {
        let blob = self.server.blob(name, "text/plain", content.as_bytes());
        let subject = subject.map(|subject| format!(r#","subject":{subject}"#)).unwrap_or_default();
        let body = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","artifactType":"x/{content}","layers":[{blob}]{subject}}}"#
        );
        (self.server.manifest(name, tag, OCI_MANIFEST, &body), body)
    }

    /// An index of two platforms, with buildkit's attestation of the first.
    fn index(&self, name: &str, tag: &str) -> Index {
        let (amd64, amd64_body) = self.image(name, None, "linux/amd64", OCI_MANIFEST);
        let (arm64, arm64_body) = self.image(name, None, "linux/arm64", OCI_MANIFEST);
        let (about_amd64, about) = self.artifact(name, None, "attestation", None);
        let (about_arm64, about_other) = self.artifact(name, None, "other attestation", None);
        let child = |digest: &Digest, body: &str, platform: &str, describes: Option<&Digest>| {
            let (os, architecture) = platform.split_once('/').unwrap();
            let annotations = describes
                .map(|of| format!(r#","annotations":{{"vnd.docker.reference.digest":"{of}"}}"#))
                .unwrap_or_default();
            format!(
                r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":{},"platform":{{"os":"{os}","architecture":"{architecture}"}}{annotations}}}"#,
                body.len()
            )
        };
        let body = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{},{},{},{}]}}"#,
            child(&amd64, &amd64_body, "linux/amd64", None),
            child(&arm64, &arm64_body, "linux/arm64", None),
            child(&about_amd64, &about, "unknown/unknown", Some(&amd64)),
            child(&about_arm64, &about_other, "unknown/unknown", Some(&arm64)),
        );
        let digest = self.server.manifest(name, Some(tag), OCI_INDEX, &body);
        Index { digest, body, amd64, amd64_body, arm64, about_amd64, about_arm64 }
    }
}

struct Index {
    digest: Digest,
    body: String,
    amd64: Digest,
    amd64_body: String,
    arm64: Digest,
    about_amd64: Digest,
    about_arm64: Digest,
}

/// `sha256-…`, as tags are made of digests.
fn tag_of(digest: &Digest, suffix: &str) -> String {
    format!("sha256-{}{suffix}", digest.hex())
}

fn failures(error: &Error) -> Vec<String> {
    let Error::Failed { failures, .. } = error else { panic!("{error}") };
    failures.iter().map(|failure| format!("{}: {}", failure.name, failure.error)).collect()
}

#[tokio::test]
async fn an_index_with_all_that_belongs_to_it() {
    let site = Site::new().await;
    let index = site.index("team/app", "1");
    // A cosign signature of the index, an SBOM that refers to the platform's manifest (found by the fallback tag), and a
    // signature of that SBOM.
    let (signature, _) = site.artifact("team/app", Some(&tag_of(&index.digest, ".sig")), "signature", None);
    let subject = descriptor(OCI_MANIFEST, &index.amd64, index.amd64_body.len());
    let (sbom, sbom_body) = site.artifact("team/app", None, "sbom", Some(&subject));
    let of_sbom = descriptor(OCI_MANIFEST, &sbom, sbom_body.len());
    let (countersigned, countersigned_body) = site.artifact("team/app", None, "countersignature", Some(&of_sbom));
    let fallback = |of: &Digest, descriptor: String| {
        let body = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{descriptor}]}}"#);
        site.server.manifest("team/app", Some(&tag_of(of, "")), OCI_INDEX, &body)
    };
    let list_of_amd64 = fallback(&index.amd64, descriptor(OCI_MANIFEST, &sbom, sbom_body.len()));
    // Its list names one that the registry has thrown away since.
    let gone = descriptor(OCI_MANIFEST, &Digest::of(b"gone"), 4);
    let countersignature = descriptor(OCI_MANIFEST, &countersigned, countersigned_body.len());
    fallback(&sbom, format!("{countersignature},{gone}"));

    let list = site.list("platforms: [linux/amd64]\nimages: ['HOST/team/app:1']\n");
    let lock = site.lock(&list, None, &[], 1000).await.unwrap();
    assert_eq!(lock.covers(&list), Ok(()));
    let image = &lock.images[0];
    assert_eq!((image.digest, image.trust, image.resolved), (index.digest, Trust::Tag, 1000));
    let carried: Vec<Digest> = image.manifests.iter().map(|manifest| manifest.digest).collect();
    assert_eq!(carried[0], index.digest);
    assert!(carried.contains(&index.amd64) && carried.contains(&index.about_amd64));
    assert!(!carried.contains(&index.arm64) && !carried.contains(&index.about_arm64));
    let all: Vec<Digest> = image.all_manifests().map(|manifest| manifest.digest).collect();
    for attached in [signature, sbom, countersigned, list_of_amd64] {
        assert_eq!(all.iter().filter(|digest| **digest == attached).count(), 1);
    }

    assert!(site.said.has(&format!("the referrer {} is left out", Digest::of(b"gone"))));

    let pulled = site.pull(&lock).await.unwrap();
    assert_eq!(pulled.items, 1);
    let repository = site.repository("team/app");
    let entry = site.store.entry(&repository, "1").await.unwrap().unwrap();
    assert_eq!((entry.digest, entry.seen), (index.digest, 1000));
    let kept = site.store.granted_manifest(&repository, &index.digest).await.unwrap().unwrap();
    assert_eq!((kept.complete, &*kept.bytes), (true, index.body.as_bytes()));
    let links = site.store.links(&index.digest).await.unwrap();
    let omitted: Vec<Digest> = links.iter().filter(|link| !link.carried).map(|link| link.child).collect();
    assert_eq!(omitted.len(), 2);
    assert!(omitted.contains(&index.arm64) && omitted.contains(&index.about_arm64));
    let signed = site.store.entry(&repository, &tag_of(&index.digest, ".sig")).await.unwrap().unwrap();
    assert_eq!(signed.digest, signature);
    let referrers = |of: Digest| {
        let (store, repository) = (&site.store, &repository);
        async move { store.referrers(repository, &of).await.unwrap().into_iter().map(|one| one.digest).collect::<Vec<_>>() }
    };
    assert_eq!(referrers(index.amd64).await, [sbom]);
    assert_eq!(referrers(sbom).await, [countersigned]);
    assert!(site.store.granted_manifest(&repository, &index.arm64).await.unwrap().is_none());

    // Everything is there: nothing is asked for again.
    site.server.asked();
    let again = site.pull(&lock).await.unwrap();
    assert_eq!((again.fetched, again.bytes, again.changed.len()), (0, 0, 0));
    assert_eq!(site.server.asked(), Vec::<String>::new());

    // Another platform later: the index stays, its child comes.
    let wider = site.list("platforms: [all]\nimages: ['HOST/team/app:1']\n");
    assert!(lock.covers(&wider).is_err());
    let lock = site.lock(&wider, Some(&lock), &[], 2000).await.unwrap();
    assert_eq!(lock.images[0].resolved, 1000);
    site.pull(&lock).await.unwrap();
    assert!(site.store.granted_manifest(&repository, &index.arm64).await.unwrap().unwrap().complete);
    assert!(site.store.links(&index.digest).await.unwrap().iter().all(|link| link.carried && link.present));
}

#[tokio::test]
async fn shapes_that_are_not_just_images() {
    let site = Site::new().await;
    let (app, app_body) = site.image("odd", None, "linux/amd64", DOCKER_MANIFEST);
    let (other, other_body) = site.image("odd", None, "linux/arm64", DOCKER_MANIFEST);
    // An index in an index, whose own platform nobody says; both point at one manifest.
    let of = |digest: &Digest, body: &str, architecture: &str| {
        let platform = format!(r#","platform":{{"os":"linux","architecture":"{architecture}"}}}}"#);
        descriptor(DOCKER_MANIFEST, digest, body.len()).replace('}', &platform)
    };
    let both = format!("{},{}", of(&app, &app_body, "amd64"), of(&other, &other_body, "arm64"));
    let inner = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{both}]}}"#);
    let inner_digest = site.server.manifest("odd", None, OCI_INDEX, &inner);
    let nested = descriptor(OCI_INDEX, &inner_digest, inner.len());
    let amd64 = of(&app, &app_body, "amd64");
    let outer = format!(r#"{{"schemaVersion":2,"mediaType":"{DOCKER_LIST}","manifests":[{amd64},{nested}]}}"#);
    let outer_digest = site.server.manifest("odd", Some("nested"), DOCKER_LIST, &outer);
    // An artifact of nothing: no config, no layers.
    let nothing = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","artifactType":"x/nothing"}}"#);
    let nothing_digest = site.server.manifest("odd", None, OCI_MANIFEST, &nothing);

    let text = format!("platforms: [linux/amd64]\nimages: ['HOST/odd:nested', 'HOST/odd@{nothing_digest}']\n");
    let lock = site.lock(&site.list(&text), None, &[], 1).await.unwrap();
    site.pull(&lock).await.unwrap();
    let nested = lock.images.iter().find(|image| image.digest == outer_digest).unwrap();
    let carried: Vec<Digest> = nested.manifests.iter().map(|manifest| manifest.digest).collect();
    // Parents first, though the child stands before one of its parents in the document.
    assert_eq!(carried, [outer_digest, inner_digest, app]);
    let repository = site.repository("odd");
    let kept = site.store.granted_manifest(&repository, &outer_digest).await.unwrap().unwrap();
    assert_eq!((kept.complete, &*kept.bytes, &*kept.media_type), (true, outer.as_bytes(), DOCKER_LIST));
    assert!(site.store.granted_manifest(&repository, &other).await.unwrap().is_none());
    let name = nothing_digest.to_string();
    assert_eq!(site.store.entry(&repository, &name).await.unwrap().unwrap().trust, Trust::Digest);
}

#[tokio::test]
async fn a_lock_stays_as_it_is_until_it_is_told() {
    let site = Site::new().await;
    let (first, _) = site.image("app", Some("1"), "linux/amd64", OCI_MANIFEST);
    let url = site.server.file("/dist/tool.bin", b"tool");
    let text = "platforms: [linux/amd64]\nimages: ['HOST/app:1']\nfiles: [{url: 'URL'}]\n".replace("URL", &url);
    let list = site.list(&text);
    let before = site.lock(&list, None, &[], 1000).await.unwrap();
    assert_eq!(before.files[0].trust, Trust::FirstUse);
    assert!(site.said.has("nothing vouches for it"));

    let (second, _) = site.artifact("app", Some("1"), "moved", None);
    site.server.asked();
    let same = site.lock(&list, Some(&before), &[], 2000).await.unwrap();
    assert_eq!(same, before);
    assert_eq!(site.server.asked(), Vec::<String>::new());

    let updated = site.lock(&list, Some(&before), &["app"], 2000).await.unwrap();
    assert_eq!((before.images[0].digest, updated.images[0].digest), (first, second));
    assert_eq!(updated.images[0].resolved, 2000);
    assert_eq!(updated.files, before.files);
    assert!(site.said.has(&format!("{first} -> {second}")));
    site.server.file("/dist/tool.bin", b"tool, again");
    let updated_file = site.lock(&list, Some(&before), &["tool.bin"], 3000).await.unwrap();
    assert_eq!(updated_file.images, before.images);
    assert_eq!(updated_file.files[0].digest, Digest::of(b"tool, again"));
    let error = site.lock(&list, Some(&before), &["apps"], 2000).await.unwrap_err();
    assert!(matches!(error, Error::UnknownUpdate { name } if name == "apps"));

    // What was locked is what is pulled, or nothing.
    let error = site.pull(&updated).await.unwrap_err();
    assert!(failures(&error)[0].ends_with("it is larger than the 4 bytes that were locked"), "{error}");
    assert!(error.hint().unwrap().contains("naru lock --update"));

    // Going back to the older lock is what its user wants.
    site.server.file("/dist/tool.bin", b"tool");
    site.pull(&updated).await.unwrap();
    let pulled = site.pull(&before).await.unwrap();
    assert_eq!((pulled.changed[0].old, pulled.changed[0].new), (Some(second), Some(first)));
}

#[tokio::test]
async fn the_digest_wins_and_the_lock_says_so() {
    let site = Site::new().await;
    let (wanted, _) = site.image("app", Some("1"), "linux/amd64", DOCKER_MANIFEST);
    let (now, _) = site.artifact("app", Some("1"), "moved", None);
    let both = format!("platforms: [linux/amd64]\nimages: ['HOST/app:1@{wanted}', 'HOST/app:gone@{now}']\n");
    let lock = site.lock(&site.list(&both), None, &[], 1).await.unwrap();
    assert!(lock.images.iter().all(|image| image.trust == Trust::Digest));
    let note = |tag: &str| {
        let image = lock.images.iter().find(|image| image.reference.tag() == Some(tag)).unwrap();
        (image.digest, image.note.clone().unwrap())
    };
    assert_eq!(note("1"), (wanted, format!("the tag 1 is {now} at its upstream; the digest was taken")));
    assert_eq!(note("gone").0, now);
    assert!(note("gone").1.contains("no tag gone"));
    site.pull(&lock).await.unwrap();
    let repository = site.repository("app");
    assert_eq!(site.store.entry(&repository, "1").await.unwrap().unwrap().digest, wanted);
    let kept = site.store.granted_manifest(&repository, &wanted).await.unwrap().unwrap();
    assert_eq!(kept.media_type, DOCKER_MANIFEST);
}

#[tokio::test]
async fn platforms_that_are_not_there() {
    let site = Site::new().await;
    site.index("many", "1");
    site.image("single", Some("1"), "linux/arm64", OCI_MANIFEST);
    let list = site.list(
        "platforms: [linux/amd64]\nimages: ['HOST/single:1', {image: 'HOST/many:1', platforms: [linux/s390x]}]\n",
    );
    let error = site.lock(&list, None, &[], 1).await.unwrap_err();
    assert_eq!(
        failures(&error),
        [format!("{}/many:1: it has no linux/s390x; it has linux/amd64, linux/arm64", site.server.host)]
    );
    assert!(error.hint().unwrap().contains("platforms"));
    // An image that is for one platform only is taken as it is, and said.
    assert!(site.said.has("it is for linux/arm64 only, not for linux/amd64"));
}

#[tokio::test]
async fn foreign_layers_are_a_choice() {
    let site = Site::new().await;
    let elsewhere = site.server.file("/elsewhere/layer.tar.gz", b"foreign layer");
    let digest = Digest::of(b"foreign layer");
    let config = site.server.blob("win", OCI_CONFIG, br#"{"os":"windows","architecture":"amd64"}"#);
    let body = format!(
        r#"{{"schemaVersion":2,"mediaType":"{DOCKER_MANIFEST}","config":{config},"layers":[{{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"{digest}","size":13,"urls":["{elsewhere}"]}}]}}"#
    );
    let manifest = site.server.manifest("win", Some("1"), DOCKER_MANIFEST, &body);
    let text = "platforms: [windows/amd64]\nimages: ['HOST/win:1']\n";
    let skipping = site.lock(&site.list(text), None, &[], 1).await.unwrap();
    assert!(site.said.has("1 foreign layers are left out"));
    site.pull(&skipping).await.unwrap();
    let kept = site.store.granted_manifest(&site.repository("win"), &manifest).await.unwrap().unwrap();
    assert!(kept.complete);
    assert!(site.store.blob(&digest).await.unwrap().is_none());

    let carry = site.list(&format!("{text}foreign_layers: carry\n"));
    let carrying = site.lock(&carry, Some(&skipping), &[], 2).await.unwrap();
    site.pull(&carrying).await.unwrap();
    assert_eq!(site.store.blob(&digest).await.unwrap().unwrap().size, 13);
}

#[tokio::test]
async fn files_of_every_trust() {
    let site = Site::new().await;
    let kubectl = site.server.file("/release/kubectl", b"kubectl");
    let sums = format!("{}  kubelet\n{}  kubectl\n", Digest::of(b"x").hex(), Digest::of(b"kubectl").hex());
    let document = site.server.file("/release/SHA256SUMS", sums.as_bytes());
    let pinned = site.server.file("/a%20b/pinned", b"pinned");
    std::fs::create_dir_all(site.folder.path().join("play/deep")).unwrap();
    std::fs::write(site.folder.path().join("play/deep/book.yml"), "book").unwrap();
    std::fs::write(site.folder.path().join("play/same"), "pinned").unwrap();
    std::os::unix::fs::symlink("/etc/hostname", site.folder.path().join("play/link")).unwrap();
    let list = site.list(&format!(
        "files:\n- {{url: '{kubectl}', checksum_url: '{document}'}}\n- {{url: '{pinned}', sha256: {}, path: tools/p}}\n- path: ./play\n",
        Digest::of(b"pinned").hex()
    ));
    let lock = site.lock(&list, None, &[], 5).await.unwrap();
    assert_eq!(lock.covers(&list), Ok(()));
    let trusts: Vec<Trust> = lock.files.iter().map(|file| file.trust).collect();
    assert_eq!(trusts, [Trust::Checksum, Trust::Digest]);
    assert_eq!(lock.files[0].last_modified.as_deref(), Some("Tue, 18 Nov 2025 01:02:03 GMT"));
    assert!(site.said.has("play/link: neither a file nor a folder"));
    let pulled = site.pull(&lock).await.unwrap();
    // The same bytes under two names are one blob.
    assert_eq!((pulled.items, pulled.fetched), (4, 3));
    let at = Repository::files(&site.server.host);
    assert_eq!(site.store.entry(&at, "release/kubectl").await.unwrap().unwrap().origin, kubectl);
    assert_eq!(site.store.entry(&at, "tools/p").await.unwrap().unwrap().digest, Digest::of(b"pinned"));
    let local = Repository::files("local");
    let book = site.store.entry(&local, "play/deep/book.yml").await.unwrap().unwrap();
    assert_eq!((book.digest, book.trust), (Digest::of(b"book"), Trust::Local));
    assert!(site.store.entry(&local, "play/link").await.unwrap().is_none());

    // A file that changed after it was locked is not what was approved.
    assert!(changed_here(&lock, &list).await.unwrap().is_empty());
    std::fs::write(site.folder.path().join("play/deep/book.yml"), "another").unwrap();
    let fresh = Store::open(&site.folder.path().join("fresh")).await.unwrap();
    let error = pull(&lock, site.folder.path(), &site.client, &fresh, &site.said).await.unwrap_err();
    let said = failures(&error);
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("book.yml has changed since it was locked"), "{said:?}");
    assert!(error.hint().unwrap().contains("naru lock"));
    std::fs::write(site.folder.path().join("play/added"), "new").unwrap();
    std::fs::remove_file(site.folder.path().join("play/same")).unwrap();
    let expected = [
        "not locked: ./play/added",
        "changed since it was locked: ./play/deep/book.yml",
        "gone since it was locked: ./play/same",
    ];
    assert_eq!(changed_here(&lock, &list).await.unwrap(), expected);
    std::fs::remove_dir_all(site.folder.path().join("play")).unwrap();
    assert_eq!(changed_here(&lock, &list).await.unwrap().len(), 2);
}

#[tokio::test]
async fn one_failure_stops_no_other() {
    let site = Site::new().await;
    site.image("good", Some("1"), "linux/amd64", OCI_MANIFEST);
    let url = site.server.file("/tool", b"what it is now");
    let sum = Digest::of(b"what it should be");
    let text = format!(
        "platforms: [linux/amd64]\nimages: ['HOST/good:1']\nfiles: [{{url: '{url}', sha256: {}}}]\n",
        sum.hex()
    );
    let mut lock = site.lock(&site.list(&text), None, &[], 1).await.unwrap();
    // An image whose layer its upstream has lost since.
    site.image("lost", Some("1"), "linux/amd64", OCI_MANIFEST);
    let lost =
        site.lock(&site.list("platforms: [linux/amd64]\nimages: ['HOST/lost:1']\n"), None, &[], 1).await.unwrap();
    lock.images.extend(lost.images);
    let layer = lock.images[1].manifests[0].blobs.last_mut().unwrap();
    layer.digest = Digest::of(b"lost");
    let error = site.pull(&lock).await.unwrap_err();
    let said = failures(&error);
    assert_eq!(said.len(), 2, "{error}");
    assert!(said[0].starts_with(&format!("{}/lost:1: ", site.server.host)), "{said:?}");
    assert!(
        said[1].contains(&format!("has sha256 {}, not {}", Digest::of(b"what it is now").hex(), sum.hex())),
        "{said:?}"
    );
    assert!(site.store.entry(&site.repository("good"), "1").await.unwrap().is_some());
    assert!(site.store.entry(&site.repository("lost"), "1").await.unwrap().is_none());
    assert!(site.store.blob(&sum).await.unwrap().is_none());
    assert!(site.store.entry(&Repository::files(&site.server.host), "tool").await.unwrap().is_none());
}

#[tokio::test]
async fn what_an_earlier_run_began_is_continued() {
    let site = Site::new().await;
    site.image("app", Some("1"), "linux/amd64", OCI_MANIFEST);
    site.image("copy", Some("1"), "linux/amd64", OCI_MANIFEST);
    let text = "platforms: [linux/amd64]\nimages: ['HOST/app:1', 'HOST/copy:1']\n";
    let lock = site.lock(&site.list(text), None, &[], 1).await.unwrap();
    let blobs = &lock.images[0].manifests[0].blobs;
    let half = |digest: Digest, bytes: Vec<u8>| {
        let store = site.store.clone();
        tokio::task::spawn_blocking(move || {
            let mut writer = store.resume(&digest).unwrap();
            writer.write(&bytes).unwrap();
            writer.keep();
        })
    };
    half(blobs[1].digest, vec![7; 40_000]).await.unwrap();
    // And one whose beginning is wrong: it costs a second try, no more.
    half(blobs[2].digest, vec![b'?'; 10]).await.unwrap();
    site.server.asked();
    let pulled = site.pull(&lock).await.unwrap();
    assert_eq!(pulled.fetched, 3);
    let asked = site.server.asked();
    let of =
        |digest: &Digest| asked.iter().filter(|line| line.starts_with("GET") && line.contains(&digest.hex())).count();
    assert!(asked.iter().any(|line| line.ends_with(&format!("/blobs/{} from 40000", blobs[1].digest))), "{asked:#?}");
    // Two images share it, and one transfer is enough.
    assert_eq!((of(&blobs[0].digest), of(&blobs[1].digest), of(&blobs[2].digest)), (1, 1, 2), "{asked:#?}");
    for name in ["app", "copy"] {
        let repository = site.repository(name);
        assert!(site.store.granted_blob(&repository, &blobs[1].digest).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn refused_before_anything_is_fetched() {
    let site = Site::new().await;
    site.image("app", Some("1"), "linux/amd64", OCI_MANIFEST);
    let text = "platforms: [linux/amd64]\nimages: ['HOST/app:1']\n";
    let mut lock = site.lock(&site.list(text), None, &[], 1).await.unwrap();
    lock.images[0].manifests[0].blobs[1].size = 1 << 60;
    site.server.asked();
    let error = site.pull(&lock).await.unwrap_err();
    assert!(matches!(&error, Error::NoSpace { needed, .. } if *needed > 1 << 60), "{error}");
    assert_eq!(site.server.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn what_cannot_be_locked_is_named() {
    let site = Site::new().await;
    let (app, _) = site.image("app", Some("1"), "linux/amd64", OCI_MANIFEST);
    // A registry that will not say whether there is a signature has not said that there is none.
    site.server.put(&format!("/v2/app/manifests/{}", tag_of(&app, ".sig")), 403, &[], b"{}");
    let schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    site.server.manifest("old", Some("1"), schema1, r#"{"schemaVersion":1,"fsLayers":[]}"#);
    let url = site.server.file("/tool", b"tool");
    let document = site.server.file("/tool.sha256", b"nothing\n");
    let list = site.list(&format!(
        "platforms: [linux/amd64]\nimages: ['HOST/app:1', 'HOST/old:1', 'HOST/none:1']\nfiles: [{{url: '{url}', checksum_url: '{document}'}}, {{path: ./nowhere}}]\n"
    ));
    let error = site.lock(&list, None, &[], 1).await.unwrap_err();
    let said = failures(&error);
    assert_eq!(said.len(), 5, "{error}");
    assert!(said[0].contains("app:1: "), "{said:?}");
    assert!(said[1].contains("schema 1"), "{said:?}");
    assert!(said[2].contains("none:1: "), "{said:?}");
    assert!(said[3].contains("tool.sha256: it has no sha256"), "{said:?}");
    assert!(said[4].contains("nowhere"), "{said:?}");
    let shown = error.to_string();
    assert!(shown.starts_with("5 of 5 could not be locked\n"), "{shown}");
    assert_eq!(shown.lines().count(), 6, "{shown}");
    // Without its referrers, the first can be had.
    let list = site.list("platforms: [linux/amd64]\nimages: [{image: 'HOST/app:1', referrers: false}]\n");
    assert_eq!(site.lock(&list, None, &[], 1).await.unwrap().images[0].digest, app);
}

#[test]
fn a_lock_can_be_carried_to_another_thread() {
    fn is_send<T: Send>(_: T) {}
    let list = PackingList::parse(Path::new("naru.yaml"), "").unwrap();
    let client = || -> Client { unreachable!() };
    let store = || -> Store { unreachable!() };
    let _ = || {
        let (client, store) = (client(), store());
        is_send(lock(&list, None, &[], &client, 0, &artifact::Silent));
        is_send(pull(&Lock::default(), Path::new("."), &client, &store, &artifact::Silent));
    };
}
