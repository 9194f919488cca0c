//! What is beside the registry and the files.

use std::collections::HashSet;

use artifact::{Digest, Repository, media_type};
use bytes::Bytes;
use reqwest::Method;
use serve::{Anonymous, Config};
use store::Change;

use crate::support::{Site, entry, header, on_loopback};

#[tokio::test(flavor = "multi_thread")]
async fn the_page() {
    let site = Site::start().await;
    site.image("docker.io", "library/app", "1", "x").await;
    site.file("dl.k8s.io", "release/kubeadm", b"x").await;
    let page = site.get("/").await;
    assert!(header(&page, "content-security-policy").contains("default-src 'none'"));
    let page = page.text().await.unwrap();
    for part in ["docker.io/library/app", "/files/dl.k8s.io/", "naru setup containerd", &site.server.fingerprint()] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    let found = site.get("/?q=KUBEAD").await.text().await.unwrap();
    assert!(found.contains("/files/dl.k8s.io/release/kubeadm"), "{found}");
    let hostile = site.get("/?q=%3Cscript%3E").await.text().await.unwrap();
    assert!(!hostile.contains("<script>"), "{hostile}");
}

/// zot #2946: an empty page over 94 repositories with 2 300 images; and what may be read stands behind a thousand that may not.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_many() {
    let anonymous = Anonymous::Matching(vec!["open/**".to_owned()]);
    let site = Site::with(Config { anonymous, ..on_loopback() }).await;
    let bytes = Bytes::from_static(br#"{"schemaVersion":2,"layers":[]}"#);
    let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
    let mut change = Change::new();
    for number in 0..1000 {
        let closed = Repository::image("", format!("closed/{number}"));
        change.manifest(&closed, &digest, bytes.clone(), media_type::OCI_MANIFEST, HashSet::new());
        change.entry(&closed, entry("1", digest, size));
    }
    for number in 0..94 {
        let open = Repository::image("", format!("open/{number}"));
        change.manifest(&open, &digest, bytes.clone(), media_type::OCI_MANIFEST, HashSet::new());
        for tag in 0..25 {
            change.entry(&open, entry(&tag.to_string(), digest, size));
        }
    }
    site.store.apply(change).await.unwrap();
    let page = site.get("/").await.text().await.unwrap();
    assert_eq!(page.matches("<code>open/").count(), 94, "{page}");
    assert!(!page.contains("closed/") && !page.contains("/v2/_catalog"), "{page}");
    let all = site.admin(Method::GET, "/").send().await.unwrap().text().await.unwrap();
    assert!(all.contains("1094 repositories, 3350 entries"), "{all}");
    assert_eq!(all.matches("<code>closed/").count(), 1000, "{all}");
    assert!(all.contains("/v2/_catalog"), "the rest");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_setup_and_nothing() {
    let site = Site::start().await;
    site.image("registry.k8s.io", "pause", "3.9", "x").await;
    site.image("registry.k8s.io", "pause", "3.10", "x").await;
    assert_eq!(site.get("/healthz").await.text().await.unwrap(), "ok\n");
    assert_eq!(site.get("/readyz").await.text().await.unwrap(), "ready\n");
    let ca = site.get("/ca.crt").await.text().await.unwrap();
    assert_eq!(Some(&ca), site.server.authority_pem().as_ref());
    let containerd = site.get("/setup/containerd").await.text().await.unwrap();
    let address = format!("https://{}", site.server.address());
    assert!(containerd.contains(&address) && containerd.contains("pause:3.10"), "{containerd}");
    assert!(site.get("/setup/podman").await.text().await.unwrap().contains("registry.k8s.io"));
    assert_eq!(site.get("/setup/other").await.status(), 404);
    assert_eq!(site.get("/nothing").await.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut site = Site::with(Config { access_log: Some(log.path().to_owned()), ..on_loopback() }).await;
    let image = site.image("docker.io", "library/app", "1", "x").await;
    let path = "/v2/library/app/manifests/1?ns=docker.io";
    for _ in 0..2 {
        let agent = ("user-agent", "containerd/v2.3.4");
        site.request(reqwest::Method::GET, path).header(agent.0, agent.1).send().await.unwrap().bytes().await.unwrap();
    }
    site.get("/v2/no/manifests/1").await;
    site.stop().await;
    // The writer ends when the last sender is gone, which the connections' tasks are a moment later.
    let lines = loop {
        let text = std::fs::read_to_string(log.path()).unwrap();
        if text.lines().count() == 3 {
            break text;
        }
        tokio::task::yield_now().await;
    };
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines[..2] {
        assert_eq!(line["status"], 200);
        assert_eq!(line["bytes"], image.bytes.len());
        assert_eq!(line["ns"], "docker.io");
        assert_eq!(line["agent"], "containerd/v2.3.4");
        assert_eq!(line["digest"], image.digest.to_string());
        assert_eq!(line["uri"], path);
        assert!(line["remote"].as_str().unwrap().starts_with("127.0.0.1:"));
    }
    assert_eq!((&lines[2]["status"], &lines[2]["digest"]), (&404.into(), &serde_json::Value::Null));
}
