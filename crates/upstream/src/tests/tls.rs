use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use super::server::{Reply, Request, Server, reply};
use super::{client, manifest, plain_client, reference, url};
use crate::{Client, Error, Surroundings, Unreachable, Upstream, Upstreams};

struct Site {
    folder: tempfile::TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Site {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
        Self { folder, ca }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A certificate for this name, signed by the CA, and its key: as PEM files too.
    fn leaf(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.ca).unwrap();
        std::fs::write(self.path("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(self.path("key.pem"), key.serialize_pem()).unwrap();
        (certificate, key)
    }

    async fn serve(&self, name: &str, wants_client: bool, answer: fn(&Request) -> Reply) -> Server {
        let (certificate, key) = self.leaf(name);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let builder =
            if wants_client { builder.with_client_cert_verifier(verifier) } else { builder.with_no_client_auth() };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        Server::listen(Some(TlsAcceptor::from(Arc::new(config))), answer).await
    }
}

fn answer(_: &Request) -> Reply {
    reply(200).header("content-type", artifact::media_type::OCI_MANIFEST).body(manifest())
}

fn localhost(server: &Server) -> String {
    format!("localhost:{}", server.address.port())
}

fn with_ca(path: &Path) -> Client {
    let surroundings = Surroundings { ca_file: Some(path.to_owned()), ..Surroundings::default() };
    Client::new(Upstreams::default(), &surroundings).unwrap()
}

#[tokio::test]
async fn an_unknown_issuer_is_named_and_can_be_trusted() {
    let site = Site::new();
    let server = site.serve("localhost", false, answer).await;
    let host = localhost(&server);
    let error = plain_client().resolve(&reference(&host, ":1")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { reason: Unreachable::UnknownIssuer, .. }), "{error:?}");
    assert!(error.hint().unwrap().contains(&format!("upstreams.{host}.ca")), "{error}");
    assert!(!error.is_transient() && server.seen().is_empty());
    let ca = Some(site.path("ca.pem"));
    client([(host.clone(), Upstream { ca, ..Upstream::default() })]).resolve(&reference(&host, ":1")).await.unwrap();
    with_ca(&site.path("ca.pem")).resolve(&reference(&host, ":1")).await.unwrap();
    client([(host.clone(), Upstream { insecure: true, ..Upstream::default() })])
        .resolve(&reference(&host, ":1"))
        .await
        .unwrap();
}

#[tokio::test]
async fn another_name_is_refused() {
    let site = Site::new();
    let server = site.serve("elsewhere.example", false, answer).await;
    let host = localhost(&server);
    let error = with_ca(&site.path("ca.pem")).resolve(&reference(&host, ":1")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { reason: Unreachable::Certificate, .. }), "{error:?}");
}

#[tokio::test]
async fn client_certificates_are_shown() {
    let site = Site::new();
    let server = site.serve("localhost", true, answer).await;
    let host = localhost(&server);
    let ca = Some(site.path("ca.pem"));
    let without = Upstream { ca, ..Upstream::default() };
    assert!(client([(host.clone(), without.clone())]).resolve(&reference(&host, ":1")).await.is_err());
    let (cert, key) = (Some(site.path("cert.pem")), Some(site.path("key.pem")));
    let with = Upstream { cert, key, ..without };
    client([(host.clone(), with)]).resolve(&reference(&host, ":1")).await.unwrap();
}

#[tokio::test]
async fn https_is_not_left_for_plain_http() {
    let site = Site::new();
    let server = site.serve("localhost", false, |_| reply(302).header("location", "http://files.example/x")).await;
    let error =
        with_ca(&site.path("ca.pem")).head(&url(&format!("https://{}/x", localhost(&server)))).await.unwrap_err();
    assert!(matches!(&error, Error::Redirect { to, .. } if to == "http://files.example/x"), "{error}");
}

#[tokio::test]
async fn passwords_are_not_asked_for_over_plain_http() {
    let site = Site::new();
    let server = site
        .serve("localhost", false, |_| {
            reply(401).header("www-authenticate", r#"Bearer realm="http://tokens.example/token""#)
        })
        .await;
    let error = with_ca(&site.path("ca.pem")).resolve(&reference(&localhost(&server), ":1")).await.unwrap_err();
    assert!(error.to_string().contains("is plain HTTP"), "{error}");
}

#[tokio::test]
async fn files_that_hold_no_certificate_are_named() {
    let site = Site::new();
    std::fs::write(site.path("empty.pem"), "nothing").unwrap();
    for name in ["empty.pem", "absent.pem"] {
        let surroundings = Surroundings { ca_file: Some(site.path(name)), ..Surroundings::default() };
        let error = Client::new(Upstreams::default(), &surroundings).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        let upstream = Upstream { ca: Some(site.path(name)), ..Upstream::default() };
        let upstreams = Upstreams([("a.example".to_owned(), upstream)].into());
        let error = Client::new(upstreams, &Surroundings::default()).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[tokio::test]
async fn what_is_not_loopback_is_not_tried_in_the_clear() {
    let client = plain_client();
    let transport = &client.inner.transport;
    for (text, may) in [
        ("https://127.0.0.1:5000/", true),
        ("https://[::1]/", true),
        ("https://localhost/", true),
        ("https://10.0.0.1/", false),
        ("https://registry.example/", false),
        ("https://localhost.example/", false),
    ] {
        assert_eq!(transport.may_be_plain(&url(text)), may, "{text}");
    }
}
