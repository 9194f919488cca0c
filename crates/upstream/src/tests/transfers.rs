use std::sync::atomic::{AtomicUsize, Ordering};

use artifact::Digest;

use super::server::{Server, ranged, reply};
use super::{Memory, content, descriptor, plain_client, repository, url};
use crate::Error;

#[tokio::test]
async fn a_cut_connection_is_resumed() {
    let bytes = content(300_000);
    let (served, turn) = (bytes.clone(), AtomicUsize::new(0));
    // More cuts than attempts: each brings something, so none counts.
    let server = Server::start(move |request| {
        let reply = ranged(request, &served);
        if turn.fetch_add(1, Ordering::SeqCst) < 7 { reply.cut(30_000) } else { reply }
    })
    .await;
    let mut sink = Memory::default();
    plain_client().blob(&repository(&server.host()), &descriptor(&bytes), &mut sink).await.unwrap();
    assert_eq!((sink.bytes == bytes, sink.restarts), (true, 0));
    let ranges: Vec<_> = server.seen().iter().map(super::server::Request::offset).collect();
    assert_eq!(ranges[..3], [None, Some(30_000), Some(60_000)]);
    assert_eq!(ranges.len(), 8);
}

#[tokio::test]
async fn an_earlier_run_is_continued() {
    let bytes = content(1000);
    let served = bytes.clone();
    let server = Server::start(move |request| ranged(request, &served)).await;
    let mut sink = Memory { bytes: bytes[..400].to_vec(), restarts: 0 };
    plain_client().blob(&repository(&server.host()), &descriptor(&bytes), &mut sink).await.unwrap();
    assert_eq!((sink.bytes == bytes, sink.restarts), (true, 0));
    assert_eq!(server.seen()[0].offset(), Some(400));
    // What is whole is not asked for again.
    plain_client().blob(&repository(&server.host()), &descriptor(&bytes), &mut sink).await.unwrap();
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_server_that_cannot_continue_begins_again() {
    let bytes = content(1000);
    for wrong in ["ignores it", "other part", "refuses it"] {
        let served = bytes.clone();
        let server = Server::start(move |request| match (request.offset(), wrong) {
            (Some(_), "other part") => reply(206).header("content-range", "bytes 7-999/1000").body(&served[7..]),
            (Some(_), "refuses it") => reply(416).header("content-range", "bytes */300"),
            _ => reply(200).body(&*served),
        })
        .await;
        let mut sink = Memory { bytes: vec![1; 400], restarts: 0 };
        plain_client().blob(&repository(&server.host()), &descriptor(&bytes), &mut sink).await.unwrap();
        assert_eq!((sink.bytes == bytes, sink.restarts), (true, 1), "{wrong}");
    }
}

/// A server may send less than was asked for; of a file whose size nobody knows that is not the end.
#[tokio::test]
async fn a_short_part_is_not_the_end() {
    let bytes = content(10_240);
    let served = bytes.clone();
    let server = Server::start(move |request| match request.offset() {
        None => reply(200).body(&*served).cut(1000),
        Some(at) => {
            let end = (at + 1000).min(served.len());
            let range = format!("bytes {at}-{}/{}", end - 1, served.len());
            reply(206).header("content-range", range).body(&served[at..end])
        }
    })
    .await;
    let mut sink = Memory::default();
    plain_client().file(&url(&server.url("/tool")), None, &mut sink).await.unwrap();
    assert!(sink.bytes == bytes, "{} bytes", sink.bytes.len());
}

#[tokio::test]
async fn one_that_never_gets_on_is_given_up() {
    let server = Server::start(|_| reply(200).body(content(1000)).cut(10)).await;
    let blob = descriptor(&content(1000));
    let error = plain_client().blob(&repository(&server.host()), &blob, &mut Memory::default()).await.unwrap_err();
    assert!(matches!(error, Error::Cut { received: 10, expected: Some(1000), .. }), "{error}");
    assert_eq!(server.seen().len(), 5, "one that brought something, four that did not");
}

#[tokio::test]
async fn half_a_blob_is_none() {
    let bytes = content(1000);
    // It says itself that this is all of it.
    let server = Server::start(move |request| ranged(request, &content(500))).await;
    let error = plain_client()
        .blob(&repository(&server.host()), &descriptor(&bytes), &mut Memory::default())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Cut { received: 500, expected: Some(1000), .. }), "{error}");
}

