use artifact::Trust;

use super::*;
use crate::error::Error;

const AT: &str = "naru.lock";

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

fn image(reference: &str) -> LockedImage {
    let below = digest(&format!("{reference} amd64"));
    let layer = LockedBlob {
        digest: digest("layer"),
        size: 3_000_000,
        media_type: artifact::media_type::OCI_LAYER_GZIP.to_owned(),
        urls: Vec::new(),
        skipped: false,
    };
    let foreign = LockedBlob {
        digest: digest("foreign"),
        size: 9,
        media_type: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".to_owned(),
        urls: vec!["https://elsewhere.example/x?y={a, b}".to_owned()],
        skipped: true,
    };
    LockedImage {
        reference: reference.parse().unwrap(),
        digest: digest(reference),
        trust: Trust::Tag,
        resolved: 1_763_690_000,
        platforms: Platforms::try_from(vec!["linux/arm64/v8".to_owned(), "linux/amd64".to_owned()]).unwrap(),
        referrers: true,
        note: Some("the tag 1 is \"other\": it's # odd\n".to_owned()),
        manifests: vec![
            LockedManifest {
                digest: digest(reference),
                size: 700,
                media_type: artifact::media_type::OCI_INDEX.to_owned(),
                platform: None,
                blobs: Vec::new(),
            },
            LockedManifest {
                digest: below,
                size: 500,
                media_type: artifact::media_type::OCI_MANIFEST.to_owned(),
                platform: Some("linux/amd64".to_owned()),
                blobs: vec![layer, foreign],
            },
        ],
        attached: vec![Attached {
            subject: below,
            digest: digest("signature"),
            tag: Some(format!("sha256-{}.sig", below.hex())),
            manifests: vec![LockedManifest {
                digest: digest("signature"),
                size: 300,
                media_type: artifact::media_type::OCI_MANIFEST.to_owned(),
                platform: None,
                blobs: Vec::new(),
            }],
        }],
    }
}

fn example() -> Lock {
    let mut lock = Lock {
        foreign_layers: ForeignLayers::Skip,
        images: vec![image("registry.k8s.io/pause:3.10"), image("nginx")],
        files: vec![LockedFile {
            url: "https://dl.k8s.io/release/kubectl".parse().unwrap(),
            host: "dl.k8s.io".to_owned(),
            path: "release/kubectl".to_owned(),
            size: 57,
            digest: digest("kubectl"),
            trust: Trust::Checksum,
            checksum_url: Some("https://dl.k8s.io/release/kubectl.sha256".parse().unwrap()),
            last_modified: Some("Tue, 18 Nov 2025 01:02:03 GMT".to_owned()),
            resolved: 1_763_690_001,
        }],
        local: vec![LockedLocal {
            path: "playbooks/가: {x}.yml".to_owned(),
            source: "./playbooks/가: {x}.yml".into(),
            size: 0,
            digest: digest(""),
            resolved: 0,
        }],
    };
    lock.sort();
    lock
}

fn list(text: &str) -> PackingList {
    PackingList::parse(Path::new("naru.yaml"), text).unwrap()
}

#[test]
fn what_is_written_reads_the_same() {
    let lock = example();
    let text = lock.print(Path::new(AT)).unwrap();
    assert_eq!(Lock::parse(Path::new(AT), &text).unwrap(), lock);
    insta::assert_snapshot!(text);
    // Git on another system may have changed the line ends.
    assert_eq!(Lock::parse(Path::new(AT), &text.replace('\n', "\r\n")).unwrap(), lock);
    // As JSON it is sent to the server that holds the store.
    let json = serde_json::to_string(&lock).unwrap();
    assert_eq!(serde_json::from_str::<Lock>(&json).unwrap(), lock);
    let empty = Lock::default();
    assert_eq!(Lock::parse(Path::new(AT), &empty.print(Path::new(AT)).unwrap()).unwrap(), empty);
}

#[test]
fn everything_has_one_place() {
    let mut turned = example();
    turned.images.reverse();
    turned.sort();
    assert_eq!(turned, example());
    assert_eq!(turned.images[0].reference.host(), "docker.io");
}

#[test]
fn an_edit_is_noticed() {
    let text = example().print(Path::new(AT)).unwrap();
    let edited = |text: &str| matches!(Lock::parse(Path::new(AT), text).unwrap_err(), Error::EditedLock { .. });
    assert!(edited(&text.replace("size: 57", "size: 58")));
    assert!(edited(&text.replace("commit it", "do not commit it")));
    assert!(edited(&format!("{text}# a comment\n")));
    assert!(edited(&text.lines().filter(|line| !line.starts_with("checksum")).collect::<Vec<_>>().join("\n")));
    let merged = text.replace("version: 1\n", "<<<<<<< ours\nversion: 1\n=======\nversion: 1\n>>>>>>> theirs\n");
    assert!(Lock::parse(Path::new(AT), &merged).is_err());
}

/// Whoever computes the sum anew still cannot have another digest go by a pinned one.
#[test]
fn what_the_list_pins_is_what_is_locked() {
    let pinned = format!("nginx@{}", digest("another"));
    let mut lock = Lock { images: vec![image("nginx")], ..Lock::default() };
    lock.images[0].reference = pinned.parse().unwrap();
    let text = lock.print(Path::new(AT)).unwrap();
    assert!(matches!(Lock::parse(Path::new(AT), &text).unwrap_err(), Error::EditedLock { .. }));
    lock.images[0].reference = format!("nginx:1@{}", lock.images[0].digest).parse().unwrap();
    let text = lock.print(Path::new(AT)).unwrap();
    assert_eq!(Lock::parse(Path::new(AT), &text).unwrap(), lock);
}

