//! "Push", the manifests: `end-7`, and every shape of content that the specification speaks of.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::client::{
    Algorithm, CONFIG, Clauses, Client, EMPTY, INDEX, LAYER, MANIFEST, bytes, descriptor, expect, has, image, index,
    refused,
};

const NAME: &str = "manifests/app";
const BY: Algorithm = Algorithm::Sha256;

pub(crate) fn clauses(client: &Client, clauses: &mut Clauses) -> Result<()> {
    put(client, clauses)?;
    shapes(client, clauses);
    sparse(client, clauses);
    digests_and_tags(client, clauses);
    Ok(())
}

fn put(client: &Client, clauses: &mut Clauses) -> Result<()> {
    let one = client.image(NAME, "put", BY)?;
    clauses.clause("end-7: PUT by tag MUST be 201 with a pullable Location, bytes and type as they came", || {
        client.push_manifest(NAME, Some("put"), &one, BY).map(drop)
    });
    clauses.clause("end-7: PUT by digest alone, which no tag names", || {
        client.push_manifest(NAME, None, &client.image(NAME, "by digest", BY)?, BY).map(drop)
    });
    clauses.clause("end-7: parameters of Content-Type SHOULD be ignored", || {
        let bytes = one.to_string().into_bytes();
        expect(&client.put_bytes(NAME, "parameters", &format!("{MANIFEST}; charset=utf-8"), &bytes)?, 201)?;
        client.shows(NAME, "parameters", &one, &BY.of(&bytes))
    });
    clauses.clause("end-7: a manifest without mediaType is what Content-Type says", || {
        let mut bare = one.clone();
        bare.as_object_mut().context("an object")?.remove("mediaType");
        let bytes = bare.to_string().into_bytes();
        expect(&client.put_bytes(NAME, "bare", MANIFEST, &bytes)?, 201)?;
        let answer = client.get(&format!("/v2/{NAME}/manifests/bare"))?;
        has(&answer, "content-type", MANIFEST)?;
        ensure!(answer.body == bytes);
        Ok(())
    });
    clauses.clause("end-7: a digest that is not the manifest's MUST be refused", || {
        let mut spaced = one.to_string().into_bytes();
        spaced.extend(b"  ");
        let digest = BY.of(one.to_string().as_bytes());
        refused(&client.put_bytes(NAME, &digest, MANIFEST, &spaced)?, 400, "DIGEST_INVALID")?;
        refused(&client.put_bytes(NAME, "sha256:baddigeststring", MANIFEST, &spaced)?, 400, "DIGEST_INVALID")
    });
    clauses.clause("end-7: a reference MUST be a tag of its expression, or a digest", || {
        let long = "x".repeat(129);
        for bad in [".hidden", "-dash", "a%20b", long.as_str()] {
            refused(&client.put_manifest(NAME, bad, &one)?, 400, "MANIFEST_INVALID")?;
        }
        expect(&client.put_manifest(NAME, &"x".repeat(128), &one)?, 201)?;
        expect(&client.put_manifest(NAME, "_a.b-C9", &one)?, 201)
    });
    clauses.clause("end-7: what is no manifest is MANIFEST_INVALID", || {
        for (kind, body) in [
            (MANIFEST, "<html>"),
            (INDEX, "[]"),
            ("text/plain", "{}"),
            (INDEX, &one.to_string()),
            (MANIFEST, "{\"schemaVersion\":1,\"fsLayers\":[]}"),
        ] {
            refused(&client.put_bytes(NAME, "bad", kind, body.as_bytes())?, 400, "MANIFEST_INVALID")?;
        }
        expect(&client.get(&format!("/v2/{NAME}/manifests/bad"))?, 404)
    });
    clauses.clause("end-7: 4 MiB SHOULD be taken; more SHOULD be 413", || {
        let with = |size: usize| {
            let mut large = one.clone();
            large["annotations"] = json!({ "fill": "" });
            let filled = size - large.to_string().len();
            large["annotations"]["fill"] = "A".repeat(filled).into();
            large
        };
        client.push_manifest(NAME, Some("large"), &with(4 << 20), BY)?;
        refused(&client.put_manifest(NAME, "larger", &with((4 << 20) + 1))?, 413, "MANIFEST_INVALID")
    });
    clauses.clause("end-7: a manifest whose config or layers this repository has not is MANIFEST_BLOB_UNKNOWN", || {
        // Another repository has them: that gives nobody else a right to them.
        refused(&client.put_manifest("manifests/thief", "1", &one)?, 400, "MANIFEST_BLOB_UNKNOWN")?;
        let layer = one["layers"][0]["digest"].as_str().context("a layer")?;
        let config = bytes("of the thief", 40);
        client.push("manifests/thief", &config, BY)?;
        let mut stolen = image(&config, &[], BY);
        stolen["layers"] = json!([one["layers"][0]]);
        refused(&client.put_manifest("manifests/thief", "1", &stolen)?, 400, "MANIFEST_BLOB_UNKNOWN")?;
        refused(&client.get(&format!("/v2/manifests/thief/blobs/{layer}"))?, 404, "BLOB_UNKNOWN")
    });
    Ok(())
}

