use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use super::server::{Reply, Request, Server, nobody, reply, tunnel};
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

fn behind(proxy: &Server, site: &Site) -> Client {
    let surroundings = Surroundings {
        ca_file: Some(site.path("ca.pem")),
        https_proxy: Some(format!("http://user:secret@{}", proxy.host())),
        ..Surroundings::default()
    };
    Client::new(Upstreams::default(), &surroundings).unwrap()
}

#[tokio::test]
async fn https_goes_through_a_proxy_s_tunnel() {
    let site = Site::new();
    let server = site.serve("registry.example", false, answer).await;
    let proxy = tunnel(server.address, None).await;
    // The name is the proxy's to resolve, the certificate is ours to check.
    behind(&proxy, &site).resolve(&reference("registry.example", ":1")).await.unwrap();
    assert_eq!(proxy.asked(), ["CONNECT registry.example:443"]);
    assert_eq!(proxy.seen()[0].header("proxy-authorization"), Some("Basic dXNlcjpzZWNyZXQ="));
    assert!(server.seen().iter().all(|request| request.header("proxy-authorization").is_none()));
    let error = behind(&proxy, &site).resolve(&reference("other.example", ":1")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { reason: Unreachable::Certificate, .. }), "{error:?}");
}

const PAGE: &str = "content-type: text/html\r\n\r\n<html><title>Blocked</title></html>";

#[tokio::test]
async fn a_proxy_that_refuses_is_named() {
    let site = Site::new();
    let server = site.serve("registry.example", false, answer).await;
    let answers = [
        (format!("HTTP/1.1 407 X\r\n{PAGE}"), Unreachable::ProxyAuthorization, "USER:PASSWORD@", 1),
        (format!("HTTP/1.1 403 X\r\n{PAGE}"), Unreachable::Proxy, "allowed at the proxy", 2),
        // A web server in the proxy's place.
        (format!("HTTP/1.1 302 X\r\nlocation: http://blocked.example/\r\n{PAGE}"), Unreachable::Proxy, "proxy", 2),
    ];
    for (refusal, expected, hint, tries) in answers {
        let proxy = tunnel(server.address, Some(refusal.leak())).await;
        let error = behind(&proxy, &site).resolve(&reference("registry.example", ":1")).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { reason, .. } if reason == expected), "{error:?}");
        assert!(error.to_string().contains("registry.example") && !error.to_string().contains("secret"), "{error}");
        assert!(error.hint().unwrap().contains(hint), "{:?}", error.hint());
        assert_eq!(proxy.seen().len(), tries, "{error}");
    }
    // 200 to the CONNECT, and a page where the host's hello should be.
    let proxy = tunnel(server.address, Some("HTTP/1.1 200 OK\r\n\r\n<html><title>Blocked</title></html>")).await;
    let error = behind(&proxy, &site).resolve(&reference("registry.example", ":1")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }) && error.hint().unwrap().contains("proxy"), "{error:?}");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn where_nobody_listens_is_said_soon() {
    let error = plain_client().resolve(&reference(&nobody().await, ":1")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { reason: Unreachable::Refused, .. }), "{error:?}");
    assert!(error.is_transient() && error.is_refusal() && error.hint().unwrap().contains("port"), "{error}");
    // Which of the two refused is not known, and "set HTTPS_PROXY" would be no help.
    let https_proxy = Some(format!("http://user:secret@{}", nobody().await));
    let surroundings = Surroundings { https_proxy, ..Surroundings::default() };
    let client = Client::new(Upstreams::default(), &surroundings).unwrap();
    let error = client.resolve(&reference("registry.example", ":1")).await.unwrap_err();
    assert!(error.is_refusal() && error.to_string().contains("or at the proxy"), "{error}");
    assert!(error.hint().unwrap().contains("HTTPS_PROXY"), "{error}");
}

#[tokio::test]
async fn a_silent_server_on_this_machine_is_asked_in_the_clear() {
    // It reads lines, and a TLS hello holds none that ends.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.ok()?);
                }
                let body = manifest();
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    artifact::media_type::OCI_MANIFEST,
                    body.len()
                );
                stream.write_all(head.as_bytes()).await.ok()?;
                if request.starts_with(b"GET") {
                    stream.write_all(body.as_ref()).await.ok()?;
                }
                stream.shutdown().await.ok()
            });
        }
    });
    plain_client().resolve(&reference(&host, ":1")).await.unwrap();
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
