//! Who may use whom, read from cargo itself. `deny.toml` says the same to cargo-deny, which is not everywhere.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The design's table: a crate, and the crates of ours that it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("artifact", &[]),
    ("kinds", &["artifact"]),
    ("upstream", &["artifact"]),
    ("store", &["artifact"]),
    ("collect", &["artifact", "kinds", "upstream", "store"]),
    ("bundle", &["artifact", "kinds", "store"]),
    ("serve", &["artifact", "kinds", "upstream", "store", "bundle"]),
    ("naru", &["artifact", "kinds", "upstream", "store", "collect", "bundle", "serve"]),
    ("journeys", &[]),
];

/// A library, and the crates of ours that may use it.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("sqlx", &["store"]),
    ("reqwest", &["upstream"]),
    ("hickory-resolver", &["upstream"]),
    ("hyper", &["serve"]),
    ("hyper-util", &["serve"]),
    ("axum", &["serve"]),
    ("tokio-rustls", &["serve"]),
    ("rcgen", &["serve"]),
    ("argon2", &["serve"]),
    ("bcrypt", &["serve"]),
    ("tar", &["bundle"]),
    ("reed-solomon-simd", &["bundle"]),
    ("zstd", &["bundle"]),
    ("liblzma", &["bundle"]),
    ("twox-hash", &["store"]),
    ("toml_edit", &["kinds"]),
    ("similar", &["naru"]),
    ("clap", &["naru"]),
    ("indicatif", &["naru"]),
    ("tracing-subscriber", &["naru"]),
    ("anyhow", &["naru", "journeys"]),
];

/// What may never be in the tree, by anybody's wish.
const NEVER: &[&str] = &["openssl-sys", "native-tls", "tokio-tar", "xz2", "serde_yaml"];

/// Each crate of ours with what it uses outside its tests.
fn uses() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata = serde_json::from_slice::<Value>(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            let names = dependencies
                .filter(|dependency| dependency["kind"].is_null())
                .map(|dependency| dependency["name"].as_str().unwrap().to_owned());
            (package["name"].as_str().unwrap().to_owned(), names.collect())
        })
        .collect()
}

#[test]
fn a_crate_uses_only_what_the_table_allows() {
    let uses = uses();
    for (name, used) in &uses {
        let arrow = ARROWS.iter().find(|(crate_name, _)| crate_name == name);
        let (_, allowed) = arrow.unwrap_or_else(|| panic!("{name} is not in the table: say what it may use"));
        for other in used.iter().filter(|other| uses.contains_key(*other)) {
            assert!(allowed.contains(&other.as_str()), "{name} may not use {other}");
        }
    }
}

#[test]
fn a_library_is_used_by_the_crate_whose_business_it_is() {
    let uses = uses();
    for (library, allowed) in LIBRARIES {
        for (name, used) in &uses {
            assert!(!used.contains(*library) || allowed.contains(&name.as_str()), "{name} may not use {library}");
        }
    }
}

#[test]
fn what_is_banned_is_not_in_the_lock() {
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    let lock = std::fs::read_to_string(lock).unwrap();
    for name in NEVER {
        assert!(!lock.contains(&format!("name = \"{name}\"\n")), "{name} is in Cargo.lock");
    }
}
