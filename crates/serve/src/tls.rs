//! TLS: the site's CA and the server's certificate, made here or given.
//!
//! The CA and the key of the server's certificate are made at the first start and kept in the catalog, so that a
//! restart, a renewal and a second replica change neither what clients trust nor what they may have pinned.
//! Certificates are replaced while the server runs; connections that are open keep theirs.

mod authority;
pub mod keys;
mod names;

pub(crate) use names::{names, outside};

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use artifact::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use store::Store;

use crate::{Config, Error, Result};
use authority::Authority;

/// Seconds of a day.
const DAY: i64 = 86_400;
/// How far a clock in a closed network may be off, either way, without anybody refusing a certificate: a year, and some.
const WRONG: i64 = 400 * DAY;

/// The certificate that is shown now, and where it came from.
pub(crate) struct Certificates {
    current: ArcSwap<Shown>,
    source: Mutex<Source>,
}

struct Shown {
    key: Arc<CertifiedKey>,
    /// SHA-256 of the CA's certificate, or of the one that was given.
    fingerprint: Digest,
    /// SHA-256 of the public key, as `curl --pinnedpubkey` wants it.
    pin: Digest,
    authority_pem: Option<String>,
    /// Outside of these times another is made, in seconds since 1970: it grows old, or a clock that was far ahead was set
    /// right.
    stays: Option<Range<i64>>,
    /// From when until when clients take it, in seconds since 1970; unknown of one that was given.
    validity: Option<(i64, i64)>,
}

enum Source {
    Site { authority: Box<Authority>, names: Vec<String> },
    Given { cert: PathBuf, key: PathBuf, seen: Option<(SystemTime, SystemTime)> },
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys stay out of logs.
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().key))
    }
}

impl Certificates {
    /// The given certificate, or one by the site's CA for these names. `now` is in seconds since 1970.
    pub(crate) async fn open(store: &Store, config: &Config, names: Vec<String>, now: i64) -> Result<Self> {
        let mut source = Self::source(store, config, names, now).await?;
        let current = ArcSwap::from_pointee(make(&mut source, now)?);
        Ok(Self { current, source: Mutex::new(source) })
    }

    /// Takes other files or names, as a reload brings them.
    pub(crate) async fn reload(&self, store: &Store, config: &Config, names: Vec<String>, now: i64) -> Result<()> {
        let mut source = Self::source(store, config, names, now).await?;
        self.current.store(Arc::new(make(&mut source, now)?));
        *self.lock() = source;
        Ok(())
    }

    /// Reads the site's CA again, where the certificate is by it: it may have been exchanged.
    pub(crate) async fn reload_authority(&self, store: &Store, now: i64) -> Result<()> {
        let names = match &*self.lock() {
            Source::Site { names, .. } => names.clone(),
            Source::Given { .. } => return Ok(()),
        };
        let mut source = Source::Site { authority: Box::new(Authority::open(store, now).await?), names };
        self.current.store(Arc::new(make(&mut source, now)?));
        *self.lock() = source;
        Ok(())
    }

    async fn source(store: &Store, config: &Config, names: Vec<String>, now: i64) -> Result<Source> {
        match (&config.cert, &config.key) {
            (Some(cert), Some(key)) => Ok(Source::Given { cert: cert.clone(), key: key.clone(), seen: None }),
            (None, None) => Ok(Source::Site { authority: Box::new(Authority::open(store, now).await?), names }),
            (Some(path), None) | (None, Some(path)) => Err(Error::Certificate {
                path: path.clone(),
                why: "a certificate and its key are given together, or neither".to_owned(),
            }),
        }
    }

