//! What real clients sent, to the letter, and the answer that each of them must get: `captures/*.jsonl`, a client a file,
//! recorded from pulls of an image through a mirror. INDEX, MANIFEST, CONFIG and LAYER stand for the image's digests.

use std::collections::{BTreeMap, HashSet};

use artifact::{Digest, Repository, media_type};
use bytes::Bytes;
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use crate::support::{Site, header};

#[derive(Deserialize)]
struct Recorded {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    answer: BTreeMap<String, serde_json::Value>,
}

/// Docker Hub's nginx 1.25, as far as these clients can tell, beside another of the same name.
async fn nginx(site: &Site) -> [(&'static str, String, Bytes); 4] {
    let repository = Repository::image("docker.io", "library/nginx");
    site.image("quay.io", "library/nginx", "1.25", "another one").await;
    let (config, layer) = (Bytes::from_static(b"{\"os\":\"linux\"}"), Bytes::from_static(b"a layer"));
    for bytes in [&config, &layer] {
        site.blob(&repository, bytes).await;
    }
    let of = |kind: &str, bytes: &Bytes| json!({ "mediaType": kind, "digest": Digest::of(bytes), "size": bytes.len() });
    let manifest = Bytes::from(
        json!({
            "schemaVersion": 2, "mediaType": media_type::DOCKER_MANIFEST,
            "config": of("application/vnd.docker.container.image.v1+json", &config),
            "layers": [of("application/vnd.docker.image.rootfs.diff.tar.gzip", &layer)],
        })
        .to_string(),
    );
    let mut child = of(media_type::DOCKER_MANIFEST, &manifest);
    child["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    let index = Bytes::from(
        json!({ "schemaVersion": 2, "mediaType": media_type::DOCKER_LIST, "manifests": [child] }).to_string(),
    );
    site.manifest(&repository, manifest.clone(), None, HashSet::new()).await;
    site.manifest(&repository, index.clone(), Some("1.25"), HashSet::new()).await;
    [("INDEX", index), ("MANIFEST", manifest), ("CONFIG", config), ("LAYER", layer)]
        .map(|(name, bytes)| (name, Digest::of(&bytes).to_string(), bytes))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_real_clients_sent_gets_its_answer() {
    let site = Site::start().await;
    let things = nginx(&site).await;
    let real = |text: &str| things.iter().fold(text.to_owned(), |text, (name, digest, _)| text.replace(name, digest));
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/routes/captures");
    let mut captures: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    captures.sort();
    assert_eq!(captures.len(), 5);
    for capture in captures {
        let client = capture.file_stem().unwrap().to_string_lossy().into_owned();
        let mut token = None;
        for line in std::fs::read_to_string(&capture).unwrap().lines() {
            let Recorded { method, path, headers, answer: expected } = serde_json::from_str(line).unwrap();
            let mut request = site.request(Method::from_bytes(method.as_bytes()).unwrap(), &real(&path));
            for (name, value) in &headers {
                request = request.header(name, value);
            }
            if let Some(token) = &token {
                request = request.bearer_auth(token);
            }
            let answer = request.send().await.unwrap();
            let status = expected["status"].as_u64().unwrap();
            assert_eq!(u64::from(answer.status().as_u16()), status, "{client}: {method} {path}");
            for (name, value) in expected.iter().filter(|(name, _)| *name != "status") {
                assert_eq!(header(&answer, name), real(value.as_str().unwrap()), "{client}: {method} {path}: {name}");
            }
            if status == 401 {
                // Each of them follows the challenge, and goes on with what it gets.
                let challenge = header(&answer, "www-authenticate").to_owned();
                let realm = challenge.split('"').nth(1).unwrap();
                let path = realm.strip_prefix(&site.url).unwrap_or_else(|| panic!("{client}: {challenge}"));
                let given: serde_json::Value =
                    serde_json::from_slice(&site.get(path).await.bytes().await.unwrap()).unwrap();
                token = Some(given["token"].as_str().unwrap().to_owned());
                continue;
            }
            let digest = header(&answer, "docker-content-digest").to_owned();
            let encoding = header(&answer, "content-encoding").to_owned();
            let (_, _, bytes) = things.iter().find(|(_, known, _)| *known == digest).unwrap();
            assert_eq!(header(&answer, "content-length"), bytes.len().to_string(), "{client}: {method} {path}");
            assert_eq!(encoding, "", "{client}: {path}: a digest is of the bytes as they are");
            if method == "GET" {
                assert_eq!(answer.bytes().await.unwrap(), bytes, "{client}: {path}");
            }
        }
    }
}
