use reqwest::Method;
use serde_json::Value;

use crate::support::{Site, header};

#[tokio::test(flavor = "multi_thread")]
async fn a_file() {
    let site = Site::start().await;
    let digest = site.file("dl.k8s.io", "release/v1.36.0/bin/linux/amd64/kubeadm", b"binary").await;
    let path = "/files/dl.k8s.io/release/v1.36.0/bin/linux/amd64/kubeadm";
    for _ in 0..2 {
        for method in [Method::GET, Method::HEAD] {
            let head = method == Method::HEAD;
            let answer = site.request(method, path).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(header(&answer, "etag"), format!("\"{digest}\""));
            assert_eq!(header(&answer, "last-modified"), "Tue, 14 Nov 2023 22:13:20 GMT");
            assert_eq!(header(&answer, "content-length"), "6");
            assert_eq!(header(&answer, "content-type"), "application/octet-stream");
            assert_eq!(answer.text().await.unwrap(), if head { "" } else { "binary" });
        }
    }
    let with = |name: &'static str, value: &str| site.request(Method::GET, path).header(name, value).send();
    assert_eq!(with("if-none-match", &format!("\"{digest}\"")).await.unwrap().status(), 304);
    assert_eq!(with("if-modified-since", "Tue, 14 Nov 2023 22:13:20 GMT").await.unwrap().status(), 304);
    assert_eq!(with("if-modified-since", "Tue, 14 Nov 2023 22:13:19 GMT").await.unwrap().status(), 200);
    // A copy with a later date is what was here before `restore` or `load --force` put an older file back.
    assert_eq!(with("if-modified-since", "Tue, 14 Nov 2023 22:13:21 GMT").await.unwrap().status(), 200);
    let part = with("range", "bytes=2-3").await.unwrap();
    assert_eq!((part.status().as_u16(), header(&part, "content-range")), (206, "bytes 2-3/6"));
    assert_eq!(part.text().await.unwrap(), "na");
    for path in ["/files/dl.k8s.io/release/nothing", "/files/other.io/release/", "/files/dl.k8s.io/../../etc/passwd"] {
        assert_eq!(site.get(path).await.status(), 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn folders() {
    let site = Site::start().await;
    for path in ["a/1.txt", "a/b/2", "a/b/c/3", "a/b0", "a <i>&'\"/x", "top"] {
        site.file("dl.k8s.io", path, path.as_bytes()).await;
    }
    site.file("get.helm.sh:8443", "helm", b"x").await;
    let rows = |path: &'static str| async {
        let answer = site.request(Method::GET, path).header("accept", "application/json").send().await.unwrap();
        let rows: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        let names = rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(rows("/files/").await, ["dl.k8s.io/", "get.helm.sh:8443/"]);
    assert_eq!(rows("/files/dl.k8s.io/").await, ["a <i>&'\"/", "a/", "top"]);
    assert_eq!(rows("/files/dl.k8s.io/a/").await, ["1.txt", "b/", "b0"]);
    assert_eq!(rows("/files/dl.k8s.io/a/b/").await, ["2", "c/"]);
    let moved = site.get("/files/dl.k8s.io/a/b").await;
    assert_eq!((moved.status().as_u16(), header(&moved, "location")), (301, "/files/dl.k8s.io/a/b/"));
    let page = site.get("/files/dl.k8s.io/").await.text().await.unwrap();
    assert!(
        page.contains("<a href=\"/files/dl.k8s.io/a%20%3Ci%3E%26%27%22/\">a &lt;i&gt;&amp;&#39;&quot;/</a>"),
        "{page}"
    );
    assert_eq!(site.get("/files/dl.k8s.io/a%20%3Ci%3E%26%27%22/x").await.text().await.unwrap(), "a <i>&'\"/x");
}

/// Scripts with hard-coded addresses go on working after a DNS take-over.
#[tokio::test(flavor = "multi_thread")]
async fn by_host() {
    let site = Site::start().await;
    site.file("get.helm.sh", "helm-v3.tar.gz", b"helm").await;
    site.file("get.helm.sh", "metrics", b"a file of that name").await;
    let image = site.image("get.helm.sh", "app", "1", "x").await;
    let with = |path: &'static str, host: &'static str| site.request(Method::GET, path).header("host", host).send();
    assert_eq!(with("/helm-v3.tar.gz", "get.helm.sh").await.unwrap().text().await.unwrap(), "helm");
    assert_eq!(with("/helm-v3.tar.gz", "GET.helm.sh:443").await.unwrap().text().await.unwrap(), "helm");
    assert_eq!(with("/metrics", "get.helm.sh").await.unwrap().text().await.unwrap(), "a file of that name");
    assert_eq!(with("/healthz", "get.helm.sh").await.unwrap().text().await.unwrap(), "ok\n");
    assert!(with("/", "get.helm.sh").await.unwrap().text().await.unwrap().contains("helm-v3.tar.gz"));
    assert_eq!(with("/nothing", "get.helm.sh").await.unwrap().status(), 404);
    assert_eq!(with("/helm-v3.tar.gz", "other.helm.sh").await.unwrap().status(), 404);
    assert_eq!(with("/v2/app/manifests/1", "get.helm.sh").await.unwrap().bytes().await.unwrap(), image.bytes);
}
