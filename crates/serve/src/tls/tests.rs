use std::time::Duration;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls_pki_types::{ServerName, UnixTime};

use super::*;

/// Whether a client that trusts `pem` takes what is shown, at a time of its own.
fn is_taken(certificates: &Certificates, pem: &str, at: i64) -> bool {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let shown = certificates.current.load();
    let (leaf, chain) = shown.key.cert.split_first().unwrap();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(at.unsigned_abs()));
    let name = ServerName::try_from("localhost").unwrap();
    verifier.verify_server_cert(leaf, chain, &name, &[], at).is_ok()
}

async fn certificates(store: &Store) -> Certificates {
    Certificates::open(store, &Config::default(), vec!["localhost".to_owned()]).await.unwrap()
}

#[tokio::test]
async fn a_clock_may_be_a_year_off_whenever_it_was_made() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let certificates = certificates(&store).await;
    let pem = certificates.authority_pem().unwrap();
    let now = this_moment();
    let pin = certificates.pin();
    // Years of housekeeping: at every time clients a year before and a year behind take what is shown.
    let mut renewals = 0;
    for day in (0..3_000).step_by(30) {
        let at = now + day * DAY;
        let before = Arc::as_ptr(&certificates.current.load_full());
        certificates.refresh(at);
        renewals += u32::from(before != Arc::as_ptr(&certificates.current.load_full()));
        for off in [-365, 0, 365] {
            assert!(is_taken(&certificates, &pem, at + off * DAY), "day {day}, {off} days off");
        }
        assert_eq!(certificates.pin(), pin);
    }
    assert_eq!(renewals, 7);
}

#[tokio::test]
async fn both_authorities_are_trusted_while_they_are_exchanged() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    assert!(keys::rotate(&store).await.is_err(), "there is none yet");
    let certificates = certificates(&store).await;
    let now = this_moment();
    let old = certificates.authority_pem().unwrap();
    keys::rotate(&store).await.unwrap();
    assert!(keys::rotate(&store).await.is_err(), "twice");
    certificates.reload_authority(&store).await.unwrap();
    let both = certificates.authority_pem().unwrap();
    assert!(both.starts_with(&old) && both != old);
    assert!(is_taken(&certificates, &old, now) && is_taken(&certificates, &both, now));
    keys::finish(&store).await.unwrap();
    assert!(keys::finish(&store).await.is_err(), "twice");
    certificates.reload_authority(&store).await.unwrap();
    let new = certificates.authority_pem().unwrap();
    assert_eq!(both, format!("{old}{new}"));
    assert!(is_taken(&certificates, &both, now) && is_taken(&certificates, &new, now));
    assert!(!is_taken(&certificates, &old, now));
    assert_eq!(keys::fingerprints(&store).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_second_server_is_taken_for_the_first() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (one, two) = (Store::open(folders[0].path()).await.unwrap(), Store::open(folders[1].path()).await.unwrap());
    let first = certificates(&one).await;
    let exported = keys::export(&one).await.unwrap();
    keys::import(&two, &exported, false).await.unwrap();
    let second = certificates(&two).await;
    assert_eq!((first.authority_pem(), first.pin()), (second.authority_pem(), second.pin()));
    // One that has clients of its own is not taken over by mistake.
    let folder = tempfile::tempdir().unwrap();
    let third = Store::open(folder.path()).await.unwrap();
    let own = certificates(&third).await.authority_pem();
    let error = keys::import(&third, &exported, false).await.unwrap_err();
    assert!(matches!(error, Error::OtherAuthority { .. }), "{error}");
    assert_eq!(keys::published(&third).await.unwrap(), own);
    keys::import(&third, &exported, true).await.unwrap();
    assert_eq!(keys::published(&third).await.unwrap(), first.authority_pem());
    // A rotation goes the same way, both of its steps.
    keys::rotate(&one).await.unwrap();
    keys::import(&two, &keys::export(&one).await.unwrap(), false).await.unwrap();
    keys::finish(&one).await.unwrap();
    keys::import(&two, &keys::export(&one).await.unwrap(), false).await.unwrap();
    assert_eq!(keys::published(&one).await.unwrap(), keys::published(&two).await.unwrap());
    // Halves that do not belong together.
    let mut text = serde_json::to_value(&exported).unwrap();
    let ca = text["ca"].as_str().unwrap();
    let other = serde_json::to_value(keys::export(&one).await.unwrap()).unwrap();
    let end = |text: &str| text.find("-----BEGIN PRIVATE KEY-----").unwrap();
    let other = other["ca"].as_str().unwrap();
    let mixed = format!("{}{}", &ca[..end(ca)], &other[end(other)..]);
    text["ca"] = mixed.into();
    let mixed: keys::SiteKeys = serde_json::from_value(text).unwrap();
    assert!(keys::import(&two, &mixed, true).await.is_err());
}
