//! What one repository has is no other's: theft by digest, and whether there is something to steal.

use std::collections::HashSet;

use artifact::{Digest, Repository, media_type};
use bytes::Bytes;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use serve::accounts::{self, Scope};
use serve::{Anonymous, Config};

use crate::support::{Image, Site, header, on_loopback, refusal};

/// What a caller can tell from an answer.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    status: u16,
    headers: Vec<String>,
    body: String,
}

/// An answer with every name that was asked for taken out of it.
async fn told(answer: Response, names: &[&str]) -> Told {
    let status = answer.status().as_u16();
    let mut headers: Vec<String> = answer
        .headers()
        .iter()
        .filter(|(name, _)| *name != "date" && *name != "content-length")
        .map(|(name, value)| {
            let is_own = matches!(name.as_str(), "location" | "docker-upload-uuid");
            let value = if is_own { "…".to_owned() } else { without(value.to_str().unwrap(), names) };
            format!("{name}: {value}")
        })
        .collect();
    headers.sort();
    Told { status, headers, body: without(&answer.text().await.unwrap(), names) }
}

fn without(text: &str, names: &[&str]) -> String {
    names.iter().fold(text.to_owned(), |text, name| text.replace(name, "…"))
}

/// A closed site with a secret image, and one who may do everything in `mine/**` and nothing else.
async fn closed() -> (Site, Image, String) {
    let site = Site::with(Config { anonymous: Anonymous::Matching(vec!["open/**".to_owned()]), ..on_loopback() }).await;
    let image = site.image("", "secret/app", "secret", "the secret").await;
    let scopes: Vec<Scope> = vec!["all:mine/**".parse().unwrap()];
    let word = accounts::add_token(&site.store, "thief", &scopes, None).await.unwrap();
    site.server.reload_secrets().await.unwrap();
    (site, image, word)
}

fn as_thief(site: &Site, word: &str, method: Method, path: &str) -> RequestBuilder {
    site.request(method, path).basic_auth("thief", Some(word))
}

async fn push(site: &Site, word: &str, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    let path = format!("/v2/mine/app/blobs/uploads/?digest={digest}");
    let answer = as_thief(site, word, Method::POST, &path).body(bytes.to_vec()).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    digest
}

async fn put(site: &Site, word: &str, kind: &str, reference: &str, manifest: &Value) -> Response {
    let path = format!("/v2/mine/app/manifests/{reference}");
    let request = as_thief(site, word, Method::PUT, &path).header("content-type", kind);
    request.body(manifest.to_string()).send().await.unwrap()
}

