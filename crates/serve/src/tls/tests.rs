//! Certificates under clocks that are wrong, and that are set right.

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls_pki_types::{ServerName, UnixTime};

use super::*;

const NOW: i64 = 1_800_000_000;

async fn at(store: &Store, now: i64) -> Certificates {
    Certificates::open(store, &Config::default(), vec!["localhost".to_owned()], now).await.unwrap()
}

/// Whether a client whose clock says `now` takes what is shown.
fn is_taken(certificates: &Certificates, now: i64) -> bool {
    let shown = certificates.current.load();
    let [leaf, authority] = shown.key.cert.as_slice() else { panic!("a leaf and its CA") };
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).unwrap();
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), aws_lc_rs::default_provider().into());
    let name = ServerName::try_from("localhost").unwrap();
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.try_into().unwrap()));
    let is_taken = verifier.build().unwrap().verify_server_cert(leaf, &[], &name, &[], time).is_ok();
    let (from, until) = certificates.validity().unwrap();
    // The CA's own dates are looked at by OpenSSL and Go, and not by webpki.
    is_taken && (from..until).contains(&now)
}

fn leaf(certificates: &Certificates) -> CertificateDer<'static> {
    certificates.current.load().key.cert[0].clone()
}

#[tokio::test]
async fn a_clock_that_is_a_year_off_at_first_start() {
    for off in [-365 * DAY, 365 * DAY] {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let certificates = at(&store, NOW + off).await;
        assert!(is_taken(&certificates, NOW + off), "by clients that are as wrong, {off}");
        assert!(is_taken(&certificates, NOW), "by clients that are right, {off}");
        // Set right while it runs, and after a restart.
        certificates.refresh(NOW);
        assert!(is_taken(&certificates, NOW));
        assert!(is_taken(&at(&store, NOW).await, NOW));
        assert!(is_taken(&at(&store, NOW + off).await, NOW), "wrong again");
    }
}

#[tokio::test]
async fn a_leaf_renews_before_its_end_and_its_key_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let certificates = at(&store, NOW).await;
    let (first, pin) = (leaf(&certificates), certificates.pin());
    certificates.refresh(NOW + 334 * DAY);
    assert_eq!(leaf(&certificates), first);
    certificates.refresh(NOW + 336 * DAY);
    assert_ne!(leaf(&certificates), first);
    assert_eq!(certificates.pin(), pin);
    assert!(is_taken(&certificates, NOW + 500 * DAY));
    // Back from far ahead.
    let ahead = at(&store, NOW + 3000 * DAY).await;
    assert!(!is_taken(&ahead, NOW));
    ahead.refresh(NOW);
    assert!(is_taken(&ahead, NOW));
}