#[tokio::test]
async fn busy_and_broken_servers_are_asked_again() {
    for (status, header) in [(429, Some("0")), (503, Some("Wed, 21 Oct 2015 07:28:00 GMT")), (500, None), (502, None)] {
        let bytes = content(10);
        let (served, turn) = (bytes.clone(), AtomicUsize::new(0));
        let server = Server::start(move |_| match (turn.fetch_add(1, Ordering::SeqCst), header) {
            (0 | 1, Some(time)) => reply(status).header("retry-after", time),
            (0 | 1, None) => reply(status),
            _ => reply(200).body(&*served),
        })
        .await;
        let mut sink = Memory::default();
        plain_client().blob(&repository(&server.host()), &descriptor(&bytes), &mut sink).await.unwrap();
        assert_eq!((sink.bytes, server.seen().len()), (bytes, 3), "{status}");
    }
}

#[tokio::test]
async fn a_wait_is_as_long_as_the_upstream_asks() {
    let turn = AtomicUsize::new(0);
    let server = Server::start(move |_| match turn.fetch_add(1, Ordering::SeqCst) {
        0 => reply(429).header("retry-after", 1),
        _ => reply(200).body("x"),
    })
    .await;
    let begun = std::time::Instant::now();
    plain_client().document(&url(&server.url("/x")), 10).await.unwrap();
    // At least as long: no machine is too slow for that.
    assert!(begun.elapsed() >= std::time::Duration::from_secs(1));
}

#[tokio::test]
async fn limits_that_stay_are_named() {
    let server = Server::start(|_| reply(429).header("retry-after", 0)).await;
    let blob = descriptor(b"x");
    let error = plain_client().blob(&repository(&server.host()), &blob, &mut Memory::default()).await.unwrap_err();
    assert!(matches!(error, Error::RateLimited { .. }) && error.is_transient() && error.hint().is_some(), "{error}");
    assert_eq!(server.seen().len(), 5);
}