fn image_of(config: Digest, layer: Digest, layer_type: &str) -> Value {
    json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": { "mediaType": media_type::OCI_CONFIG, "digest": config, "size": 2 },
        "layers": [{ "mediaType": layer_type, "digest": layer, "size": 10 }],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_names_anothers_layer_gets_it_not() {
    let (site, image, word) = closed().await;
    let config = push(&site, &word, b"{}").await;
    let nowhere = Digest::of(b"nowhere");
    let mut both = Vec::new();
    for layer in [image.layer, nowhere] {
        let manifest = image_of(config, layer, media_type::OCI_LAYER_GZIP);
        let answer = put(&site, &word, media_type::OCI_MANIFEST, "1", &manifest).await;
        assert_eq!(answer.status(), 400);
        both.push(told(answer, &[&layer.to_string(), &layer.hex()]).await);
        let got = as_thief(&site, &word, Method::GET, &format!("/v2/mine/app/blobs/{layer}")).send().await.unwrap();
        assert_eq!(got.status(), 404);
    }
    assert_eq!(both[0], both[1], "whether another has it is not told");
    assert!(both[0].body.contains("MANIFEST_BLOB_UNKNOWN"), "{both:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_left_out_of_a_push_is_not_taken_from_another() {
    let (site, image, word) = closed().await;
    let config = push(&site, &word, b"{}").await;
    let own = push(&site, &word, b"own layer!").await;
    let mut both = Vec::new();
    for (tag, layer) in [("1", image.layer), ("2", Digest::of(b"nowhere"))] {
        let mut manifest = image_of(config, own, media_type::OCI_LAYER_GZIP);
        let absent = json!({ "mediaType": media_type::OCI_LAYER_GZIP, "digest": layer, "size": 10 });
        manifest["layers"].as_array_mut().unwrap().push(absent);
        let answer = put(&site, &word, media_type::OCI_MANIFEST, tag, &manifest).await;
        let parent = Digest::of(manifest.to_string().as_bytes()).to_string();
        both.push(told(answer, &[&layer.to_string(), &parent]).await);
        let path = format!("/v2/mine/app/blobs/{layer}");
        let got = as_thief(&site, &word, Method::GET, &path).send().await.unwrap();
        assert_eq!(got.status(), 404);
        both.push(told(got, &[&layer.to_string(), &parent]).await);
        // Nor by a mount that names no source.
        let mount = format!("/v2/mine/app/blobs/uploads/?mount={layer}");
        let answer = as_thief(&site, &word, Method::POST, &mount).send().await.unwrap();
        assert_eq!(answer.status(), 202);
        both.push(told(answer, &[]).await);
    }
    assert_eq!(both[..3], both[3..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_called_foreign_is_not_given_either() {
    let (site, image, word) = closed().await;
    let config = push(&site, &word, b"{}").await;
    let mut both = Vec::new();
    for (tag, layer) in [("1", image.layer), ("2", Digest::of(b"nowhere"))] {
        let manifest = image_of(config, layer, "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip");
        let answer = put(&site, &word, media_type::OCI_MANIFEST, tag, &manifest).await;
        assert_eq!(answer.status(), 201);
        let parent = header(&answer, "docker-content-digest").to_owned();
        let path = format!("/v2/mine/app/blobs/{layer}");
        let got = as_thief(&site, &word, Method::GET, &path).send().await.unwrap();
        assert_eq!(got.status(), 404);
        both.push(told(got, &[&layer.to_string(), &parent]).await);
    }
    assert_eq!(both[0], both[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sparse_child_that_arrives_elsewhere_stays_there() {
    let (site, image, word) = closed().await;
    let config = push(&site, &word, b"{}").await;
    let layer = push(&site, &word, b"own layer!").await;
    let own = image_of(config, layer, media_type::OCI_LAYER_GZIP);
    assert_eq!(put(&site, &word, media_type::OCI_MANIFEST, "own", &own).await.status(), 201);
    let own_digest = Digest::of(own.to_string().as_bytes());
    // One child is elsewhere already, one will come there, and one never does.
    let later = {
        let secret = Repository::image("", "secret/app");
        let layer = site.blob(&secret, b"to come").await;
        image_of(image.layer, layer, media_type::OCI_LAYER_GZIP)
    };
    let later_digest = Digest::of(later.to_string().as_bytes());
    let never = Digest::of(b"never");
    let size = own.to_string().len();
    let children = [own_digest, image.digest, later_digest, never];
    let children =
        children.map(|digest| json!({ "mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": size }));
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": children });
    assert_eq!(put(&site, &word, media_type::OCI_INDEX, "index", &index).await.status(), 201);
    let secret = Repository::image("", "secret/app");
    site.manifest(&secret, Bytes::from(later.to_string()), Some("2"), HashSet::new()).await;
    // Pushing the index once more does not bring them either.
    assert_eq!(put(&site, &word, media_type::OCI_INDEX, "index", &index).await.status(), 201);
    let mut all = Vec::new();
    for digest in [image.digest, later_digest, never] {
        for spelled in ["mine/app", "mine/app/"] {
            let path = format!("/v2/{}/manifests/{digest}", spelled.trim_end_matches('/'));
            let got = as_thief(&site, &word, Method::GET, &path).send().await.unwrap();
            assert_eq!(got.status(), 404, "{digest}");
            all.push(told(got, &[&digest.to_string()]).await);
        }
    }
    assert!(all.windows(2).all(|two| two[0] == two[1]), "{all:?}");
    for blob in [image.layer, Digest::of(b"to come"), never] {
        let got = as_thief(&site, &word, Method::GET, &format!("/v2/mine/app/blobs/{blob}")).send().await.unwrap();
        assert_eq!(got.status(), 404);
    }
    let path = format!("/v2/mine/app/manifests/{own_digest}");
    assert_eq!(as_thief(&site, &word, Method::GET, &path).send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_without_the_right_is_an_upload_that_begins() {
    let (site, image, word) = closed().await;
    let nowhere = Digest::of(b"nowhere");
    let mut all = Vec::new();
    for (digest, from) in [
        (image.layer, "secret/app"),
        (nowhere, "secret/app"),
        (image.layer, "secret/none"),
        (image.layer, "app"),
        (nowhere, "mine/other"),
    ] {
        let path = format!("/v2/mine/app/blobs/uploads/?mount={digest}&from={from}");
        let answer = as_thief(&site, &word, Method::POST, &path).send().await.unwrap();
        assert_eq!(answer.status(), 202, "{from}");
        all.push(told(answer, &[]).await);
        let got = as_thief(&site, &word, Method::GET, &format!("/v2/mine/app/blobs/{digest}")).send().await.unwrap();
        assert_eq!(got.status(), 404, "{from}");
    }
    assert!(all.windows(2).all(|two| two[0] == two[1]), "{all:?}");
    // With the right it is there at once.
    let layer = push(&site, &word, b"own layer!").await;
    let path = format!("/v2/mine/other/blobs/uploads/?mount={layer}&from=mine/app");
    assert_eq!(as_thief(&site, &word, Method::POST, &path).send().await.unwrap().status(), 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_learns_what_there_is_from_how_it_is_refused() {
    let (site, image, word) = closed().await;
    site.image("quay.io", "secret/app", "secret", "the other secret").await;
    site.file("dl.k8s.io", "secret/file.txt", b"x").await;
    let anonymous = {
        let answer = site.get("/token").await;
        let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        answer["token"].as_str().unwrap().to_owned()
    };
    let nowhere = Digest::of(b"nowhere");
    let (digest, layer) = (image.digest, image.layer);
    // What is there, and the same of what is not.
    let mut pairs = vec![
        ("/files/dl.k8s.io/secret/file.txt".to_owned(), "/files/dl.k8s.io/absent/file.txt".to_owned()),
        ("/files/dl.k8s.io/secret/".to_owned(), "/files/dl.k8s.io/absent/".to_owned()),
        ("/files/dl.k8s.io/secret".to_owned(), "/files/dl.k8s.io/absent".to_owned()),
        ("/?q=secret".to_owned(), "/?q=absent".to_owned()),
        (format!("/?q={}", digest.hex()), format!("/?q={}", nowhere.hex())),
        ("/v2/_catalog?last=secret".to_owned(), "/v2/_catalog?last=absent".to_owned()),
    ];
    for (host, ns) in [("", ""), ("quay.io/", ""), ("", "?ns=quay.io"), ("quay.io/", "?ns=quay.io")] {
        let both = [
            ("manifests/secret".to_owned(), "manifests/absent".to_owned()),
            (format!("manifests/{digest}"), format!("manifests/{nowhere}")),
            (format!("blobs/{layer}"), format!("blobs/{nowhere}")),
            ("tags/list".to_owned(), "tags/list".to_owned()),
            (format!("referrers/{digest}"), format!("referrers/{nowhere}")),
        ];
        for (here, gone) in both {
            let there = format!("/v2/{host}secret/app/{here}{ns}");
            pairs.push((there.clone(), format!("/v2/{host}secret/app/{gone}{ns}")));
            pairs.push((there.clone(), format!("/v2/{host}absent/app/{here}{ns}")));
            pairs.push((there, format!("/v2/{host}absent/app/{gone}{ns}")));
        }
    }
    let hashes = [digest, layer, nowhere].map(|digest| digest.hex());
    let names = [&*hashes[0], &*hashes[1], &*hashes[2], "secret", "absent"];
    for caller in ["nobody", "anonymous", "thief"] {
        for method in [Method::GET, Method::HEAD] {
            for (here, gone) in &pairs {
                let mut both = Vec::new();
                for path in [here, gone] {
                    let request = site.request(method.clone(), path);
                    let request = match caller {
                        "anonymous" => request.bearer_auth(&anonymous),
                        "thief" => request.basic_auth("thief", Some(&word)),
                        _ => request,
                    };
                    both.push(told(request.send().await.unwrap(), &names).await);
                }
                assert_eq!(both[0], both[1], "{caller} {method} {here} {gone}");
                let status = both[0].status;
                // By rule 4 no repository is meant, and nothing refers to what is nowhere.
                let by_search = here.contains("/v2/secret/") && !here.contains("ns=") && here.contains("/referrers/");
                let is_list = here.contains("/?q=") || here.contains("_catalog") || by_search;
                let expected = if caller == "thief" { 404 } else { 401 };
                assert!(status == expected || (is_list && status == 200), "{caller} {method} {here}: {status}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_a_secret_is_told_by_name_what_is_missing() {
    let (site, ..) = closed().await;
    let answer = site.admin(Method::GET, "/v2/secret/app/manifests/9").send().await.unwrap();
    let (status, code, message) = refusal(answer).await;
    assert_eq!((status, code.as_str()), (404, "MANIFEST_UNKNOWN"));
    assert!(message.contains("secret/app"), "{message}");
}
