//! The site's CA, and the certificates it signs.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use store::Store;

use super::{DAY, WRONG, keys};
use crate::{Error, Result};

/// Certificate and key, PEM, one behind the other.
pub(super) const DOCUMENT: &str = "site/ca";
/// The CA that is to follow it, likewise, while it is exchanged.
pub(super) const NEXT_DOCUMENT: &str = "site/ca-next";
/// The key of the server's certificate, PEM.
pub(super) const LEAF_DOCUMENT: &str = "site/leaf-key";

pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(super) certificate: CertificateDer<'static>,
    /// What clients are to trust: its own certificate, and that of the next one while it is exchanged.
    pub(super) pem: String,
    pub(super) leaf_key: KeyPair,
    /// From when until when it is good, in seconds since 1970.
    pub(super) validity: Option<(i64, i64)>,
}

impl Authority {
    /// The site's, made now when there is none.
    pub(super) async fn open(store: &Store, now: i64) -> Result<Self> {
        let text = match store.document(DOCUMENT).await? {
            Some(bytes) => bytes,
            None => store.document_once(DOCUMENT, new_authority(now)?.as_bytes()).await?,
        };
        let leaf = if let Some(bytes) = store.document(LEAF_DOCUMENT).await? {
            bytes
        } else {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            store.document_once(LEAF_DOCUMENT, key.serialize_pem().as_bytes()).await?
        };
        let damaged = || Error::Authority(rcgen::Error::CouldNotParseCertificate);
        let text = String::from_utf8(text).map_err(|_| damaged())?;
        let leaf = String::from_utf8(leaf).map_err(|_| damaged())?;
        let (pem, certificate, key) = certificate_and_key(&text)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, KeyPair::from_pem(key)?)?;
        let pem = keys::published(store).await?.unwrap_or_else(|| pem.to_owned());
        let validity = validity(&certificate);
        Ok(Self { validity, issuer, certificate, pem, leaf_key: KeyPair::from_pem(&leaf)? })
    }

    /// A certificate for these names and addresses, and from when until when it is good (seconds since 1970).
    pub(super) fn leaf(&self, names: &[String], now: i64) -> Result<(CertificateDer<'static>, i64, i64)> {
        let (from, until) = (now - WRONG, now + WRONG);
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = called("naru");
        params.not_before = {
            let (year, month, day) = date(from);
            date_time_ymd(year, month, day)
        };
        params.not_after = {
            let (year, month, day) = date(until);
            date_time_ymd(year, month, day)
        };
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        Ok((params.signed_by(&self.leaf_key, &self.issuer)?.der().clone(), from, until))
    }
}

/// Ten years; back-dated, because clocks in closed networks are wrong.
pub(super) fn new_authority(now: i64) -> Result<String> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    // Some clients keep CAs by their name: two sites' must differ.
    let mark: String = uuid::Uuid::new_v4().simple().to_string().chars().take(8).collect();
    params.distinguished_name = called(&format!("Naru site CA {mark}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = {
        let (year, month, day) = date(now - WRONG);
        date_time_ymd(year, month, day)
    };
    params.not_after = {
        let (year, month, day) = date(now + 3650 * DAY);
        date_time_ymd(year, month, day)
    };
    let certificate = params.self_signed(&key)?;
    Ok(format!("{}{}", certificate.pem(), key.serialize_pem()))
}

/// From when until when a certificate is good, if it says so as ours do (`UTCTime`, RFC 5280 section 4.1.2.5.1).
fn validity(certificate: &[u8]) -> Option<(i64, i64)> {
    let time = |text: &[u8]| {
        let number = |at: usize| std::str::from_utf8(text.get(at..at + 2)?).ok()?.parse::<i8>().ok();
        let (year, month, day, hour, minute, second) =
            (number(0)?, number(2)?, number(4)?, number(6)?, number(8)?, number(10)?);
        let year = i16::from(year) + if year < 50 { 2000 } else { 1900 };
        let time = jiff::civil::DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
        Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
    };
    // A SEQUENCE of 30 bytes, of two UTCTimes of 13.
    let start = certificate.windows(4).position(|window| window == [0x30, 30, 0x17, 13])?;
    let (begin, end) = (certificate.get(start + 4..start + 17)?, certificate.get(start + 19..start + 32)?);
    Some((time(begin)?, time(end)?))
}

/// The two parts of a CA's document: the certificate's text, the certificate, the key's text.
pub(super) fn certificate_and_key(text: &str) -> Result<(&str, CertificateDer<'static>, &str)> {
    let damaged = || Error::Authority(rcgen::Error::CouldNotParseCertificate);
    let end = text.find("-----BEGIN PRIVATE KEY-----").ok_or_else(damaged)?;
    let (pem, key) = text.split_at(end);
    Ok((pem, CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| damaged())?, key))
}

fn called(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Year, month and day of a time.
fn date(seconds: i64) -> (i32, u8, u8) {
    let time = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let date = time.to_zoned(jiff::tz::TimeZone::UTC);
    (date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
}