#[tokio::test]
async fn never_more_than_the_descriptor_says() {
    let bytes = content(1000);
    for declared in [true, false] {
        let served = bytes.clone();
        let server = Server::start(move |_| {
            if declared {
                return reply(200).body(&*served);
            }
            // A length is not always said.
            let chunk = |bytes: &[u8]| [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
            let body = [chunk(&served[..600]), chunk(&served[600..]), chunk(b"")].concat();
            reply(200).header("transfer-encoding", "chunked").body(body)
        })
        .await;
        let mut blob = descriptor(&bytes);
        blob.size = 700;
        let mut sink = Memory::default();
        let error = plain_client().blob(&repository(&server.host()), &blob, &mut sink).await.unwrap_err();
        assert!(matches!(error, Error::TooLarge { limit: 700, .. }), "{error}");
        assert!(error.to_string().contains(&blob.digest.to_string()), "{error}");
        assert!(sink.bytes.len() <= 700);
        assert_eq!(server.seen().len(), 1, "not asked again");
    }
}

/// A filter that answers 403 is told from an upstream that refuses: one is asked to let through, the other for credentials.
#[tokio::test]
async fn a_refusal_of_a_filter_is_no_refusal_of_the_upstream() {
    let bodies = [
        ("<html><title>Category: containers</title></html>", true),
        ("<html><head><title>403 Forbidden</title></head></html>", false),
        (r#"{"errors":[{"code":"DENIED","message":"not yours"}]}"#, false),
    ];
    for (body, is_filter) in bodies {
        let server = Server::start(move |_| reply(403).body(body)).await;
        let blob = descriptor(&content(1000));
        let error = plain_client().blob(&repository(&server.host()), &blob, &mut Memory::default()).await.unwrap_err();
        assert_eq!(matches!(error, Error::BlockPage { .. }), is_filter, "{error}");
        assert_eq!(matches!(error, Error::Unauthorized { .. }), !is_filter, "{error}");
    }
}

#[tokio::test]
async fn a_block_page_is_quoted() {
    let page = "<!DOCTYPE html><html><head><title>Access denied by policy</title></head></html>";
    for declared in [true, false] {
        let server = Server::start(move |_| if declared { reply(200).html(page) } else { reply(200).body(page) }).await;
        let (client, host) = (plain_client(), server.host());
        let blob = descriptor(&content(1000));
        let mut sink = Memory { bytes: vec![1; 400], restarts: 0 };
        if declared {
            let error = client.blob(&repository(&host), &blob, &mut sink).await.unwrap_err();
            assert!(error.to_string().contains("Access denied by policy"), "{error}");
            assert_eq!(sink.bytes.len(), 400, "what an earlier run brought is kept");
        }
        let mut errors = vec![
            client.blob(&repository(&host), &blob, &mut Memory::default()).await.unwrap_err(),
            client.manifest(&repository(&host), &blob.digest).await.unwrap_err(),
            client.document(&url(&server.url("/SHA256SUMS")), 10_000).await.unwrap_err(),
            client.file(&url(&server.url("/kubectl")), None, &mut Memory::default()).await.unwrap_err(),
            client.resolve(&super::reference(&host, ":1")).await.unwrap_err(),
        ];
        if declared {
            errors.push(client.head(&url(&server.url("/kubectl"))).await.unwrap_err());
        }
        for error in errors {
            assert!(matches!(&error, Error::BlockPage { words, .. } if words == "Access denied by policy"), "{error}");
            assert!(error.hint().is_some());
        }
        // A page that is wanted.
        let mut sink = Memory::default();
        client.file(&url(&server.url("/index.html")), None, &mut sink).await.unwrap();
        assert_eq!(sink.bytes, page.as_bytes());
        let blob = descriptor(page.as_bytes());
        client.blob(&repository(&host), &blob, &mut Memory::default()).await.unwrap();
    }
}

#[tokio::test]
async fn foreign_layers_lie_elsewhere() {
    let bytes = content(100);
    let served = bytes.clone();
    let elsewhere = Server::start(move |request| ranged(request, &served)).await;
    let registry = Server::start(|_| reply(404)).await;
    let mut blob = descriptor(&bytes);
    blob.urls = vec!["ftp://nowhere.invalid/x".to_owned(), elsewhere.url("/layer")];
    let mut sink = Memory::default();
    plain_client().blob(&repository(&registry.host()), &blob, &mut sink).await.unwrap();
    assert_eq!(sink.bytes, bytes);
    blob.urls.clear();
    let error = plain_client().blob(&repository(&registry.host()), &blob, &mut sink).await;
    assert!(error.is_ok(), "it is all there");
    let error = plain_client().blob(&repository(&registry.host()), &blob, &mut Memory::default()).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn a_changed_file_is_not_patched_together() {
    let (old, new) = (vec![1; 1000], vec![2; 900]);
    let (served, turn) = (new.clone(), AtomicUsize::new(0));
    let server = Server::start(move |request| {
        if turn.fetch_add(1, Ordering::SeqCst) == 0 {
            return reply(200).header("etag", "\"old\"").body(&*old).cut(500);
        }
        assert_eq!(request.header("if-range"), Some("\"old\""));
        reply(200).header("etag", "\"new\"").body(&*served)
    })
    .await;
    let mut sink = Memory::default();
    let remote = plain_client().file(&url(&server.url("/x")), None, &mut sink).await.unwrap();
    assert_eq!((sink.bytes == new, sink.restarts, remote.size), (true, 1, Some(900)));
}

#[tokio::test]
async fn a_sink_that_fails_is_no_reason_to_ask_again() {
    struct Full;
    impl crate::Sink for Full {
        fn len(&self) -> u64 {
            0
        }
        async fn write(&mut self, _: bytes::Bytes) -> std::io::Result<()> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        async fn restart(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let bytes = content(10);
    let served = bytes.clone();
    let server = Server::start(move |_| reply(200).body(&*served)).await;
    let error = plain_client().blob(&repository(&server.host()), &descriptor(&bytes), &mut Full).await.unwrap_err();
    assert!(matches!(&error, Error::Sink(error) if error.kind() == std::io::ErrorKind::StorageFull), "{error}");
    assert_eq!((server.seen().len(), Digest::of(&bytes)), (1, descriptor(&bytes).digest));
}
