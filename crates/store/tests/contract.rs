//! What every store must do, whatever it rests on. A new back end is one more line in [`given::for_each_store`].

#![expect(clippy::unwrap_used, reason = "a test may")]

mod given;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use artifact::{Algorithm, Digest, Kind, Repository, Silent, media_type};
use bytes::Bytes;
use given::{SHARED, cause, database_of, entry, files, for_each_store, index, manifest, open, put};
use store::{Change, Error, Finding, Store};

#[tokio::test]
async fn bytes_that_do_not_match_never_enter() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let mut writer = store.writer(Some(&Digest::of(b"right"))).unwrap();
        writer.write(b"wrong").unwrap();
        assert!(matches!(writer.finish().unwrap_err(), Error::Mismatch { .. }));
        let mut writer = store.resume(&Digest::of(b"right")).unwrap();
        writer.write(b"wrong").unwrap();
        writer.finish().unwrap_err();
        assert!(store.resume(&Digest::of(b"right")).unwrap().is_empty(), "wrong bytes were kept for later");
        assert!(store.blob(&Digest::of(b"right")).await.unwrap().is_none());
        let repository = Repository::image("a.io", "b");
        let mut change = Change::new();
        change.manifest(&repository, &Digest::of(b"other"), manifest(&[]), "", HashSet::new());
        assert!(matches!(store.apply(change).await.unwrap_err(), Error::Mismatch { .. }));
    })
    .await;
}

#[tokio::test]
async fn a_blob_is_continued_where_it_stopped() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let digest = Digest::of(b"hello world");
        let mut writer = store.resume(&digest).unwrap();
        writer.write(b"hello ").unwrap();
        // While one has it in hand another begins afresh, and neither disturbs the other.
        assert!(store.resume(&digest).unwrap().is_empty());
        writer.keep();
        store.close().await;
        drop(store);
        let store = open(&folder).await;
        let mut writer = store.resume(&digest).unwrap();
        assert_eq!(writer.len(), 6);
        writer.write(b"world").unwrap();
        let blob = writer.finish().unwrap();
        let mut change = Change::new();
        change.blob(None, blob);
        store.apply(change).await.unwrap();
        assert_eq!(store.blob(&digest).await.unwrap().unwrap().size, 11);
        assert_eq!(files(&folder.path().join("partial")), 0);
    })
    .await;
}

#[tokio::test]
async fn pieces_arrive_in_any_order() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let digest = Digest::of(b"abcdef");
        let mut pieces = store.patchwork(&digest, 6).unwrap();
        pieces.write_at(3, b"def").unwrap();
        assert!(matches!(store.patchwork(&digest, 6).unwrap_err(), Error::Busy { .. }));
        pieces.keep().unwrap();
        let mut pieces = store.patchwork(&digest, 6).unwrap();
        pieces.write_at(0, b"abc").unwrap();
        assert_eq!(*pieces.finish().unwrap().digest(), digest);
        let mut pieces = store.patchwork(&digest, 6).unwrap();
        pieces.write_at(0, b"abd").unwrap();
        assert!(matches!(pieces.finish().unwrap_err(), Error::Mismatch { .. }));
    })
    .await;
}

#[tokio::test]
async fn the_same_bytes_are_kept_once() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let (mut one, mut two) = (Change::new(), Change::new());
        one.blob(Some(&Repository::image("a.io", "a")), put(&store, b"x"));
        two.blob(Some(&Repository::image("b.io", "b")), put(&store, b"x"));
        let (one, two) = tokio::join!(store.apply(one), store.apply(two));
        assert!(one.is_ok() && two.is_ok());
        assert_eq!(files(&folder.path().join("blobs")), 1);
        let blob = store.blob(&Digest::of(b"x")).await.unwrap().unwrap();
        assert_eq!(std::io::read_to_string(store.open_blob(&blob).unwrap()).unwrap(), "x");
        // A blob that nobody named leaves nothing behind.
        drop(put(&store, b"y"));
        assert_eq!(files(&folder.path().join("blobs")), 1);
    })
    .await;
}

#[tokio::test]
async fn who_names_a_digest_gets_it_and_nothing_else() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let repository = Repository::image("a.io", "x");
        let document = manifest(&[]);
        let digest = Digest::of(&document);
        let mut change = Change::new();
        change.manifest(&repository, &digest, document, "", HashSet::new());
        change.entry(&repository, entry(&Digest::of(b"another").to_string(), digest, 5));
        assert!(matches!(store.apply(change).await.unwrap_err(), Error::Name(_)));
    })
    .await;
}

/// Who hangs up in the middle of a change leaves no copy behind, whether the change was made or not.
#[tokio::test]
async fn who_is_gone_leaves_nothing_behind() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let bring = || {
            let mut change = Change::new();
            change.blob(Some(&Repository::image("a.io", "a")), put(&store, b"x"));
            change
        };
        store.apply(bring()).await.unwrap();
        for patience in 0..40 {
            tokio::select! {
                _ = store.apply(bring()) => {}
                () = tokio::time::sleep(std::time::Duration::from_micros(patience * 50)) => {}
            }
        }
        for _ in 0..100 {
            if files(&folder.path().join("blobs")) == 1 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("{} copies are left", files(&folder.path().join("blobs")) - 1);
    })
    .await;
}

