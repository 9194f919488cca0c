use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use artifact::{Digest, media_type};
use futures_util::future::join_all;

use super::server::{Reply, Request, Server, reply};
use super::{Memory, client, content, descriptor, manifest, plain_client, reference, repository};
use crate::{Client, Error, Mirror, Surroundings, Upstream, Upstreams};

fn found() -> Reply {
    reply(200)
        .header("content-type", media_type::OCI_MANIFEST)
        .header("docker-content-digest", Digest::of(&manifest()))
        .body(manifest())
}

fn query(request: &Request) -> Vec<(String, String)> {
    let query = request.target.split_once('?').map_or("", |(_, query)| query);
    url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

fn with_password() -> Upstream {
    Upstream { username: Some("user".to_owned()), password: Some("secret".to_owned()), ..Upstream::default() }
}

const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

/// A token server that gives `token-N`, and a registry that accepts the newest for each scope alone.
async fn bearer(accept: impl Fn(&Request) -> bool + Send + Sync + 'static) -> (Server, Server) {
    let newest = Arc::new(Mutex::new(String::new()));
    let (given, count) = (Arc::clone(&newest), AtomicUsize::new(0));
    let tokens = Server::start(move |request| {
        if !accept(request) {
            return reply(401).body(r#"{"details":"incorrect username or password"}"#);
        }
        let token = format!("token-{}", count.fetch_add(1, Ordering::SeqCst));
        given.lock().unwrap().clone_from(&token);
        reply(200).body(format!(r#"{{"access_token":"{token}","expires_in":300}}"#))
    })
    .await;
    let realm = tokens.url("/token");
    let registry = Server::start(move |request| {
        let token = format!("Bearer {}", newest.lock().unwrap());
        if request.header("authorization") == Some(&token) {
            return found();
        }
        let name = request.target.trim_start_matches("/v2/").split("/manifests").next().unwrap().to_owned();
        let challenge = format!(r#"Bearer realm="{realm}",service="registry.test",scope="repository:{name}:pull""#);
        reply(401).header("www-authenticate", challenge)
    })
    .await;
    (registry, tokens)
}

#[tokio::test]
async fn one_token_however_many_ask() {
    let (registry, tokens) = bearer(|request| request.header("authorization").is_none()).await;
    let client = plain_client();
    let reference = reference(&registry.host(), ":1");
    let all = join_all((0..16).map(|_| client.resolve(&reference))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(tokens.seen().len(), 1);
    let asked = query(&tokens.seen()[0]);
    for (name, value) in [("service", "registry.test"), ("scope", "repository:library/app:pull")] {
        assert!(asked.contains(&(name.to_owned(), value.to_owned())), "{asked:?}");
    }
    // The next repository is not refused first: what the host wants is known.
    let before = registry.seen().len();
    client.tagged(&artifact::Repository::image(registry.host(), "other/app"), "1").await.unwrap();
    assert_eq!(tokens.seen().len(), 2);
    assert!(query(&tokens.seen()[1]).contains(&("scope".to_owned(), "repository:other/app:pull".to_owned())));
    assert_eq!(registry.seen()[before].header("authorization"), Some("Bearer token-1"));
}

#[tokio::test]
async fn a_token_that_is_refused_is_fetched_anew() {
    let (registry, tokens) = bearer(|_| true).await;
    let client = plain_client();
    let reference = reference(&registry.host(), ":1");
    client.resolve(&reference).await.unwrap();
    // Another repository's token is the newest, so this one is not accepted any more.
    client.tagged(&artifact::Repository::image(registry.host(), "other/app"), "1").await.unwrap();
    client.resolve(&reference).await.unwrap();
    assert_eq!(tokens.seen().len(), 3);
}

#[tokio::test]
async fn passwords_go_to_the_token_server() {
    let (registry, tokens) = bearer(|request| request.header("authorization") == Some(BASIC)).await;
    let client = client([(registry.host(), with_password())]);
    client.resolve(&reference(&registry.host(), ":1")).await.unwrap();
    assert!(query(&tokens.seen()[0]).contains(&("account".to_owned(), "user".to_owned())));
    // The registry itself never sees them.
    assert!(registry.seen().iter().all(|request| request.header("authorization") != Some(BASIC)));
    // Wrong ones are named with the registry's host.
    let wrong = Upstream { password: Some("wrong".to_owned()), ..with_password() };
    let error =
        super::client([(registry.host(), wrong)]).resolve(&reference(&registry.host(), ":1")).await.unwrap_err();
    assert!(matches!(&error, Error::Unauthorized { host, .. } if *host == registry.host()), "{error}");
    assert!(error.to_string().contains("incorrect username or password"), "{error}");
    assert!(error.hint().unwrap().contains(&format!("docker login {}", registry.host())));
}

#[tokio::test]
async fn identity_tokens_are_exchanged() {
    let (registry, tokens) = bearer(|request| request.method == "POST").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    std::fs::write(&file, format!(r#"{{"auths":{{"{}":{{"identitytoken":"refresh me"}}}}}}"#, registry.host()))
        .unwrap();
    let surroundings = Surroundings { credential_files: vec![file], ..Surroundings::default() };
    let client = Client::new(Upstreams::default(), &surroundings).unwrap();
    client.resolve(&reference(&registry.host(), ":1")).await.unwrap();
    let form: Vec<_> = url::form_urlencoded::parse(tokens.seen()[0].body.as_bytes()).into_owned().collect();
    for (name, value) in [
        ("grant_type", "refresh_token"),
        ("refresh_token", "refresh me"),
        ("service", "registry.test"),
        ("scope", "repository:library/app:pull"),
    ] {
        assert!(form.contains(&(name.to_owned(), value.to_owned())), "{form:?}");
    }
}

#[tokio::test]
async fn basic_from_a_credential_file() {
    let registry = Server::start(|request| match request.header("authorization") {
        Some(BASIC) => found(),
        _ => reply(401).header("www-authenticate", r#"Basic realm="Registry""#),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("auth.json");
    let entry = format!(r#"{{"auths":{{"{}/library":{{"auth":"dXNlcjpzZWNyZXQ="}}}}}}"#, registry.host());
    std::fs::write(&file, entry).unwrap();
    let surroundings = Surroundings { credential_files: vec![file], ..Surroundings::default() };
    let client = Client::new(Upstreams::default(), &surroundings).unwrap();
    client.resolve(&reference(&registry.host(), ":1")).await.unwrap();
    client.resolve(&reference(&registry.host(), ":1")).await.unwrap();
    let sent: Vec<bool> = registry.seen().iter().map(|request| request.header("authorization").is_some()).collect();
    assert_eq!(sent, [false, true, true], "nothing before it is asked for, and not refused twice");
    // A repository that the entry is not for.
    let error = client.tagged(&artifact::Repository::image(registry.host(), "other/app"), "1").await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    let error = plain_client().resolve(&reference(&registry.host(), ":1")).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
}

/// What was said over TLS is kept for TLS, and what guards images is not asked of plain files.
#[tokio::test]
async fn what_is_kept_goes_through_no_other_door() {
    let client = client([("a.example".to_owned(), with_password())]);
    let mut headers = http::HeaderMap::new();
    headers.insert("www-authenticate", r#"Basic realm="x""#.parse().unwrap());
    let image = crate::auth::Access { host: "a.example".to_owned(), name: Some("app".to_owned()), pushes: false };
    let file = crate::auth::Access { name: None, ..image.clone() };
    let (tls, plain) = (super::url("https://a.example/x"), super::url("http://a.example/x"));
    let (transport, authority) = (&client.inner.transport, &client.inner.authority);
    for access in [&image, &file] {
        assert!(authority.ready(transport, access, &tls).await.unwrap().is_none(), "nobody has asked yet");
        let answered = authority.answer(transport, access, &tls, &headers, None).await.unwrap();
        assert_eq!(answered.unwrap(), BASIC);
        assert_eq!(authority.ready(transport, access, &tls).await.unwrap().unwrap(), BASIC);
        assert!(authority.ready(transport, access, &plain).await.unwrap().is_none(), "others listen there");
        authority.answer(transport, access, &plain, &headers, None).await.unwrap_err();
        assert!(authority.ready(transport, access, &plain).await.is_err(), "asked for it, and not given");
    }
}

#[tokio::test]
async fn storage_and_mirrors_never_see_the_registry_s_credentials() {
    let bytes = content(100);
    let challenge = |status| reply(status).header("www-authenticate", r#"Basic realm="give it to me""#);
    let storage = Server::start(move |_| challenge(401)).await;
    let mirror = Server::start(move |_| challenge(401)).await;
    let to = storage.url("/blob");
    let registry = Server::start(move |request| match request.header("authorization") {
        Some(BASIC) => reply(307).header("location", &to),
        _ => challenge(401),
    })
    .await;
    let mirrors = vec![Mirror { url: mirror.url(""), trust: None }];
    let client = client([(registry.host(), Upstream { mirrors, ..with_password() })]);
    let repository = repository(&registry.host());
    let error = client.blob(&repository, &descriptor(&bytes), &mut Memory::default()).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    for (server, name) in [(&storage, "storage"), (&mirror, "mirror")] {
        assert!(!server.seen().is_empty(), "{name}");
        assert!(server.seen().iter().all(|request| request.header("authorization").is_none()), "{name}");
    }
}

#[tokio::test]
async fn token_servers_that_are_none() {
    type Answer = fn(&Request) -> Reply;
    let answers: [(Answer, &str); 4] = [
        (|_| reply(200).body("{}"), "neither"),
        (|_| reply(200).body(r#"{"token":"a\nb"}"#), "not fit"),
        (|_| reply(200).html("<html><title>Log in to the network</title></html>"), "Log in to the network"),
        (|_| reply(404), "not there"),
    ];
    for (answer, words) in answers {
        let tokens = Server::start(answer).await;
        let realm = tokens.url("/token");
        let registry =
            Server::start(move |_| reply(401).header("www-authenticate", format!(r#"Bearer realm="{realm}""#))).await;
        let error = plain_client().resolve(&reference(&registry.host(), ":1")).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    let registry =
        Server::start(|_| reply(401).header("www-authenticate", r#"Bearer realm="file:///etc/passwd""#)).await;
    let error = plain_client().resolve(&reference(&registry.host(), ":1")).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
}
