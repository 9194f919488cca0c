//! The OCI distribution specification, 1.1 and what its main branch has beside it, clause by clause, against the built
//! binary. Each step is called what the specification says (`end-4b: …`); all of them are tried and printed, and those
//! that fail are named at the end.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may")]

mod client;
mod discovery;
mod management;
mod manifests;
mod pull;
mod restart;
mod tools;
mod uploads;

use anyhow::Result;
use journeys::{Folder, Naru, journey};

use client::{Algorithm, Clauses, Client};

/// Serves a new store, and goes through one category.
fn category(name: &'static str, clauses: impl FnOnce(&Client, &mut Clauses) -> Result<()>) {
    journey(name, &[], |folder: &Folder| {
        let naru = Naru::new(folder, "naru")?;
        let serving = naru.serve(&[])?;
        let client = Client::new(&naru, &serving)?;
        let mut tried = Clauses::default();
        clauses(&client, &mut tried)?;
        drop(serving);
        // Whatever was sent, the store is whole.
        naru.ok(["fsck"])?;
        tried.end()
    });
}

#[test]
fn pull() {
    category("pull", pull::clauses);
}

#[test]
fn push_of_blobs() {
    category("push_of_blobs", |client, clauses| {
        uploads::clauses(client, clauses, Algorithm::Sha256);
        Ok(())
    });
}

#[test]
fn push_of_blobs_by_sha512() {
    category("push_of_blobs_by_sha512", |client, clauses| {
        uploads::clauses(client, clauses, Algorithm::Sha512);
        Ok(())
    });
}

#[test]
fn push_of_manifests() {
    category("push_of_manifests", manifests::clauses);
}

#[test]
fn content_discovery() {
    category("content_discovery", discovery::clauses);
}

#[test]
fn content_management() {
    category("content_management", management::clauses);
}

#[test]
fn shapes_of_helm_oras_cosign_and_buildkit() {
    category("shapes_of_helm_oras_cosign_and_buildkit", |client, clauses| {
        tools::clauses(client, clauses);
        Ok(())
    });
}

#[test]
fn uploads_outlive_the_server() {
    journey("uploads_outlive_the_server", &[], restart::uploads_outlive_the_server);
}

#[test]
fn sha512_goes_across() {
    journey("sha512_goes_across", &[], restart::sha512_goes_across);
}