#[tokio::test]
async fn nobody_else_reads_the_catalog() {
    use std::os::unix::fs::PermissionsExt as _;
    for_each_store(async |folder| {
        let mode = |mode| std::fs::Permissions::from_mode(mode);
        // A mount point, or a folder that was made for it.
        std::fs::set_permissions(folder.path(), mode(0o755)).unwrap();
        let is_private = || {
            let names = ["naru.db", "naru.db-wal", "naru.db-shm"].map(|name| folder.path().join(name));
            let modes = names.iter().filter_map(|path| Some(std::fs::metadata(path).ok()?.permissions().mode()));
            modes.map(|mode| mode & 0o077).all(|others| others == 0)
        };
        let store = open(&folder).await;
        store.set_document("secret", Some(b"key")).await.unwrap();
        assert!(is_private());
        store.close().await;
        drop(store);
        // As builds before this one made it.
        std::fs::set_permissions(folder.path().join("naru.db"), mode(0o644)).unwrap();
        let store = open(&folder).await;
        store.set_document("secret", Some(b"other")).await.unwrap();
        assert!(is_private());
    })
    .await;
}

#[tokio::test]
async fn a_repository_shows_only_what_it_was_granted() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let (mine, yours) = (Repository::image("a.io", "x"), Repository::image("b.io", "x"));
        let document = manifest(&[b"layer"]);
        let digest = Digest::of(&document);
        let mut change = Change::new();
        change.blob(Some(&mine), put(&store, b"layer"));
        change.manifest(&mine, &digest, document.clone(), "", HashSet::new());
        change.entry(&mine, entry("1", digest, 5));
        store.apply(change).await.unwrap();
        assert!(store.granted_blob(&mine, &Digest::of(b"layer")).await.unwrap().is_some());
        assert!(store.granted_blob(&yours, &Digest::of(b"layer")).await.unwrap().is_none());
        assert!(store.granted_manifest(&yours, &digest).await.unwrap().is_none());
        let mut change = Change::new();
        change.entry(&yours, entry("1", digest, 5));
        assert!(matches!(store.apply(change).await.unwrap_err(), Error::Missing { .. }));
        let found = store.candidates("x", "1").await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(store.candidates("x", &digest.to_string()).await.unwrap().len(), 1);
        assert_eq!(store.candidates("x", &Digest::of(b"layer").to_string()).await.unwrap()[0].repository, mine);
    })
    .await;
}

#[tokio::test]
async fn nothing_with_a_hole_is_offered() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let repository = Repository::image("a.io", "x");
        let (amd, arm) = (manifest(&[b"amd"]), manifest(&[b"arm"]));
        let both = index(&[&amd, &arm]);
        let digest = Digest::of(&both);
        let mut change = Change::new();
        change.manifest(&repository, &Digest::of(&amd), amd.clone(), "", HashSet::new());
        change.manifest(&repository, &digest, both.clone(), "", HashSet::from([Digest::of(&arm)]));
        store.apply(change).await.unwrap();
        let mut change = Change::new();
        change.entry(&repository, entry("1", digest, 1));
        let refused = store.apply(change).await.unwrap_err();
        assert!(matches!(refused, Error::Incomplete { missing, .. } if missing == Digest::of(b"amd")), "{refused}");
        // The layer arrives: the manifest, and then the index, are complete.
        let mut change = Change::new();
        change.blob(Some(&repository), put(&store, b"amd"));
        change.entry(&repository, entry("1", digest, 1));
        store.apply(change).await.unwrap();
        assert!(store.manifest(&digest).await.unwrap().unwrap().complete);
        // The other platform is wished for later: the index stays whole all the while.
        let mut change = Change::new();
        change.manifest(&repository, &digest, both.clone(), "", HashSet::new());
        store.apply(change).await.unwrap();
        assert!(store.manifest(&digest).await.unwrap().unwrap().complete);
        assert!(store.links(&digest).await.unwrap().iter().any(|link| !link.carried));
        let mut change = Change::new();
        change.blob(Some(&repository), put(&store, b"arm"));
        change.manifest(&repository, &Digest::of(&arm), arm, "", HashSet::new());
        change.manifest(&repository, &digest, both, "", HashSet::new());
        store.apply(change).await.unwrap();
        assert!(store.links(&digest).await.unwrap().iter().all(|link| link.carried && link.present));
        assert!(store.fsck(false, Arc::new(Silent)).await.unwrap().findings.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_wish_without_what_was_lost_is_complete() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let repository = Repository::image("a.io", "x");
        let (amd, arm) = (manifest(&[b"amd"]), manifest(&[b"arm"]));
        let both = index(&[&amd, &arm]);
        let digest = Digest::of(&both);
        // All platforms were to come, and one did not.
        let mut change = Change::new();
        change.blob(Some(&repository), put(&store, b"amd"));
        for document in [&amd, &arm, &both] {
            change.manifest(&repository, &Digest::of(document), document.clone(), "", HashSet::new());
        }
        store.apply(change).await.unwrap();
        assert!(!store.manifest(&digest).await.unwrap().unwrap().complete);
        let mut change = Change::new();
        change.manifest(&repository, &digest, both, "", HashSet::from([Digest::of(&arm)]));
        change.entry(&repository, entry("1", digest, 1));
        store.apply(change).await.unwrap();
        assert!(store.fsck(false, Arc::new(Silent)).await.unwrap().findings.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_refused_change_changes_nothing_and_spares_its_neighbours() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let repository = Repository::files("dl.k8s.io");
        let (mut bad, mut good) = (Change::new(), Change::new());
        bad.blob(Some(&repository), put(&store, b"bad"));
        bad.entry(&repository, entry("../etc/passwd", Digest::of(b"bad"), 1));
        good.blob(Some(&repository), put(&store, b"good"));
        good.entry(&repository, entry("a/good", Digest::of(b"good"), 1));
        let (bad, good) = tokio::join!(store.apply(bad), store.apply(good));
        assert!(matches!(bad.unwrap_err(), Error::Name(_)));
        good.unwrap();
        assert!(store.blob(&Digest::of(b"bad")).await.unwrap().is_none());
        assert_eq!(files(&folder.path().join("blobs")), 1);
    })
    .await;
}

