use artifact::Digest;
use reqwest::Method;

use crate::support::{Site, header, refusal};

#[tokio::test(flavor = "multi_thread")]
async fn whole_and_in_parts() {
    let site = Site::start().await;
    // Several chunks of whatever way the body is sent.
    let text: String = (0..400_000).map(|n| char::from(b'a' + u8::try_from(n % 23).unwrap())).collect();
    let image = site.image("docker.io", "library/app", "1", &text).await;
    let path = format!("/v2/library/app/blobs/{}?ns=docker.io", image.layer);
    let all = text.len();
    for _ in 0..2 {
        let answer = site.get(&path).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(header(&answer, "content-length"), all.to_string());
        assert_eq!(header(&answer, "docker-content-digest"), image.layer.to_string());
        assert_eq!(header(&answer, "accept-ranges"), "bytes");
        assert_eq!(answer.bytes().await.unwrap(), image.layer_bytes);
        let head = site.request(Method::HEAD, &path).send().await.unwrap();
        assert_eq!((head.status().as_u16(), header(&head, "content-length")), (200, all.to_string().as_str()));
    }
    for (range, status, content_range, bytes) in [
        ("bytes=0-9", 206, format!("bytes 0-9/{all}"), &text[..10]),
        ("bytes=399990-", 206, format!("bytes 399990-399999/{all}"), &text[399_990..]),
        ("bytes=-5", 206, format!("bytes 399995-399999/{all}"), &text[399_995..]),
        ("bytes=65530-131080", 206, format!("bytes 65530-131080/{all}"), &text[65_530..=131_080]),
        ("bytes=400000-", 416, format!("bytes */{all}"), ""),
        ("bytes=0-1,4-5", 200, String::new(), &text[..]),
    ] {
        let answer = site.request(Method::GET, &path).header("range", range).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{range}");
        assert_eq!(header(&answer, "content-range"), content_range);
        assert_eq!(answer.text().await.unwrap(), bytes);
    }
    let etag = format!("\"{}\"", image.layer);
    for (if_range, status) in [(etag.as_str(), 206), ("\"x\"", 200)] {
        let asked = site.request(Method::GET, &path).header("range", "bytes=1-2").header("if-range", if_range);
        assert_eq!(asked.send().await.unwrap().status().as_u16(), status);
    }
    let same = site.request(Method::GET, &path).header("if-none-match", &etag).send().await.unwrap();
    assert_eq!(same.status(), 304);
    let metrics = site.get("/metrics").await.text().await.unwrap();
    let sent: u64 =
        metrics.lines().find_map(|line| line.strip_prefix("naru_http_sent_bytes_total ")?.parse().ok()).unwrap();
    assert!(sent >= 3 * all as u64, "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn granted_to_its_own_repository_only() {
    let site = Site::start().await;
    let secret = site.image("quay.io", "secret", "1", "a secret layer").await;
    site.image("quay.io", "open", "1", "open").await;
    let path = format!("/v2/open/blobs/{}?ns=quay.io", secret.layer);
    for method in [Method::GET, Method::HEAD] {
        assert_eq!(site.request(method, &path).send().await.unwrap().status(), 404);
    }
    let (status, code, _) = refusal(site.get(&format!("/v2/open/blobs/{}?ns=quay.io", Digest::of(b"no"))).await).await;
    assert_eq!((status, code.as_str()), (404, "BLOB_UNKNOWN"));
    assert_eq!(site.get(&format!("/v2/secret/blobs/{}?ns=quay.io", secret.layer)).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_at_all() {
    let site = Site::start().await;
    let repository = artifact::Repository::image("", "app");
    let digest = site.blob(&repository, b"").await;
    let answer = site.get(&format!("/v2/app/blobs/{digest}")).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "content-length")), (200, "0"));
}

/// What fsck found damaged is not served from what was open, and is taken again from whoever pushes it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_is_not_here_and_can_be_pushed_again() {
    let site = Site::start().await;
    let image = site.image("", "app", "1", "a layer").await;
    let path = format!("/v2/app/blobs/{}", image.layer);
    let push = async || {
        let path = format!("/v2/app/blobs/uploads/?digest={}", image.layer);
        site.admin(Method::POST, &path).body(image.layer_bytes.clone()).send().await.unwrap().status()
    };
    for is_damaged in [true, false] {
        assert_eq!(site.get(&path).await.bytes().await.unwrap(), image.layer_bytes);
        let blob = site.store.blob(&image.layer).await.unwrap().unwrap();
        let file = site.folder.path().join("blobs").join(&blob.key);
        if is_damaged {
            std::fs::write(&file, b"A LAYER").unwrap();
        } else {
            std::fs::remove_file(&file).unwrap();
        }
        let fsck = site.store.fsck(false, std::sync::Arc::new(artifact::Silent)).await.unwrap();
        assert!(!fsck.findings.is_empty());
        if !is_damaged {
            // No change has been made since: only a new server has nothing open.
            site.file("x.io", "any", b"change").await;
        }
        let (status, code, message) = refusal(site.get(&path).await).await;
        assert_eq!((status, code.as_str()), (404, "BLOB_UNKNOWN"), "{message}");
        for method in [Method::HEAD, Method::GET] {
            assert_eq!(site.admin(method, &path).send().await.unwrap().status(), 404);
        }
        assert_eq!(push().await, 201);
    }
    assert_eq!(site.get(&path).await.bytes().await.unwrap(), image.layer_bytes);
}
