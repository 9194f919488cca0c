//! "Content Management": `end-9` and `end-10`.

use anyhow::{Context as _, Result, ensure};

use crate::client::{Algorithm, Clauses, Client, bytes, expect, has, index, refused};

const NAME: &str = "management/app";

pub(crate) fn clauses(client: &Client, clauses: &mut Clauses) -> Result<()> {
    for by in [Algorithm::Sha256, Algorithm::Sha512] {
        of(client, clauses, by)?;
    }
    clauses.clause("_catalog, end-8a: a repository of which all is deleted is listed no longer", || {
        let name = "management/emptied";
        let listed = || Ok::<_, anyhow::Error>(client.get("/v2/_catalog")?.text().contains(name));
        let digest = client.push(name, b"all", Algorithm::Sha256)?;
        ensure!(listed()?, "it is not listed");
        expect(&client.get(&format!("/v2/{name}/tags/list"))?, 200)?;
        expect(&client.delete(&format!("/v2/{name}/blobs/{digest}"))?, 202)?;
        ensure!(!listed()?, "it is listed still");
        refused(&client.get(&format!("/v2/{name}/tags/list"))?, 404, "NAME_UNKNOWN")
    });
    clauses.clause("end-9: of a repository that does not exist it MUST be 404", || {
        let digest = Algorithm::Sha256.of(b"nothing");
        refused(&client.delete("/v2/management/nowhere/manifests/1")?, 404, "MANIFEST_UNKNOWN")?;
        refused(&client.delete(&format!("/v2/management/nowhere/manifests/{digest}"))?, 404, "MANIFEST_UNKNOWN")?;
        refused(&client.delete(&format!("/v2/management/nowhere/blobs/{digest}"))?, 404, "BLOB_UNKNOWN")
    });
    Ok(())
}

fn of(client: &Client, clauses: &mut Clauses, by: Algorithm) -> Result<()> {
    let image = client.image(NAME, &format!("managed {by:?}"), by)?;
    let digest = client.push_manifest(NAME, None, &image, by)?;
    let place = |reference: &str| format!("/v2/{NAME}/manifests/{reference}");
    let tag = |tag: &str| client.put_manifest(NAME, &format!("{digest}?tag={tag}"), &image);
    let layer = image["layers"][0]["digest"].as_str().context("a layer")?;
    let blob = format!("/v2/{NAME}/blobs/{layer}");

    clauses.clause(&format!("end-9: DELETE of a tag MUST be 202, and it is 404 then; others stay ({by:?})"), || {
        expect(&tag("one")?, 201)?;
        expect(&tag("two")?, 201)?;
        // Warm: what is answered from memory goes as well.
        for _ in 0..2 {
            expect(&client.get(&place("one"))?, 200)?;
        }
        expect(&client.delete(&place("one"))?, 202)?;
        refused(&client.get(&place("one"))?, 404, "MANIFEST_UNKNOWN")?;
        expect(&client.head(&place("one"))?, 404)?;
        refused(&client.delete(&place("one"))?, 404, "MANIFEST_UNKNOWN")?;
        client.shows(NAME, "two", &image, &digest)?;
        client.shows(NAME, &digest, &image, &digest)
    });
    clauses.clause(&format!("end-10: a blob that a manifest needs is 405, and says which ({by:?})"), || {
        let answer = client.delete(&blob)?;
        refused(&answer, 405, "UNSUPPORTED")?;
        has(&answer, "allow", "GET, HEAD")?;
        ensure!(answer.text().contains(&digest), "{}", answer.text());
        expect(&client.get(&blob)?, 200)
    });
    clauses.clause(&format!("end-9: DELETE of a manifest MUST be 202; it and its tags are 404 then ({by:?})"), || {
        expect(&tag("three")?, 201)?;
        client.shows(NAME, "three", &image, &digest)?;
        expect(&client.delete(&place(&digest))?, 202)?;
        for reference in [digest.as_str(), "two", "three"] {
            refused(&client.get(&place(reference))?, 404, "MANIFEST_UNKNOWN")?;
        }
        refused(&client.delete(&place(&digest))?, 404, "MANIFEST_UNKNOWN")
    });
    clauses.clause(&format!("end-10: DELETE of a blob MUST be 202; it is 404 then, and again ({by:?})"), || {
        expect(&client.get(&blob)?, 200)?;
        expect(&client.delete(&blob)?, 202)?;
        refused(&client.get(&blob)?, 404, "BLOB_UNKNOWN")?;
        expect(&client.head(&blob)?, 404)?;
        refused(&client.delete(&blob)?, 404, "BLOB_UNKNOWN")
    });
    clauses.clause(
        &format!("end-10, end-6: what was deleted is pushed again, elsewhere it was there all along ({by:?})"),
        || {
            let shared = bytes(&format!("shared {by:?}"), 300);
            let digest = client.push(NAME, &shared, by)?;
            client.push("management/other", &shared, by)?;
            expect(&client.delete(&format!("/v2/{NAME}/blobs/{digest}"))?, 202)?;
            expect(&client.get(&format!("/v2/management/other/blobs/{digest}"))?, 200)?;
            client.push(NAME, &shared, by).map(drop)
        },
    );
    clauses.clause(&format!("end-9: a child that its index outlives, and the index then ({by:?})"), || {
        let image = client.image(NAME, &format!("child {by:?}"), by)?;
        let child = client.push_manifest(NAME, None, &image, by)?;
        let over = index(&[&image], by);
        let above = client.push_manifest(NAME, None, &over, by)?;
        expect(&client.delete(&place(&child))?, 202)?;
        expect(&client.get(&place(&child))?, 404)?;
        client.shows(NAME, &above, &over, &above)?;
        expect(&client.delete(&place(&above))?, 202)?;
        expect(&client.get(&place(&above))?, 404)
    });
    clauses.clause(&format!("end-9: deleting MUST be authorised ({by:?})"), || {
        let url = format!("http://{}{}", client.own_name(), place("one"));
        refused(&journeys::http::request(&url, &["--request", "DELETE"], None)?, 401, "UNAUTHORIZED")
    });
    Ok(())
}
