//! Who may do what.

use reqwest::Method;
use serde_json::Value;
use serve::Config;

use crate::support::{Site, header, on_loopback, refusal};

async fn token(site: &Site, request: reqwest::RequestBuilder) -> String {
    let _ = site;
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert_eq!(answer["token"], answer["access_token"]);
    answer["token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ping() {
    let site = Site::start().await;
    for path in ["/v2/", "/v2"] {
        let answer = site.get(path).await;
        assert_eq!(answer.status(), 401);
        let realm = format!("Bearer realm=\"{}/token\",service=\"naru\"", site.url);
        let challenges: Vec<_> = answer.headers().get_all("www-authenticate").iter().collect();
        assert_eq!(challenges, [realm.as_str()], "Bearer, and no other");
    }
    let anonymous = token(&site, site.request(Method::GET, "/token?service=naru")).await;
    let with = site.request(Method::GET, "/v2/").bearer_auth(&anonymous).send().await.unwrap();
    assert_eq!((with.status().as_u16(), header(&with, "docker-distribution-api-version")), (200, "registry/2.0"));
    assert_eq!(site.admin(Method::GET, "/v2/").send().await.unwrap().status(), 200);
    let wrong = site.request(Method::GET, "/v2/").basic_auth("admin", Some("wrong")).send().await.unwrap();
    assert_eq!(wrong.status(), 401);
    // Empty credentials are none: who has none may send them, as the specification's own suite does.
    let empty = |path: &str| site.request(Method::GET, path).basic_auth("", Some(""));
    let given = token(&site, empty("/token?service=naru")).await;
    let with = site.request(Method::GET, "/v2/").bearer_auth(&given).send().await.unwrap();
    assert_eq!(with.status(), 200);
    assert_eq!(empty("/v2/").send().await.unwrap().status(), 401, "nobody is asked who it is");
    // containerd never pings, and reads without a word.
    site.image("docker.io", "library/app", "1", "x").await;
    assert_eq!(site.get("/v2/library/app/manifests/1?ns=docker.io").await.status(), 200);
    let request = site.request(Method::GET, "/v2/library/app/manifests/1?ns=docker.io").bearer_auth(&anonymous);
    assert_eq!(request.send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_needs_the_admin_token() {
    let site = Site::start().await;
    let path = "/v2/app/blobs/uploads/";
    let nobody = site.request(Method::POST, path).send().await.unwrap();
    let challenge = header(&nobody, "www-authenticate").to_owned();
    assert!(challenge.ends_with("scope=\"repository:app:pull,push\""), "{challenge}");
    let (status, code, message) = refusal(nobody).await;
    assert_eq!((status, code.as_str()), (401, "UNAUTHORIZED"));
    assert!(message.contains("naru token new"), "{message}");
    let anonymous = token(&site, site.request(Method::GET, "/token")).await;
    assert_eq!(site.request(Method::POST, path).bearer_auth(anonymous).send().await.unwrap().status(), 401);

    let secret = site.server.admin_token().unwrap();
    let by_get = token(&site, site.request(Method::GET, "/token").basic_auth("me", Some(secret))).await;
    let form = format!("grant_type=password&username=me&password={secret}");
    let by_post = token(&site, site.request(Method::POST, "/token").body(form)).await;
    for word in [&by_get, &by_post, secret] {
        assert_eq!(site.request(Method::POST, path).bearer_auth(word).send().await.unwrap().status(), 202);
    }
    for request in [
        site.request(Method::GET, "/token").basic_auth("me", Some("wrong")),
        site.request(Method::POST, "/token").body("grant_type=password&password=wrong"),
    ] {
        assert_eq!(request.send().await.unwrap().status(), 401);
    }
    let forged = format!("{by_get}x");
    assert_eq!(site.request(Method::GET, "/v2/").bearer_auth(forged).send().await.unwrap().status(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_made_once() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut site = Site::start().await;
    let secret = site.server.admin_token().unwrap().to_owned();
    let path = site.folder.path().join("admin.token");
    assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), secret);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    site.stop().await;
    let again = serve::Server::bind(site.store.clone(), on_loopback()).await.unwrap();
    assert_eq!(again.admin_token(), None);
    assert_eq!((again.fingerprint(), again.pin()), (site.server.fingerprint(), site.server.pin()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_token_ends_the_old_one() {
    let site = Site::start().await;
    let old = site.server.admin_token().unwrap().to_owned();
    let new = serve::renew_admin_token(&site.store).await.unwrap();
    site.server.reload(&on_loopback()).await.unwrap();
    let ping = |word: String| site.request(Method::GET, "/v2/").basic_auth("a", Some(word)).send();
    assert_eq!(ping(old).await.unwrap().status(), 401);
    assert_eq!(ping(new).await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_site() {
    let site = Site::with(Config { anonymous: false.into(), ..on_loopback() }).await;
    let image = site.image("docker.io", "library/app", "1", "x").await;
    site.file("dl.k8s.io", "a", b"x").await;
    let manifest = "/v2/library/app/manifests/1?ns=docker.io";
    let blob = format!("/v2/library/app/blobs/{}?ns=docker.io", image.layer);
    for path in [manifest, &blob, "/v2/_catalog", "/files/dl.k8s.io/a", "/"] {
        assert_eq!(site.admin(Method::GET, path).send().await.unwrap().status(), 200, "{path}");
        // Warm by now; still nobody else's.
        assert_eq!(site.get(path).await.status(), 401, "{path}");
    }
    // What is not here is refused in the same words as what is.
    for path in [
        "/v2/library/none/manifests/1?ns=docker.io",
        "/v2/library/app/manifests/9?ns=docker.io",
        "/v2/x/manifests/1?ns=quay.io",
        "/v2/x/tags/list",
        &format!("/v2/x/referrers/{}", image.layer),
        "/files/",
        "/files/quay.io/a",
    ] {
        assert_eq!(site.get(path).await.status(), 401, "{path}");
    }
    assert_eq!(site.get("/healthz").await.status(), 200);
    // Open again, without a restart.
    site.server.reload(&on_loopback()).await.unwrap();
    assert_eq!(site.get(manifest).await.status(), 200);
}
