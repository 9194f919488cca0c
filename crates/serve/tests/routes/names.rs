//! The rules of name resolution, one by one.

use std::collections::BTreeMap;

use reqwest::Method;
use serve::Config;

use crate::support::{Site, header, on_loopback, refusal};

async fn digest_at(site: &Site, path: &str, host: Option<&str>) -> (u16, String) {
    let mut request = site.request(Method::HEAD, path);
    if let Some(host) = host {
        request = request.header("host", host);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), header(&answer, "docker-content-digest").to_owned())
}

/// The same path and tag from two upstreams, by every layout.
#[tokio::test(flavor = "multi_thread")]
async fn two_upstreams_never_meet() {
    let site = Site::start().await;
    let hub = site.image("docker.io", "library/app", "1", "docker's").await.digest.to_string();
    let quay = site.image("quay.io", "library/app", "1", "quay's").await.digest.to_string();
    let port = site.image("localhost:5001", "library/app", "1", "a port's").await.digest.to_string();
    for (path, host, expected) in [
        ("/v2/library/app/manifests/1?ns=docker.io", None, &hub),
        ("/v2/library/app/manifests/1?ns=registry-1.docker.io", None, &hub),
        ("/v2/library/app/manifests/1?ns=quay.io%3A443", None, &quay),
        ("/v2/library/app/manifests/1?ns=localhost:5001", None, &port),
        ("/v2/app/manifests/1?ns=docker.io", None, &hub),
        ("/v2/quay.io/library/app/manifests/1?ns=quay.io", None, &quay),
        ("/v2/docker.io/library/app/manifests/1", None, &hub),
        ("/v2/index.docker.io/library/app/manifests/1", None, &hub),
        ("/v2/docker.io/app/manifests/1", None, &hub),
        ("/v2/quay.io/library/app/manifests/1", None, &quay),
        ("/v2/localhost:5001/library/app/manifests/1", None, &port),
        ("/v2/localhost_5001_/library/app/manifests/1", None, &port),
        ("/quay.io/v2/library/app/manifests/1", None, &quay),
        ("/any/prefix/v2/library/app/manifests/1?ns=quay.io", None, &quay),
        ("/library/app/manifests/1?ns=quay.io", None, &quay),
        ("/v2/library/app/manifests/1", Some("quay.io"), &quay),
        ("/v2/library/app/manifests/1", Some("registry-1.docker.io"), &hub),
        ("/v2/library/app/manifests/1?ns=docker.io", Some("quay.io"), &hub),
        // Nobody named: the order says docker.io.
        ("/v2/library/app/manifests/1", None, &hub),
        ("/v2/app/manifests/1", None, &hub),
    ] {
        assert_eq!(digest_at(&site, path, host).await, (200, expected.clone()), "{path} {host:?}");
    }
    // A rule that applies and misses does not give way to the next.
    for (path, host) in [
        ("/v2/library/app/manifests/2?ns=docker.io", None),
        ("/v2/library/app/manifests/1?ns=ghcr.io", None),
        ("/v2/quay.io/other/manifests/1", None),
        ("/v2/other/manifests/1", Some("quay.io")),
        ("/v2/mirror/library/app/manifests/1", None),
    ] {
        assert_eq!(digest_at(&site, path, host).await.0, 404, "{path} {host:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_names() {
    let site = Site::start().await;
    let a = site.image("ghcr.io", "team/app", "1", "a").await;
    let b = site.image("quay.io", "team/app", "1", "b").await;
    site.image("ghcr.io", "team/app", "2", "same").await;
    let same = site.image("quay.io", "team/app", "2", "same").await;
    let (status, code, message) = refusal(site.get("/v2/team/app/manifests/1").await).await;
    assert_eq!((status, code.as_str()), (404, "NAME_UNKNOWN"));
    assert!(message.contains("ghcr.io/team/app") && message.contains("quay.io/team/app"), "{message}");
    // One digest in two places is no question; a digest is one thing wherever it is.
    assert_eq!(digest_at(&site, "/v2/team/app/manifests/2", None).await, (200, same.digest.to_string()));
    for image in [&a, &b] {
        let path = format!("/v2/team/app/manifests/{}", image.digest);
        assert_eq!(digest_at(&site, &path, None).await, (200, image.digest.to_string()));
        assert_eq!(site.get(&format!("/v2/team/app/blobs/{}", image.layer)).await.status(), 200);
    }
    // The site's own wins by default.
    let local = site.image("", "team/app", "1", "local").await;
    assert_eq!(digest_at(&site, "/v2/team/app/manifests/1", None).await, (200, local.digest.to_string()));
    let metrics = site.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("naru_ambiguous_names_total 2\n"), "{metrics}");
    let page = site.get("/").await.text().await.unwrap();
    assert!(page.contains("local team/app was served") && page.contains("nothing was served"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn own_names_aliases_and_namespaces() {
    let config = Config {
        san: vec!["mirror.corp".to_owned()],
        namespaces: vec!["anthos".to_owned()],
        aliases: BTreeMap::from([("k8s.gcr.io".to_owned(), "registry.k8s.io".to_owned())]),
        order: vec!["quay.io".to_owned()],
        ..on_loopback()
    };
    let site = Site::with(config).await;
    let port = site.server.address().port();
    let local = site.image("", "app", "1", "local").await.digest.to_string();
    let pause = site.image("registry.k8s.io", "pause", "3.10", "pause").await.digest.to_string();
    let quay = site.image("quay.io", "app", "1", "quay").await.digest.to_string();
    let gcr = site.image("gcr.io", "a/b", "1", "gcr").await.digest.to_string();
    let pushed = site.image("", "anthos/c/d", "1", "pushed").await.digest.to_string();
    for (path, host, expected) in [
        (format!("/v2/app/manifests/1?ns=mirror.corp:{port}"), None, &local),
        (format!("/v2/app/manifests/1?ns=127.0.0.1:{port}"), None, &local),
        ("/v2/pause/manifests/3.10?ns=k8s.gcr.io".to_owned(), None, &pause),
        ("/v2/k8s.gcr.io/pause/manifests/3.10".to_owned(), None, &pause),
        ("/v2/pause/manifests/3.10".to_owned(), Some("k8s.gcr.io"), &pause),
        ("/v2/app/manifests/1".to_owned(), None, &quay),
        ("/v2/anthos/a/b/manifests/1?ns=gcr.io".to_owned(), None, &gcr),
        ("/v2/anthos/c/d/manifests/1?ns=gcr.io".to_owned(), None, &pushed),
    ] {
        assert_eq!(digest_at(&site, &path, host).await, (200, expected.clone()), "{path}");
    }
    // Without its port it is another host's name.
    assert_eq!(digest_at(&site, "/v2/app/manifests/1?ns=mirror.corp", None).await.0, 404);
}

/// Whoever reads cannot write into what is remembered for the one who may write.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_spells_another_callers_memory() {
    let site = Site::start().await;
    let hub = site.image("docker.io", "library/pause", "1", "of docker.io").await;
    let kubernetes = site.image("registry.k8s.io", "library/pause", "1", "of registry.k8s.io").await;
    let path = "/v2/library/pause/manifests/1";
    let digest = |answer: reqwest::Response| answer.headers()["docker-content-digest"].to_str().unwrap().to_owned();
    let poison = site.request(Method::GET, path).header("host", "admin registry.k8s.io").send().await.unwrap();
    if poison.status() == 200 {
        assert_eq!(digest(poison), hub.digest.to_string(), "by the order");
    }
    let answer = site.admin(Method::GET, path).header("host", "registry.k8s.io").send().await.unwrap();
    assert_eq!(digest(answer), kubernetes.digest.to_string());
}

/// What was pushed under an upstream's name stays what that name means when more of the upstream comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_under_a_host_that_is_not_known_yet() {
    let site = Site::start().await;
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": artifact::media_type::OCI_MANIFEST, "artifactType": "a/b",
        "config": { "mediaType": artifact::media_type::OCI_EMPTY, "digest": artifact::Digest::of(b"{}"), "size": 2 },
        "layers": [],
    });
    let upload = format!("/v2/ghcr.io/t/app/blobs/uploads/?digest={}", artifact::Digest::of(b"{}"));
    // A session that is open all the while.
    let open = site.admin(Method::POST, "/v2/ghcr.io/t/app/blobs/uploads/").send().await.unwrap();
    let open = header(&open, "location").to_owned();
    assert_eq!(site.admin(Method::POST, &upload).body("{}").send().await.unwrap().status(), 201);
    let path = "/v2/ghcr.io/t/app/manifests/1";
    let put = site.admin(Method::PUT, path).header("content-type", artifact::media_type::OCI_MANIFEST);
    assert_eq!(put.body(manifest.to_string()).send().await.unwrap().status(), 201);
    assert_eq!(site.get(path).await.status(), 200);
    site.image("ghcr.io", "other", "1", "x").await;
    assert_eq!(site.get(path).await.status(), 200);
    assert_eq!(site.get("/v2/t/app/manifests/1?ns=ghcr.io").await.status(), 200);
    assert_eq!(site.admin(Method::PATCH, &open).body("x").send().await.unwrap().status(), 202);
    // One that is no host stays local.
    let upload = format!("/v2/team/app/blobs/uploads/?digest={}", artifact::Digest::of(b"{}"));
    assert_eq!(site.admin(Method::POST, &upload).body("{}").send().await.unwrap().status(), 201);
    assert!(
        site.store
            .granted_blob(&artifact::Repository::image("", "team/app"), &artifact::Digest::of(b"{}"))
            .await
            .unwrap()
            .is_some()
    );
}