#[tokio::test]
async fn older_never_replaces_newer() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let repository = Repository::files("h.io");
        for (bytes, seen, force) in [(b"new", 20, false), (b"old", 10, false), (b"odd", 10, true)] {
            let mut change = Change::because(cause("load"));
            change.blob(Some(&repository), put(&store, bytes));
            change.entry(&repository, entry("f", Digest::of(bytes), seen));
            if force {
                change.force();
            }
            let applied = store.apply(change).await.unwrap();
            assert_eq!(applied.kept.len(), usize::from(seen == 10 && !force));
        }
        assert_eq!(store.entry(&repository, "f").await.unwrap().unwrap().digest, Digest::of(b"odd"));
    })
    .await;
}

#[tokio::test]
async fn a_generation_can_be_restored() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let repository = Repository::files("h.io");
        for (bytes, seen) in [(b"one", 1), (b"two", 2)] {
            let mut change = Change::because(cause("load"));
            change.blob(Some(&repository), put(&store, bytes));
            change.entry(&repository, entry("f", Digest::of(bytes), seen));
            change.entry(&repository, entry(&format!("only-{seen}"), Digest::of(bytes), seen));
            store.apply(change).await.unwrap();
        }
        store.restore(1, false, "me").await.unwrap();
        assert_eq!(store.entry(&repository, "f").await.unwrap().unwrap().digest, Digest::of(b"one"));
        assert!(store.entry(&repository, "only-2").await.unwrap().is_none());
        store.restore(2, false, "me").await.unwrap();
        assert_eq!(store.entry(&repository, "f").await.unwrap().unwrap().digest, Digest::of(b"two"));
        assert_eq!(store.changes(4).await.unwrap().len(), 2);

        // What was made here stays, unless that is wished too.
        let local = Repository { kind: Kind::Image, host: String::new(), name: "own".to_owned() };
        let bytes = index(&[]);
        let digest = Digest::of(&bytes);
        let mut change = Change::because(cause("push"));
        change.manifest(&local, &digest, bytes, media_type::OCI_INDEX, HashSet::new());
        change.entry(&local, entry("1", digest, 0));
        store.apply(change).await.unwrap();
        store.restore(0, false, "me").await.unwrap();
        assert!(store.entries(&repository, "", 9).await.unwrap().is_empty());
        assert!(store.entry(&local, "1").await.unwrap().is_some());
        store.restore(0, true, "me").await.unwrap();
        assert!(store.entry(&local, "1").await.unwrap().is_none());
        assert_eq!(store.history(9).await.unwrap().len(), 7);
        assert!(matches!(store.restore(99, false, "me").await.unwrap_err(), Error::NoGeneration(99)));
    })
    .await;
}

#[tokio::test]
async fn one_process_holds_it() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let refused = Store::open(folder.path()).await.unwrap_err();
        assert!(matches!(&refused, Error::Held { holder, .. } if holder.contains("process")), "{refused}");
        store.close().await;
        drop(store);
        open(&folder).await;
    })
    .await;
}

