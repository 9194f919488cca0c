//! "Push", the blobs: `end-4` to `end-6`, `end-11`, `end-13`, `end-14`. Once by each hash.

use anyhow::ensure;

use crate::client::{Algorithm, Clauses, Client, bytes, expect, has, location, reached, refused, with};

const NAME: &str = "push/app";

pub(crate) fn clauses(client: &Client, clauses: &mut Clauses, by: Algorithm) {
    in_one_piece(client, clauses, by);
    in_chunks(client, clauses, by);
    ended_otherwise(client, clauses, by);
    mounted(client, clauses, by);
    hashes(client, clauses, by);
}

fn in_one_piece(client: &Client, clauses: &mut Clauses, by: Algorithm) {
    clauses.clause("end-4a: POST MUST be 202 with a Location of a unique session", || {
        let (one, two) = (client.start(NAME, "")?, client.start(NAME, "")?);
        ensure!(one != two);
        Ok(())
    });
    clauses.clause("end-6: POST then PUT MUST be 201, and Location a pullable URL", || {
        client.push(NAME, &bytes("post put", 3000), by).map(drop)
    });
    clauses.clause("end-4b: one POST with the digest and the bytes is 201", || {
        let blob = bytes("post alone", 3000);
        let place = format!("/v2/{NAME}/blobs/uploads/?digest={}", by.of(&blob));
        let answer = client.send("POST", &place, &["Content-Type: application/octet-stream"], Some(&blob))?;
        client.is_stored(&answer, &by.of(&blob), &blob)
    });
    for (what, blob) in [("of no bytes", &b""[..]), ("{}", b"{}")] {
        clauses.clause(&format!("end-4b, end-6, end-2: a blob {what}"), || {
            let digest = by.of(blob);
            client.push(NAME, blob, by)?;
            let place = format!("/v2/{NAME}/blobs/uploads/?digest={digest}");
            let answer = client.send("POST", &place, &["Content-Type: application/octet-stream"], Some(blob))?;
            client.is_stored(&answer, &digest, blob)?;
            let head = client.head(&format!("/v2/{NAME}/blobs/{digest}"))?;
            expect(&head, 200)?;
            has(&head, "content-length", &blob.len().to_string())
        });
    }
    clauses.clause("end-4b, end-6: bytes that have another digest MUST be refused, and stored nowhere", || {
        let digest = by.of(b"what was promised");
        let place = format!("/v2/{NAME}/blobs/uploads/?digest={digest}");
        refused(&client.send("POST", &place, &[], Some(b"what came"))?, 400, "DIGEST_INVALID")?;
        refused(&client.put(&client.start(NAME, "")?, &digest, b"what came")?, 400, "DIGEST_INVALID")?;
        let streamed = client.start(NAME, "")?;
        expect(&client.send("PATCH", &streamed, &[], Some(b"what came"))?, 202)?;
        refused(&client.put(&streamed, &digest, b"")?, 400, "DIGEST_INVALID")?;
        refused(&client.get(&format!("/v2/{NAME}/blobs/{digest}"))?, 404, "BLOB_UNKNOWN")
    });
    clauses.clause("end-6: PUT MUST have a digest, and one that is one", || {
        let place = client.start(NAME, "")?;
        refused(&client.send("PUT", &place, &[], Some(b""))?, 400, "DIGEST_INVALID")?;
        refused(&client.put(&place, "sha256:nothing", b"")?, 400, "DIGEST_INVALID")?;
        // The session goes on, for who may write.
        refused(&client.get(&place)?, 401, "UNAUTHORIZED")?;
        client.status(&place).map(drop)
    });
    clauses.clause("end-4a: writing MUST be authorised", || {
        for (method, place) in
            [("POST", format!("/v2/{NAME}/blobs/uploads/")), ("PUT", format!("/v2/{NAME}/manifests/1"))]
        {
            let arguments = ["--request", method, "--header", "Content-Length: 0"];
            let answer = journeys::http::request(&format!("http://{}{place}", client.own_name()), &arguments, None)?;
            refused(&answer, 401, "UNAUTHORIZED")?;
        }
        Ok(())
    });
}

