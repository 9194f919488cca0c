use super::*;

const DIGEST: &str = "sha256:fb84dba4b7fd397166b42f181f0cb0b7e2ad7dec67886bc9889753d11fd6d3b4";

fn at(method: &str, target: &str) -> Result<Action, Refusal> {
    from(method, target, "127.0.0.1:15055")
}

fn from(method: &str, target: &str, host: &str) -> Result<Action, Refusal> {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    parse(&method.parse().unwrap(), path, query, Some(host))
}

fn asked(method: &str, target: &str) -> (Asked, Operation) {
    match at(method, target).unwrap() {
        Action::Registry(asked, operation) => (asked, operation),
        other => panic!("{target}: {other:?}"),
    }
}

fn tag(text: &str) -> Operation {
    Operation::ReadManifest(Reference::Tag(text.to_owned()))
}

/// The requests of the captured clients, each with what it means.
#[test]
fn what_real_clients_sent() {
    let digest: Digest = DIGEST.parse().unwrap();
    let by_digest = || Operation::ReadManifest(Reference::Digest(digest));
    // containerd 1.6.20 and 2.3.4.
    for (target, operation) in [
        ("/v2/library/nginx/manifests/1.25?ns=docker.io".to_owned(), tag("1.25")),
        (format!("/v2/library/nginx/manifests/{DIGEST}?ns=docker.io"), by_digest()),
        (format!("/v2/library/nginx/blobs/{DIGEST}?ns=docker.io"), Operation::ReadBlob(digest)),
    ] {
        let (asked, found) = asked("HEAD", &target);
        assert_eq!(found, operation, "{target}");
        assert_eq!((asked.name.as_deref(), asked.ns.as_deref()), (Some("library/nginx"), Some("docker.io")));
    }
    // dockerd 20.10.24, podman 4.3.1 and skopeo 1.9.3 ask for this first.
    assert_eq!(at("GET", "/v2/").unwrap(), Action::Ping);
    // dockerd 20.10.24.
    let (flat, _) = asked("HEAD", "/v2/library/nginx/manifests/1.25");
    assert_eq!(
        (flat.name.as_deref(), flat.ns, flat.host.as_deref()),
        (Some("library/nginx"), None, Some("127.0.0.1:15055"))
    );
    // podman and skopeo with a rewritten location.
    let (hosted, operation) = asked("GET", &format!("/v2/docker.io/library/nginx/manifests/{DIGEST}"));
    assert_eq!(hosted.hosted, Some(("docker.io".to_owned(), "library/nginx".to_owned())));
    assert_eq!(operation, by_digest());
}

#[test]
fn seven_layouts() {
    let (l1, _) = asked("GET", "/v2/a/b/manifests/1?ns=QUAY.io%3A443");
    assert_eq!(l1.ns.as_deref(), Some("quay.io"));
    assert_eq!(asked("GET", "/v2/a/manifests/1?ns=localhost%3A32000").0.ns.as_deref(), Some("localhost:32000"));
    let (l2, _) = asked("GET", "/v2/localhost_5001_/a/b/manifests/1");
    assert_eq!((l2.name, l2.hosted), (None, Some(("localhost:5001".to_owned(), "a/b".to_owned()))));
    // podman's spelling is a name's too, should no such host be known.
    let (l2, _) = asked("GET", "/v2/localhost_5001/a/b/manifests/1");
    assert_eq!(l2.hosted, Some(("localhost:5001".to_owned(), "a/b".to_owned())));
    assert_eq!(l2.name.as_deref(), Some("localhost_5001/a/b"));
    assert_eq!(asked("GET", "/v2/h.io:5001/a/tags/list").0.hosted, Some(("h.io:5001".to_owned(), "a".to_owned())));
    let (l4, _) = asked("GET", "/v2/quay/a/b/manifests/1?ns=quay.io");
    assert_eq!(l4.name.as_deref(), Some("quay/a/b"));
    let (l5, _) = asked("GET", "/some/prefix/v2/a/b/manifests/1?ns=ghcr.io");
    assert_eq!((l5.name.as_deref(), l5.base.as_str()), (Some("a/b"), "/some/prefix/v2/"));
    let (l5, _) = asked("GET", "/docker.io/v2/library/nginx/manifests/1");
    assert_eq!(l5.hosted, Some(("docker.io".to_owned(), "library/nginx".to_owned())));
    assert_eq!(at("GET", "/prefix/v2/").unwrap(), Action::Ping);
    let (l6, operation) = asked("HEAD", "/a/b/manifests/1?ns=ghcr.io");
    assert_eq!((l6.name.as_deref(), l6.ns.as_deref(), operation), (Some("a/b"), Some("ghcr.io"), tag("1")));
    // Without ns it is a path like any other, which a host's files may have.
    assert_eq!(at("GET", "/a/b/manifests/1").unwrap(), Action::Other);
    let Action::Registry(l7, _) = from("GET", "/v2/pause/manifests/3.10", "Registry.K8s.io:443").unwrap() else {
        panic!()
    };
    assert_eq!(l7.host.as_deref(), Some("registry.k8s.io"));
}

