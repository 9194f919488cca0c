//! Healing: what a disk has changed, in blobs and in the catalog, is found, brought again, and nothing else is changed.

#![expect(clippy::unwrap_used, reason = "a test may")]

mod given;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use artifact::{Digest, Repository, Silent};
use bytes::Bytes;
use given::{by_digest, cause, database_of, entry, for_each_store, index, manifest, open, put};
use store::{Change, Finding, Fsck, Store};

/// What is lost, and the statement that loses it.
type Case<'a> = (&'static str, Box<dyn Fn(&Things) -> String + 'a>);

/// An image of two platforms and a file, each in its repository.
struct Things {
    image: Repository,
    files: Repository,
    child: Bytes,
    index: Bytes,
    bytes: HashMap<Digest, Vec<u8>>,
}

impl Things {
    async fn put(store: &Store) -> Self {
        let (image, files) = (Repository::image("a.io", "x"), Repository::files("b.io"));
        let (child, other) = (manifest(&[b"one", b"two"]), manifest(&[b"left out"]));
        let both = index(&[&child, &other]);
        let mut change = Change::because(cause("load"));
        for layer in [b"one", b"two"] {
            change.blob(Some(&image), put(store, layer));
        }
        change.manifest(&image, &Digest::of(&child), child.clone(), "", HashSet::new());
        change.manifest(&image, &Digest::of(&both), both.clone(), "", HashSet::from([Digest::of(&other)]));
        change.entry(&image, entry("1", Digest::of(&both), 1));
        change.blob(Some(&files), put(store, b"file"));
        change.entry(&files, entry("a/file", Digest::of(b"file"), 1));
        store.apply(change).await.unwrap();
        let bytes = by_digest([&b"one"[..], b"two", b"file", &child, &both]);
        Self { image, files, child, index: both, bytes }
    }

    /// Brings what was lost, as whoever has it would.
    async fn heal(&self, store: &Store, mut found: Fsck) -> Fsck {
        store.relink(&found).await.unwrap();
        for _ in 0..4 {
            found = store.recheck(&found).await.unwrap();
            for lost in store.lost(&found).await.unwrap() {
                let bytes = &self.bytes[&lost.digest];
                assert!(lost.size.is_none_or(|size| size == bytes.len() as u64), "{lost:?}");
                let mut change = Change::new();
                if lost.is_manifest {
                    change.heal_manifest(&lost.digest, bytes.clone().into(), "");
                } else {
                    change.blob(None, put(store, bytes));
                }
                store.apply(change).await.unwrap();
            }
            store.relink(&found).await.unwrap();
        }
        store.recheck(&found).await.unwrap()
    }

    /// Everything that there was is shown, with its own bytes.
    async fn are_whole(&self, store: &Store, what: &str) {
        for document in [&self.child, &self.index] {
            let stored = store.granted_manifest(&self.image, &Digest::of(document)).await.unwrap();
            let stored = stored.ok_or_else(|| format!("{what}: a manifest is not shown")).unwrap();
            assert!(stored.complete && stored.bytes == *document, "{what}");
        }
        for (repository, layer) in [(&self.image, &b"one"[..]), (&self.image, b"two"), (&self.files, b"file")] {
            let blob = store.granted_blob(repository, &Digest::of(layer)).await.unwrap();
            let blob = blob.ok_or_else(|| format!("{what}: a blob is not shown")).unwrap();
            assert_eq!(std::io::read_to_string(store.open_blob(&blob).unwrap()).unwrap().as_bytes(), layer, "{what}");
        }
        for (repository, name) in [(&self.image, "1"), (&self.files, "a/file")] {
            assert!(store.entry(repository, name).await.unwrap().is_some(), "{what}");
        }
        assert_eq!(store.history(10).await.unwrap().len(), 1, "{what}: a generation was made");
        let found = store.fsck(false, Arc::new(Silent)).await.unwrap();
        assert!(found.is_clean(), "{what}: {:?}", found.findings);
    }
}

