//! "Content Discovery": `end-8`, `end-12`, and the catalog that Docker's registry had before.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::client::{Algorithm, Clauses, Client, EMPTY, INDEX, MANIFEST, descriptor, expect, has, index, refused};

const NAME: &str = "discovery/app";
const BY: Algorithm = Algorithm::Sha256;

pub(crate) fn clauses(client: &Client, clauses: &mut Clauses) -> Result<()> {
    tags(client, clauses)?;
    referrers(client, clauses)?;
    catalog(client, clauses);
    Ok(())
}

fn listed(client: &Client, place: &str) -> Result<(Vec<String>, Option<String>)> {
    let answer = client.get(place)?;
    expect(&answer, 200)?;
    let body: Value = serde_json::from_slice(&answer.body)?;
    let names = body["tags"].as_array().or(body["repositories"].as_array()).context("a list")?;
    let names = names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
    Ok((names, answer.header("link").map(next_of)))
}

/// The place that a `Link` leads to.
fn next_of(link: &str) -> String {
    let (place, rest) = link.strip_prefix('<').and_then(|link| link.split_once('>')).unwrap_or_default();
    assert_eq!(rest, "; rel=\"next\"", "RFC 8288");
    place.to_owned()
}

fn tags(client: &Client, clauses: &mut Clauses) -> Result<()> {
    let all = ["1.0", "1.10", "Upper", "_under", "latest", "sha256-x.sig", "v1", "zz"];
    let place = format!("/v2/{NAME}/tags/list");
    clauses.clause("end-8a: of a repository that does not exist it is 404", || {
        refused(&client.get(&place)?, 404, "NAME_UNKNOWN")
    });
    let image = client.image(NAME, "listed", BY)?;
    clauses.clause("end-8a: of a repository without tags it MUST be 200; the list MAY be empty", || {
        client.push_manifest(NAME, None, &image, BY)?;
        ensure!(listed(client, &place)? == (vec![], None));
        Ok(())
    });
    for tag in all.iter().rev() {
        expect(&client.put_manifest(NAME, tag, &image)?, 201)?;
    }
    clauses.clause("end-8a: the tags MUST be sorted, and the name be told", || {
        ensure!(listed(client, &place)?.0 == all, "{:?}", listed(client, &place)?);
        let body: Value = serde_json::from_slice(&client.get(&place)?.body)?;
        ensure!(body["name"] == NAME);
        Ok(())
    });
    clauses.clause("end-8b: n at most, with a Link to the rest; by it all are found, each once", || {
        for n in 1..=9 {
            let (mut found, mut next) = (Vec::new(), Some(format!("{place}?n={n}")));
            while let Some(page) = next {
                let (names, after) = listed(client, &page)?;
                ensure!(names.len() == n.min(all.len() - found.len()), "{page}: {names:?}");
                found.extend(names);
                next = after;
            }
            ensure!(found == all, "{n}: {found:?}");
        }
        Ok(())
    });
    clauses.clause("end-8b: n=0 MUST be an empty list, and MUST NOT have a Link", || {
        ensure!(listed(client, &format!("{place}?n=0"))? == (vec![], None));
        Ok(())
    });
    clauses.clause("end-8b: last alone and with n; it MUST NOT be among the results, and need not exist", || {
        ensure!(listed(client, &format!("{place}?last=latest"))?.0 == all[5..]);
        ensure!(listed(client, &format!("{place}?last=latest&n=1"))?.0 == all[5..6]);
        ensure!(listed(client, &format!("{place}?last=n"))?.0 == all[5..]);
        ensure!(listed(client, &format!("{place}?last=zz"))? == (vec![], None));
        Ok(())
    });
    clauses.clause("end-8b: n that is no number is 400", || {
        for bad in ["-1", "many", "99999999999999"] {
            expect(&client.get(&format!("{place}?n={bad}"))?, 400)?;
        }
        Ok(())
    });
    Ok(())
}