#[test]
fn names_may_have_the_words_of_the_api() {
    let (a, operation) = asked("GET", "/v2/a/manifests/b/manifests/latest");
    assert_eq!((a.name.as_deref(), operation), (Some("a/manifests/b"), tag("latest")));
    assert_eq!(asked("GET", "/v2/tags/list/tags/list").0.name.as_deref(), Some("tags/list"));
    assert_eq!(asked("GET", "/v2/v2/a/manifests/1").0.name.as_deref(), Some("v2/a"));
}

#[test]
fn uploads() {
    let (_, start) = asked("POST", "/v2/a/blobs/uploads/");
    assert_eq!(start, Operation::StartUpload { digest: None, algorithm: None, mount: None, from: None });
    let (_, mount) =
        asked("POST", &format!("/v2/a/blobs/uploads/?mount={}&from=quay.io/b", DIGEST.replace(':', "%3A")));
    let digest = DIGEST.parse().ok();
    assert_eq!(
        mount,
        Operation::StartUpload { digest: None, algorithm: None, mount: digest, from: Some("quay.io/b".to_owned()) }
    );
    assert_eq!(asked("PATCH", "/v2/a/blobs/uploads/id").1, Operation::PatchUpload("id".to_owned()));
    assert_eq!(asked("DELETE", "/v2/a/blobs/uploads/id").1, Operation::CancelUpload("id".to_owned()));
    assert_eq!(at("PUT", "/v2/a/blobs/uploads/id").unwrap_err().code, "DIGEST_INVALID");
}

#[test]
fn refused_loudly() {
    for (method, target, status, code) in [
        ("GET", "/v2/UP/manifests/1", 400, "NAME_INVALID"),
        ("GET", "/v2/a/../b/manifests/1", 400, "NAME_INVALID"),
        ("GET", "/v2/a/manifests/1?ns=not%20a%20host", 400, "NAME_INVALID"),
        ("GET", "/v2/a/manifests/sha256:00", 400, "DIGEST_INVALID"),
        ("GET", "/v2/a/manifests/.INVALID_MANIFEST_NAME", 404, "MANIFEST_UNKNOWN"),
        ("PUT", "/v2/a/manifests/.INVALID_MANIFEST_NAME", 400, "MANIFEST_INVALID"),
        ("GET", "/v2/a/blobs/sha256:zz", 400, "DIGEST_INVALID"),
        ("GET", "/v2/a/b", 404, "UNSUPPORTED"),
        ("GET", "/v2/a/tags/list?n=x", 400, "PAGINATION_NUMBER_INVALID"),
        ("TRACE", "/v2/a/manifests/1", 405, "UNSUPPORTED"),
        ("POST", "/v2/", 405, "UNSUPPORTED"),
        ("POST", "/", 405, "UNSUPPORTED"),
        ("GET", "/v2/a%00/manifests/1", 400, "NAME_INVALID"),
        ("GET", "/v2/%zz/manifests/1", 400, "NAME_INVALID"),
    ] {
        let refusal = at(method, target).unwrap_err();
        assert_eq!((refusal.status.as_u16(), refusal.code), (status, code), "{method} {target}");
    }
}

#[test]
fn routes_beside_the_registry() {
    let file = |host: &str, path: &str| Action::File { host: host.to_owned(), path: path.to_owned() };
    for (target, action) in [
        ("/", Action::Home),
        ("/token?service=naru&scope=repository:a:pull", Action::Token),
        ("/files/", Action::FileHosts),
        ("/files/dl.k8s.io/release/v1/kubeadm", file("dl.k8s.io", "release/v1/kubeadm")),
        ("/files/dl.k8s.io/a/", file("dl.k8s.io", "a/")),
        ("/files/dl.k8s.io", file("dl.k8s.io", "")),
        ("/files/H.io:443/a%20b", file("h.io", "a b")),
        ("/files/h.io/v2/a/manifests/1", file("h.io", "v2/a/manifests/1")),
        ("/setup/containerd", Action::Setup("containerd".to_owned())),
        ("/ca.crt", Action::Authority),
        ("/helm-v3.tar.gz", Action::Other),
    ] {
        assert_eq!(at("GET", target).unwrap(), action, "{target}");
    }
    assert_eq!(at("POST", "/token").unwrap(), Action::Token);
    assert_eq!(at("PUT", "/token").unwrap_err().detail["allow"], "GET, HEAD, POST");
    assert!(at("PUT", "/v2/app/blobs/uploads/x").unwrap_err().message.contains("`digest` is missing"));
}

proptest::proptest! {
    #[test]
    fn never_panics(
        method in "GET|HEAD|PUT|POST|PATCH|DELETE|FOO",
        path in "(/|v2|files|manifests|blobs|uploads|tags/list|referrers|%[0-9a-g]{0,2}|\\PC|[a-z0-9:._-]{1,8}){0,12}",
        query in "([a-z]{0,4}|ns|digest|n|=|&|%|\\PC){0,10}",
        host in proptest::option::of("\\PC{0,12}"),
    ) {
        let _ = parse(&method.parse().unwrap(), &path, Some(&query), host.as_deref());
    }
}
