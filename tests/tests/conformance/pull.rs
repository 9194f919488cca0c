//! "Pull": `end-1`, `end-2`, `end-3`.

use anyhow::{Result, ensure};

use crate::client::{Algorithm, Clauses, Client, bytes, expect, has, refused};

pub(crate) fn clauses(client: &Client, clauses: &mut Clauses) -> Result<()> {
    clauses.clause("end-1: GET /v2/ is 401 with a challenge or, with credentials, 200", || {
        let answer = client.get("/v2/")?;
        refused(&answer, 401, "UNAUTHORIZED")?;
        ensure!(answer.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer ")));
        // `send` takes credentials along for what is not GET; a HEAD by another name does as well.
        let token = client.get("/token")?;
        expect(&token, 200)?;
        let token: serde_json::Value = serde_json::from_slice(&token.body)?;
        let header = format!("Authorization: Bearer {}", token["token"].as_str().unwrap_or_default());
        let answer = client.send("GET", "/v2/", &[&header], None)?;
        expect(&answer, 200)?;
        has(&answer, "docker-distribution-api-version", "registry/2.0")
    });
    let blob = bytes("a blob to be pulled", 2048);
    let digest = client.push("pull/app", &blob, Algorithm::Sha256)?;
    let place = format!("/v2/pull/app/blobs/{digest}");
    let image = client.image("pull/app", "pulled", Algorithm::Sha256)?;
    let manifest = client.push_manifest("pull/app", Some("1"), &image, Algorithm::Sha256)?;
    let absent = Algorithm::Sha256.of(b"absent");

    clauses.clause("end-2: GET of a blob MUST be 200 with its bytes, and SHOULD name its digest", || {
        let answer = client.get(&place)?;
        expect(&answer, 200)?;
        ensure!(answer.body == blob);
        has(&answer, "content-length", "2048")?;
        has(&answer, "docker-content-digest", &digest)
    });
    clauses.clause("end-2: HEAD of a blob MUST be 200, and SHOULD have its length", || {
        let answer = client.head(&place)?;
        expect(&answer, 200)?;
        has(&answer, "content-length", "2048")?;
        has(&answer, "docker-content-digest", &digest)?;
        ensure!(answer.body.is_empty());
        Ok(())
    });
    clauses.clause("end-2: a blob that is not found MUST be 404, by GET and by HEAD", || {
        refused(&client.get(&format!("/v2/pull/app/blobs/{absent}"))?, 404, "BLOB_UNKNOWN")?;
        expect(&client.head(&format!("/v2/pull/app/blobs/{absent}"))?, 404)?;
        refused(&client.get(&format!("/v2/pull/other/blobs/{digest}"))?, 404, "BLOB_UNKNOWN")
    });
    for (range, first, last) in [
        ("500-1499", 500, 1499),
        ("500-", 500, 2047),
        ("-500", 1548, 2047),
        ("2000-5000", 2000, 2047),
        ("0-0", 0, 0),
        ("-9999", 0, 2047),
    ] {
        clauses.clause(&format!("end-2: a registry SHOULD support Range (RFC 9110): bytes={range}"), || {
            let answer = client.send("GET", &place, &[&format!("Range: bytes={range}")], None)?;
            expect(&answer, 206)?;
            has(&answer, "content-range", &format!("bytes {first}-{last}/2048"))?;
            has(&answer, "content-length", &(last - first + 1).to_string())?;
            ensure!(answer.body == blob[first..=last], "other bytes");
            Ok(())
        });
    }
    for range in ["500-0", "5000-10000", "2048-", "-0"] {
        clauses.clause(&format!("end-2: a range that cannot be satisfied is 416: bytes={range}"), || {
            let answer = client.send("GET", &place, &[&format!("Range: bytes={range}")], None)?;
            expect(&answer, 416)?;
            ensure!(answer.body.is_empty() && answer.header("content-type").is_none());
            has(&answer, "content-range", "bytes */2048")
        });
    }
    clauses.clause("end-2: several ranges, and those in another unit, are answered whole", || {
        for range in ["bytes=0-1,5-6", "items=0-1", "bytes=a-b"] {
            let answer = client.send("GET", &place, &[&format!("Range: {range}")], None)?;
            expect(&answer, 200)?;
            ensure!(answer.body == blob);
        }
        Ok(())
    });
    clauses.clause(
        "end-3: a manifest MUST be 200 by tag and by digest, GET and HEAD, its bytes and type as stored",
        || {
            client.shows("pull/app", "1", &image, &manifest)?;
            client.shows("pull/app", &manifest, &image, &manifest)
        },
    );
    clauses.clause("end-3: a manifest that is not found MUST be 404", || {
        for reference in ["2", &absent, "missing-tag_with.all-of-it"] {
            refused(&client.get(&format!("/v2/pull/app/manifests/{reference}"))?, 404, "MANIFEST_UNKNOWN")?;
            expect(&client.head(&format!("/v2/pull/app/manifests/{reference}"))?, 404)?;
        }
        expect(&client.get("/v2/pull/nowhere/manifests/1")?, 404)
    });
    clauses.clause("end-2, end-3: a digest that is none is 400", || {
        for bad in ["sha256:baddigeststring", "sha256:", "md5:d41d8cd98f00b204e9800998ecf8427e"] {
            refused(&client.get(&format!("/v2/pull/app/manifests/{bad}"))?, 400, "DIGEST_INVALID")?;
            refused(&client.get(&format!("/v2/pull/app/blobs/{bad}"))?, 400, "DIGEST_INVALID")?;
        }
        Ok(())
    });
    clauses.clause("\"Pulling manifests\": <name> MUST match its expression, else NAME_INVALID", || {
        for bad in ["UPPER", "a//b", "-a", "a/b-"] {
            refused(&client.get(&format!("/v2/{bad}/manifests/1"))?, 400, "NAME_INVALID")?;
        }
        Ok(())
    });
    clauses.clause("\"Registry proxying\": ns that scopes a request is answered as OCI-Namespace", || {
        let host = client.own_name();
        let answer = client.get(&format!("/v2/pull/app/manifests/1?ns={host}"))?;
        expect(&answer, 200)?;
        has(&answer, "oci-namespace", host)?;
        expect(&client.get("/v2/pull/app/manifests/1?ns=unknown.example")?, 404)
    });
    Ok(())
}
