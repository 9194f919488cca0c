//! A catalog that was lost: from its copy, or from nothing, and always with the blobs that are right.

#![expect(clippy::unwrap_used, reason = "a test may")]

mod given;

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use artifact::{Digest, Repository, Silent};
use given::{cause, entry, files, manifest, put};
use store::{Change, Error, Origin, Rebuilt, Store};

/// What happens to a store's folder, or to its catalog, and what it is called.
type Case = (&'static str, fn(&Path));

/// Adds an image of one layer and names it.
async fn bring(store: &Store, tag: &str, layer: &[u8]) {
    let (repository, document) = (Repository::image("a.io", "x"), manifest(&[layer]));
    let mut change = Change::because(cause("load"));
    change.blob(Some(&repository), put(store, layer));
    change.manifest(&repository, &Digest::of(&document), document.clone(), "", HashSet::new());
    change.entry(&repository, entry(tag, Digest::of(&document), 1));
    store.apply(change).await.unwrap();
}

async fn is_named(store: &Store, tag: &str) -> bool {
    store.entry(&Repository::image("a.io", "x"), tag).await.unwrap().is_some()
}

/// A store with `before` in it when its copy was made (if one was), and `after` since. Enough else is in it that its
/// catalog has a middle.
async fn filled(folder: &Path, copied: bool) -> PathBuf {
    let store = Store::open(folder).await.unwrap();
    bring(&store, "before", b"before").await;
    store.set_document("large", Some(&vec![7; 200_000])).await.unwrap();
    if copied {
        assert!(store.keep_catalog(Duration::ZERO).await.unwrap());
        assert!(!store.keep_catalog(Duration::from_hours(1)).await.unwrap(), "one that is young is enough");
    }
    bring(&store, "after", b"after").await;
    store.close().await;
    folder.join("naru.db")
}

async fn rebuild(folder: &Path) -> (Store, Rebuilt) {
    Store::rebuild(folder, Arc::new(Silent)).await.unwrap()
}

fn truncate(path: &Path, size: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(size).unwrap();
}

fn overwrite_the_middle(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    // All but the header and the schema: wherever the tables lie.
    let size = file.metadata().unwrap().len();
    file.write_all_at(&vec![0x5a; usize::try_from(size - 4096).unwrap()], 4096).unwrap();
}

#[tokio::test]
async fn a_catalog_that_was_lost_is_made_again() {
    let damages: [Case; 6] = [
        ("deleted", |path| fs::remove_file(path).unwrap()),
        ("emptied", |path| truncate(path, 0)),
        ("cut in its header", |path| truncate(path, 77)),
        ("cut in half", |path| truncate(path, fs::metadata(path).unwrap().len() / 2)),
        ("overwritten", overwrite_the_middle),
        ("garbage", |path| fs::write(path, "no database, but long enough for one".repeat(300)).unwrap()),
    ];
    for (what, damage) in damages {
        for copied in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let path = filled(folder.path(), copied).await;
            damage(&path);
            let is_there = path.exists();
            // Whoever opens it is told, at once or at the first look.
            let refused = match Store::open_existing(folder.path()).await {
                Err(error) => error,
                Ok(store) => {
                    let found = store.fsck(false, Arc::new(Silent)).await.unwrap();
                    assert!(matches!(found.findings[..], [store::Finding::Catalog { .. }, ..]), "{what}: {found:?}");
                    let refused = store.usage().await.err().or(store.search("", 10).await.err());
                    store.close().await;
                    refused.unwrap_or_else(|| Error::NoCatalog { path: path.clone() })
                }
            };
            assert!(refused.hint().is_some_and(|hint| hint.contains("fsck --rebuild")), "{what}: {refused:?}");
            let blobs = files(&folder.path().join("blobs"));

            let (store, rebuilt) = rebuild(folder.path()).await;
            assert_eq!(matches!(rebuilt.origin, Origin::Kept(_)), copied, "{what}: {rebuilt:?}");
            assert_eq!(rebuilt.aside.is_some(), is_there, "{what}");
            assert_eq!(rebuilt.adopted.0, if copied { 1 } else { 2 }, "{what}: {rebuilt:?}");
            assert_eq!(is_named(&store, "before").await, copied, "{what}");
            assert!(!is_named(&store, "after").await, "{what}");
            for layer in [&b"before"[..], b"after"] {
                assert!(store.blob(&Digest::of(layer)).await.unwrap().is_some(), "{what}: bytes are not known again");
            }
            assert_eq!(store.document("large").await.unwrap().is_some(), copied, "{what}");
            let found = store.fsck(false, Arc::new(Silent)).await.unwrap();
            assert_eq!(found.findings, [], "{what}");
            // Loaded again, it has its name again, and its bytes were not carried twice.
            bring(&store, "before", b"before").await;
            bring(&store, "after", b"after").await;
            assert!(is_named(&store, "after").await && is_named(&store, "before").await, "{what}");
            assert_eq!(files(&folder.path().join("blobs")), blobs, "{what}");
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{what}");
            store.close().await;
            drop(store);

            // What is sound now stays as it is.
            let (store, again) = rebuild(folder.path()).await;
            assert_eq!((again.origin, again.adopted, again.aside), (Origin::Sound, (0, 0), None), "{what}");
            assert!(is_named(&store, "after").await, "{what}");
        }
    }
}

