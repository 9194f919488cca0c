//! Accounts that are known by a client's certificate.

use artifact::Digest;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use reqwest::{Certificate, Client, Identity};
use serve::accounts::{self, Proof, Scope};
use serve::{Config, Error};
use store::AccountKind;

use crate::support::{Site, on_loopback};

/// A CA, and its certificate as PEM.
fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

/// A client's certificate and key, PEM.
fn client(by: &Issuer<'static, KeyPair>, name: &str) -> (String, String) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, by).unwrap().pem(), key.serialize_pem())
}

fn asking(site: &Site, shown: Option<&(String, String)>) -> Client {
    let ca = Certificate::from_pem(site.server.authority_pem().unwrap().as_bytes()).unwrap();
    let mut client = Client::builder().no_proxy().tls_certs_only([ca]);
    if let Some((certificate, key)) = shown {
        client = client.identity(Identity::from_pem(format!("{certificate}{key}").as_bytes()).unwrap());
    }
    client.build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_known_by_its_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, pem) = authority("clients");
    let path = folder.path().join("clients.pem");
    std::fs::write(&path, pem).unwrap();
    let site = Site::with(Config { anonymous: false.into(), client_ca: Some(path.clone()), ..on_loopback() }).await;
    site.image("", "team/app", "1", "x").await;
    let node = client(&ours, "node");
    let stranger = client(&ours, "node");
    let foreign = client(&authority("others").0, "node");
    let digest = accounts::fingerprint(&node.0).unwrap();
    let scopes: Vec<Scope> = vec!["read:team/*".parse().unwrap()];
    accounts::add_user(&site.store, "node", &Proof::Certificate(digest), &scopes, None).await.unwrap();
    site.server.reload_secrets().await.unwrap();
    let url = format!("https://localhost:{}/v2/team/app/manifests/1", site.server.address().port());
    let ask = async |shown: Option<&(String, String)>| {
        asking(&site, shown).get(&url).send().await.map(|answer| answer.status().as_u16())
    };
    for _ in 0..2 {
        assert_eq!(ask(Some(&node)).await.unwrap(), 200);
        assert_eq!(ask(None).await.unwrap(), 401);
        assert_eq!(ask(Some(&stranger)).await.unwrap(), 401, "by the same CA, and nobody's");
    }
    assert!(ask(Some(&foreign)).await.is_err(), "by another CA there is no connection");
    // A password that is sent too stands above it.
    let wrong = asking(&site, Some(&node)).get(&url).basic_auth("node", Some("")).send().await.unwrap();
    assert_eq!(wrong.status(), 401);
    // A certificate that takes its place; the one before is nobody's then.
    let next = accounts::fingerprint(&stranger.0).unwrap();
    accounts::set_proof(&site.store, "node", &Proof::Certificate(next)).await.unwrap();
    site.server.reload_secrets().await.unwrap();
    assert_eq!((ask(Some(&node)).await.unwrap(), ask(Some(&stranger)).await.unwrap()), (401, 200));
    // One certificate says one name.
    let same = Proof::Certificate(next);
    let error = accounts::add_user(&site.store, "twin", &same, &scopes, None).await.unwrap_err();
    assert!(matches!(&error, Error::CertificateTaken { name, .. } if name == "node"), "{error}");
    accounts::add_user(&site.store, "twin", &Proof::Certificate(digest), &scopes, None).await.unwrap();
    assert!(matches!(accounts::set_proof(&site.store, "twin", &same).await, Err(Error::CertificateTaken { .. })));
    accounts::set_proof(&site.store, "node", &same).await.unwrap();
    accounts::remove(&site.store, AccountKind::User, "node").await.unwrap();
    site.server.reload_secrets().await.unwrap();
    assert_eq!(ask(Some(&stranger)).await.unwrap(), 401);
    assert_ne!(digest, Digest::of(node.0.as_bytes()), "of the certificate, not of its text");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_certificates_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = store::Store::open(folder.path()).await.unwrap();
    let path = folder.path().join("clients.pem");
    for text in [None, Some("nothing"), Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")] {
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let config = Config { client_ca: Some(path.clone()), ..on_loopback() };
        let refused = serve::Server::bind(store.clone(), config).await;
        assert!(matches!(refused, Err(Error::Certificate { path: named, .. }) if named == path), "{text:?}");
    }
}