fn shapes(client: &Client, clauses: &mut Clauses) {
    let layer = |text: &str, kind: &str| -> Result<Value> {
        let bytes = bytes(text, 600);
        client.push(NAME, &bytes, BY)?;
        Ok(descriptor(kind, &bytes, BY))
    };
    let empty = || -> Result<Value> {
        client.push(NAME, b"{}", BY)?;
        Ok(descriptor(EMPTY, b"{}", BY))
    };
    clauses.clause("shape: an index of two platforms, a nested index, an empty index", || {
        let (one, two) = (client.image(NAME, "amd64", BY)?, client.image(NAME, "arm64", BY)?);
        client.push_manifest(NAME, None, &one, BY)?;
        client.push_manifest(NAME, None, &two, BY)?;
        let platforms = index(&[&one, &two], BY);
        client.push_manifest(NAME, Some("index"), &platforms, BY)?;
        client.push_manifest(NAME, Some("nested"), &index(&[&platforms, &one], BY), BY)?;
        client.push_manifest(NAME, Some("empty-index"), &index(&[], BY), BY).map(drop)
    });
    clauses.clause("shape: an image without layers, one of layers that are not compressed", || {
        let config = bytes("{\"no\":\"layers\"}", 32);
        client.push(NAME, &config, BY)?;
        client.push_manifest(NAME, Some("no-layers"), &image(&config, &[], BY), BY)?;
        let mut plain = image(&config, &[], BY);
        plain["layers"] = json!([layer("plain", "application/vnd.oci.image.layer.v1.tar")?]);
        client.push_manifest(NAME, Some("plain"), &plain, BY).map(drop)
    });
    clauses.clause(
        "shape: artifacts with layers, with the empty layer, with none, without a config; an index of them",
        || {
            let empty = empty()?;
            let artifact = |layers: Value| {
                json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.example.v1",
                    "config": empty, "layers": layers })
            };
            let one = artifact(json!([layer("of an artifact", "application/vnd.example.v1")?]));
            client.push_manifest(NAME, Some("artifact"), &one, BY)?;
            client.push_manifest(NAME, Some("artifact-empty"), &artifact(json!([empty])), BY)?;
            client.push_manifest(NAME, Some("artifact-none"), &artifact(json!([])), BY)?;
            let mut bare = artifact(json!([]));
            bare.as_object_mut().context("an object")?.remove("config");
            client.push_manifest(NAME, Some("artifact-bare"), &bare, BY)?;
            let mut list = index(&[&one], BY);
            list["artifactType"] = "application/vnd.example.list.v1".into();
            client.push_manifest(NAME, Some("artifact-index"), &list, BY).map(drop)
        },
    );
    clauses.clause("shape: descriptors with data, and fields that nobody knows, byte for byte", || {
        let mut one = client.image(NAME, "with data", BY)?;
        one["layers"][0]["data"] = "d2l0aCBkYXRhIG9uZQo=".into();
        one["org.example.custom"] = json!({ "deep": [1, 2.5, null, "é"] });
        client.push_manifest(NAME, Some("data"), &one, BY)?;
        let mut list = index(&[&one], BY);
        list["manifests"][0]["org.example.custom"] = true.into();
        client.push_manifest(NAME, Some("custom"), &list, BY).map(drop)
    });
    clauses.clause("shape: layers that may not be distributed need not be there, of OCI and of Docker", || {
        let mut one = client.image(NAME, "windows", BY)?;
        for (at, kind) in [
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ]
        .iter()
        .enumerate()
        {
            let mut foreign = descriptor(kind, kind.as_bytes(), BY);
            foreign["urls"] = json!(["https://store.example.com/blob"]);
            one["layers"].as_array_mut().context("layers")?.insert(at, foreign);
        }
        client.push_manifest(NAME, Some("foreign"), &one, BY).map(drop)
    });
    clauses.clause("shape: Docker's manifest and list, as what they came", || {
        let mut one = client.image(NAME, "of docker", BY)?;
        one["mediaType"] = "application/vnd.docker.distribution.manifest.v2+json".into();
        one["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json".into();
        client.push_manifest(NAME, Some("docker"), &one, BY)?;
        let mut list = index(&[&one], BY);
        list["mediaType"] = "application/vnd.docker.distribution.manifest.list.v2+json".into();
        client.push_manifest(NAME, Some("docker-list"), &list, BY).map(drop)
    });
    clauses.clause("shape: a subject that is not there MUST be taken, and OCI-Subject MUST name it", || {
        let mut one = client.image(NAME, "refers", BY)?;
        one["subject"] = descriptor(MANIFEST, b"still to come", BY);
        let answer = client.put_manifest(NAME, "refers", &one)?;
        expect(&answer, 201)?;
        has(&answer, "oci-subject", &BY.of(b"still to come"))
    });
}