#[tokio::test]
async fn another_machine_is_kept_out_by_the_catalog_itself() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_shared(folder.path()).await.unwrap();
    store.set_document("a", Some(b"b")).await.unwrap();
    assert!(!folder.path().join("naru.db-shm").exists(), "memory that another machine would not share");
    // A file system whose flock(2) does not reach the other machine.
    std::fs::remove_file(folder.path().join("lock")).unwrap();
    assert!(matches!(Store::open_shared(folder.path()).await.unwrap_err(), Error::Held { .. }));
    store.close().await;
    drop(store);
    let store = Store::open_shared(folder.path()).await.unwrap();
    assert_eq!(store.document("a").await.unwrap().as_deref(), Some(&b"b"[..]));
}

#[tokio::test]
async fn other_folders_and_newer_stores_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("thesis.odt"), "x").unwrap();
    let refused = Store::open(folder.path()).await.unwrap_err();
    assert!(refused.to_string().contains("thesis.odt"), "{refused}");
    assert_eq!(files(folder.path()), 1);

    let folder = tempfile::tempdir().unwrap();
    open(&folder).await.close().await;
    let database = std::fs::read(folder.path().join("naru.db")).unwrap();
    // `PRAGMA user_version` lies at bytes 60 to 63 of the header (SQLite, "Database File Format").
    let mut newer = database.clone();
    newer[60..64].copy_from_slice(&9_u32.to_be_bytes());
    std::fs::write(folder.path().join("naru.db"), newer).unwrap();
    let refused = Store::open(folder.path()).await.unwrap_err();
    assert!(matches!(refused, Error::Newer { found: 9, known: 4, .. }), "{refused}");
    // One that kept the table says by whom.
    std::fs::write(folder.path().join("naru.db"), &database).unwrap();
    let newer = database_of(folder.path()).await;
    sqlx::raw_sql("INSERT INTO format VALUES (5, '7.8.9'); PRAGMA user_version = 5").execute(&newer).await.unwrap();
    newer.close().await;
    let refused = Store::open(folder.path()).await.unwrap_err().to_string();
    for part in ["format 5, made by naru 7.8.9", env!("CARGO_PKG_VERSION"), "up to 4"] {
        assert!(refused.contains(part), "{refused}");
    }
    std::fs::write(
        folder.path().join("naru.db"),
        "no database at all, but long enough to be taken for one".repeat(100),
    )
    .unwrap();
    assert!(matches!(Store::open(folder.path()).await.unwrap_err(), Error::NotAStore { .. }));
}

/// Large ones go past the kernel's cache for a stretch: whatever the pieces, and wherever somebody wants them durable.
#[tokio::test]
async fn a_large_blob_is_what_came_however_it_came() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let bytes: Vec<u8> =
            (0..6_500_000_u32).map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
        let digest = Digest::of(&bytes);
        let read = |blob: &store::NewBlob| {
            let mut found = Vec::new();
            std::io::Read::read_to_end(&mut blob.open().unwrap(), &mut found).unwrap();
            found
        };
        for piece in [1000, 4096, 65_537, 1 << 20, 3_000_001, bytes.len()] {
            for synced in [usize::MAX, 1, 2] {
                let mut writer = store.writer(Some(&digest)).unwrap();
                for (number, part) in bytes.chunks(piece).enumerate() {
                    writer.write(part).unwrap();
                    if piece > 60_000 && (number + 1).is_multiple_of(synced) {
                        writer.sync().unwrap();
                    }
                }
                assert_eq!(writer.len(), bytes.len() as u64);
                assert!(read(&writer.finish().unwrap()) == bytes, "in pieces of {piece}, synced each {synced}");
            }
        }
        // What was written before a run ended is there for the next; what is begun again is not.
        let mut writer = store.resume(&digest).unwrap();
        bytes[..5_000_123].chunks(70_000).for_each(|part| writer.write(part).unwrap());
        drop(writer);
        let mut writer = store.resume(&digest).unwrap();
        assert_eq!(writer.len(), 5_000_123);
        bytes[5_000_123..].chunks(9_999).for_each(|part| writer.write(part).unwrap());
        writer.restart().unwrap();
        bytes.chunks(123_456).for_each(|part| writer.write(part).unwrap());
        assert!(read(&writer.finish().unwrap()) == bytes);
        // Who reads along sees every byte at once, also of what came before.
        let mut writer = store.writer(None).unwrap();
        writer.write(&bytes[..3_000_000]).unwrap();
        let mut along = writer.reader().unwrap();
        writer.write(&bytes[3_000_000..]).unwrap();
        let mut found = Vec::new();
        std::io::Read::read_to_end(&mut along, &mut found).unwrap();
        assert!(found == bytes);
        drop(writer);
        // More at a time than may go that way at a time.
        let mut writers: Vec<_> = (0..8).map(|_| store.writer(Some(&digest)).unwrap()).collect();
        for part in bytes.chunks(500_000) {
            for writer in &mut writers {
                writer.write(part).unwrap();
            }
        }
        for writer in writers {
            assert!(read(&writer.finish().unwrap()) == bytes);
        }
        assert_eq!(files(folder.path().join("partial").as_path()), 0);
    })
    .await;
}

