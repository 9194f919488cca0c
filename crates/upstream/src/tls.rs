//! Whom we believe: the system's CAs (or the bundle its user names), and an upstream's own beside them.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::{Error, Result, Surroundings, Upstream};

/// Where distributions keep their bundle; the first that has certificates is taken.
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/var/lib/ca-certificates/ca-bundle.pem",
];

/// The CAs that every upstream is checked against.
pub(crate) fn roots(surroundings: &Surroundings) -> Result<RootCertStore> {
    if let Some(file) = &surroundings.ca_file {
        let mut roots = RootCertStore::empty();
        add(&mut roots, file)?;
        return Ok(roots);
    }
    for bundle in BUNDLES {
        let mut roots = RootCertStore::empty();
        // A bundle that is broken is as good as none: the next one, or our own, serves.
        if add(&mut roots, Path::new(bundle)).is_ok() {
            return Ok(roots);
        }
    }
    Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })
}

/// TLS for one upstream.
pub(crate) fn config(roots: &RootCertStore, upstream: &Upstream) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Config { what: "TLS".to_owned(), why: error.to_string() })?;
    let builder = if upstream.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
    } else {
        let mut roots = roots.clone();
        if let Some(file) = &upstream.ca {
            add(&mut roots, file)?;
        }
        builder.with_root_certificates(roots)
    };
    let mut config = match (&upstream.cert, &upstream.key) {
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;
            builder.with_client_auth_cert(chain, key_der).map_err(|error| unusable(cert, &error))?
        }
        _ => builder.with_no_client_auth(),
    };
    // Layers come faster over several HTTP/1.1 connections than over the windows of one HTTP/2 connection.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn add(roots: &mut RootCertStore, file: &Path) -> Result<()> {
    // Bundles in the field hold a few certificates that webpki does not read; they are not needed.
    let (added, _) = roots.add_parsable_certificates(certificates(file)?);
    if added == 0 { Err(unusable(file, &"no CA certificate in it can be used")) } else { Ok(()) }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = std::fs::read(file).map_err(|error| unusable(file, &error))?;
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&bytes).collect::<Result<_, _>>().map_err(|error| unusable(file, &error))?;
    if chain.is_empty() { Err(unusable(file, &"no certificate in it")) } else { Ok(chain) }
}

fn unusable(file: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::Config { what: file.display().to_string(), why: why.to_string() }
}

/// `insecure: true`: any certificate will do. The handshake's own signature is still checked.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
