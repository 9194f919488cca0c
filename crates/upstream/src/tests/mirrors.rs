use artifact::{Digest, Trust, media_type};

use super::server::{Reply, Request, Server, nobody, ranged, reply};
use super::{Memory, content, descriptor, manifest, mirrored, reference, repository};
use crate::{Error, MirrorTrust};

fn answer(request: &Request) -> Reply {
    if request.target.contains("/blobs/") {
        return ranged(request, &content(2000));
    }
    reply(200)
        .header("content-type", media_type::OCI_MANIFEST)
        .header("docker-content-digest", Digest::of(&manifest()))
        .body(manifest())
}

#[tokio::test]
async fn bytes_come_from_mirrors_and_tags_from_the_origin() {
    let origin = Server::start(answer).await;
    let mirror = Server::start(answer).await;
    let client = mirrored(&origin.host(), [mirror.url("/docker.io").as_str()], Some(MirrorTrust::Mirror));
    let resolved = client.resolve(&reference(&origin.host(), ":1")).await.unwrap();
    assert_eq!((resolved.trust, mirror.seen().len()), (Trust::Tag, 0));
    client.manifest(&repository(&origin.host()), &resolved.digest).await.unwrap();
    let (bytes, mut sink) = (content(2000), Memory::default());
    client.blob(&repository(&origin.host()), &descriptor(&bytes), &mut sink).await.unwrap();
    assert_eq!(sink.bytes, bytes);
    assert_eq!(origin.asked(), ["HEAD /v2/library/app/manifests/1"]);
    let asked: Vec<String> = mirror.seen().into_iter().map(|request| request.target).collect();
    assert_eq!(
        asked,
        [
            format!("/v2/docker.io/library/app/manifests/{}", resolved.digest),
            format!("/v2/docker.io/library/app/blobs/{}", Digest::of(&bytes)),
        ]
    );
}

#[tokio::test]
async fn any_failure_of_a_mirror_leads_to_the_next() {
    let origin = Server::start(answer).await;
    let failures: [fn(&Request) -> Reply; 6] = [
        |_| reply(404),
        |_| reply(503),
        |_| reply(401).header("www-authenticate", "Basic realm=x"),
        |_| reply(200).html("<html><title>blocked</title></html>"),
        |_| reply(200).header("content-type", media_type::OCI_MANIFEST).body(vec![7; 2000]),
        |request| ranged(request, &content(2000)).cut(0),
    ];
    for (at, failure) in failures.into_iter().enumerate() {
        let mirror = Server::start(failure).await;
        let client = mirrored(&origin.host(), [mirror.url("").as_str()], None);
        let digest = Digest::of(&manifest());
        let fetched = client.manifest(&repository(&origin.host()), &digest).await.unwrap();
        assert_eq!(fetched.bytes, manifest(), "{at}");
        let pinned = client.resolve(&reference(&origin.host(), &format!("@{digest}"))).await.unwrap();
        assert_eq!(pinned.media_type, media_type::OCI_MANIFEST, "{at}");
        let (bytes, mut sink) = (content(2000), Memory::default());
        client.blob(&repository(&origin.host()), &descriptor(&bytes), &mut sink).await.unwrap();
        assert!(sink.bytes == bytes, "{at}");
        assert!(!mirror.seen().is_empty());
    }
}

#[tokio::test]
async fn a_mirror_s_word_counts_only_where_it_is_trusted_and_needed() {
    let mirror = Server::start(answer).await;
    let mirror = mirror.url("");
    let gone = nobody().await;
    let client = mirrored(&gone, [mirror.as_str()], Some(MirrorTrust::Mirror));
    let resolved = client.resolve(&reference(&gone, ":1")).await.unwrap();
    assert_eq!((resolved.digest, resolved.trust), (Digest::of(&manifest()), Trust::Mirror));
    let client = mirrored(&gone, [mirror.as_str()], None);
    let error = client.resolve(&reference(&gone, ":1")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }) && error.to_string().contains(&gone), "{error}");
    // An answer is an answer.
    for status in [404, 401, 403, 429] {
        let origin = Server::start(move |_| reply(status)).await;
        let client = mirrored(&origin.host(), [mirror.as_str()], Some(MirrorTrust::Mirror));
        assert!(client.resolve(&reference(&origin.host(), ":1")).await.is_err(), "{status}");
    }
    // A gateway's error or a filter's page is not the origin's.
    for failure in [|_: &Request| reply(503), |_: &Request| reply(200).html("<html>blocked</html>")] {
        let origin = Server::start(failure).await;
        let client = mirrored(&origin.host(), [mirror.as_str()], Some(MirrorTrust::Mirror));
        assert_eq!(client.resolve(&reference(&origin.host(), ":1")).await.unwrap().trust, Trust::Mirror);
    }
}