/// A store as the first Naru wrote it, with a document.
async fn of_the_first(folder: &Path) {
    std::fs::write(folder.join("naru.db"), "").unwrap();
    let database = database_of(folder).await;
    sqlx::raw_sql(include_str!("given/format-1.sql")).execute(&database).await.unwrap();
    sqlx::raw_sql("INSERT INTO document VALUES ('site/ca', x'6b657074')").execute(&database).await.unwrap();
    database.close().await;
}

/// Every column and index that a catalog has.
async fn shape(folder: &Path) -> Vec<(String, String)> {
    let database = database_of(folder).await;
    let columns = "SELECT m.name, c.name || ' ' || c.type || ' ' || c.\"notnull\" || ' ' || c.pk FROM sqlite_schema AS m \
        JOIN pragma_table_info(m.name) AS c WHERE m.type = 'table' UNION \
        SELECT tbl_name, coalesce(sql, '') FROM sqlite_schema WHERE type = 'index' ORDER BY 1, 2";
    let shape = sqlx::query_as(columns).fetch_all(&database).await.unwrap();
    database.close().await;
    shape
}

fn copies(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut copies: Vec<_> =
        entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("naru.db.format-1.")).collect();
    copies.sort();
    copies
}

#[tokio::test]
async fn an_older_catalog_is_copied_and_brought_forward() {
    for_each_store(async |folder| {
        of_the_first(folder.path()).await;
        for earlier in ["1", "2"] {
            std::fs::write(folder.path().join(format!("naru.db.format-1.{earlier}")), "").unwrap();
        }
        let store = open(&folder).await;
        assert_eq!(store.document("site/ca").await.unwrap().unwrap(), b"kept");
        store.close().await;
        drop(store);
        let new = tempfile::tempdir().unwrap();
        open(&new).await.close().await;
        assert_eq!(shape(folder.path()).await, shape(new.path()).await, "what became of it is what is made today");
        // The newest two stay, and the newest is whole.
        let made = copies(folder.path());
        assert_eq!(made.len(), 2, "{made:?}");
        assert!(made.contains(&folder.path().join("naru.db.format-1.2")));
        let old = tempfile::tempdir().unwrap();
        let copy = made.iter().find(|path| !path.ends_with("naru.db.format-1.2")).unwrap();
        std::fs::copy(copy, old.path().join("naru.db")).unwrap();
        let database = database_of(old.path()).await;
        assert_eq!(sqlx::query_scalar::<_, i64>("PRAGMA user_version").fetch_one(&database).await.unwrap(), 1);
        database.close().await;
        let back = Store::open(old.path()).await.unwrap();
        assert_eq!(back.document("site/ca").await.unwrap().unwrap(), b"kept");
        // What is of this format already is left alone.
        drop(open(&folder).await);
        assert_eq!(copies(folder.path()), made);
    })
    .await;
}

#[tokio::test]
async fn a_migration_that_fails_changes_nothing_and_names_the_copy() {
    for_each_store(async |folder| {
        of_the_first(folder.path()).await;
        let database = database_of(folder.path()).await;
        // A table of that name is there already: no step can make it.
        sqlx::raw_sql("CREATE TABLE format (number INTEGER)").execute(&database).await.unwrap();
        database.close().await;
        let refused =
            if SHARED.get() { Store::open_shared(folder.path()).await } else { Store::open(folder.path()).await };
        let refused = refused.unwrap_err();
        let made = copies(folder.path());
        assert!(matches!(&refused, Error::Migration { found: 1, known: 4, copy, .. } if *copy == made[0]), "{refused}");
        let database = database_of(folder.path()).await;
        assert_eq!(sqlx::query_scalar::<_, i64>("PRAGMA user_version").fetch_one(&database).await.unwrap(), 1);
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn fsck_names_what_is_wrong_and_who_needs_it() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let repository = Repository::image("a.io", "x");
        let document = manifest(&[b"one", b"two"]);
        let mut change = Change::new();
        for layer in [b"one", b"two"] {
            change.blob(Some(&repository), put(&store, layer));
        }
        change.manifest(&repository, &Digest::of(&document), document.clone(), "", HashSet::new());
        change.entry(&repository, entry("1", Digest::of(&document), 1));
        store.apply(change).await.unwrap();
        for (layer, bytes) in [(b"one", Some("onf")), (b"two", None)] {
            let blob = store.blob(&Digest::of(layer)).await.unwrap().unwrap();
            let path = folder.path().join("blobs").join(&blob.key);
            match bytes {
                Some(bytes) => std::fs::write(path, bytes).unwrap(),
                None => std::fs::remove_file(path).unwrap(),
            }
        }
        drop(store);
        std::fs::write(folder.path().join("blobs/stray"), "").unwrap();
        // What is younger than the opening may still be named by a writer, and is no orphan.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let store = open(&folder).await;
        let found = store.fsck(false, Arc::new(Silent)).await.unwrap();
        assert!(!found.is_clean());
        let names_the_image = |hits: &[store::Hit]| hits.len() == 1 && hits[0].repository == repository;
        assert!(found.findings.iter().any(|finding| matches!(finding, Finding::Corrupt { digest, needed_by, .. }
            if *digest == Digest::of(b"one") && names_the_image(needed_by))));
        assert!(found.findings.iter().any(|finding| matches!(finding, Finding::Missing { digest, needed_by }
            if *digest == Digest::of(b"two") && names_the_image(needed_by))));
        assert!(found.findings.iter().any(|finding| matches!(finding, Finding::Orphan { .. })));
    })
    .await;
}

