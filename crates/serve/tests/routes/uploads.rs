use artifact::Digest;
use reqwest::Method;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::{Site, header, refusal};

async fn begin(site: &Site, name: &str) -> String {
    let answer = site.admin(Method::POST, &format!("/v2/{name}/blobs/uploads/")).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), header(&answer, "range")), (202, "0-0"));
    assert!(!header(&answer, "docker-upload-uuid").is_empty());
    header(&answer, "location").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn in_one_put() {
    let site = Site::start().await;
    let bytes = vec![7_u8; 3_000_000];
    let digest = Digest::of(&bytes);
    let location = begin(&site, "app").await;
    let answer =
        site.admin(Method::PUT, &format!("{location}?digest={digest}")).body(bytes.clone()).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(header(&answer, "docker-content-digest"), digest.to_string());
    let blob = header(&answer, "location").to_owned();
    assert_eq!(blob, format!("/v2/app/blobs/{digest}"));
    assert_eq!(site.get(&blob).await.bytes().await.unwrap(), bytes);
    // The session is over.
    let again = site.admin(Method::PUT, &format!("{location}?digest={digest}")).body(bytes).send().await.unwrap();
    assert_eq!(refusal(again).await.1, "BLOB_UPLOAD_UNKNOWN");
    // Nobody else's.
    assert_eq!(site.get(&format!("/v2/other/blobs/{digest}")).await.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_before_a_push_keeps_it_from_being_collected() {
    let site = Site::start().await;
    let (hour, day) = (60 * 60, 24 * 60 * 60);
    let digest = site.blob(&artifact::Repository::image("", "app"), b"layer").await;
    let path = format!("/v2/app/blobs/{digest}");
    let collect = async || {
        let before = site.store.now() - day;
        let sweep =
            store::Sweep { before, keep: 0, rules: &[], by: "", pinned: &|_| false, report: &drop, dry_run: false };
        site.store.gc(&sweep).await.unwrap().blobs
    };
    // The answer is in memory from the first time on; that it was asked for is noted each time.
    for _ in 0..4 {
        assert_eq!(site.admin(Method::HEAD, &path).send().await.unwrap().status(), 200);
        site.store.pass(day - hour);
        assert_eq!(collect().await, 0);
    }
    // Who only pulls keeps nothing.
    assert_eq!(site.request(Method::HEAD, &path).send().await.unwrap().status(), 200);
    site.store.pass(2 * hour);
    assert_eq!(collect().await, 1);
    assert_eq!(site.admin(Method::HEAD, &path).send().await.unwrap().status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_chunks() {
    let site = Site::start().await;
    let bytes: Vec<u8> = (0..250).cycle().take(1_000_000).collect();
    let digest = Digest::of(&bytes);
    let location = begin(&site, "a/b").await;
    let patch = |range: &'static str, part: &[u8]| {
        site.admin(Method::PATCH, &location).header("content-range", range).body(part.to_vec()).send()
    };
    let first = patch("0-399999", &bytes[..400_000]).await.unwrap();
    assert_eq!((first.status().as_u16(), header(&first, "range")), (202, "0-399999"));
    // Out of order, and twice.
    for range in ["500000-599999", "0-399999"] {
        let (status, code, message) = refusal(patch(range, &bytes[..9]).await.unwrap()).await;
        assert_eq!((status, code.as_str()), (416, "BLOB_UPLOAD_INVALID"));
        assert!(message.contains("400000"), "{message}");
    }
    // Longer and shorter than it says: nothing of it is taken.
    for part in [&bytes[..9], &bytes[..200_000]] {
        let (status, code, message) = refusal(patch("400000-499999", part).await.unwrap()).await;
        assert_eq!((status, code.as_str()), (400, "SIZE_INVALID"));
        assert!(message.contains("100000"), "{message}");
    }
    let status = site.admin(Method::GET, &location).send().await.unwrap();
    assert_eq!((status.status().as_u16(), header(&status, "range")), (204, "0-399999"));
    assert_eq!(patch("400000-899999", &bytes[400_000..900_000]).await.unwrap().status(), 202);
    let last = site
        .admin(Method::PUT, &format!("{location}?digest={digest}"))
        .header("content-range", "900000-999999")
        .body(bytes[900_000..].to_vec());
    assert_eq!(last.send().await.unwrap().status(), 201);
    assert_eq!(site.get(&format!("/v2/a/b/blobs/{digest}")).await.bytes().await.unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_session_and_wrong_bytes() {
    let site = Site::start().await;
    let digest = Digest::of(b"hello");
    let post = |digest: &Digest, bytes: &'static [u8]| {
        site.admin(Method::POST, &format!("/v2/app/blobs/uploads/?digest={digest}")).body(bytes).send()
    };
    let (status, code, message) = refusal(post(&digest, b"other").await.unwrap()).await;
    assert_eq!((status, code.as_str()), (400, "DIGEST_INVALID"));
    assert!(message.contains(&digest.to_string()), "{message}");
    assert_eq!(site.get(&format!("/v2/app/blobs/{digest}")).await.status(), 404);
    assert_eq!(post(&digest, b"hello").await.unwrap().status(), 201);
    assert_eq!(site.get(&format!("/v2/app/blobs/{digest}")).await.text().await.unwrap(), "hello");
    assert_eq!(post(&Digest::of(b""), b"").await.unwrap().status(), 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_and_of_another_repository() {
    let site = Site::start().await;
    let location = begin(&site, "app").await;
    let stolen = location.replace("/app/", "/other/");
    assert_eq!(site.admin(Method::PATCH, &stolen).body("x").send().await.unwrap().status(), 404);
    assert_eq!(site.admin(Method::DELETE, &location).send().await.unwrap().status(), 204);
    assert_eq!(site.admin(Method::PATCH, &location).body("x").send().await.unwrap().status(), 404);
    assert_eq!(std::fs::read_dir(site.folder.path().join("partial")).unwrap().count(), 0, "nothing is left");
}

/// A client that is cut off goes on where the bytes that arrived end.
#[tokio::test(flavor = "multi_thread")]
async fn cut_off() {
    use tokio::io::AsyncWriteExt as _;
    let site = Site::start().await;
    let location = begin(&site, "app").await;
    let bytes = vec![1_u8; 100_000];
    let token = site.server.admin_token().unwrap();
    let mut stream = tokio::net::TcpStream::connect(site.server.address()).await.unwrap();
    let head = format!(
        "PATCH {location} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 200000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    drop(stream);
    // The status waits for whoever writes, and so tells the truth; but first that one must have begun.
    let mut there = 1;
    let mut range = String::new();
    while there == 1 {
        let status = site.admin(Method::GET, &location).send().await.unwrap();
        header(&status, "range").clone_into(&mut range);
        there = range.strip_prefix("0-").unwrap().parse::<usize>().unwrap() + 1;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(there <= bytes.len(), "{range}");
    let rest = bytes[there..].to_vec();
    let digest = Digest::of(&bytes);
    let put = site.admin(Method::PUT, &format!("{location}?digest={digest}")).body(rest).send().await.unwrap();
    assert_eq!(put.status(), 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn mount() {
    let site = Site::start().await;
    let image = site.image("quay.io", "base", "1", "shared layer").await;
    let post = |digest: &Digest, from: &str| {
        site.admin(Method::POST, &format!("/v2/app/blobs/uploads/?mount={digest}&from={from}")).send()
    };
    let mounted = post(&image.layer, "quay.io/base").await.unwrap();
    assert_eq!(
        (mounted.status().as_u16(), header(&mounted, "location")),
        (201, format!("/v2/app/blobs/{}", image.layer).as_str())
    );
    assert_eq!(site.get(&format!("/v2/app/blobs/{}", image.layer)).await.bytes().await.unwrap(), image.layer_bytes);
    // What `from` does not show is uploaded instead.
    assert_eq!(post(&Digest::of(b"no"), "quay.io/base").await.unwrap().status(), 202);
    assert_eq!(post(&image.digest, "nowhere").await.unwrap().status(), 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn to_a_mirrored_host_and_back() {
    let site = Site::start().await;
    site.image("quay.io", "base", "1", "x").await;
    let digest = Digest::of(b"pushed");
    let answer = site.admin(Method::POST, &format!("/v2/quay.io/base/blobs/uploads/?digest={digest}")).body("pushed");
    assert_eq!(header(&answer.send().await.unwrap(), "location"), format!("/v2/quay.io/base/blobs/{digest}"));
    assert_eq!(site.get(&format!("/v2/base/blobs/{digest}?ns=quay.io")).await.status(), 200);
    // By `ns`, and the location leads back to the same repository.
    let begun = site.admin(Method::POST, "/v2/base/blobs/uploads/?ns=quay.io").send().await.unwrap();
    let location = header(&begun, "location").to_owned();
    assert!(location.ends_with("?ns=quay.io"), "{location}");
    let put =
        site.admin(Method::PUT, &format!("{location}&digest={}", Digest::of(b"y"))).body("y").send().await.unwrap();
    assert_eq!(put.status(), 201);
    // With a prefix before `/v2`, the location has it too.
    let begun = site.admin(Method::POST, "/quay.io/v2/base/blobs/uploads/").send().await.unwrap();
    let location = header(&begun, "location").to_owned();
    assert!(location.starts_with("/quay.io/v2/base/blobs/uploads/"), "{location}");
    assert_eq!(site.admin(Method::DELETE, &location).send().await.unwrap().status(), 204);
}

/// A push to a local name that an upstream's image has too: what docker.io has under it is not there for the push.
#[tokio::test(flavor = "multi_thread")]
async fn to_a_local_name_that_is_mirrored_too() {
    let site = Site::start().await;
    let image = site.image("docker.io", "library/app", "1", "layer").await;
    let path = format!("/v2/library/app/blobs/{}", image.layer);
    let head = || site.admin(Method::HEAD, &path).send();
    // Warm for those who read; and who may write downloads it, as anybody does.
    assert_eq!(site.request(Method::HEAD, &path).send().await.unwrap().status(), 200);
    for _ in 0..2 {
        assert_eq!(site.admin(Method::GET, &path).send().await.unwrap().bytes().await.unwrap(), image.layer_bytes);
        assert_eq!(head().await.unwrap().status(), 404, "a push would skip it");
    }
    let put = || {
        let request = site.admin(Method::PUT, "/v2/library/app/manifests/1");
        request.header("content-type", artifact::media_type::OCI_MANIFEST).body(image.bytes.clone()).send()
    };
    assert_eq!(put().await.unwrap().status(), 400);
    let config = format!("{{\"of\":{:?}}}", "layer");
    for bytes in [image.layer_bytes.to_vec(), config.into_bytes()] {
        let path = format!("/v2/library/app/blobs/uploads/?digest={}", Digest::of(&bytes));
        assert_eq!(site.admin(Method::POST, &path).body(bytes).send().await.unwrap().status(), 201);
    }
    assert_eq!(head().await.unwrap().status(), 200);
    assert_eq!(put().await.unwrap().status(), 201);
    assert_eq!(site.request(Method::HEAD, &path).send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn left_alone_for_a_day() {
    let site = Site::start().await;
    let partial = || std::fs::read_dir(site.folder.path().join("partial")).unwrap().count();
    let location = begin(&site, "app").await;
    assert_eq!(site.admin(Method::PATCH, &location).body("begun").send().await.unwrap().status(), 202);
    let after = |hours: i64| site.server.keep(site.store.now() + hours * 3600);
    after(23).await;
    assert_eq!(site.admin(Method::GET, &location).send().await.unwrap().status(), 204);
    assert_eq!(partial(), 1);
    after(25).await;
    assert_eq!(
        refusal(site.admin(Method::PATCH, &location).body("x").send().await.unwrap()).await.1,
        "BLOB_UPLOAD_UNKNOWN"
    );
    assert_eq!(partial(), 0, "its bytes went too");
}

/// Who begins uploads and goes away keeps nobody from pushing, and may come back.
#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_were_left_keep_nobody_out() {
    let site = Site::start().await;
    let first = begin(&site, "app").await;
    assert_eq!(site.admin(Method::PATCH, &first).body("abc").send().await.unwrap().status(), 202);
    for _ in 0..1100 {
        begin(&site, "app").await;
    }
    let status = site.admin(Method::GET, &first).send().await.unwrap();
    assert_eq!((status.status().as_u16(), header(&status, "range")), (204, "0-2"));
    let digest = Digest::of(b"abcdef");
    let ended = site.admin(Method::PUT, &format!("{first}?digest={digest}")).body("def").send().await.unwrap();
    assert_eq!(ended.status(), 201);
}

/// More clients that send slowly than there are threads: others push and pull meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn who_sends_slowly_keeps_no_thread() {
    let site = Site::start().await;
    let token = site.server.admin_token().unwrap();
    let mut slow = Vec::new();
    for _ in 0..600 {
        let location = begin(&site, "app").await;
        let mut stream = TcpStream::connect(site.server.address()).await.unwrap();
        let head = format!(
            "PATCH {location} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 100\r\n\r\nhalf"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let digest = Digest::of(b"quick");
    let path = format!("/v2/app/blobs/uploads/?digest={digest}");
    assert_eq!(site.admin(Method::POST, &path).body("quick").send().await.unwrap().status(), 201);
    assert_eq!(site.get(&format!("/v2/app/blobs/{digest}")).await.text().await.unwrap(), "quick");
}