/// The last commits are in the log; without it they are gone, and nothing tells so but their bytes.
#[tokio::test]
async fn a_log_that_was_lost_leaves_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    bring(&store, "before", b"before").await;
    // As a kill and a lost file would leave it: the database and its blobs, and no log.
    let copy = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("cp").arg("-a").arg(folder.path().join(".")).arg(copy.path()).status();
    assert!(status.unwrap().success());
    fs::remove_file(copy.path().join("naru.db-wal")).unwrap();
    let _ = fs::remove_file(copy.path().join("naru.db-shm"));
    // Nothing was written into the database itself yet: it is empty, and not taken for that of a new store.
    let refused = Store::open(copy.path()).await.unwrap_err();
    assert!(matches!(refused, Error::NoCatalog { .. }), "{refused}");
    let (store, rebuilt) = rebuild(copy.path()).await;
    assert_eq!(rebuilt.adopted, (1, 6), "{rebuilt:?}");
    assert!(store.blob(&Digest::of(b"before")).await.unwrap().is_some());
}

#[tokio::test]
async fn only_right_bytes_are_adopted_and_one_of_each() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), false).await;
    let place = |layer: &[u8]| {
        let hex = Digest::of(layer).hex();
        let below = folder.path().join("blobs/sha256").join(&hex[..2]);
        let mut found = fs::read_dir(&below).unwrap().map(|entry| entry.unwrap().path());
        found.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&hex)).unwrap()
    };
    let (right, wrong) = (place(b"before"), place(b"after"));
    fs::write(&wrong, "aftir").unwrap();
    let named = right.file_name().unwrap().to_str().unwrap().to_owned();
    fs::copy(&right, right.with_file_name(format!("{named}.damaged"))).unwrap();
    fs::write(right.with_file_name("thesis.odt"), "x").unwrap();
    // A second copy under another key, as two writers of the same bytes may leave it.
    let (stem, sum) = named.rsplit_once('-').unwrap();
    let other = right.with_file_name(format!("{}0000-{sum}", &stem[..stem.len() - 4]));
    fs::copy(&right, &other).unwrap();
    fs::remove_file(folder.path().join("naru.db")).unwrap();
    let (store, rebuilt) = rebuild(folder.path()).await;
    assert_eq!((rebuilt.adopted, rebuilt.wrong), ((1, 6), 1), "{rebuilt:?}");
    assert!(store.blob(&Digest::of(b"after")).await.unwrap().is_none());
    for kept in [right, wrong, other] {
        assert!(kept.exists(), "nothing is taken away");
    }
}

#[tokio::test]
async fn a_store_that_is_held_and_a_folder_that_is_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), true).await;
    let held = Store::open(folder.path()).await.unwrap();
    let refused = Store::rebuild(folder.path(), Arc::new(Silent)).await.unwrap_err();
    assert!(matches!(refused, Error::Held { .. }), "{refused}");
    drop(held);
    let folder = tempfile::tempdir().unwrap();
    let refused = Store::rebuild(folder.path(), Arc::new(Silent)).await.unwrap_err();
    assert!(matches!(refused, Error::NoStore { .. }), "{refused}");
    assert_eq!(files(folder.path()), 0);
}

/// Where a run was cut: each of the states that it leaves is begun again from.
#[tokio::test]
async fn a_run_that_was_cut_is_begun_again() {
    let states: [Case; 4] = [
        ("before anything was moved", |folder| {
            fs::copy(folder.join("naru.db.kept"), folder.join("naru.db.rebuilding")).unwrap();
            truncate(&folder.join("naru.db.rebuilding"), 8192);
        }),
        ("after the log was moved", |folder| {
            fs::write(folder.join("naru.db.damaged-1-wal"), "log").unwrap();
            fs::copy(folder.join("naru.db.kept"), folder.join("naru.db.rebuilding")).unwrap();
        }),
        ("after the catalog was moved", |folder| {
            fs::rename(folder.join("naru.db"), folder.join("naru.db.damaged-1")).unwrap();
            fs::copy(folder.join("naru.db.kept"), folder.join("naru.db.rebuilding")).unwrap();
        }),
        ("before the blobs were looked through", |folder| {
            fs::rename(folder.join("naru.db"), folder.join("naru.db.damaged-1")).unwrap();
            fs::copy(folder.join("naru.db.kept"), folder.join("naru.db")).unwrap();
        }),
    ];
    for (what, state) in states {
        let folder = tempfile::tempdir().unwrap();
        let path = filled(folder.path(), true).await;
        overwrite_the_middle(&path);
        state(folder.path());
        let (store, rebuilt) = rebuild(folder.path()).await;
        assert_eq!(rebuilt.adopted.0, 1, "{what}: {rebuilt:?}");
        assert!(is_named(&store, "before").await && !is_named(&store, "after").await, "{what}");
        assert_eq!(store.fsck(false, Arc::new(Silent)).await.unwrap().findings, [], "{what}");
        assert!(!folder.path().join("naru.db.rebuilding").exists(), "{what}");
    }
}
