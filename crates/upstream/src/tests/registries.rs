use artifact::{Digest, Trust, media_type};
use futures_util::FutureExt as _;

use super::server::{Reply, Request, Server, reply};
use super::{manifest, plain_client, reference, repository};
use crate::Error;

/// A registry with one manifest under one tag, as `registry:2` answers.
fn one_manifest(request: &Request) -> Reply {
    let (bytes, digest) = (manifest(), Digest::of(&manifest()));
    let known = [format!("/v2/library/app/manifests/{digest}"), "/v2/library/app/manifests/1".to_owned()];
    if !known.contains(&request.target) {
        return reply(404);
    }
    reply(200).header("content-type", media_type::OCI_MANIFEST).header("docker-content-digest", digest).body(bytes)
}

#[tokio::test]
async fn a_tag_costs_one_head() {
    let server = Server::start(one_manifest).await;
    let client = plain_client();
    let resolved = client.resolve(&reference(&server.host(), ":1")).await.unwrap();
    assert_eq!((resolved.digest, resolved.trust), (Digest::of(&manifest()), Trust::Tag));
    assert_eq!(resolved.media_type, media_type::OCI_MANIFEST);
    assert_eq!(server.asked(), ["HEAD /v2/library/app/manifests/1"]);
    let accept = server.seen()[0].header("accept").unwrap().to_owned();
    assert!(accept.contains(media_type::OCI_INDEX) && accept.contains(media_type::DOCKER_LIST), "{accept}");
    assert!(server.seen()[0].header("user-agent").unwrap().starts_with("naru/"));
    let fetched = client.manifest(&repository(&server.host()), &resolved.digest).await.unwrap();
    assert_eq!((fetched.bytes.to_vec(), fetched.digest), (manifest(), resolved.digest));
    let error = client.resolve(&reference(&server.host(), ":2")).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn the_digest_wins_over_the_tag() {
    let server = Server::start(one_manifest).await;
    let digest = Digest::of(&manifest());
    let both = reference(&server.host(), &format!(":other@{digest}"));
    let resolved = plain_client().resolve(&both).await.unwrap();
    assert_eq!((resolved.digest, resolved.trust), (digest, Trust::Digest));
    assert_eq!(server.asked(), [format!("HEAD /v2/library/app/manifests/{digest}")]);
}

#[tokio::test]
async fn registries_that_do_not_tell_by_head() {
    for status in [405, 200] {
        let server = Server::start(move |request| match request.method.as_str() {
            "HEAD" => reply(status).header("content-type", media_type::OCI_MANIFEST).body(manifest()),
            _ => reply(200).header("content-type", media_type::OCI_MANIFEST).body(manifest()),
        })
        .await;
        let resolved = plain_client().resolve(&reference(&server.host(), ":1")).await.unwrap();
        assert_eq!(resolved.digest, Digest::of(&manifest()));
    }
}

#[tokio::test]
async fn manifests_are_proven() {
    let other = Digest::of(b"other");
    let server = Server::start(move |request| {
        let reply = reply(200).header("content-type", media_type::OCI_MANIFEST);
        match request.method.as_str() {
            "HEAD" => reply.body(manifest()),
            _ => reply.header("docker-content-digest", other).body(manifest()),
        }
    })
    .await;
    let (client, host) = (plain_client(), server.host());
    let error = client.manifest(&repository(&host), &other).await.unwrap_err();
    let found = Digest::of(&manifest());
    assert!(
        matches!(&error, Error::Mismatch { expected, found: is, .. } if (**expected, **is) == (other, found)),
        "{error}"
    );
    assert!(error.to_string().contains(&other.to_string()));
    // By tag, where the header disagrees with the bytes.
    let error = client.tagged(&repository(&host), "1").await.unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
}

#[tokio::test]
async fn schema_1_is_refused_by_name() {
    for content_type in ["application/vnd.docker.distribution.manifest.v1+prettyjws", "application/json"] {
        let server = Server::start(move |_| {
            reply(200).header("content-type", content_type).body(r#"{"schemaVersion":1,"fsLayers":[]}"#)
        })
        .await;
        let (client, host) = (plain_client(), server.host());
        let errors = [
            client.resolve(&reference(&host, ":1")).await.unwrap_err(),
            client.manifest(&repository(&host), &Digest::of(b"x")).await.unwrap_err(),
        ];
        for error in errors {
            assert!(error.to_string().contains("schema 1"), "{error}");
        }
    }
}

#[tokio::test]
async fn manifests_over_4_mib_are_not_read() {
    let big = vec![b' '; artifact::MANIFEST_LIMIT + 1];
    let digest = Digest::of(&big);
    let server = Server::start(move |_| reply(200).header("content-type", media_type::OCI_MANIFEST).body(&*big)).await;
    let error = plain_client().manifest(&repository(&server.host()), &digest).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }) && error.to_string().contains(&digest.to_string()), "{error}");
}

#[tokio::test]
async fn tags_that_are_not_there_are_none() {
    let server = Server::start(one_manifest).await;
    let (client, repository) = (plain_client(), repository(&server.host()));
    assert_eq!(client.tagged(&repository, "1").await.unwrap().unwrap().bytes, manifest());
    assert_eq!(client.tagged(&repository, "sha256-00.sig").await.unwrap(), None);
    assert!(client.tagged(&repository, "../1").await.is_err());
}

