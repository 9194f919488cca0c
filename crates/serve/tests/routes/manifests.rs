use std::collections::HashSet;

use artifact::{Digest, Repository, media_type};
use bytes::Bytes;
use reqwest::Method;
use serde_json::json;

use crate::support::{Site, header, refusal};

#[tokio::test(flavor = "multi_thread")]
async fn get_and_head_by_tag_and_digest() {
    let site = Site::start().await;
    let image = site.image("docker.io", "library/app", "1", "layer").await;
    for reference in ["1".to_owned(), image.digest.to_string()] {
        let path = format!("/v2/library/app/manifests/{reference}?ns=docker.io");
        // The second time from memory: the same answer.
        for _ in 0..2 {
            for method in [Method::HEAD, Method::GET] {
                let head = method == Method::HEAD;
                let answer = site.request(method, &path).header("accept-encoding", "gzip").send().await.unwrap();
                assert_eq!(answer.status(), 200);
                assert_eq!(header(&answer, "content-type"), media_type::OCI_MANIFEST);
                assert_eq!(header(&answer, "content-length"), image.bytes.len().to_string());
                assert_eq!(header(&answer, "docker-content-digest"), image.digest.to_string());
                assert_eq!(header(&answer, "etag"), format!("\"{}\"", image.digest));
                assert_eq!(header(&answer, "docker-distribution-api-version"), "registry/2.0");
                assert_eq!(header(&answer, "oci-namespace"), "docker.io");
                assert_eq!(header(&answer, "content-encoding"), "");
                let bytes = answer.bytes().await.unwrap();
                assert_eq!(bytes, if head { Bytes::new() } else { image.bytes.clone() });
            }
        }
    }
    let metrics = site.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("naru_cache_requests_total{result=\"hit\"} 6\n"), "{metrics}");
    assert!(metrics.contains("naru_cache_requests_total{result=\"miss\"} 2\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions() {
    let site = Site::start().await;
    let image = site.image("", "app", "1", "layer").await;
    let path = "/v2/app/manifests/1";
    for (value, status) in [
        (format!("\"{}\"", image.digest), 304),
        (format!("W/\"{}\"", image.digest), 304),
        (format!("\"x\", \"{}\"", image.digest), 304),
        ("*".to_owned(), 304),
        ("\"x\"".to_owned(), 200),
    ] {
        let answer = site.request(Method::GET, path).header("if-none-match", &value).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{value}");
        if status == 304 {
            assert_eq!(header(&answer, "etag"), format!("\"{}\"", image.digest));
            assert!(answer.bytes().await.unwrap().is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moves_is_seen_at_once() {
    let site = Site::start().await;
    let first = site.image("quay.io", "a/b", "1", "one").await;
    let path = "/v2/a/b/manifests/1?ns=quay.io";
    assert_eq!(site.get(path).await.bytes().await.unwrap(), first.bytes);
    let second = site.image("quay.io", "a/b", "1", "two").await;
    assert_eq!(site.get(path).await.bytes().await.unwrap(), second.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_here() {
    let site = Site::start().await;
    site.image("quay.io", "a/b", "1", "one").await;
    let other = Digest::of(b"nothing");
    for path in ["/v2/a/b/manifests/2?ns=quay.io".to_owned(), format!("/v2/a/b/manifests/{other}?ns=quay.io")] {
        let (status, code, message) = refusal(site.get(&path).await).await;
        assert_eq!((status, code.as_str()), (404, "MANIFEST_UNKNOWN"));
        assert!(message.contains("quay.io/a/b"), "{message}");
    }
    let (status, code, _) = refusal(site.get("/v2/a/b/manifests/1?ns=ghcr.io").await).await;
    assert_eq!((status, code.as_str()), (404, "NAME_UNKNOWN"));
    // Another repository's manifest is not shown by its digest.
    let image = site.image("quay.io", "secret", "1", "secret").await;
    let path = format!("/v2/a/b/manifests/{}?ns=quay.io", image.digest);
    assert_eq!(site.get(&path).await.status(), 404);
    assert_eq!(site.request(Method::HEAD, &path).send().await.unwrap().status(), 404);
}

/// An index of which one platform was carried: its digest answers, the other child says why it does not.
#[tokio::test(flavor = "multi_thread")]
async fn sparse_index() {
    let site = Site::start().await;
    let image = site.image("docker.io", "library/app", "one", "layer").await;
    let absent = Digest::of(b"another platform");
    let index = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX,
        "manifests": [
            { "mediaType": media_type::OCI_MANIFEST, "digest": image.digest, "size": image.bytes.len() },
            { "mediaType": media_type::OCI_MANIFEST, "digest": absent, "size": 7 },
        ],
    });
    let repository = Repository::image("docker.io", "library/app");
    let digest = site.manifest(&repository, Bytes::from(index.to_string()), Some("1"), HashSet::from([absent])).await;
    for query in ["?ns=docker.io", ""] {
        let pinned = site.get(&format!("/v2/library/app/manifests/{digest}{query}")).await;
        assert_eq!((pinned.status().as_u16(), header(&pinned, "content-type")), (200, media_type::OCI_INDEX));
        let child = format!("/v2/library/app/manifests/{}{query}", image.digest);
        assert_eq!(site.get(&child).await.status(), 200);
        let (status, code, message) =
            refusal(site.get(&format!("/v2/library/app/manifests/{absent}{query}")).await).await;
        assert_eq!((status, code.as_str()), (404, "MANIFEST_UNKNOWN"));
        assert!(message.contains("not carried"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn put() {
    let site = Site::start().await;
    let image = site.image("", "there", "1", "layer").await;
    let put = |path: &str, kind: &'static str, bytes: &Bytes| {
        site.admin(Method::PUT, path).header("content-type", kind).body(bytes.clone()).send()
    };
    // Another repository's layer is nobody else's to name.
    let (status, code, message) =
        refusal(put("/v2/here/manifests/1", media_type::OCI_MANIFEST, &image.bytes).await.unwrap()).await;
    assert_eq!((status, code.as_str()), (400, "MANIFEST_BLOB_UNKNOWN"), "{message}");

    let answer = put("/v2/there/manifests/2", media_type::OCI_MANIFEST, &image.bytes).await.unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(header(&answer, "location"), format!("/v2/there/manifests/{}", image.digest));
    assert_eq!(header(&answer, "docker-content-digest"), image.digest.to_string());
    assert_eq!(site.get("/v2/there/manifests/2").await.bytes().await.unwrap(), image.bytes);

    let wrong = format!("/v2/there/manifests/{}", Digest::of(b"other"));
    for (path, kind, bytes, code) in [
        (wrong.as_str(), media_type::OCI_MANIFEST, image.bytes.clone(), "DIGEST_INVALID"),
        ("/v2/there/manifests/3", media_type::OCI_INDEX, image.bytes.clone(), "MANIFEST_INVALID"),
        ("/v2/there/manifests/3", media_type::OCI_MANIFEST, Bytes::from_static(b"<html>"), "MANIFEST_INVALID"),
        ("/v2/there/manifests/3", "", Bytes::from_static(b"{\"schemaVersion\":1,\"fsLayers\":[]}"), "MANIFEST_INVALID"),
    ] {
        let (status, found, message) = refusal(put(path, kind, &bytes).await.unwrap()).await;
        assert_eq!((status, found.as_str()), (400, code), "{message}");
    }
    // Lengths that are not those of what is here, and a list in the place of an object.
    let text = String::from_utf8(image.bytes.to_vec()).unwrap();
    let longer = Bytes::from(text.replace(r#""size":5"#, r#""size":6"#));
    let (status, code, message) =
        refusal(put("/v2/there/manifests/3", media_type::OCI_MANIFEST, &longer).await.unwrap()).await;
    assert_eq!((status, code.as_str()), (400, "MANIFEST_INVALID"));
    assert!(message.contains(&format!("{} has 6 bytes, and it has 5", image.layer)), "{message}");
    let child = json!({ "mediaType": media_type::OCI_MANIFEST, "digest": image.digest, "size": 1 });
    let over = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [child] });
    let over = Bytes::from(over.to_string());
    let (_, code, message) = refusal(put("/v2/there/manifests/3", media_type::OCI_INDEX, &over).await.unwrap()).await;
    assert!(code == "MANIFEST_INVALID" && message.contains("has 1 bytes"), "{message}");
    let list = Bytes::from(format!(r#"[2,"{}",null,null,[]]"#, media_type::OCI_MANIFEST));
    let answer = put("/v2/there/manifests/3", media_type::OCI_MANIFEST, &list).await.unwrap();
    assert_eq!(refusal(answer).await.1, "MANIFEST_INVALID");
    let large = Bytes::from(vec![b' '; 4 * 1024 * 1024 + 1]);
    let (status, code, _) =
        refusal(put("/v2/there/manifests/3", media_type::OCI_MANIFEST, &large).await.unwrap()).await;
    assert_eq!((status, code.as_str()), (413, "MANIFEST_INVALID"));
    assert_eq!(site.get("/v2/there/manifests/3").await.status(), 404);

    // A sparse index is taken, one of nothing at all is not.
    let index = |digests: &[Digest]| {
        let size = image.bytes.len();
        let descriptor = |digest| json!({ "mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": size });
        let manifests: Vec<_> = digests.iter().map(descriptor).collect();
        Bytes::from(
            json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests }).to_string(),
        )
    };
    let sparse = index(&[image.digest, Digest::of(b"x")]);
    assert_eq!(put("/v2/there/manifests/all", media_type::OCI_INDEX, &sparse).await.unwrap().status(), 201);
    assert_eq!(site.get("/v2/there/manifests/all").await.bytes().await.unwrap(), sparse);
    let none = index(&[Digest::of(b"x")]);
    assert_eq!(put("/v2/there/manifests/none", media_type::OCI_INDEX, &none).await.unwrap().status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_a_tag() {
    let site = Site::start().await;
    site.image("", "app", "1", "layer").await;
    assert_eq!(site.request(Method::DELETE, "/v2/app/manifests/1").send().await.unwrap().status(), 401);
    assert_eq!(site.admin(Method::DELETE, "/v2/app/manifests/1").send().await.unwrap().status(), 202);
    assert_eq!(site.get("/v2/app/manifests/1").await.status(), 404);
    assert_eq!(site.admin(Method::DELETE, "/v2/app/manifests/1").send().await.unwrap().status(), 404);
}

/// What a repository shows no longer is 404 at once, warm answers included; another repository's goes on.
#[tokio::test(flavor = "multi_thread")]
async fn delete_a_manifest_and_its_blobs() {
    let site = Site::start().await;
    let image = site.image("", "app", "1", "layer").await;
    let other = site.image("", "other", "1", "layer").await;
    assert_eq!(image.digest, other.digest);
    let (manifest, layer) = (format!("manifests/{}", image.digest), format!("blobs/{}", image.layer));
    let status = async |method: Method, path: &str| site.admin(method, path).send().await.unwrap().status().as_u16();
    for _ in 0..2 {
        for path in [&manifest, &layer, "manifests/1"] {
            assert_eq!(site.get(&format!("/v2/app/{path}")).await.status(), 200);
        }
    }
    // The manifest needs it.
    let refused = site.admin(Method::DELETE, &format!("/v2/app/{layer}")).send().await.unwrap();
    assert_eq!(header(&refused, "allow"), "GET, HEAD");
    let (code, why, message) = refusal(refused).await;
    assert_eq!((code, why.as_str()), (405, "UNSUPPORTED"));
    assert!(message.contains(&image.digest.to_string()), "{message}");
    assert_eq!(site.get(&format!("/v2/app/{layer}")).await.status(), 200);

    assert_eq!(site.request(Method::DELETE, &format!("/v2/app/{manifest}")).send().await.unwrap().status(), 401);
    assert_eq!(status(Method::DELETE, &format!("/v2/app/{manifest}")).await, 202);
    assert_eq!(site.get(&format!("/v2/app/{manifest}")).await.status(), 404);
    assert_eq!(site.get("/v2/app/manifests/1").await.status(), 404);
    assert_eq!(status(Method::DELETE, &format!("/v2/app/{manifest}")).await, 404);
    assert_eq!(site.get(&format!("/v2/app/{layer}")).await.status(), 200);
    assert_eq!(status(Method::DELETE, &format!("/v2/app/{layer}")).await, 202);
    assert_eq!(site.get(&format!("/v2/app/{layer}")).await.status(), 404);
    assert_eq!(status(Method::DELETE, &format!("/v2/app/{layer}")).await, 404);
    for path in [&manifest, &layer, "manifests/1"] {
        assert_eq!(site.get(&format!("/v2/other/{path}")).await.status(), 200);
    }
}

/// A child of which a part is still to be loaded counts as one that is not here.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_over_what_is_not_whole() {
    let site = Site::start().await;
    let image = site.image("", "app", "1", "here").await;
    let repository = artifact::Repository::image("", "app");
    let half = serde_json::json!({
        "schemaVersion": 2, "mediaType": artifact::media_type::OCI_MANIFEST,
        "config": { "mediaType": artifact::media_type::OCI_CONFIG, "digest": artifact::Digest::of(b"absent"), "size": 6 },
        "layers": [],
    });
    let half = site.manifest(&repository, half.to_string().into(), None, std::collections::HashSet::new()).await;
    let size = image.bytes.len();
    let descriptor = |digest: artifact::Digest| serde_json::json!({ "mediaType": artifact::media_type::OCI_MANIFEST, "digest": digest, "size": size });
    let put = async |children: Vec<artifact::Digest>, by_tag: bool| {
        let index = serde_json::json!({
            "schemaVersion": 2, "mediaType": artifact::media_type::OCI_INDEX,
            "manifests": children.into_iter().map(descriptor).collect::<Vec<_>>(),
        });
        let index = index.to_string();
        let name = if by_tag { "2".to_owned() } else { artifact::Digest::of(index.as_bytes()).to_string() };
        let path = format!("/v2/app/manifests/{name}");
        let put = site.admin(Method::PUT, &path).header("content-type", artifact::media_type::OCI_INDEX).body(index);
        (put.send().await.unwrap(), path)
    };
    for by_tag in [true, false] {
        let (answer, _) = put(vec![half], by_tag).await;
        let (status, code, message) = refusal(answer).await;
        assert_eq!((status, code.as_str()), (400, "MANIFEST_BLOB_UNKNOWN"), "{message}");
        let (answer, path) = put(vec![half, image.digest], by_tag).await;
        assert_eq!(answer.status(), 201);
        assert_eq!(site.get(&path).await.status(), 200);
    }
}
