//! What helm, oras, cosign and buildkit push: their documents' shapes and the requests they make, without the tools.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::client::{
    Algorithm, CONFIG, Clauses, Client, EMPTY, INDEX, LAYER, MANIFEST, bytes, descriptor, expect, has, refused,
};

const BY: Algorithm = Algorithm::Sha256;

pub(crate) fn clauses(client: &Client, clauses: &mut Clauses) {
    // oras-go, which helm uses too: HEAD, then POST and one PUT. Cosign and buildkit stream by PATCH.
    let put = |name: &str, kind: &str, bytes: &[u8]| -> Result<Value> {
        let digest = BY.of(bytes);
        if client.head(&format!("/v2/{name}/blobs/{digest}"))?.status == 404 {
            client.push(name, bytes, BY)?;
        }
        expect(&client.head(&format!("/v2/{name}/blobs/{digest}"))?, 200)?;
        Ok(descriptor(kind, bytes, BY))
    };
    let stream = |name: &str, kind: &str, bytes: &[u8]| -> Result<Value> {
        let place = client.start(name, "")?;
        expect(&client.send("PATCH", &place, &["Content-Type: application/octet-stream"], Some(bytes))?, 202)?;
        expect(&client.put(&place, &BY.of(bytes), b"")?, 201)?;
        Ok(descriptor(kind, bytes, BY))
    };
    clauses.clause("helm push: chart, provenance, and `+` of a version as `_` in its tag", || {
        let name = "charts/web";
        let config = put(name, "application/vnd.cncf.helm.config.v1+json", b"{\"name\":\"web\",\"version\":\"1.0.0+build\"}")?;
        let chart = put(name, "application/vnd.cncf.helm.chart.content.v1.tar+gzip", &bytes("a chart", 900))?;
        let provenance = put(name, "application/vnd.cncf.helm.chart.provenance.v1.prov", &bytes("signed", 90))?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [chart, provenance],
            "annotations": { "org.opencontainers.image.title": "web", "org.opencontainers.image.version": "1.0.0+build" },
        });
        client.push_manifest(name, Some("1.0.0_build"), &manifest, BY).map(drop)
    });
    clauses.clause("oras push and attach: an empty config with its data, titled files, a referrer that is found", || {
        let name = "oras/files";
        let mut config = put(name, EMPTY, b"{}")?;
        config["data"] = "e30=".into();
        let mut file = put(name, "text/plain", &bytes("a file", 100))?;
        file["annotations"] = json!({ "org.opencontainers.image.title": "dir/file.txt" });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.example.files",
            "config": config, "layers": [file], "annotations": { "org.opencontainers.image.created": "2026-01-01T00:00:00Z" },
        });
        let subject = client.push_manifest(name, Some("v1"), &manifest, BY)?;
        let attached = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/spdx+json", "config": config,
            "layers": [put(name, "application/spdx+json", b"{\"spdxVersion\":\"SPDX-2.3\"}")?],
            "subject": descriptor(MANIFEST, manifest.to_string().as_bytes(), BY),
        });
        let digest = BY.of(attached.to_string().as_bytes());
        let answer = client.put_manifest(name, &digest, &attached)?;
        expect(&answer, 201)?;
        has(&answer, "oci-subject", &subject)?;
        let found: Value = serde_json::from_slice(&client.get(&format!("/v2/{name}/referrers/{subject}"))?.body)?;
        ensure!(found["manifests"][0]["digest"] == digest.as_str(), "{found}");
        Ok(())
    });
    clauses.clause("cosign sign and attest: its tags beside the image, and its bundle as a referrer", || {
        let name = "cosign/app";
        let image = client.image(name, "signed", BY)?;
        let digest = client.push_manifest(name, Some("1"), &image, BY)?;
        let tag = digest.replace(':', "-");
        for (suffix, kind) in [
            ("sig", "application/vnd.dev.cosign.simplesigning.v1+json"),
            ("att", "application/vnd.dsse.envelope.v1+json"),
            ("sbom", "text/spdx+json"),
        ] {
            refused(&client.get(&format!("/v2/{name}/manifests/{tag}.{suffix}"))?, 404, "MANIFEST_UNKNOWN")?;
            let mut layer = stream(name, kind, &bytes(kind, 200))?;
            layer["annotations"] = json!({ "dev.cosignproject.cosign/signature": "MEUCIQD" });
            let manifest = json!({
                "schemaVersion": 2, "mediaType": MANIFEST, "config": stream(name, CONFIG, &bytes(suffix, 150))?,
                "layers": [layer],
            });
            client.push_manifest(name, Some(&format!("{tag}.{suffix}")), &manifest, BY)?;
        }
        let bundle = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "config": stream(name, EMPTY, b"{}")?,
            "layers": [stream(name, "application/vnd.dev.sigstore.bundle.v0.3+json", b"{\"mediaType\":\"bundle\"}")?],
            "subject": descriptor(MANIFEST, image.to_string().as_bytes(), BY),
            "annotations": { "dev.sigstore.bundle.content": "dsse-envelope" },
        });
        client.push_manifest(name, None, &bundle, BY)?;
        let filter = "artifactType=application%2Fvnd.dev.sigstore.bundle.v0.3%2Bjson";
        let found = client.get(&format!("/v2/{name}/referrers/{digest}?{filter}"))?;
        let found: Value = serde_json::from_slice(&found.body)?;
        ensure!(found["manifests"].as_array().map(Vec::len) == Some(1), "{found}");
        Ok(())
    });
    clauses.clause("buildkit: an index whose attestation describes its image", || {
        let name = "buildkit/app";
        let image = client.image(name, "attested", BY)?;
        let digest = client.push_manifest(name, None, &image, BY)?;
        let statement =
            stream(name, "application/vnd.in-toto+json", b"{\"predicateType\":\"https://slsa.dev/provenance/v0.2\"}")?;
        let config = stream(
            name,
            CONFIG,
            b"{\"architecture\":\"unknown\",\"os\":\"unknown\",\"rootfs\":{\"type\":\"layers\"}}",
        )?;
        let attestation = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [statement] });
        client.push_manifest(name, None, &attestation, BY)?;
        let mut of_image = descriptor(MANIFEST, image.to_string().as_bytes(), BY);
        of_image["platform"] = json!({ "architecture": "amd64", "os": "linux" });
        let mut of_attestation = descriptor(MANIFEST, attestation.to_string().as_bytes(), BY);
        of_attestation["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
        of_attestation["annotations"] =
            json!({ "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": digest });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [of_image, of_attestation] });
        client.push_manifest(name, Some("1"), &index, BY).map(drop)
    });
    clauses.clause("buildkit cache: an index of layers, as it long was, and an image manifest", || {
        let name = "buildkit/cache";
        let layer = stream(name, LAYER, &bytes("cached", 800))?;
        let config = stream(name, "application/vnd.buildkit.cacheconfig.v0", b"{\"layers\":[],\"records\":[]}")?;
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [layer, config] });
        client.push_manifest(name, Some("index"), &index, BY)?;
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
        client.push_manifest(name, Some("manifest"), &manifest, BY)?;
        let blob = format!("/v2/{name}/blobs/{}", layer["digest"].as_str().context("a digest")?);
        refused(&client.delete(&blob)?, 405, "UNSUPPORTED")?;
        let nobodys =
            json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(LAYER, b"absent", BY)] });
        refused(&client.put_manifest(name, "none", &nobodys)?, 400, "MANIFEST_BLOB_UNKNOWN")
    });
}