#[tokio::test]
async fn bytes_that_were_lost_are_brought_again() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let repository = Repository::image("a.io", "x");
        let layers: [&[u8]; 3] = [b"gone", b"short", b"flipped"];
        let bring = || {
            let mut change = Change::new();
            for layer in layers {
                change.blob(Some(&repository), put(&store, layer));
            }
            store.apply(change)
        };
        bring().await.unwrap();
        let blobs: Vec<_> = {
            let digests: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
            store.blobs(&digests).await.unwrap()
        };
        let place = |blob: &store::Blob| folder.path().join("blobs").join(&blob.key);
        std::fs::remove_file(place(&blobs[0])).unwrap();
        std::fs::write(place(&blobs[1]), "shor").unwrap();
        std::fs::write(place(&blobs[2]), "flopped").unwrap();
        // A look at its length tells nothing of the third; hashing it does.
        assert!(store.blob(&blobs[0].digest).await.unwrap().is_none());
        assert!(store.blob(&blobs[1].digest).await.unwrap().is_none());
        assert_eq!(store.fsck(false, Arc::new(Silent)).await.unwrap().findings.len(), 3);
        assert!(store.blob(&blobs[2].digest).await.unwrap().is_none());
        bring().await.unwrap();
        for (layer, old) in layers.into_iter().zip(&blobs) {
            let blob = store.blob(&old.digest).await.unwrap().unwrap();
            assert_ne!(blob.key, old.key, "a key is never written twice");
            assert_eq!(std::io::read_to_string(store.open_blob(&blob).unwrap()).unwrap().as_bytes(), layer);
        }
        assert!(store.fsck(false, Arc::new(Silent)).await.unwrap().is_clean());
        // What is whole is not replaced, and the copy leaves nothing behind.
        let before = files(&folder.path().join("blobs"));
        bring().await.unwrap();
        assert_eq!(files(&folder.path().join("blobs")), before);
    })
    .await;
}

#[tokio::test]
async fn lists_page_and_sort_bytewise() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        for (host, name) in [("b.io", "x"), ("", "local"), ("a.io", "x/y"), ("a.io", "x-y")] {
            let repository = Repository::image(host, name);
            let mut change = Change::new();
            let document = manifest(&[]);
            change.manifest(&repository, &Digest::of(&document), document.clone(), "", HashSet::new());
            for tag in ["B", "a", "1"] {
                change.entry(&repository, entry(tag, Digest::of(&document), 1));
            }
            store.apply(change).await.unwrap();
        }
        let (mut names, mut after) = (Vec::new(), None);
        while let Some(next) = store.repositories(Some(Kind::Image), after.as_ref(), 1).await.unwrap().pop() {
            names.push(next.to_string());
            after = Some(next);
        }
        assert_eq!(names, ["local", "a.io/x-y", "a.io/x/y", "b.io/x"]);
        let tags = store.entries(&Repository::image("b.io", "x"), "1", 9).await.unwrap();
        assert_eq!(tags.iter().map(|tag| tag.name.as_str()).collect::<Vec<_>>(), ["B", "a"]);
        assert_eq!(store.hosts(Kind::Image).await.unwrap(), ["", "a.io", "b.io"]);
        assert_eq!(store.search("B.IO/x:a", 9).await.unwrap().len(), 1);
        assert_eq!(store.search("y:1", 9).await.unwrap().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_restore_undoes_all_that_came_before_it() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let repository = Repository::image("a.io", "x");
        let document = manifest(&[]);
        let mut change = Change::new();
        change.manifest(&repository, &Digest::of(&document), document.clone(), "", HashSet::new());
        store.apply(change).await.unwrap();
        let all: Vec<_> = (0..100)
            .map(|number| {
                let (store, repository, digest) = (store.clone(), repository.clone(), Digest::of(&document));
                tokio::spawn(async move {
                    if number == 50 {
                        return drop(store.restore(0, false, "me").await.unwrap());
                    }
                    let mut change = Change::because(cause("load"));
                    change.entry(&repository, entry(&number.to_string(), digest, 1));
                    store.apply(change).await.unwrap();
                })
            })
            .collect();
        for one in all {
            one.await.unwrap();
        }
        let history = store.history(200).await.unwrap();
        let after = match history.iter().find(|generation| generation.cause.action == "restore") {
            Some(restored) => history.iter().filter(|generation| generation.number > restored.number).count(),
            // It came first, and found nothing to undo.
            None => 99,
        };
        assert_eq!(store.entries(&repository, "", 200).await.unwrap().len(), after);
    })
    .await;
}