fn sparse(client: &Client, clauses: &mut Clauses) {
    clauses.clause("sparse: an index of which one child is here; the other is 404 until it comes", || {
        let (here, late) = (client.image(NAME, "here", BY)?, client.image(NAME, "late", BY)?);
        client.push_manifest(NAME, None, &here, BY)?;
        client.push_manifest(NAME, Some("sparse-index"), &index(&[&here, &late], BY), BY)?;
        let digest = BY.of(late.to_string().as_bytes());
        refused(&client.get(&format!("/v2/{NAME}/manifests/{digest}"))?, 404, "MANIFEST_UNKNOWN")?;
        client.push_manifest(NAME, None, &late, BY).map(drop)
    });
    clauses.clause("sparse: an image of which one layer is here, with a Warning that names the other", || {
        let (config, here, absent) =
            (bytes("{\"sparse\":1}", 20), bytes("sparse here", 300), bytes("sparse absent", 300));
        client.push(NAME, &config, BY)?;
        client.push(NAME, &here, BY)?;
        let one = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, &config, BY),
            "layers": [descriptor(LAYER, &here, BY), descriptor(LAYER, &absent, BY)],
        });
        let answer = client.put_manifest(NAME, "sparse-image", &one)?;
        expect(&answer, 201)?;
        let warning = answer.header("warning").context("no Warning")?;
        ensure!(warning.starts_with("299 - ") && warning.contains(&BY.of(&absent)), "{warning}");
        client.shows(NAME, "sparse-image", &one, &BY.of(one.to_string().as_bytes()))?;
        refused(&client.get(&format!("/v2/{NAME}/blobs/{}", BY.of(&absent)))?, 404, "BLOB_UNKNOWN")?;
        client.push(NAME, &absent, BY)?;
        let whole = client.put_manifest(NAME, "sparse-image", &one)?;
        ensure!(whole.header("warning").is_none(), "it still warns");
        Ok(())
    });
    clauses.clause("sparse: an index or image of which nothing is here is MANIFEST_BLOB_UNKNOWN", || {
        let absent = json!({ "mediaType": MANIFEST });
        refused(&client.put_manifest(NAME, "none", &index(&[&absent], BY))?, 400, "MANIFEST_BLOB_UNKNOWN")?;
        let config = bytes("{\"alone\":1}", 20);
        client.push(NAME, &config, BY)?;
        let alone = image(&config, &[b"absent one", b"absent two"], BY);
        refused(&client.put_manifest(NAME, "none", &alone)?, 400, "MANIFEST_BLOB_UNKNOWN")?;
        expect(&client.get(&format!("/v2/{NAME}/manifests/none"))?, 404)
    });
}

fn digests_and_tags(client: &Client, clauses: &mut Clauses) {
    clauses.clause("sha512: an index, its children and their blobs, all by sha512", || {
        let by = Algorithm::Sha512;
        let (one, two) = (client.image(NAME, "512 one", by)?, client.image(NAME, "512 two", by)?);
        client.push_manifest(NAME, None, &one, by)?;
        client.push_manifest(NAME, None, &two, by)?;
        client.push_manifest(NAME, None, &index(&[&one, &two], by), by)?;
        // The same by a tag is named by sha256.
        client.push_manifest(NAME, Some("sha512"), &one, BY).map(drop)
    });
    for by in [Algorithm::Sha256, Algorithm::Sha512] {
        clauses.clause(&format!("tag=: PUT by digest ({by:?}) with tags; OCI-Tag names each"), || {
            let one = client.image(NAME, &format!("tagged {by:?}"), by)?;
            let digest = by.of(one.to_string().as_bytes());
            let tags = [format!("a-{by:?}"), format!("b-{by:?}")];
            let reference = format!("{digest}?tag={}&tag={}", tags[0], tags[1]);
            let answer = client.put_manifest(NAME, &reference, &one)?;
            expect(&answer, 201)?;
            has(&answer, "docker-content-digest", &digest)?;
            let named: Vec<&str> =
                answer.headers.iter().filter(|(name, _)| name == "oci-tag").map(|(_, tag)| tag.as_str()).collect();
            ensure!(named == tags, "OCI-Tag: {named:?}");
            for tag in &tags {
                client.shows(NAME, tag, &one, &digest)?;
            }
            refused(&client.put_manifest(NAME, &format!("{digest}?tag=.bad"), &one)?, 400, "MANIFEST_INVALID")
        });
    }
}
