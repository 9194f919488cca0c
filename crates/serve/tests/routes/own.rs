//! What is beside the registry and the files.

use serve::Config;

use crate::support::{Site, header, on_loopback};

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