#[test]
fn a_newer_lock_is_refused_by_name() {
    let text = "version: 7\nsomething: new\n";
    let error = Lock::parse(Path::new(AT), text).unwrap_err();
    assert_eq!(error.to_string(), "naru.lock has version 7; this naru knows 1");
    assert!(error.hint().unwrap().contains("newer"));
}

#[test]
fn written_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_beside(&folder.path().join("mine.yaml"));
    assert_eq!(path, folder.path().join("mine.lock"));
    assert!(Lock::read(&path).unwrap_err().hint().unwrap().contains("naru lock"));
    example().write(&path).unwrap();
    assert_eq!(Lock::read(&path).unwrap(), example());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let nowhere = folder.path().join("no/such.lock");
    assert!(example().write(&nowhere).unwrap_err().to_string().contains("no/such.lock"));
}

#[test]
fn a_lock_covers_its_list_and_no_other() {
    let same = "
platforms: [linux/amd64, linux/arm64/v8]
images: [nginx, registry.k8s.io/pause:3.10]
files:
  - {url: https://dl.k8s.io/release/kubectl, checksum_url: https://dl.k8s.io/release/kubectl.sha256}
  - path: ./playbooks
";
    assert_eq!(example().covers(&list(same)), Ok(()));
    for (from, to, said) in [
        ("images: [nginx,", "images: [redis, nginx,", "not locked: docker.io/library/redis:latest"),
        ("images: [nginx, ", "images: [", "no longer wanted: docker.io/library/nginx:latest"),
        ("[nginx,", "[{image: nginx, platforms: [all]},", "locked for linux/amd64, linux/arm64/v8, wanted for all"),
        ("[nginx,", "[{image: nginx, referrers: false},", "changed: docker.io/library/nginx:latest: referrers"),
        ("kubectl.sha256}", "kubectl.sum}", "checksum_url https://dl.k8s.io/release/kubectl.sum now"),
        ("release/kubectl,", "release/v2/kubectl,", "not locked: https://dl.k8s.io/release/v2/kubectl"),
        ("./playbooks", "./other", "not locked: ./other"),
        ("./playbooks", "./play", "no longer wanted: ./playbooks/가: {x}.yml"),
        ("platforms", "foreign_layers: carry\nplatforms", "changed: foreign_layers"),
    ] {
        assert!(same.contains(from), "{from}");
        let differences = example().covers(&list(&same.replacen(from, to, 1))).unwrap_err();
        assert!(differences.iter().any(|line| line.contains(said)), "{said}: {differences:?}");
    }
    let mut reaching_out = example();
    reaching_out.local[0].source = "./playbooks/../../etc/shadow".into();
    assert!(reaching_out.covers(&list(same)).is_err());
    // A sum that the list now pins is what the lock must have.
    let pinned = same.replace(
        "checksum_url: https://dl.k8s.io/release/kubectl.sha256",
        &format!("sha256: {}", digest("kubectl").hex()),
    );
    assert!(example().covers(&list(&pinned)).is_err());
    let mut lock = example();
    (lock.files[0].checksum_url, lock.files[0].trust) = (None, Trust::Digest);
    assert_eq!(lock.covers(&list(&pinned)), Ok(()));
}

#[test]
fn what_is_carried_is_counted_once() {
    let totals = example().totals();
    // Two images: two indexes, two manifests, one signature, one layer; two files. The foreign layer is left out.
    assert_eq!((totals.images, totals.files, totals.things), (2, 2, 8));
    assert_eq!(totals.bytes, 2 * 700 + 2 * 500 + 300 + 3_000_000 + 57);
    let Selection::These(wanted) = example().selection() else { panic!("not a list") };
    let names: Vec<_> = wanted.iter().map(|one| format!("{} {}", one.repository, one.entry.name)).collect();
    let tag = example().images[0].attached[0].tag.clone().unwrap();
    assert_eq!(names[0], "docker.io/library/nginx latest");
    assert_eq!(names[1], format!("docker.io/library/nginx {tag}"));
    assert_eq!(names[4], "dl.k8s.io release/kubectl");
    assert_eq!(names[5], "local playbooks/가: {x}.yml");
    assert_eq!(wanted[0].manifests.as_ref().unwrap().len(), 2);
}

proptest::proptest! {
    #[test]
    fn never_panics(text in "(version: 1|checksum: |lock:|images:|[a-z:{}\\[\\], \n-]){0,40}") {
        let _ = Lock::parse(Path::new(AT), &text);
    }

    #[test]
    fn whatever_upstreams_say_reads_the_same(note in ".{0,40}", media_type in ".{0,20}", path in "[^/\0\\\\\n]{1,20}") {
        let mut lock = example();
        lock.images[0].note = Some(note);
        lock.images[0].manifests[1].blobs[0].media_type = media_type.clone();
        lock.images[0].manifests[1].platform = Some(media_type);
        lock.files[0].path = path;
        let text = lock.print(Path::new(AT)).unwrap();
        assert_eq!(Lock::parse(Path::new(AT), &text).unwrap(), lock, "{text}");
    }
}
