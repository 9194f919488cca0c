//! Accounts: tokens, people, scopes, and what each caller sees.

use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;
use serve::accounts::{self, Proof, Scope};
use serve::{Anonymous, Config};
use store::AccountKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Site, header, on_loopback, refusal};

fn scopes(text: &str) -> Vec<Scope> {
    text.split(' ').map(|scope| scope.parse().unwrap()).collect()
}

async fn token(site: &Site, name: &str, rights: &str) -> String {
    let token = accounts::add_token(&site.store, name, &scopes(rights), None).await.unwrap();
    site.server.reload_secrets().await.unwrap();
    token
}

/// With a word as the password of any user.
fn with(site: &Site, method: Method, path: &str, word: &str) -> RequestBuilder {
    site.request(method, path).basic_auth("any", Some(word))
}

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

async fn short(site: &Site, word: &str) -> String {
    let answer = with(site, Method::GET, "/token?scope=repository:x:pull", word).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    answer["token"].as_str().unwrap().to_owned()
}

/// Only what is by Docker Hub may be read by anybody.
fn partly_open() -> Config {
    Config { anonymous: Anonymous::Matching(vec!["docker.io/**".to_owned()]), ..on_loopback() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_may_what_its_scopes_say_and_ends_at_once() {
    let site = Site::with(Config { anonymous: false.into(), ..on_loopback() }).await;
    site.image("", "team/app", "1", "x").await;
    site.image("", "other/app", "1", "x").await;
    let word = token(&site, "ci", "read:team/* write:team/*").await;
    let (team, other) = ("/v2/team/app/manifests/1", "/v2/other/app/manifests/1");
    let brought = short(&site, &word).await;
    for _ in 0..2 {
        // The second time it is warm.
        assert_eq!(status(with(&site, Method::GET, team, &word)).await, 200);
        assert_eq!(status(site.request(Method::GET, team).bearer_auth(&brought)).await, 200);
        assert_eq!(status(site.request(Method::GET, team).bearer_auth(&word)).await, 200);
        assert_eq!(status(with(&site, Method::GET, other, &word)).await, 404);
        assert_eq!(status(site.admin(Method::GET, other)).await, 200);
        assert_eq!(site.get(team).await.status(), 401);
    }
    assert_eq!(status(with(&site, Method::POST, "/v2/team/app/blobs/uploads/", &word)).await, 202);
    let refused = with(&site, Method::POST, "/v2/other/app/blobs/uploads/", &word).send().await.unwrap();
    let (code, name, message) = refusal(refused).await;
    assert_eq!((code, name.as_str()), (403, "DENIED"));
    assert!(message.contains("write:other/app") && message.contains("token ci"), "{message}");
    assert_eq!(status(with(&site, Method::DELETE, team, &word)).await, 403, "delete is another scope");

    accounts::remove(&site.store, AccountKind::Token, "ci").await.unwrap();
    site.server.reload_secrets().await.unwrap();
    assert_eq!(status(with(&site, Method::GET, team, &word)).await, 401);
    assert_eq!(status(site.request(Method::GET, team).bearer_auth(&brought)).await, 401);
    // One of the same name and rights is not the same.
    token(&site, "ci", "read:team/* write:team/*").await;
    assert_eq!(status(site.request(Method::GET, team).bearer_auth(&brought)).await, 401);
    let error = accounts::add_token(&site.store, "ci", &scopes("read"), None).await.unwrap_err();
    assert!(error.hint().unwrap().contains("naru token rm ci"));
}

/// A request that was allowed when it began: its answer, when its body comes after `meanwhile`.
async fn slowly(site: &Site, (method, path): (&str, &str), word: &str, body: &[u8], meanwhile: impl Future) -> String {
    let mut stream = TcpStream::connect(site.server.address()).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {word}\r\nContent-Type: {}\r\n\
         Content-Length: {}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n",
        artifact::media_type::OCI_MANIFEST,
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // It says so when it begins to read the body, and not before.
    let mut told = [0; 25];
    stream.read_exact(&mut told).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&told), "HTTP/1.1 100 Continue\r\n\r\n");
    meanwhile.await;
    stream.write_all(body).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_with_a_right_that_has_ended_is_not_done() {
    let site = Site::start().await;
    let image = site.image("", "team/app", "1", "x").await;
    let layer = artifact::Digest::of(b"layer");
    let word = token(&site, "writer", "read write:team/*").await;
    for way in ["manifest", "single", "patch", "put"] {
        let begun = with(&site, Method::POST, "/v2/team/app/blobs/uploads/", &word).send().await.unwrap();
        let session = header(&begun, "location").to_owned();
        let (request, body): (_, &[u8]) = match way {
            "manifest" => (("PUT", "/v2/team/app/manifests/late".to_owned()), &image.bytes),
            "single" => (("POST", format!("/v2/team/app/blobs/uploads/?digest={layer}")), b"layer"),
            "patch" => (("PATCH", session), b"layer"),
            _ => (("PUT", format!("{session}?digest={layer}")), b"layer"),
        };
        let request = (request.0, request.1.as_str());
        let ends = token(&site, way, "read write:team/*").await;
        let removed = async {
            accounts::remove(&site.store, AccountKind::Token, way).await.unwrap();
            site.server.reload_secrets().await.unwrap();
        };
        let answer = slowly(&site, request, &ends, body, removed).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{way}: {answer}");
        for there in ["manifests/late".to_owned(), format!("blobs/{layer}")] {
            assert_eq!(site.get(&format!("/v2/team/app/{there}")).await.status(), 404, "{way}");
        }
    }
    // Another's secrets may change meanwhile.
    let other = async { drop(token(&site, "other", "read").await) };
    let single = format!("/v2/team/app/blobs/uploads/?digest={layer}");
    let answer = slowly(&site, ("POST", &single), &word, b"layer", other).await;
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    // Rights that have become fewer.
    let narrowed = async {
        let mut all = site.store.accounts().await.unwrap();
        all.retain(|account| account.name == "writer");
        all[0].scopes = "read write:other/*".to_owned();
        site.store.put_accounts(&all).await.unwrap();
        site.server.reload_secrets().await.unwrap();
    };
    let answer = slowly(&site, ("PUT", "/v2/team/app/manifests/narrow"), &word, &image.bytes, narrowed).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("write:team/app"), "{answer}");
    assert_eq!(site.get("/v2/team/app/manifests/narrow").await.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_when_it_was_to() {
    let site = Site::with(Config { anonymous: false.into(), ..on_loopback() }).await;
    site.image("", "app", "1", "x").await;
    let soon = site.store.now() + 1000;
    let good = accounts::add_token(&site.store, "good", &scopes("read"), Some(soon)).await.unwrap();
    let over = accounts::add_token(&site.store, "over", &scopes("read"), Some(site.store.now())).await.unwrap();
    site.server.reload_secrets().await.unwrap();
    assert_eq!(status(with(&site, Method::GET, "/v2/app/manifests/1", &good)).await, 200);
    assert_eq!(status(with(&site, Method::GET, "/v2/app/manifests/1", &over)).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_has_a_password() {
    let site = Site::with(Config { anonymous: false.into(), ..on_loopback() }).await;
    site.image("", "app", "1", "x").await;
    let proof = |word: &str| Proof::Password(accounts::hash_password(word).unwrap());
    accounts::add_user(&site.store, "alice", &proof("geheim"), &scopes("read"), None).await.unwrap();
    // bcrypt, of `123456`.
    let htpasswd = "bob:$2a$04$9qV92tpa9g9SmuxEgSj0VOgDNdpHlDzkSfJoowqYL3JaIqrV0L8qC\n";
    let read = accounts::read_htpasswd(htpasswd).unwrap();
    accounts::import(&site.store, &read, &scopes("read"), None).await.unwrap();
    site.server.reload_secrets().await.unwrap();
    let app = "/v2/app/manifests/1";
    let ask = |name: &str, word: &str| status(site.request(Method::GET, app).basic_auth(name, Some(word)));
    for _ in 0..2 {
        assert_eq!(ask("alice", "geheim").await, 200);
        assert_eq!(ask("bob", "123456").await, 200);
        assert_eq!(ask("alice", "123456").await, 401);
        assert_eq!(ask("bob", "geheim").await, 401);
        assert_eq!(ask("carol", "geheim").await, 401);
    }
    let form = "grant_type=password&service=naru&client_id=x&username=alice&password=geheim";
    let answer = site.request(Method::POST, "/token").body(form).send().await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    let brought = answer["token"].as_str().unwrap();
    assert_eq!(status(site.request(Method::GET, app).bearer_auth(brought)).await, 200);
    accounts::set_proof(&site.store, "alice", &proof("neu")).await.unwrap();
    site.server.reload_secrets().await.unwrap();
    assert_eq!((ask("alice", "geheim").await, ask("alice", "neu").await), (401, 200));
    assert_eq!(status(site.request(Method::GET, app).bearer_auth(brought)).await, 401, "it was by the old password");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_has_to_wait() {
    let site = Site::start().await;
    let word = token(&site, "ci", "read").await;
    let guess = || site.request(Method::GET, "/v2/").basic_auth("alice", Some("wrong")).send();
    let mut last = guess().await.unwrap();
    for _ in 0..30 {
        if last.status() == 429 {
            break;
        }
        assert_eq!(last.status(), 401);
        last = guess().await.unwrap();
    }
    assert_eq!((last.status().as_u16(), header(&last, "retry-after")), (429, "60"));
    assert_eq!(status(with(&site, Method::GET, "/v2/", &word)).await, 200, "a token is no guess");
    assert_eq!(status(site.admin(Method::GET, "/v2/")).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_anybody_may_read_is_said_by_patterns() {
    let site = Site::with(partly_open()).await;
    site.image("docker.io", "library/open", "1", "x").await;
    site.image("quay.io", "team/closed", "1", "y").await;
    site.file("docker.io", "open.txt", b"x").await;
    site.file("dl.k8s.io", "closed.txt", b"x").await;
    let word = token(&site, "reader", "read:quay.io/**").await;
    for (path, anonymous, known) in [
        ("/v2/docker.io/library/open/manifests/1", 200, 200),
        ("/v2/open/manifests/1", 200, 200),
        ("/v2/quay.io/team/closed/manifests/1", 401, 200),
        ("/v2/team/closed/manifests/1?ns=quay.io", 401, 200),
        ("/v2/team/closed/manifests/1", 401, 200),
        ("/v2/docker.io/library/none/manifests/1", 404, 404),
        ("/files/docker.io/open.txt", 200, 200),
        ("/files/dl.k8s.io/closed.txt", 401, 404),
        ("/files/dl.k8s.io/", 401, 404),
    ] {
        for _ in 0..2 {
            assert_eq!(site.get(path).await.status(), anonymous, "{path}");
            assert_eq!(status(with(&site, Method::GET, path, &word)).await, known, "{path}");
        }
    }
    let names = |answer: Response| async move {
        let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        answer["repositories"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(site.get("/v2/_catalog").await).await, ["docker.io/library/open"]);
    let known = with(&site, Method::GET, "/v2/_catalog", &word).send().await.unwrap();
    assert_eq!(names(known).await, ["docker.io/library/open", "quay.io/team/closed"]);
    for path in ["/", "/?q=closed", "/files/", "/v2/_catalog?n=1"] {
        let text = site.get(path).await.text().await.unwrap();
        assert!(!text.contains("team/closed") && !text.contains("dl.k8s.io"), "{path}: {text}");
    }
    for (word, seen) in [(&word, false), (&site.server.admin_token().unwrap().to_owned(), true)] {
        for path in ["/metrics", "/"] {
            let text = with(&site, Method::GET, path, word).send().await.unwrap().text().await.unwrap();
            assert_eq!(text.contains("naru_store_blobs") || text.contains(" blobs, "), seen, "{path}");
        }
    }
    let found = with(&site, Method::GET, "/?q=closed", &word).send().await.unwrap().text().await.unwrap();
    assert!(found.contains("quay.io/team/closed") && !found.contains("closed.txt"), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_the_catalog_are_full_of_what_may_be_read() {
    let site = Site::with(Config { anonymous: false.into(), ..on_loopback() }).await;
    for number in 0..6 {
        site.image("", &format!("a{number}/app"), "1", "x").await;
        site.image("", &format!("a{number}/own"), "1", "x").await;
    }
    let word = token(&site, "ci", "read:*/own").await;
    let (mut path, mut seen) = ("/v2/_catalog?n=2".to_owned(), Vec::new());
    loop {
        let answer = with(&site, Method::GET, &path, &word).send().await.unwrap();
        let next = header(&answer, "link").split_once('>').map(|(link, _)| link.trim_start_matches('<').to_owned());
        let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        let page = answer["repositories"].as_array().unwrap();
        assert_eq!(page.len(), 2);
        seen.extend(page.iter().map(|name| name.as_str().unwrap().to_owned()));
        match next {
            Some(next) => path = next,
            None => break,
        }
    }
    assert_eq!(seen, (0..6).map(|number| format!("a{number}/own")).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_read_decides_no_name() {
    let site = Site::with(Config { anonymous: false.into(), ..on_loopback() }).await;
    let hub = site.image("docker.io", "team/app", "1", "of the hub").await;
    let local = site.image("", "team/app", "1", "of this site").await;
    let quay = site.image("quay.io", "team/app", "1", "of quay").await;
    let app = "/v2/team/app/manifests/1";
    let digest = |answer: Response| header(&answer, "docker-content-digest").to_owned();
    for (name, rights, expected) in [
        ("all", "read", &local),
        ("hub", "read:docker.io/**", &hub),
        ("quay", "read:quay.io/**", &quay),
        ("both", "read:quay.io/** read:docker.io/**", &hub),
    ] {
        let word = token(&site, name, rights).await;
        for _ in 0..2 {
            let answer = with(&site, Method::GET, app, &word).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{name}");
            assert_eq!(digest(answer), expected.digest.to_string(), "{name}");
        }
    }
    // Candidates that are named are those that may be read.
    site.image("ghcr.io", "x/y", "1", "one").await;
    site.image("gcr.io", "x/y", "1", "two").await;
    site.image("quay.io", "x/y", "1", "three").await;
    let word = token(&site, "two", "read:ghcr.io/** read:gcr.io/**").await;
    let answer = with(&site, Method::GET, "/v2/x/y/manifests/1", &word).send().await.unwrap();
    let text = answer.text().await.unwrap();
    assert!(text.contains("ghcr.io/x/y") && text.contains("gcr.io/x/y") && !text.contains("quay.io"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_name_that_a_mirror_has_needs_admin() {
    let site = Site::start().await;
    site.image("docker.io", "library/nginx", "1", "x").await;
    site.image("quay.io", "team/app", "1", "x").await;
    let writer = token(&site, "writer", "read write").await;
    let admin = token(&site, "over", "read write admin:team/*").await;
    for (path, may_write, may_admin) in [
        ("/v2/own/blobs/uploads/", 202, 202),
        ("/v2/team/app/blobs/uploads/", 403, 202),
        ("/v2/nginx/blobs/uploads/", 403, 403),
        ("/v2/library/nginx/blobs/uploads/", 403, 403),
        ("/v2/quay.io/team/app/blobs/uploads/", 202, 202),
    ] {
        assert_eq!(status(with(&site, Method::POST, path, &writer)).await, may_write, "{path}");
        assert_eq!(status(with(&site, Method::POST, path, &admin)).await, may_admin, "{path}");
        assert_eq!(status(site.admin(Method::POST, path)).await, 202, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_has_changes_and_refusals_and_no_secret() {
    let site = Site::start().await;
    let word = token(&site, "ci", "read write:team/* delete:team/*").await;
    let digest = artifact::Digest::of(b"layer");
    let push = format!("/v2/team/app/blobs/uploads/?digest={digest}");
    assert_eq!(status(with(&site, Method::POST, &push, &word).body("layer")).await, 201);
    let image = site.image("", "team/app", "1", "x").await;
    let again = "/v2/team/app/manifests/2";
    let kind = artifact::media_type::OCI_MANIFEST;
    let put = with(&site, Method::PUT, again, &word).header("content-type", kind).body(image.bytes.clone());
    assert_eq!(status(put).await, 201);
    assert_eq!(status(with(&site, Method::DELETE, again, &word)).await, 202);
    assert_eq!(status(with(&site, Method::POST, "/v2/other/blobs/uploads/", &word)).await, 403);
    assert_eq!(status(with(&site, Method::GET, "/v2/", "sesame-open")).await, 401);
    assert_eq!(status(site.request(Method::DELETE, again)).await, 401);
    // How the protocol begins, and what reads, is not in it.
    assert_eq!(site.get("/v2/").await.status(), 401);
    assert_eq!(site.get("/v2/team/app/manifests/1").await.status(), 200);
    let text = std::fs::read_to_string(site.folder.path().join("audit/audit.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let short: Vec<String> = lines
        .iter()
        .map(|line| {
            let text = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
            format!("{} {} {} {}", text("by"), text("action"), text("repository"), text("outcome"))
        })
        .collect();
    assert_eq!(
        short,
        [
            "token ci push local team/app done",
            "token ci push local team/app done",
            "token ci delete local team/app done",
            "token ci POST - denied",
            "unknown GET - denied",
            "anonymous DELETE - denied",
        ]
    );
    assert_eq!(lines[0]["digest"], digest.to_string());
    assert!(lines[2]["digest"].is_null() && lines[2]["subject"] == again, "a tag is no digest: {}", lines[2]);
    assert_eq!(lines[1]["digest"], image.digest.to_string());
    assert!(lines.iter().all(|line| line["from"] == "127.0.0.1" && line["time"].is_string()));
    assert!(!text.contains(&word) && !text.contains("sesame"), "{text}");
}
