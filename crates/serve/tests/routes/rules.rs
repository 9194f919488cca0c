//! The rules of name resolution for what else names a repository: mount's `from`, and referrers.

use std::collections::HashSet;

use artifact::{Digest, Repository, media_type};
use bytes::Bytes;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use serve::accounts::{self, Scope};
use serve::{Anonymous, Config};

use crate::support::{Site, on_loopback};

/// The hosts that have `library/app` here; the first is this site's own.
const HOSTS: [&str; 4] = ["", "docker.io", "quay.io", "localhost:5001"];

/// Who is meant by a name: a query to add, the name itself, the `Host`, and the hosts of which something answers.
const MEANT: [(&str, &str, Option<&str>, &[&str]); 15] = [
    // Rule 1.
    ("ns=docker.io", "library/app", None, &["docker.io"]),
    ("ns=index.docker.io", "library/app", None, &["docker.io"]),
    ("ns=quay.io%3A443", "library/app", None, &["quay.io"]),
    ("ns=quay.io", "quay.io/library/app", None, &["quay.io"]),
    ("ns=quay.io", "library/app", Some("docker.io"), &["quay.io"]),
    // Rule 2.
    ("", "library/app", Some("quay.io"), &["quay.io"]),
    ("", "library/app", Some("registry-1.docker.io"), &["docker.io"]),
    // Rule 3.
    ("", "docker.io/app", None, &["docker.io"]),
    ("", "quay.io/library/app", None, &["quay.io"]),
    ("", "localhost_5001_/library/app", None, &["localhost:5001"]),
    // Rule 4: a digest is one thing wherever it is.
    ("", "library/app", None, &HOSTS),
    // A rule that applies and misses does not give way to the next.
    ("ns=ghcr.io", "library/app", None, &[]),
    ("ns=quay.io", "library/other", None, &[]),
    ("", "quay.io/other", None, &[]),
    ("", "other", Some("quay.io"), &[]),
];

fn at(request: RequestBuilder, host: Option<&str>) -> RequestBuilder {
    match host {
        Some(host) => request.header("host", host),
        None => request,
    }
}

/// Whether a blob can be had by a mount: 201, or 202 for an upload that begins.
async fn mounts(request: RequestBuilder) -> bool {
    let status = request.send().await.unwrap().status().as_u16();
    assert!([201, 202].contains(&status), "{status}");
    status == 201
}

#[tokio::test(flavor = "multi_thread")]
async fn from_is_found_by_the_rules() {
    let site = Site::start().await;
    let mut layers = Vec::new();
    for host in HOSTS {
        layers.push((host, site.image(host, "library/app", "1", &format!("of {host:?}")).await.layer));
    }
    for (number, (ns, from, host, expected)) in MEANT.into_iter().enumerate() {
        for (of, layer) in &layers {
            // A new repository each time: what was mounted once is there.
            let path = format!("/v2/mine/into-{number}/blobs/uploads/?mount={layer}&from={from}&{ns}");
            let is_meant = mounts(at(site.admin(Method::POST, &path), host)).await;
            assert_eq!(is_meant, expected.contains(of), "a layer of {of:?}: ns {ns:?}, from {from}, Host {host:?}");
        }
    }
}

/// A referrer in each repository to the same subject: which of them is listed tells which repository was meant.
#[tokio::test(flavor = "multi_thread")]
async fn referrers_are_found_by_the_rules() {
    let site = Site::start().await;
    let subject = the_same_everywhere(&site, &HOSTS).await;
    for (ns, name, host, expected) in MEANT {
        let path = format!("/v2/{name}/referrers/{subject}?{ns}");
        let found = listed(at(site.request(Method::GET, &path), host)).await;
        // Who has the same subject at several places is sent where the order says, as for the subject itself.
        let expected = expected.first().copied();
        assert_eq!(found, expected.map(|host| vec![host.to_owned()]).unwrap_or_default(), "{name} {ns:?} {host:?}");
    }
}

/// The same image at each host, and there a referrer to it that says which.
async fn the_same_everywhere(site: &Site, hosts: &[&str]) -> Digest {
    let mut subject = None;
    for host in hosts {
        let image = site.image(host, "library/app", "1", "the same").await;
        subject = Some(image.digest);
        let referrer = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "artifactType": "a/sbom", "layers": [],
            "subject": { "mediaType": media_type::OCI_MANIFEST, "digest": image.digest, "size": 1 },
            "annotations": { "host": host },
        });
        let repository = Repository::image(*host, "library/app");
        site.manifest(&repository, Bytes::from(referrer.to_string()), None, HashSet::new()).await;
    }
    subject.unwrap()
}

async fn listed(request: RequestBuilder) -> Vec<String> {
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let index: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    let hosts = index["manifests"].as_array().unwrap().iter().map(|one| &one["annotations"]["host"]);
    hosts.map(|host| host.as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_read_is_neither_mounted_nor_listed() {
    let site = Site::with(Config { anonymous: Anonymous::All(false), ..on_loopback() }).await;
    let subject = the_same_everywhere(&site, &HOSTS).await;
    let secret = site.image("docker.io", "library/app", "2", "a secret").await.layer;
    let open = site.image("quay.io", "library/app", "2", "no secret").await.layer;
    let scopes: Vec<Scope> = ["read:quay.io/**", "all:mine/**"].map(|scope| scope.parse().unwrap()).into();
    let word = accounts::add_token(&site.store, "some", &scopes, None).await.unwrap();
    site.server.reload_secrets().await.unwrap();
    let ask = |method: Method, path: &str| site.request(method, path).basic_auth("some", Some(&word));
    for (number, (ns, from)) in
        [("", "library/app"), ("", "docker.io/library/app"), ("ns=docker.io", "library/app")].into_iter().enumerate()
    {
        // With `ns` it is a push to that host's repository, which is not this one's to write.
        let target = if ns.is_empty() { format!("mine/{number}") } else { "mine/by-ns".to_owned() };
        let path = format!("/v2/{target}/blobs/uploads/?mount={secret}&from={from}&{ns}");
        let answer = ask(Method::POST, &path).send().await.unwrap();
        assert_ne!(answer.status(), 201, "{from} {ns}");
    }
    assert!(mounts(ask(Method::POST, &format!("/v2/mine/app/blobs/uploads/?mount={open}&from=library/app"))).await);
    // What the order would prefer takes no part where it may not be read.
    let found = listed(ask(Method::GET, &format!("/v2/library/app/referrers/{subject}"))).await;
    assert_eq!(found, ["quay.io"]);
    for path in [
        format!("/v2/docker.io/library/app/referrers/{subject}"),
        format!("/v2/library/app/referrers/{subject}?ns=docker.io"),
    ] {
        assert_eq!(ask(Method::GET, &path).send().await.unwrap().status(), 404, "{path}");
    }
}
