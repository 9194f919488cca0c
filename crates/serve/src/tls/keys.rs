//! The keys that a site has: shown, given to a second server of the same site, exchanged.
//!
//! A CA is exchanged in two steps. [`rotate`] makes the next one and publishes both; the server's certificate is still
//! by the one before, so that every client goes on while all of them get the second. [`finish`] then signs with the
//! next one alone. Nothing expires in between: how long that takes is the operator's affair.

use artifact::Digest;
use rcgen::KeyPair;
use rustls_pki_types::PrivateKeyDer;
use serde::{Deserialize, Serialize};
use store::Store;

use super::authority::{DOCUMENT, LEAF_DOCUMENT, NEXT_DOCUMENT, certificate_and_key, new_authority};
use super::certified;
use crate::{Error, Result};

/// What makes a server this site's: its CA with the key, the next one while it is exchanged, the key of the server's
/// certificate (clients may have pinned it). All PEM, all secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteKeys {
    ca: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    leaf: String,
}

impl std::fmt::Debug for SiteKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys stay out of logs.
        f.debug_struct("SiteKeys").finish_non_exhaustive()
    }
}

async fn text(store: &Store, name: &str) -> Result<Option<String>> {
    let damaged = |_| Error::Authority(rcgen::Error::CouldNotParseCertificate);
    store.document(name).await?.map(|bytes| String::from_utf8(bytes).map_err(damaged)).transpose()
}

/// The CA that signs now, and the next one; none before the first start.
async fn authorities(store: &Store) -> Result<Option<(String, Option<String>)>> {
    let Some(ca) = text(store, DOCUMENT).await? else { return Ok(None) };
    let next = text(store, NEXT_DOCUMENT).await?;
    // A finish that was cut has put the next one in its place, and not yet taken it away.
    Ok(Some((ca.clone(), next.filter(|next| *next != ca))))
}

/// The SHA-256 of the CA that signs now, and of the next one while it is exchanged; none before the first start.
pub async fn fingerprints(store: &Store) -> Result<Vec<Digest>> {
    let Some((ca, next)) = authorities(store).await? else { return Ok(Vec::new()) };
    std::iter::once(ca).chain(next).map(|text| Ok(Digest::of(&certificate_and_key(&text)?.1))).collect()
}

/// What clients are to trust, PEM: the CA, and the next one behind it. None before the first start.
pub async fn published(store: &Store) -> Result<Option<String>> {
    let Some((ca, next)) = authorities(store).await? else { return Ok(None) };
    let all = std::iter::once(ca).chain(next).map(|text| Ok(certificate_and_key(&text)?.0.to_owned()));
    Ok(Some(all.collect::<Result<String>>()?))
}

/// Makes the next CA, and publishes it beside the one that signs.
///
/// # Errors
/// [`Error::Rotation`], when one is being exchanged already, or there is none yet.
pub async fn rotate(store: &Store) -> Result<()> {
    match authorities(store).await? {
        Some((_, None)) => Ok(store
            .set_document(NEXT_DOCUMENT, Some(new_authority(jiff::Timestamp::now().as_second())?.as_bytes()))
            .await?),
        Some((_, Some(_))) => Err(Error::Rotation("the CA is being exchanged already")),
        None => Err(Error::Rotation("there is no CA yet: the first `naru serve` makes it")),
    }
}

/// From now on the next CA signs, and the one before is no longer published.
///
/// # Errors
/// [`Error::Rotation`], when none is being exchanged.
pub async fn finish(store: &Store) -> Result<()> {
    let Some((_, Some(next))) = authorities(store).await? else {
        return Err(Error::Rotation("no CA is being exchanged"));
    };
    store.set_document(DOCUMENT, Some(next.as_bytes())).await?;
    Ok(store.set_document(NEXT_DOCUMENT, None).await?)
}

/// All of them, for a second server.
///
/// # Errors
/// [`Error::Rotation`], when there are none yet.
pub async fn export(store: &Store) -> Result<SiteKeys> {
    match (authorities(store).await?, text(store, LEAF_DOCUMENT).await?) {
        (Some((ca, next)), Some(leaf)) => Ok(SiteKeys { ca, next, leaf }),
        _ => Err(Error::Rotation("there is no CA yet: the first `naru serve` makes it")),
    }
}

/// Takes another server's. `force` gives up a CA that this one has of its own, which its clients may know.
///
/// # Errors
/// [`Error::OtherAuthority`]; what cannot be used as a CA.
pub async fn import(store: &Store, keys: &SiteKeys, force: bool) -> Result<()> {
    let unusable = |_| Error::Authority(rcgen::Error::CouldNotParseKeyPair);
    for text in std::iter::once(&keys.ca).chain(&keys.next) {
        let (_, certificate, key) = certificate_and_key(text)?;
        let key = KeyPair::from_pem(key)?;
        let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(unusable)?;
        certified(vec![certificate], &private)?.keys_match()?;
    }
    KeyPair::from_pem(&keys.leaf)?;
    if let Some((own, next)) = authorities(store).await? {
        // One that this side knows already loses nobody: it was published here.
        let is_known = own == keys.ca || next.is_some_and(|next| next == keys.ca);
        if !is_known && !force {
            let digest = Digest::of(&certificate_and_key(&own)?.1);
            return Err(Error::OtherAuthority { fingerprint: digest.hex() });
        }
    }
    store.set_document(LEAF_DOCUMENT, Some(keys.leaf.as_bytes())).await?;
    store.set_document(DOCUMENT, Some(keys.ca.as_bytes())).await?;
    Ok(store.set_document(NEXT_DOCUMENT, keys.next.as_ref().map(String::as_bytes)).await?)
}