#[tokio::test]
async fn rows_that_were_lost_or_changed_are_found_and_healed() {
    let hex = |bytes: &[u8]| format!("x'{}'", Digest::of(bytes).hex());
    for_each_store(async |_| {
        let cases: Vec<Case<'_>> = vec![
            ("a blob's row", Box::new(|_| format!("DELETE FROM blob WHERE digest = {}", hex(b"one")))),
            ("a file's row", Box::new(|_| format!("DELETE FROM blob WHERE digest = {}", hex(b"file")))),
            ("a manifest's row", Box::new(|it| format!("DELETE FROM manifest WHERE digest = {}", hex(&it.child)))),
            ("an index's row", Box::new(|it| format!("DELETE FROM manifest WHERE digest = {}", hex(&it.index)))),
            (
                "a manifest and all its links",
                Box::new(|it| {
                    format!(
                        "DELETE FROM manifest WHERE digest = {0}; DELETE FROM link WHERE parent = {0}",
                        hex(&it.child)
                    )
                }),
            ),
            (
                "a manifest's bytes",
                Box::new(|it| format!("UPDATE manifest SET bytes = x'7b7d' WHERE digest = {}", hex(&it.child))),
            ),
            (
                "one bit of an index",
                Box::new(|it| {
                    let mut flipped = it.index.to_vec();
                    flipped[20] ^= 1;
                    let flipped = flipped.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
                    format!("UPDATE manifest SET bytes = x'{flipped}' WHERE digest = {}", hex(&it.index))
                }),
            ),
            ("a link", Box::new(|_| format!("DELETE FROM link WHERE child = {}", hex(b"two")))),
            (
                "a link to a stranger",
                Box::new(|it| format!("INSERT INTO link VALUES ({}, {}, 0, 1, 3)", hex(&it.child), hex(b"stranger"))),
            ),
            (
                "a blob and the manifest above it",
                Box::new(|it| {
                    format!(
                        "DELETE FROM manifest WHERE digest = {}; DELETE FROM blob WHERE digest = {}",
                        hex(&it.child),
                        hex(b"one")
                    )
                }),
            ),
            (
                "what is complete",
                Box::new(|it| format!("UPDATE manifest SET complete = 0 WHERE digest = {}", hex(&it.index))),
            ),
            (
                "an image's grant",
                Box::new(|it| format!("DELETE FROM repository_manifest WHERE digest = {}", hex(&it.index))),
            ),
            ("a file's grant", Box::new(|_| format!("DELETE FROM repository_blob WHERE digest = {}", hex(b"file")))),
        ];
        for (what, damage) in cases {
            let folder = tempfile::tempdir().unwrap();
            let store = open(&folder).await;
            let things = Things::put(&store).await;
            things.are_whole(&store, what).await;
            store.close().await;
            drop(store);
            let database = database_of(folder.path()).await;
            sqlx::raw_sql(sqlx::AssertSqlSafe(damage(&things))).execute(&database).await.unwrap();
            database.close().await;
            let store = open(&folder).await;
            let found = store.fsck(false, Arc::new(Silent)).await.unwrap();
            assert!(!found.is_clean(), "{what} was not missed");
            let healed = things.heal(&store, found).await;
            assert!(healed.is_clean(), "{what}: {:?}", healed.findings);
            things.are_whole(&store, what).await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_nobody_has_stays_named() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let things = Things::put(&store).await;
        let blob = store.blob(&Digest::of(b"one")).await.unwrap().unwrap();
        std::fs::write(folder.path().join("blobs").join(&blob.key), "two").unwrap();
        let found = store.fsck(false, Arc::new(Silent)).await.unwrap();
        store.relink(&found).await.unwrap();
        let rest = store.recheck(&found).await.unwrap();
        let lost = store.lost(&rest).await.unwrap();
        assert_eq!(lost.len(), 1);
        assert_eq!((lost[0].digest, lost[0].size, lost[0].is_manifest), (Digest::of(b"one"), Some(3), false));
        assert_eq!(lost[0].shown_by, std::slice::from_ref(&things.image));
        assert!(lost[0].needed_by.iter().any(|hit| hit.entry.name == "1"), "{:?}", lost[0].needed_by);
        assert!(matches!(&rest.findings[..], [Finding::Corrupt { .. }]), "{:?}", rest.findings);
    })
    .await;
}

/// Somebody's bytes under another's name do not come in by this door either.
#[tokio::test]
async fn wrong_bytes_heal_nothing() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let things = Things::put(&store).await;
        let mut change = Change::new();
        change.heal_manifest(&Digest::of(&things.child), manifest(&[b"other"]), "");
        assert!(matches!(store.apply(change).await.unwrap_err(), store::Error::Mismatch { .. }));
        things.are_whole(&store, "wrong bytes").await;
    })
    .await;
}

/// What would make a scrub wait for ever, and what nobody will go on with.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_is_found_and_what_was_left_is_tidied() {
    for_each_store(|folder| async move {
        let store = open(&folder).await;
        let things = Things::put(&store).await;
        let lost = Digest::of(b"one");
        let key = store.blob(&lost).await.unwrap().unwrap().key;
        let place = folder.path().join("blobs").join(key);
        std::fs::remove_file(&place).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&place).status().unwrap().success());
        let (left, held, pieces) = (Digest::of(b"left"), Digest::of(b"held"), Digest::of(b"pieces"));
        let begin = |digest: &Digest| {
            let mut writer = store.resume(digest).unwrap();
            writer.write(b"be").unwrap();
            writer
        };
        begin(&left).keep();
        let writer = begin(&held);
        store.patchwork(&pieces, 9).unwrap().keep().unwrap();
        let scrub = async |tidy| store.fsck(tidy, Arc::new(Silent)).await.unwrap();
        let found = scrub(true).await;
        let is_lost = |finding: &Finding| matches!(finding, Finding::Corrupt { digest, .. } if *digest == lost);
        assert!(found.findings.iter().any(is_lost), "{:?}", found.findings);
        assert_eq!((found.partial, found.removed), (3, 0), "they are of today");
        assert!(things.heal(&store, found).await.is_clean());
        store.pass(25 * 60 * 60);
        assert_eq!(scrub(false).await.partial, 3);
        let found = scrub(true).await;
        assert_eq!((found.partial, found.removed), (2, 1), "{:?}", found.findings);
        assert_eq!((store.partial(&left), store.partial(&held)), (0, 2));
        drop(writer);
    })
    .await;
}
