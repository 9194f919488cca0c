use std::sync::atomic::{AtomicUsize, Ordering};

use artifact::Digest;

use super::server::{Server, nobody, ranged, reply};
use super::{Memory, client, content, mirrored, plain_client, url};
use crate::{Client, Error, Surroundings, Upstream, Upstreams};

#[tokio::test]
async fn a_file_with_what_is_known_of_it() {
    let bytes = content(5000);
    let served = bytes.clone();
    let server = Server::start(move |request| {
        if request.target == "/latest" {
            return reply(302).header("location", "/v1/kubectl?signature=secret");
        }
        ranged(request, &served).header("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT")
    })
    .await;
    let client = plain_client();
    let mut sink = Memory::default();
    let asked = url(&server.url("/latest"));
    for remote in [client.head(&asked).await.unwrap(), client.file(&asked, None, &mut sink).await.unwrap()] {
        assert_eq!((remote.size, remote.url), (Some(5000), server.url("/v1/kubectl")));
        assert_eq!(remote.last_modified.as_deref(), Some("Wed, 21 Oct 2015 07:28:00 GMT"));
    }
    assert_eq!(sink.bytes, bytes);
    assert_eq!(server.seen()[0].header("accept-encoding"), Some("identity"));
    let error = client.document(&asked, 4999).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 4999, .. }), "{error}");
    assert_eq!(client.document(&asked, 5000).await.unwrap(), bytes);
}