    /// Makes another certificate when this one grows old, and reads given files again when they changed. What cannot
    /// be used is said, and the one before stays.
    pub(crate) fn refresh(&self, now: i64) {
        let mut source = self.lock();
        let due = match &*source {
            Source::Site { .. } => self.current.load().stays.as_ref().is_some_and(|times| !times.contains(&now)),
            Source::Given { cert, key, seen } => times(cert, key).is_some_and(|now| Some(now) != *seen),
        };
        if !due {
            return;
        }
        match make(&mut source, now) {
            Ok(shown) => {
                self.current.store(Arc::new(shown));
                tracing::info!("the server's certificate was replaced");
            }
            Err(error) => {
                if let Source::Given { cert, key, seen } = &mut *source {
                    *seen = times(cert, key); // Said once for each change.
                }
                tracing::error!("the server's certificate could not be replaced: {error}");
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Source> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `AB:CD:…`, as `openssl x509 -fingerprint -sha256` prints it.
    pub(crate) fn fingerprint(&self) -> String {
        let bytes = self.current.load().fingerprint;
        bytes.as_bytes().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
    }

    /// `sha256//…`, for `curl --pinnedpubkey`.
    pub(crate) fn pin(&self) -> String {
        format!("sha256//{}", STANDARD.encode(self.current.load().pin.as_bytes()))
    }

    /// From when until when clients take the site's certificate, in seconds since 1970.
    pub(crate) fn validity(&self) -> Option<(i64, i64)> {
        self.current.load().validity
    }

    /// The site's CA; none when the certificate was given.
    pub(crate) fn authority_pem(&self) -> Option<String> {
        self.current.load().authority_pem.clone()
    }

    /// What rustls is to do. HTTP/1.1 only: the runtimes pull over that, and pay for more. A client may show a certificate
    /// by the CA in `clients`; what it is good for, the accounts say.
    pub(crate) fn server_config(self: &Arc<Self>, clients: Option<&Path>) -> Result<ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let resolver = Arc::clone(self);
        let verifier = match clients {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(path) => {
                let bad = |why: String| Error::Certificate { path: path.to_owned(), why };
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))? {
                    let certificate = certificate.map_err(|error| bad(error.to_string()))?;
                    roots.add(certificate).map_err(|error| bad(error.to_string()))?;
                }
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| bad(error.to_string()))?
            }
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn make(source: &mut Source, now: i64) -> Result<Shown> {
    match source {
        Source::Site { authority, names } => {
            let (leaf, from, until) = authority.leaf(names, now)?;
            let key = PrivateKeyDer::try_from(authority.leaf_key.serialize_der())
                .map_err(|why| Error::Certificate { path: PathBuf::from("site/ca"), why: why.to_owned() })?;
            Ok(Shown {
                key: Arc::new(certified(vec![leaf, authority.certificate.clone()], &key)?),
                fingerprint: Digest::of(&authority.certificate),
                pin: Digest::of(&authority.leaf_key.subject_public_key_info()),
                authority_pem: Some(authority.pem.clone()),
                // Early enough that it is still good for a client that is as far ahead.
                stays: Some(from..now + 30 * DAY),
                validity: authority.validity.map(|(begin, end)| (begin.max(from), end.min(until))),
            })
        }
        Source::Given { cert, key, seen } => {
            let times = times(cert, key);
            let bad = |path: &Path, why: String| Error::Certificate { path: path.to_owned(), why };
            let chain = CertificateDer::pem_file_iter(&*cert)
                .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
                .map_err(|error| bad(cert, error.to_string()))?;
            let first = chain.first().ok_or_else(|| bad(cert, "there is no certificate in it".to_owned()))?;
            let fingerprint = Digest::of(first);
            let private = PrivateKeyDer::from_pem_file(&*key).map_err(|error| bad(key, error.to_string()))?;
            let pair = KeyPair::try_from(private.secret_der()).map_err(|error| bad(key, error.to_string()))?;
            let pin = Digest::of(&pair.subject_public_key_info());
            let certified = certified(chain, &private).map_err(|error| bad(cert, error.to_string()))?;
            certified.keys_match().map_err(|_| bad(key, format!("not the key of {}", cert.display())))?;
            *seen = times;
            Ok(Shown { key: Arc::new(certified), fingerprint, pin, authority_pem: None, stays: None, validity: None })
        }
    }
}

fn certified(chain: Vec<CertificateDer<'static>>, key: &PrivateKeyDer<'_>) -> Result<CertifiedKey> {
    let key = aws_lc_rs::sign::any_supported_type(key)?;
    Ok(CertifiedKey::new(chain, key))
}

/// Polled rather than watched: that survives Kubernetes' symlinks and NFS.
fn times(cert: &Path, key: &Path) -> Option<(SystemTime, SystemTime)> {
    let modified = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified()).ok();
    modified(cert).zip(modified(key))
}

#[cfg(test)]
mod tests;