#[tokio::test]
async fn documents_are_revised_by_one_at_a_time() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let all: Vec<_> = (0..20)
            .map(|number: u8| {
                let store = store.clone();
                tokio::spawn(async move {
                    let add = |there: Option<Vec<u8>>| Some([there.unwrap_or_default(), vec![number]].concat());
                    store.revise_document("list", add).await.unwrap();
                })
            })
            .collect();
        for one in all {
            one.await.unwrap();
        }
        let mut list = store.document("list").await.unwrap().unwrap();
        list.sort_unstable();
        assert_eq!(list, (0..20).collect::<Vec<u8>>());
        store.revise_document("list", |_| None).await.unwrap();
        assert_eq!(store.document("list").await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn every_blob_finds_its_folder_made() {
    for_each_store(async |folder| {
        drop(open(&folder).await);
        let places = folder.path().join("blobs/sha256");
        assert_eq!(std::fs::read_dir(&places).unwrap().count(), 256);
        // A run that was cut short while it made them.
        std::fs::remove_dir(places.join("7f")).unwrap();
        drop(open(&folder).await);
        assert!(places.join("7f").is_dir());
    })
    .await;
}

#[tokio::test]
async fn documents_are_made_once() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        assert_eq!(store.document_once("site/ca", b"first").await.unwrap(), b"first");
        assert_eq!(store.document_once("site/ca", b"second").await.unwrap(), b"first");
        store.set_document("site/ca", Some(b"third")).await.unwrap();
        assert_eq!(store.documents("site/").await.unwrap(), ["site/ca"]);
        store.set_document("site/ca", None).await.unwrap();
        assert_eq!(store.document("site/ca").await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn an_upload_is_its_repositorys_and_outlives_its_process() {
    for_each_store(async |folder| {
        let (ours, other) = (Repository::image("", "app"), Repository::image("quay.io", "app"));
        let bytes = b"what a client sends in two pieces";
        let store = open(&folder).await;
        let (id, mut writer) = store.begin_upload(&ours, Algorithm::Sha256).unwrap();
        writer.write(&bytes[..10]).unwrap();
        writer.sync().unwrap();
        drop(writer);
        store.close().await;
        drop(store);

        let store = open(&folder).await;
        for id in [id.to_uppercase(), format!("{id}/../{id}"), "../naru.db".to_owned(), String::new()] {
            assert!(store.continue_upload(&id, &ours).unwrap().is_none(), "{id}");
        }
        assert!(store.continue_upload(&id, &other).unwrap().is_none());
        let mut writer = store.continue_upload(&id, &ours).unwrap().unwrap();
        assert_eq!(writer.len(), 10);
        writer.write(&bytes[10..]).unwrap();
        // Told at the end, by another hash than the one that ran along.
        let name = Digest::by(Algorithm::Sha512, bytes);
        let blob = writer.finish_as(&name).unwrap();
        assert_eq!((blob.digest(), blob.size()), (&name, bytes.len() as u64));
        assert!(store.continue_upload(&id, &ours).unwrap().is_none());
        let mut change = Change::new();
        change.blob(Some(&ours), blob);
        store.apply(change).await.unwrap();
        assert!(store.granted_blob(&ours, &name).await.unwrap().is_some());

        let (idle, writer) = store.begin_upload(&ours, Algorithm::Sha512).unwrap();
        drop(writer);
        let (busy, writer) = store.begin_upload(&ours, Algorithm::Sha256).unwrap();
        assert!(store.expire_uploads(store.now() - 3600, |_| false).unwrap().is_empty());
        assert_eq!(store.expire_uploads(store.now() + 3600, |id| id == busy).unwrap(), [idle]);
        assert_eq!(store.fsck(false, Arc::new(Silent)).await.unwrap().partial, 1);
        writer.discard();
        assert!(store.continue_upload(&busy, &ours).unwrap().is_none());
    })
    .await;
}

#[tokio::test]
async fn a_grant_ends_unless_it_is_needed() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let (ours, other) = (Repository::image("", "app"), Repository::image("", "other"));
        let (layer, bare) = (Digest::of(b"layer"), Digest::of(b"bare"));
        let document = manifest(&[b"layer"]);
        let digest = Digest::of(&document);
        for repository in [&ours, &other] {
            let mut change = Change::because(cause("push"));
            change.blob(Some(repository), put(&store, b"layer")).blob(Some(repository), put(&store, b"bare"));
            change.manifest(repository, &digest, document.clone(), "", HashSet::new());
            change.entry(repository, entry("1", digest, 1)).entry(repository, entry("2", digest, 1));
            store.apply(change).await.unwrap();
        }
        let revoke_blob = async |digest: &Digest| {
            let mut change = Change::new();
            change.revoke_blob(&ours, digest);
            store.apply(change).await
        };
        assert!(matches!(revoke_blob(&layer).await, Err(Error::Needed { by, .. }) if by == digest));
        revoke_blob(&bare).await.unwrap();
        assert!(matches!(revoke_blob(&bare).await, Err(Error::Missing { .. })));
        assert!(store.granted_blob(&other, &bare).await.unwrap().is_some());
        // Who counts on it is told when the change is made.
        let mut change = Change::new();
        change.require_blob(&ours, &layer).require_blob(&ours, &bare);
        assert!(matches!(store.apply(change).await, Err(Error::Missing { digest, .. }) if digest == bare));

        let mut change = Change::because(cause("rm"));
        change.revoke_manifest(&ours, &digest);
        let applied = store.apply(change).await.unwrap();
        let gone: Vec<_> = applied.replaced.iter().map(|gone| (gone.name.as_str(), gone.new)).collect();
        assert_eq!(gone, [("1", None), ("2", None)]);
        assert!(store.entries(&ours, "", 9).await.unwrap().is_empty());
        assert_eq!(store.entries(&other, "", 9).await.unwrap().len(), 2);
        // A state that needs what was deleted cannot be restored, and it says what.
        let refused = store.restore(applied.generation.unwrap() - 1, true, "test").await;
        assert!(matches!(refused, Err(Error::Missing { digest: missing, .. }) if missing == digest));
        revoke_blob(&layer).await.unwrap();
        assert!(!store.shows_anything(&ours).await.unwrap());
        assert_eq!(store.repository_names(Kind::Image, "", 9).await.unwrap(), ["other"]);
        assert!(store.fsck(false, Arc::new(Silent)).await.unwrap().is_clean());
    })
    .await;
}