fn in_chunks(client: &Client, clauses: &mut Clauses, by: Algorithm) {
    let blob = bytes(&format!("chunks {by:?}"), 3067);
    let digest = by.of(&blob);
    clauses.clause("end-5: each chunk MUST be 202 with Location and Range; the PUT MUST be 201", || {
        let mut place = client.start(NAME, "")?;
        for first in [0, 1024, 2048] {
            let last = (first + 1024).min(blob.len());
            let answer = client.patch(&place, first, &blob[first..last])?;
            expect(&answer, 202)?;
            reached(&answer, last - 1)?;
            place = location(&answer)?;
        }
        client.is_stored(&client.put(&place, &digest, b"")?, &digest, &blob)
    });
    clauses.clause("end-6: the last chunk MAY come with the PUT", || {
        let blob = bytes(&format!("last chunk by put {by:?}"), 3067);
        let place = client.start(NAME, "")?;
        expect(&client.patch(&place, 0, &blob[..2048])?, 202)?;
        let put = with(&place, "digest", &by.of(&blob));
        let answer = client.send("PUT", &put, &["Content-Range: 2048-3066"], Some(&blob[2048..]))?;
        client.is_stored(&answer, &by.of(&blob), &blob)
    });
    clauses.clause("end-5: a chunk out of order MUST be 416: ahead, back, twice; by PATCH and by PUT", || {
        let blob = bytes(&format!("out of order {by:?}"), 3067);
        let place = client.start(NAME, "")?;
        refused(&client.patch(&place, 1024, &blob[1024..2048])?, 416, "BLOB_UPLOAD_INVALID")?;
        expect(&client.patch(&place, 0, &blob[..1024])?, 202)?;
        for wrong in [0, 500, 2048] {
            refused(&client.patch(&place, wrong, &blob[wrong..wrong + 900])?, 416, "BLOB_UPLOAD_INVALID")?;
            let put = with(&place, "digest", &by.of(&blob));
            let range = format!("Content-Range: {wrong}-{}", wrong + 899);
            refused(
                &client.send("PUT", &put, &[&range], Some(&blob[wrong..wrong + 900]))?,
                416,
                "BLOB_UPLOAD_INVALID",
            )?;
        }
        let status = client.status(&place)?;
        reached(&status, 1023)?;
        expect(&client.patch(&location(&status)?, 1024, &blob[1024..])?, 202)?;
        client.is_stored(&client.put(&place, &by.of(&blob), b"")?, &by.of(&blob), &blob)
    });
    clauses.clause("end-5: a Content-Range that is none is 416", || {
        let place = client.start(NAME, "")?;
        for range in ["five-six", "9-1", "bytes", "-1"] {
            let header = format!("Content-Range: {range}");
            refused(&client.send("PATCH", &place, &[&header], Some(b"x"))?, 416, "BLOB_UPLOAD_INVALID")?;
        }
        reached(&client.status(&place)?, 0)
    });
    clauses.clause("end-13: GET of a session MUST be 204 with Location and Range", || {
        let place = client.start(NAME, "")?;
        expect(&client.patch(&place, 0, &blob[..100])?, 202)?;
        let status = client.status(&place)?;
        reached(&status, 99)?;
        ensure!(!location(&status)?.is_empty());
        Ok(())
    });
    clauses.clause("end-5: a stream without Content-Range, of a length that nobody said", || {
        let blob = bytes(&format!("streamed {by:?}"), 200_000);
        let place = client.start(NAME, "")?;
        let headers = ["Content-Type: application/octet-stream", "Transfer-Encoding: chunked"];
        let answer = client.send("PATCH", &place, &headers, Some(&blob))?;
        expect(&answer, 202)?;
        reached(&answer, blob.len() - 1)?;
        client.is_stored(&client.put(&location(&answer)?, &by.of(&blob), b"")?, &by.of(&blob), &blob)
    });
}