#[tokio::test]
async fn a_refusal_is_not_an_absence() {
    for (status, name) in [(401, "not authorized"), (403, "not authorized"), (429, "limits"), (503, "503")] {
        let server = Server::start(move |_| {
            reply(status).body(r#"{"errors":[{"code":"DENIED","message":"requested access is denied"}]}"#)
        })
        .await;
        let (client, repository) = (plain_client(), repository(&server.host()));
        let subject = Digest::of(b"x");
        for error in [
            client.referrers(&repository, &subject).await.unwrap_err(),
            client.tagged(&repository, "1").await.unwrap_err(),
        ] {
            assert!(error.to_string().contains(name), "{error}");
        }
        let error = client.manifest(&repository, &subject).await.unwrap_err();
        assert!(status == 429 || error.to_string().contains("requested access is denied"), "{error}");
    }
}

fn index(names: &[&[u8]]) -> String {
    let descriptor = |name: &&[u8]| {
        format!(r#"{{"mediaType":"{}","digest":"{}","size":1}}"#, media_type::OCI_MANIFEST, Digest::of(name))
    };
    let manifests: Vec<String> = names.iter().map(descriptor).collect();
    format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}}"#, media_type::OCI_INDEX, manifests.join(","))
}

#[tokio::test]
async fn referrers_by_api_page_by_page() {
    let server = Server::start(|request| {
        let page = |names: &[&[u8]]| reply(200).header("content-type", media_type::OCI_INDEX).body(index(names));
        if request.target.contains("page=2") {
            page(&[b"b", b"c"])
        } else {
            page(&[b"a", b"b"]).header("link", format!("<{}?page=2>; rel=\"next\"", request.target))
        }
    })
    .await;
    let found = plain_client().referrers(&repository(&server.host()), &Digest::of(b"x")).await.unwrap();
    let digests: Vec<Digest> = found.iter().map(|descriptor| descriptor.digest).collect();
    assert_eq!(digests, [Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c")]);
}

#[tokio::test]
async fn a_list_of_referrers_stays_at_its_host_and_ends() {
    let elsewhere = Server::start(|_| reply(200)).await;
    for link in [elsewhere.url("/next"), "?again".to_owned()] {
        let server = Server::start(move |_| {
            let page = reply(200).header("content-type", media_type::OCI_INDEX).body(index(&[b"a"]));
            page.header("link", format!("<{link}>; rel=next"))
        })
        .await;
        let error = plain_client().referrers(&repository(&server.host()), &Digest::of(b"x")).await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error}");
    }
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn referrers_by_fallback_tag() {
    let subject = Digest::of(b"subject");
    for unknown in [404, 400, 406, 200] {
        let server = Server::start(move |request| {
            let tag = format!("/v2/library/app/manifests/sha256-{}", subject.hex());
            let body = index(&[b"a"]);
            let by_digest = format!("/v2/library/app/manifests/{}", Digest::of(body.as_bytes()));
            if request.target == tag || request.target == by_digest {
                let digest = Digest::of(body.as_bytes());
                return reply(200)
                    .header("content-type", media_type::OCI_INDEX)
                    .header("docker-content-digest", digest)
                    .body(body);
            }
            if request.target.contains("/referrers/") && unknown == 200 {
                return reply(200).html("<html>a registry's front page</html>");
            }
            reply(unknown)
        })
        .await;
        let found = plain_client().referrers(&repository(&server.host()), &subject).await.unwrap();
        assert_eq!(found.len(), 1, "{unknown}");
    }
    let server = Server::start(|_| reply(404)).await;
    assert_eq!(plain_client().referrers(&repository(&server.host()), &subject).await.unwrap(), []);
    // A filter's page for everything is no registry without referrers.
    let server = Server::start(|_| reply(200).html("<html>blocked</html>")).await;
    let error = plain_client().referrers(&repository(&server.host()), &subject).await.unwrap_err();
    assert!(matches!(error, Error::BlockPage { .. }), "{error}");
}

#[tokio::test]
async fn requests_at_a_time() {
    let server = Server::start(one_manifest).await;
    let host = server.host();
    let client = super::client([(host.clone(), crate::Upstream { concurrency: Some(1), ..Default::default() })]);
    let (transport, url) = (&client.inner.transport, super::url(&server.url("/v2/library/app/manifests/1")));
    let access = crate::Access { host: host.clone(), name: None, pushes: false };
    let answer = client.inner.request(&access, crate::Ask::new(http::Method::GET, url)).await.unwrap();
    assert!(transport.seat(&host).now_or_never().is_none(), "taken until the body is read");
    answer.body(1000, None).await.unwrap();
    assert!(transport.seat(&host).now_or_never().is_some());
    let seats: Vec<_> = (0..5).map(|_| transport.seat("other.example").now_or_never()).collect();
    assert_eq!(seats.iter().filter(|seat| seat.is_some()).count(), 4, "where nothing is said");
}

#[tokio::test]
async fn local_repositories_have_no_upstream() {
    let error = plain_client().manifest(&repository(""), &Digest::of(b"x")).await.unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error}");
}
