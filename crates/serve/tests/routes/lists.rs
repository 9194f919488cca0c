use artifact::{Repository, media_type};
use bytes::Bytes;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Site, header, refusal};

async fn read(site: &Site, path: &str) -> (Value, String) {
    let answer = site.get(path).await;
    assert_eq!(answer.status(), 200, "{path}");
    let link = header(&answer, "link").to_owned();
    (serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap(), link)
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_by_pages() {
    let site = Site::start().await;
    for tag in ["b", "a", "C", "10", "9"] {
        site.image("docker.io", "library/app", tag, "same").await;
    }
    let (all, link) = read(&site, "/v2/library/app/tags/list?ns=docker.io").await;
    assert_eq!(all, json!({ "name": "library/app", "tags": ["10", "9", "C", "a", "b"] }));
    assert!(link.is_empty());
    let mut path = "/v2/docker.io/library/app/tags/list?n=2".to_owned();
    let mut pages = Vec::new();
    loop {
        let (page, link) = read(&site, &path).await;
        pages.push(page["tags"].clone());
        let Some(next) = link.strip_prefix('<').and_then(|rest| rest.strip_suffix(">; rel=\"next\"")) else { break };
        path = next.to_owned();
    }
    assert_eq!(pages, [json!(["10", "9"]), json!(["C", "a"]), json!(["b"])]);
    assert_eq!(read(&site, "/v2/library/app/tags/list?n=0").await.0["tags"], json!([]));
    assert_eq!(read(&site, "/v2/library/app/tags/list?last=a").await.0["tags"], json!(["b"]));
    assert_eq!(refusal(site.get("/v2/nothing/tags/list").await).await.1, "NAME_UNKNOWN");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_by_pages() {
    let site = Site::start().await;
    // A local name may begin with a host: it was pushed before there was anything of that host.
    for (host, name) in
        [("", "own"), ("", "quay.io/aa"), ("docker.io", "library/app"), ("quay.io", "a"), ("quay.io", "b")]
    {
        site.image(host, name, "1", "x").await;
    }
    let names = ["docker.io/library/app", "own", "quay.io/a", "quay.io/aa", "quay.io/b"];
    assert_eq!(read(&site, "/v2/_catalog").await.0["repositories"], json!(names));
    let mut path = "/v2/_catalog?n=1".to_owned();
    let mut found = Vec::new();
    loop {
        let (page, link) = read(&site, &path).await;
        found.extend(page["repositories"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()));
        let Some(next) = link.strip_prefix('<').and_then(|rest| rest.strip_suffix(">; rel=\"next\"")) else { break };
        path = next.to_owned();
    }
    assert_eq!(found, names);
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_of_a_subject() {
    let site = Site::start().await;
    let image = site.image("docker.io", "library/app", "1", "layer").await;
    let repository = Repository::image("docker.io", "library/app");
    let mut digests = Vec::new();
    for kind in ["application/vnd.sbom", "application/vnd.signature"] {
        let referrer = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "artifactType": kind, "layers": [],
            "subject": { "mediaType": media_type::OCI_MANIFEST, "digest": image.digest, "size": 1 },
            "annotations": { "of": kind },
        });
        digests.push(
            site.manifest(&repository, Bytes::from(referrer.to_string()), None, std::iter::empty().collect()).await,
        );
    }
    for path in [
        format!("/v2/library/app/referrers/{}?ns=docker.io", image.digest),
        format!("/v2/docker.io/library/app/referrers/{}", image.digest),
        format!("/v2/library/app/referrers/{}", image.digest),
    ] {
        let answer = site.get(&path).await;
        assert_eq!(header(&answer, "content-type"), media_type::OCI_INDEX);
        let index: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 2, "{path}");
    }
    let filtered =
        site.get(&format!("/v2/library/app/referrers/{}?artifactType=application%2Fvnd.sbom", image.digest)).await;
    assert_eq!(header(&filtered, "oci-filters-applied"), "artifactType");
    let index: Value = serde_json::from_slice(&filtered.bytes().await.unwrap()).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(index["manifests"][0]["digest"], json!(digests[0]));
    assert_eq!(index["manifests"][0]["artifactType"], "application/vnd.sbom");
    assert_eq!(index["manifests"][0]["annotations"]["of"], "application/vnd.sbom");
    let (none, _) = read(&site, &format!("/v2/library/app/referrers/{}", artifact::Digest::of(b"no"))).await;
    assert_eq!(none, json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [] }));
}

/// The spec lets a referrer be pushed before its subject, and lists it.
#[tokio::test(flavor = "multi_thread")]
async fn referrers_of_a_subject_that_is_not_here_yet() {
    let site = Site::start().await;
    let repository = artifact::Repository::image("", "sig/app");
    site.blob(&repository, b"{}").await;
    let subject = artifact::Digest::of(b"to come");
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": artifact::media_type::OCI_MANIFEST, "artifactType": "a/sig",
        "config": { "mediaType": artifact::media_type::OCI_EMPTY, "digest": artifact::Digest::of(b"{}"), "size": 2 },
        "layers": [],
        "subject": { "mediaType": artifact::media_type::OCI_MANIFEST, "digest": subject, "size": 7 },
    })
    .to_string();
    let path = format!("/v2/sig/app/manifests/{}", artifact::Digest::of(manifest.as_bytes()));
    let put = site.admin(Method::PUT, &path).header("content-type", artifact::media_type::OCI_MANIFEST).body(manifest);
    assert_eq!(put.send().await.unwrap().status(), 201);
    let list = site.get(&format!("/v2/sig/app/referrers/{subject}")).await.bytes().await.unwrap();
    let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
    assert_eq!(list["manifests"].as_array().unwrap().len(), 1, "{list}");
    let list = site.get(&format!("/v2/nobody/app/referrers/{subject}")).await.bytes().await.unwrap();
    let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
    assert_eq!(list["manifests"].as_array().unwrap().len(), 0, "{list}");
}