#[tokio::test]
async fn referrers_live_with_their_subject() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let repository = Repository::image("a.io", "x");
        let subject = manifest(&[]);
        let signature: Bytes = serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "artifactType": "a/signature",
            "subject": {"mediaType": media_type::OCI_MANIFEST, "digest": Digest::of(&subject), "size": subject.len()},
            "annotations": {"by": "me"}
        }))
        .unwrap()
        .into();
        let mut change = Change::new();
        change.manifest(&repository, &Digest::of(&signature), signature.clone(), "", HashSet::new());
        change.manifest(&repository, &Digest::of(&subject), subject.clone(), "", HashSet::new());
        store.apply(change).await.unwrap();
        let found = store.referrers(&repository, &Digest::of(&subject)).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].artifact_type.as_deref(), Some("a/signature"));
        assert_eq!(found[0].size, signature.len() as u64);
        assert!(store.referrers(&Repository::image("b.io", "x"), &Digest::of(&subject)).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn what_root_writes_belongs_to_the_stores_owner() {
    use std::os::unix::fs::MetadataExt as _;
    for_each_store(async |folder| {
        if std::os::unix::fs::chown(folder.path(), Some(12345), Some(12345)).is_err() {
            // Only root can give a folder away, and only root needs this.
            return;
        }
        let store = open(&folder).await;
        let mut change = Change::new();
        change.blob(None, put(&store, b"x"));
        store.apply(change).await.unwrap();
        store.resume(&Digest::of(b"y")).unwrap().keep();
        let mut open = vec![folder.path().to_owned()];
        while let Some(path) = open.pop() {
            assert_eq!(std::fs::symlink_metadata(&path).unwrap().uid(), 12345, "{}", path.display());
            if path.is_dir() {
                open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn accounts_are_kept_and_one_name_is_one_accounts() {
    use store::{Account, AccountKind};
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let account = |kind, name: &str, secret: &str| Account {
        kind,
        name: name.to_owned(),
        secret: secret.to_owned(),
        certificate: Some(Digest::of(b"certificate")),
        scopes: "read write:team/*".to_owned(),
        expires: Some(7),
        made: 1,
    };
    let (token, user) = (account(AccountKind::Token, "a", "x"), account(AccountKind::User, "a", "y"));
    assert!(store.add_account(&token).await.unwrap() && store.add_account(&user).await.unwrap());
    assert!(!store.add_account(&account(AccountKind::Token, "a", "other")).await.unwrap(), "the first stays");
    store.close().await;
    drop(store);
    let store = Store::open(folder.path()).await.unwrap();
    assert_eq!(store.accounts().await.unwrap(), [token.clone(), user]);
    let changed = account(AccountKind::User, "a", "z");
    store.put_accounts(&[changed.clone(), account(AccountKind::User, "b", "")]).await.unwrap();
    assert_eq!(store.accounts().await.unwrap()[..2], [token, changed]);
    assert!(store.remove_account(AccountKind::User, "b").await.unwrap());
    assert!(!store.remove_account(AccountKind::User, "b").await.unwrap());
    assert_eq!(store.accounts().await.unwrap().len(), 2);
}
