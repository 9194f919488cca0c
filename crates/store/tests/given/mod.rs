//! What the tests of stores begin with.

#![allow(dead_code, reason = "not every test needs all of it")]

use std::cell::Cell;
use std::path::Path;

use artifact::{Digest, Entry, Trust, media_type};
use bytes::Bytes;
use store::{Cause, Store};

thread_local! {
    pub(crate) static SHARED: Cell<bool> = const { Cell::new(false) };
}

/// The single home of the matrix of back ends.
pub(crate) async fn for_each_store<F, T>(test: F)
where
    F: Fn(tempfile::TempDir) -> T,
    T: Future<Output = ()>,
{
    // A file system and SQLite.
    test(tempfile::tempdir().unwrap()).await;
    // The same on a file system that other machines reach.
    SHARED.set(true);
    test(tempfile::tempdir().unwrap()).await;
}

pub(crate) async fn open(folder: &tempfile::TempDir) -> Store {
    let opened = if SHARED.get() { Store::open_shared(folder.path()).await } else { Store::open(folder.path()).await };
    opened.unwrap()
}

pub(crate) fn put(store: &Store, bytes: &[u8]) -> store::NewBlob {
    let mut writer = store.writer(Some(&Digest::of(bytes))).unwrap();
    writer.write(bytes).unwrap();
    writer.finish().unwrap()
}

pub(crate) fn entry(name: &str, digest: Digest, seen: i64) -> Entry {
    Entry { name: name.to_owned(), digest, size: 1, seen, origin: String::new(), trust: Trust::Tag }
}

pub(crate) fn manifest(layers: &[&[u8]]) -> Bytes {
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| serde_json::json!({"mediaType": media_type::OCI_LAYER_GZIP, "digest": Digest::of(layer), "size": layer.len()}))
        .collect();
    serde_json::to_vec(
        &serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "layers": layers}),
    )
    .unwrap()
    .into()
}

pub(crate) fn index(children: &[&Bytes]) -> Bytes {
    let children: Vec<_> = children
        .iter()
        .map(|child| serde_json::json!({"mediaType": media_type::OCI_MANIFEST, "digest": Digest::of(child), "size": child.len()}))
        .collect();
    serde_json::to_vec(
        &serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": children}),
    )
    .unwrap()
    .into()
}

pub(crate) fn cause(action: &str) -> Cause {
    Cause { action: action.to_owned(), subject: String::new(), by: String::new() }
}

pub(crate) fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| if path.is_dir() { files(&path) } else { 1 })
        .sum()
}

/// The catalog itself, for what no Naru of this version would do to it.
pub(crate) async fn database_of(folder: &Path) -> sqlx::SqlitePool {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.join("naru.db"));
    sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap()
}

/// What must come in again when it was lost: layers and documents, each by its digest.
pub(crate) fn by_digest<'a>(all: impl IntoIterator<Item = &'a [u8]>) -> std::collections::HashMap<Digest, Vec<u8>> {
    all.into_iter().map(|bytes| (Digest::of(bytes), bytes.to_vec())).collect()
}
