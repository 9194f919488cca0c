//! Pushes: what is sent when a registry says this or that.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::server::{Reply, Request, Server, reply};
use super::*;
use crate::{Arrival, Error, Fetched, Outgoing};

/// Larger than what goes with the end of its session.
const LARGE: usize = 3 << 20;

fn outgoing(bytes: &[u8]) -> (Arc<Outgoing>, Arc<AtomicUsize>) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let told = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&told);
    let tell = move |bytes| {
        count.fetch_add(usize::try_from(bytes).unwrap(), Ordering::Relaxed);
    };
    (Arc::new(Outgoing::new(file, bytes.len() as u64, tell)), told)
}

/// Text, since the server of these tests reads bodies as that.
fn text(size: usize) -> Vec<u8> {
    (0..size).map(|at| b'a' + u8::try_from(at / 1000 % 26).unwrap()).collect()
}

/// A registry that keeps one upload, as far as `answer` does not answer in its place.
async fn registry(
    answer: impl Fn(&Request, usize) -> Option<Reply> + Send + Sync + 'static,
) -> (Server, Arc<Mutex<String>>) {
    let kept = Arc::new(Mutex::new(String::new()));
    let (state, count) = (Arc::clone(&kept), AtomicUsize::new(0));
    let server = Server::start(move |request| {
        let nth = count.fetch_add(1, Ordering::Relaxed);
        if let Some(reply) = answer(request, nth) {
            return reply;
        }
        let mut kept = state.lock().unwrap();
        let place = format!("/elsewhere/session?state={}", kept.len());
        match request.method.as_str() {
            "HEAD" => reply(404),
            "POST" => reply(202).header("location", place),
            "PATCH" => {
                kept.push_str(&request.body);
                let place = format!("/elsewhere/session?state={}", kept.len());
                reply(202).header("location", place).header("range", format!("0-{}", kept.len() - 1))
            }
            "GET" => reply(204).header("location", place).header("range", format!("0-{}", kept.len().max(1) - 1)),
            _ => {
                kept.push_str(&request.body);
                reply(201)
            }
        }
    })
    .await;
    (server, kept)
}

#[tokio::test]
async fn a_small_blob_goes_with_the_end_of_its_session() {
    let bytes = text(100);
    let (server, kept) = registry(|_, _| None).await;
    let (out, told) = outgoing(&bytes);
    let digest = Digest::of(&bytes);
    let arrival = plain_client().push_blob(&repository(&server.host()), &digest, &out, None).await.unwrap();
    assert_eq!(arrival, Arrival::Sent);
    assert_eq!(kept.lock().unwrap().as_bytes(), bytes);
    assert_eq!(told.load(Ordering::Relaxed), 100);
    // The query that the registry wrote stays, the digest comes after it.
    let hex = digest.hex();
    assert_eq!(
        server.asked(),
        [
            format!("HEAD /v2/library/app/blobs/{digest}"),
            "POST /v2/library/app/blobs/uploads/".to_owned(),
            format!("PUT /elsewhere/session?state=0&digest=sha256%3A{hex}"),
        ]
    );
}

#[tokio::test]
async fn a_broken_upload_goes_on_where_the_registry_says() {
    let bytes = text(LARGE);
    let half = String::from_utf8(bytes[..LARGE / 2].to_vec()).unwrap();
    let kept = Arc::new(Mutex::new(None::<Arc<Mutex<String>>>));
    let later = Arc::clone(&kept);
    let (server, whole) = registry(move |request, nth| {
        (nth == 2 && request.method == "PATCH").then(|| {
            // Half of it arrives, and a gateway gives up.
            if let Some(kept) = later.lock().unwrap().as_ref() {
                kept.lock().unwrap().push_str(&half);
            }
            reply(502)
        })
    })
    .await;
    *kept.lock().unwrap() = Some(Arc::clone(&whole));
    let (out, told) = outgoing(&bytes);
    let digest = Digest::of(&bytes);
    plain_client().push_blob(&repository(&server.host()), &digest, &out, None).await.unwrap();
    assert!(whole.lock().unwrap().as_bytes() == bytes, "other bytes");
    // What was sent twice is told once.
    assert_eq!(told.load(Ordering::Relaxed), LARGE);
    let seen = server.seen();
    let ranges: Vec<_> =
        seen.iter().filter(|one| one.method == "PATCH").map(|one| one.header("content-range")).collect();
    assert_eq!(ranges, [None, Some(format!("{}-{}", LARGE / 2, LARGE - 1).as_str())]);
    assert!(seen.iter().any(|one| one.method == "GET"), "the registry was not asked");
}

#[tokio::test]
async fn a_session_that_is_gone_begins_anew() {
    let bytes = text(LARGE);
    let (server, whole) =
        registry(|request, nth| (nth < 4 && matches!(request.method.as_str(), "PATCH" | "GET")).then(|| reply(404)))
            .await;
    let (out, _) = outgoing(&bytes);
    let digest = Digest::of(&bytes);
    plain_client().push_blob(&repository(&server.host()), &digest, &out, None).await.unwrap();
    assert!(whole.lock().unwrap().as_bytes() == bytes, "other bytes");
    assert_eq!(server.seen().iter().filter(|one| one.method == "POST").count(), 2);
}

