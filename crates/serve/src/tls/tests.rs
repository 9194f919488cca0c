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
    certificates.refresh(NOW + 29 * DAY);
    assert_eq!(leaf(&certificates), first);
    certificates.refresh(NOW + 31 * DAY);
    assert_ne!(leaf(&certificates), first);
    assert_eq!(certificates.pin(), pin);
    // By a client that is a year ahead, at any time before the next renewal.
    assert!(is_taken(&certificates, NOW + (31 + 29 + 365) * DAY));
    // Back from far ahead.
    let ahead = at(&store, NOW + 3000 * DAY).await;
    assert!(!is_taken(&ahead, NOW));
    ahead.refresh(NOW);
    assert!(is_taken(&ahead, NOW));
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Whether a client that trusts `pem` takes what is shown.
fn is_trusted(certificates: &Certificates, pem: &str) -> bool {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    verifier.verify_server_cert(&leaf(certificates), &[], &name, &[], UnixTime::now()).is_ok()
}

#[tokio::test]
async fn both_authorities_are_trusted_while_they_are_exchanged() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    assert!(keys::rotate(&store).await.is_err(), "there is none yet");
    let certificates = at(&store, now()).await;
    let old = certificates.authority_pem().unwrap();
    keys::rotate(&store).await.unwrap();
    assert!(keys::rotate(&store).await.is_err(), "twice");
    certificates.reload_authority(&store, now()).await.unwrap();
    let both = certificates.authority_pem().unwrap();
    assert!(both.starts_with(&old) && both != old);
    assert!(is_trusted(&certificates, &old) && is_trusted(&certificates, &both));
    keys::finish(&store).await.unwrap();
    assert!(keys::finish(&store).await.is_err(), "twice");
    certificates.reload_authority(&store, now()).await.unwrap();
    let new = certificates.authority_pem().unwrap();
    assert_eq!(both, format!("{old}{new}"));
    assert!(is_trusted(&certificates, &both) && is_trusted(&certificates, &new));
    assert!(!is_trusted(&certificates, &old));
    assert_eq!(keys::fingerprints(&store).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_second_server_is_taken_for_the_first() {
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let (one, two) = (Store::open(folders[0].path()).await.unwrap(), Store::open(folders[1].path()).await.unwrap());
    let first = at(&one, now()).await;
    let exported = keys::export(&one).await.unwrap();
    keys::import(&two, &exported, false).await.unwrap();
    let second = at(&two, now()).await;
    assert_eq!((first.authority_pem(), first.pin()), (second.authority_pem(), second.pin()));
    // One that has clients of its own is not taken over by mistake.
    let third = Store::open(folders[2].path()).await.unwrap();
    let own = at(&third, now()).await.authority_pem();
    let error = keys::import(&third, &exported, false).await.unwrap_err();
    assert!(matches!(error, Error::OtherAuthority { .. }), "{error}");
    assert_eq!(keys::published(&third).await.unwrap(), own);
    keys::import(&third, &exported, true).await.unwrap();
    assert_eq!(keys::published(&third).await.unwrap(), first.authority_pem());
    // An exchange goes the same way, both of its steps.
    keys::rotate(&one).await.unwrap();
    keys::import(&two, &keys::export(&one).await.unwrap(), false).await.unwrap();
    keys::finish(&one).await.unwrap();
    keys::import(&two, &keys::export(&one).await.unwrap(), false).await.unwrap();
    assert_eq!(keys::published(&one).await.unwrap(), keys::published(&two).await.unwrap());
    // Halves that do not belong together.
    let mut text = serde_json::to_value(&exported).unwrap();
    let other = serde_json::to_value(keys::export(&one).await.unwrap()).unwrap();
    let (ca, other) = (text["ca"].as_str().unwrap().to_owned(), other["ca"].as_str().unwrap());
    let end = |text: &str| text.find("-----BEGIN PRIVATE KEY-----").unwrap();
    text["ca"] = format!("{}{}", &ca[..end(&ca)], &other[end(other)..]).into();
    let mixed: keys::SiteKeys = serde_json::from_value(text).unwrap();
    assert!(keys::import(&two, &mixed, true).await.is_err());
}