#[tokio::test]
async fn servers_that_know_no_head() {
    for status in [405, 403, 501] {
        let server = Server::start(move |request| match request.method.as_str() {
            "HEAD" => reply(status),
            _ => reply(200).body("12345"),
        })
        .await;
        assert_eq!(plain_client().head(&url(&server.url("/x"))).await.unwrap().size, Some(5), "{status}");
    }
    let server = Server::start(|_| reply(404)).await;
    let error = plain_client().head(&url(&server.url("/x?token=secret"))).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn redirects_carry_no_authorization_elsewhere() {
    let storage = Server::start(|_| reply(200).body("x")).await;
    let to = storage.url("/x");
    let server = Server::start(move |request| match request.target.as_str() {
        _ if request.header("authorization").is_none() => {
            reply(401).header("www-authenticate", "Basic realm=\"files\"")
        }
        "/moved" => reply(301).header("location", "/here"),
        _ => reply(307).header("location", &to),
    })
    .await;
    let upstream =
        Upstream { username: Some("user".to_owned()), password: Some("secret".to_owned()), ..Upstream::default() };
    let client = client([(server.host(), upstream)]);
    assert_eq!(client.document(&url(&server.url("/moved")), 10).await.unwrap(), "x");
    assert_eq!(server.asked(), ["GET /moved", "GET /moved", "GET /here"]);
    assert_eq!(storage.seen()[0].header("authorization"), None);
    // User and password in the URL itself.
    let with_user = format!("http://user:secret@{}/moved", server.host());
    assert_eq!(plain_client().document(&url(&with_user), 10).await.unwrap(), "x");
    assert_eq!(storage.seen()[1].header("authorization"), None);
    let remote = plain_client().file(&url(&with_user), None, &mut Memory::default()).await.unwrap();
    assert_eq!(remote.url, storage.url("/x"));
}

#[tokio::test]
async fn redirects_end() {
    let server = Server::start(|_| reply(302).header("location", "/again")).await;
    let error = plain_client().head(&url(&server.url("/x"))).await.unwrap_err();
    assert!(matches!(error, Error::Redirect { .. }), "{error}");
    assert_eq!(server.seen().len(), 11);
    let server = Server::start(|_| reply(302).header("location", "file:///etc/passwd")).await;
    let error = plain_client().head(&url(&server.url("/x"))).await.unwrap_err();
    assert!(error.to_string().contains("neither http nor https"), "{error}");
}

#[tokio::test]
async fn only_web_urls() {
    for text in ["ftp://a.example/x", "file:///etc/passwd", "data:text/plain,x"] {
        assert!(matches!(plain_client().head(&url(text)).await, Err(Error::Config { .. })), "{text}");
    }
}

#[tokio::test]
async fn offline_asks_nobody() {
    let server = Server::start(|_| reply(200)).await;
    let surroundings = Surroundings { offline: true, ..Surroundings::default() };
    let client = Client::new(Upstreams::default(), &surroundings).unwrap();
    let error = client.head(&url(&server.url("/x"))).await.unwrap_err();
    assert!(matches!(&error, Error::Offline { host } if *host == server.host()), "{error}");
    assert!(error.hint().is_some() && !error.is_transient());
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn proxies_are_used_except_for_this_machine() {
    let proxy = Server::start(|_| reply(200).body("by proxy")).await;
    let direct = Server::start(|_| reply(200).body("direct")).await;
    let surroundings = Surroundings {
        http_proxy: Some(format!("http://user:secret@{}", proxy.host())),
        no_proxy: Some("unrelated.example, *.internal.invalid".to_owned()),
        ..Surroundings::default()
    };
    let client = Client::new(Upstreams::default(), &surroundings).unwrap();
    // The name is the proxy's to resolve.
    assert_eq!(client.document(&url("http://files.example/x"), 100).await.unwrap(), "by proxy");
    assert_eq!(proxy.asked(), ["GET http://files.example/x"]);
    assert_eq!(proxy.seen()[0].header("proxy-authorization"), Some("Basic dXNlcjpzZWNyZXQ="));
    assert_eq!(client.document(&url(&direct.url("/x")), 100).await.unwrap(), "direct");
    let port = direct.address.port();
    assert_eq!(client.document(&url(&format!("http://localhost:{port}/x")), 100).await.unwrap(), "direct");
    assert_eq!(proxy.seen().len(), 1);
    let wrong = Surroundings { https_proxy: Some("http://[secret".to_owned()), ..Surroundings::default() };
    let error = Client::new(Upstreams::default(), &wrong).unwrap_err().to_string();
    assert!(error.contains("HTTPS_PROXY") && !error.contains("secret"), "{error}");
}

#[tokio::test]
async fn a_pinned_file_comes_from_mirrors() {
    let bytes = content(3000);
    let served = bytes.clone();
    let wrong = Server::start(|_| reply(200).body(vec![7; 3000])).await;
    let right = Server::start(move |request| ranged(request, &served)).await;
    let origin = nobody().await;
    let mirrors = [wrong.url(""), right.url("/dl.example")];
    let client = mirrored(&origin, mirrors.iter().map(String::as_str), None);
    let mut sink = Memory::default();
    let asked = url(&format!("http://{origin}/v1/kubectl"));
    let remote = client.pinned_file(&asked, Some(3000), &Digest::of(&bytes), &mut sink).await.unwrap();
    assert_eq!((sink.bytes == bytes, sink.restarts), (true, 1));
    assert_eq!(wrong.asked(), ["GET /v1/kubectl"]);
    assert_eq!(
        (right.asked(), remote.url),
        (vec!["GET /dl.example/v1/kubectl".to_owned()], right.url("/dl.example/v1/kubectl"))
    );
    assert_eq!(client.head(&asked).await.unwrap().size, Some(3000), "the origin cannot be reached");
    // Without a digest nothing proves a mirror's bytes.
    let error = client.file(&asked, None, &mut Memory::default()).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_mirror_s_beginning_is_not_the_origin_s_fault() {
    let bytes = content(3000);
    let (served, turn) = (bytes.clone(), AtomicUsize::new(0));
    // It sends the beginning of something else and then is gone.
    let mirror = Server::start(move |_| match turn.fetch_add(1, Ordering::SeqCst) {
        0 => reply(200).body(vec![7; 3000]).cut(1000),
        _ => reply(404),
    })
    .await;
    let origin = Server::start(move |request| ranged(request, &served)).await;
    let client = mirrored(&origin.host(), [mirror.url("").as_str()], None);
    let mut sink = Memory::default();
    client.pinned_file(&url(&origin.url("/x")), Some(3000), &Digest::of(&bytes), &mut sink).await.unwrap();
    assert!(sink.bytes == bytes);
    let offsets: Vec<_> = origin.seen().iter().map(super::server::Request::offset).collect();
    assert_eq!(offsets, [Some(1000), None]);
}