#[tokio::test]
async fn what_is_there_is_neither_sent_nor_mounted() {
    let (server, _) = registry(|request, _| (request.method == "HEAD").then(|| reply(200))).await;
    let (out, told) = outgoing(b"x");
    let digest = Digest::of(b"x");
    let there = plain_client().push_blob(&repository(&server.host()), &digest, &out, None).await.unwrap();
    assert_eq!((there, told.load(Ordering::Relaxed)), (Arrival::There, 1));
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn another_repository_lends_its_blob_where_it_may() {
    for (status, arrival) in [(201, Arrival::Mounted), (202, Arrival::Sent), (403, Arrival::Sent)] {
        let (server, _) = registry(move |request, _| {
            request.target.contains("mount=").then(|| reply(status).header("location", "/elsewhere/session"))
        })
        .await;
        let (out, _) = outgoing(b"x");
        let (host, digest) = (server.host(), Digest::of(b"x"));
        let from = Repository::image(&host, "library/other");
        let done = plain_client().push_blob(&repository(&host), &digest, &out, Some(&from)).await.unwrap();
        assert_eq!(done, arrival, "{status}");
        assert!(server.asked()[1].ends_with("&from=library%2Fother"), "{:?}", server.asked());
    }
}

#[tokio::test]
async fn our_name_goes_to_no_other_host() {
    let (other, kept) = registry(|_, _| None).await;
    let place = other.url("/there?a=b");
    let (server, _) = registry(move |request, _| {
        if request.header("authorization").is_none() {
            return Some(reply(401).header("www-authenticate", "Basic realm=x"));
        }
        (request.method == "POST").then(|| reply(202).header("location", &place))
    })
    .await;
    let (username, password) = (Some("u".to_owned()), Some("secret".to_owned()));
    let client = client([(server.host(), Upstream { username, password, ..Upstream::default() })]);
    let (out, _) = outgoing(b"bytes");
    client.push_blob(&repository(&server.host()), &Digest::of(b"bytes"), &out, None).await.unwrap();
    assert_eq!(*kept.lock().unwrap(), "bytes");
    assert!(other.seen().iter().all(|request| request.header("authorization").is_none()));
}

#[tokio::test]
async fn a_token_is_asked_for_that_may_push() {
    let (server, _) = registry(|request, _| {
        if request.target.starts_with("/token") {
            return Some(reply(200).body(r#"{"token":"t"}"#));
        }
        request.header("authorization").is_none().then(|| {
            let scope = r#"Bearer realm="/token",service="s",scope="repository:library/app:pull""#;
            reply(401).header("www-authenticate", scope)
        })
    })
    .await;
    let (out, _) = outgoing(b"bytes");
    plain_client().push_blob(&repository(&server.host()), &Digest::of(b"bytes"), &out, None).await.unwrap();
    let tokens: Vec<_> = server.asked().into_iter().filter(|asked| asked.contains("/token")).collect();
    assert_eq!(tokens.len(), 1, "{tokens:?}");
    assert!(tokens[0].contains("pull%2Cpush"), "{tokens:?}");
}

#[tokio::test]
async fn a_refusal_is_told_in_the_registrys_words() {
    let body = r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"a child is missing"}]}"#;
    for status in [400, 404, 405, 413] {
        let server = Server::start(move |_| reply(status).body(body)).await;
        let bytes = Bytes::from(manifest());
        let fetched = Fetched { digest: Digest::of(&bytes), bytes, media_type: media_type::OCI_MANIFEST.to_owned() };
        let error = plain_client().push_manifest(&repository(&server.host()), "1", &fetched).await.unwrap_err();
        assert!(matches!(error, Error::Refused { code, .. } if code == status), "{error}");
        assert!(error.to_string().contains("a child is missing") && error.hint().is_some(), "{error}");
        assert_eq!(server.asked().len(), 1);
    }
}

#[tokio::test]
async fn the_fallback_tag_keeps_what_it_lists() {
    let there = Arc::new(Mutex::new(None::<String>));
    let state = Arc::clone(&there);
    let server = Server::start(move |request| {
        let mut there = state.lock().unwrap();
        if request.method == "PUT" {
            *there = Some(request.body.clone());
            return reply(201);
        }
        let Some(index) = there.as_ref() else { return reply(404) };
        reply(200).header("content-type", media_type::OCI_INDEX).body(index.clone())
    })
    .await;
    let (client, repository, subject) = (plain_client(), repository(&server.host()), Digest::of(b"subject"));
    for one in [b"one".as_slice(), b"two", b"one"] {
        client.push_referrers(&repository, &subject, &[descriptor(one)]).await.unwrap();
    }
    let index = there.lock().unwrap().clone().unwrap();
    let place = |bytes: &[u8]| index.find(&Digest::of(bytes).to_string()).unwrap();
    assert!(place(b"one") < place(b"two"), "{index}");
    let puts = server.asked().into_iter().filter(|asked| asked.starts_with("PUT")).collect::<Vec<_>>();
    let tag = format!("PUT /v2/library/app/manifests/sha256-{}", subject.hex());
    assert_eq!(puts, [tag.clone(), tag]);
}