fn ended_otherwise(client: &Client, clauses: &mut Clauses, by: Algorithm) {
    clauses.clause("end-14: DELETE of a session is 204, and it is 404 from then on", || {
        let place = client.start(NAME, "")?;
        expect(&client.patch(&place, 0, b"begun")?, 202)?;
        expect(&client.delete(&place)?, 204)?;
        refused(&client.patch(&place, 5, b"more")?, 404, "BLOB_UPLOAD_UNKNOWN")?;
        refused(&client.delete(&place)?, 404, "BLOB_UPLOAD_UNKNOWN")
    });
    clauses.clause("end-5, end-6, end-13: a session that is not there, or another repository's, is 404", || {
        let place = client.start(NAME, "")?;
        let ended = client.start(NAME, "")?;
        expect(&client.put(&ended, &by.of(b"ended"), b"ended")?, 201)?;
        let elsewhere = place.replace(NAME, "push/other");
        let traversal = format!("/v2/{NAME}/blobs/uploads/..%2f..%2fnaru.db");
        for place in [elsewhere, ended, format!("/v2/{NAME}/blobs/uploads/none"), traversal] {
            let answer = client.send("PATCH", &place, &[], Some(b"x"))?;
            ensure!(matches!(answer.status, 404 | 400), "{place}: {}: {}", answer.status, answer.text());
        }
        Ok(())
    });
}

fn mounted(client: &Client, clauses: &mut Clauses, by: Algorithm) {
    let mount = |name: &str, query: &str| {
        client.send("POST", &format!("/v2/{name}/blobs/uploads/?{query}"), &["Content-Length: 0"], None)
    };
    clauses.clause("end-11: mount with from MUST be 201, and Location a pullable URL", || {
        let blob = bytes(&format!("mounted {by:?}"), 512);
        let digest = client.push("push/source", &blob, by)?;
        let place = format!("/v2/{NAME}/blobs/{digest}");
        expect(&client.get(&place)?, 404)?;
        client.is_stored(&mount(NAME, &format!("mount={digest}&from=push/source"))?, &digest, &blob)?;
        expect(&client.get(&place)?, 200)
    });
    clauses.clause("end-11: mount without from MAY find the blob", || {
        let blob = bytes(&format!("mounted from anywhere {by:?}"), 512);
        let digest = client.push("push/source", &blob, by)?;
        client.is_stored(&mount(NAME, &format!("mount={digest}"))?, &digest, &blob)
    });
    clauses.clause("end-11: what cannot be mounted SHOULD be 202, and the upload goes on", || {
        let blob = bytes(&format!("not mounted {by:?}"), 512);
        let digest = by.of(&blob);
        client.push("push/third", &blob, by)?;
        for query in [format!("mount={digest}&from=push/source"), format!("mount={digest}&from=push/nowhere")] {
            let answer = mount("push/fourth", &query)?;
            expect(&answer, 202)?;
            client.is_stored(&client.put(&location(&answer)?, &digest, &blob)?, &digest, &blob)?;
            expect(&client.delete(&format!("/v2/push/fourth/blobs/{digest}"))?, 202)?;
        }
        let nowhere = by.of(b"nowhere at all");
        expect(&mount(NAME, &format!("mount={nowhere}"))?, 202)
    });
}

fn hashes(client: &Client, clauses: &mut Clauses, by: Algorithm) {
    clauses.clause("end-4c: digest-algorithm at the start; the digest at the end may still be by another", || {
        for along in ["sha256", "sha512"] {
            let blob = bytes(&format!("along {along} by {by:?}"), 5000);
            let place = client.start(NAME, &format!("?digest-algorithm={along}"))?;
            expect(&client.patch(&place, 0, &blob[..4000])?, 202)?;
            client.is_stored(&client.put(&place, &by.of(&blob), &blob[4000..])?, &by.of(&blob), &blob)?;
        }
        Ok(())
    });
    clauses.clause("end-4c: an algorithm that is not supported is 400", || {
        let place = format!("/v2/{NAME}/blobs/uploads/?digest-algorithm=md5");
        refused(&client.send("POST", &place, &["Content-Length: 0"], None)?, 400, "DIGEST_INVALID")
    });
    clauses.clause("\"Digests\": each hash's blob is its own, and ranges of it are", || {
        let blob = bytes(&format!("both hashes, {by:?} first"), 4000);
        let other = if by == Algorithm::Sha256 { Algorithm::Sha512 } else { Algorithm::Sha256 };
        client.push(NAME, &blob, by)?;
        client.push(NAME, &blob, other)?;
        expect(&client.delete(&format!("/v2/{NAME}/blobs/{}", other.of(&blob)))?, 202)?;
        let place = format!("/v2/{NAME}/blobs/{}", by.of(&blob));
        let part = client.send("GET", &place, &["Range: bytes=3990-"], None)?;
        expect(&part, 206)?;
        ensure!(part.body == blob[3990..]);
        Ok(())
    });
}