fn referrers(client: &Client, clauses: &mut Clauses) -> Result<()> {
    let subject = client.image(NAME, "subject", BY)?;
    let subject_digest = client.push_manifest(NAME, Some("subject"), &subject, BY)?;
    let place = |digest: &str| format!("/v2/{NAME}/referrers/{digest}");
    let list = |place: &str| -> Result<Vec<Value>> {
        let answer = client.get(place)?;
        expect(&answer, 200)?;
        has(&answer, "content-type", INDEX)?;
        let body: Value = serde_json::from_slice(&answer.body)?;
        ensure!(body["schemaVersion"] == 2 && body["mediaType"] == INDEX, "{body}");
        Ok(body["manifests"].as_array().context("manifests")?.clone())
    };
    clauses.clause(
        "end-12a: no referrers MUST be an empty index, of a digest and of a repository that nobody knows too",
        || {
            ensure!(list(&place(&subject_digest))?.is_empty());
            ensure!(list(&place(&BY.of(b"unknown")))?.is_empty());
            ensure!(list(&format!("/v2/discovery/nowhere/referrers/{subject_digest}"))?.is_empty());
            ensure!(list(&format!("/v2/{NAME}/referrers/{}", Algorithm::Sha512.of(b"unknown")))?.is_empty());
            Ok(())
        },
    );
    clauses.clause("end-12a: a digest that is none MUST be 400", || {
        refused(&client.get(&place("sha256:nothing"))?, 400, "DIGEST_INVALID")
    });
    client.push(NAME, b"{}", BY)?;
    let artifact = |kind: &str, subject: Value| {
        json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind, "config": descriptor(EMPTY, b"{}", BY),
                "layers": [descriptor(EMPTY, b"{}", BY)], "subject": subject, "annotations": { "of": kind } })
    };
    let bytes = subject.to_string().into_bytes();
    let to_it = descriptor(MANIFEST, &bytes, BY);
    let (sbom, signature) = (artifact("application/sbom", to_it.clone()), artifact("application/sig", to_it.clone()));
    let mut plain = client.image(NAME, "refers without a type", BY)?;
    plain["subject"] = to_it.clone();
    let mut over = index(&[&subject], BY);
    over["subject"] = to_it;
    over["annotations"] = json!({ "of": "an index" });
    clauses.clause("end-7: a PUT with a subject MUST be answered with OCI-Subject", || {
        for document in [&sbom, &signature, &plain, &over] {
            let digest = BY.of(document.to_string().as_bytes());
            let answer = client.put_manifest(NAME, &digest, document)?;
            expect(&answer, 201)?;
            has(&answer, "oci-subject", &subject_digest)?;
        }
        Ok(())
    });
    clauses.clause("end-12a: descriptors of all of them, with artifactType (a config's type stands for it; an index may have none) and annotations", || {
        let found = list(&place(&subject_digest))?;
        ensure!(found.len() == 4, "{found:?}");
        for (document, kind) in [
            (&sbom, json!("application/sbom")),
            (&signature, json!("application/sig")),
            (&plain, json!("application/vnd.oci.image.config.v1+json")),
            (&over, Value::Null),
        ] {
            let bytes = document.to_string().into_bytes();
            let descriptor = found.iter().find(|found| found["digest"] == BY.of(&bytes).as_str()).context("missing")?;
            ensure!(descriptor["size"] == bytes.len() && descriptor["mediaType"] == document["mediaType"]);
            ensure!(descriptor.get("artifactType").cloned().unwrap_or(Value::Null) == kind, "{descriptor}");
            ensure!(descriptor.get("annotations") == document.get("annotations"), "{descriptor}");
        }
        Ok(())
    });
    clauses.clause("end-12b: a filter that was applied MUST be named by OCI-Filters-Applied", || {
        let filtered = format!("{}?artifactType=application/sbom", place(&subject_digest));
        let answer = client.get(&filtered)?;
        has(&answer, "oci-filters-applied", "artifactType")?;
        let found = list(&filtered)?;
        ensure!(found.len() == 1 && found[0]["artifactType"] == "application/sbom", "{found:?}");
        ensure!(list(&format!("{}?artifactType=application/none", place(&subject_digest)))?.is_empty());
        ensure!(client.get(&place(&subject_digest))?.header("oci-filters-applied").is_none());
        Ok(())
    });
    clauses.clause("end-12a: a subject that is still to come, and one by sha512", || {
        for digest in [BY.of(b"to come"), Algorithm::Sha512.of(b"to come")] {
            let late = artifact("application/late", json!({ "mediaType": MANIFEST, "digest": digest, "size": 7 }));
            expect(&client.put_manifest(NAME, &BY.of(late.to_string().as_bytes()), &late)?, 201)?;
            ensure!(list(&place(&digest))?.len() == 1);
        }
        Ok(())
    });
    clauses.clause("end-12a: what is too much for one answer MUST be paged by Link, each page an index", || {
        let subject = json!({ "mediaType": MANIFEST, "digest": BY.of(b"much"), "size": 4 });
        let mut pushed = Vec::new();
        for number in 0..6 {
            let mut one = artifact("application/much", subject.clone());
            one["annotations"] = json!({ "number": number, "fill": "A".repeat(1_500_000) });
            pushed.push(client.push_manifest(NAME, None, &one, BY)?);
        }
        pushed.sort();
        for query in ["", "?artifactType=application/much"] {
            let (mut found, mut pages, mut next) = (Vec::new(), 0, Some(format!("{}{query}", place(&BY.of(b"much")))));
            while let Some(page) = next {
                let digests =
                    list(&page)?.iter().filter_map(|one| Some(one["digest"].as_str()?.to_owned())).collect::<Vec<_>>();
                found.extend(digests);
                pages += 1;
                next = client.get(&page)?.header("link").map(next_of);
            }
            ensure!(found == pushed && pages > 1, "{pages} pages of {found:?}");
        }
        Ok(())
    });
    clauses.clause("end-9: a referrer that is deleted MUST be listed no longer", || {
        let digest = BY.of(sbom.to_string().as_bytes());
        expect(&client.delete(&format!("/v2/{NAME}/manifests/{digest}"))?, 202)?;
        ensure!(list(&place(&subject_digest))?.len() == 3);
        Ok(())
    });
    Ok(())
}

fn catalog(client: &Client, clauses: &mut Clauses) {
    clauses.clause("_catalog: sorted, paged by n, last and Link", || {
        for name in ["b", "a/b", "a-b", "quay.io/a"] {
            client.push(name, b"{}", BY)?;
        }
        let all = ["a-b", "a/b", "b", NAME, "quay.io/a"];
        ensure!(listed(client, "/v2/_catalog")?.0 == all, "{:?}", listed(client, "/v2/_catalog")?);
        let (mut found, mut next) = (Vec::new(), Some("/v2/_catalog?n=2".to_owned()));
        while let Some(page) = next {
            let (names, after) = listed(client, &page)?;
            found.extend(names);
            next = after;
        }
        ensure!(found == all, "{found:?}");
        ensure!(listed(client, "/v2/_catalog?n=0")? == (vec![], None));
        Ok(())
    });
}
