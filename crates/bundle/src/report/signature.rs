//! Signatures that upstreams' publishers made, and that are carried beside images.
//!
//! cosign's own form can be checked here: an image whose layers are claims (`critical.image.docker-manifest-digest`),
//! each signed by ECDSA over P-256, the signature in an annotation (sigstore/cosign, `specs/SIGNATURE_SPEC.md`). Others
//! (sigstore bundles, Notary) are named as carried: to check them their issuer's online services would be asked.

use artifact::{Digest, Manifest, media_type};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

use super::Contents;
use crate::{Error, Result};

/// The annotation with the signature of a layer.
const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// The largest claim that is read.
const CLAIM_LIMIT: usize = 64 << 10;
/// What stands before the point of a P-256 key in its DER (RFC 5480).
const P256: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A key of an upstream's publisher, as `cosign generate-key-pair` writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CosignKey {
    name: String,
    point: Vec<u8>,
}

impl CosignKey {
    /// Reads a PEM public key; `name` is what the report calls it.
    ///
    /// # Errors
    /// [`Error::Key`], when it is not one of P-256.
    pub fn parse(text: &str, name: &str) -> Result<Self> {
        let wrong = || Error::Key { what: name.to_owned(), why: "it is not a PEM public key of P-256".to_owned() };
        let body: String = text.lines().map(str::trim).filter(|line| !line.starts_with("-----")).collect();
        let der = BASE64.decode(body).map_err(|_| wrong())?;
        let point = der.strip_prefix(P256).filter(|point| point.len() == 65).ok_or_else(wrong)?;
        Ok(Self { name: name.to_owned(), point: point.to_vec() })
    }

    fn signed(&self, claim: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point).verify(claim, signature).is_ok()
    }
}

/// Whether a referrer is a signature, by its type.
pub(super) fn is_signature(manifest: &Manifest) -> bool {
    manifest.artifact_type.as_deref().is_some_and(|kind| {
        kind.contains("cosign") || kind.contains("dev.sigstore.bundle") || kind.contains("cncf.notary.signature")
    })
}

/// What is known of the signatures of something that consists of `subjects`.
pub(super) fn standing(
    signatures: &[(Digest, &Manifest)],
    subjects: &[Digest],
    keys: &[CosignKey],
    contents: &dyn Contents,
) -> String {
    let ours: Vec<_> = signatures.iter().filter(|(of, _)| subjects.contains(of)).collect();
    if ours.is_empty() {
        return "none carried".to_owned();
    }
    let verified = ours.iter().find_map(|(of, manifest)| {
        manifest.layers.iter().find_map(|layer| {
            let text = layer.annotations.as_ref()?.get(ANNOTATION)?.as_str()?;
            let signature = BASE64.decode(text).ok()?;
            let claim = contents.blob(&layer.digest, CLAIM_LIMIT)?;
            let is_of_it = Digest::of(&claim) == layer.digest && claimed(&claim) == Some(*of);
            keys.iter().find(|key| is_of_it && key.signed(&claim, &signature))
        })
    });
    match verified {
        Some(key) => format!("verified by {}", key.name),
        None if keys.is_empty() => "carried, not verified".to_owned(),
        None => "carried, not by a key that was given".to_owned(),
    }
}

/// The digest that a claim is about.
fn claimed(claim: &[u8]) -> Option<Digest> {
    #[derive(Deserialize)]
    struct Claim {
        critical: Critical,
    }
    #[derive(Deserialize)]
    struct Critical {
        image: Image,
    }
    #[derive(Deserialize)]
    struct Image {
        #[serde(rename = "docker-manifest-digest")]
        digest: Digest,
    }
    serde_json::from_slice::<Claim>(claim).ok().map(|claim| claim.critical.image.digest)
}

/// The digest in cosign's tag for a signature, `sha256-….sig`, or for something else that it attaches.
pub(super) fn tag(name: &str) -> Option<(Digest, &str)> {
    let (digest, kind) = name.strip_prefix("sha256-").and_then(|rest| rest.split_once('.')).unwrap_or((name, ""));
    let digest = Digest::from_hex(digest.trim_start_matches("sha256-")).ok()?;
    Some((digest, kind))
}

/// Whether a media type is that of a manifest with claims; the config of cosign's images is any image's.
pub(super) fn has_claims(manifest: &Manifest) -> bool {
    !media_type::is_index(&manifest.media_type)
        && manifest
            .layers
            .iter()
            .any(|layer| layer.annotations.as_ref().is_some_and(|all| all.contains_key(ANNOTATION)))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
    use bytes::Bytes;

    use super::*;

    struct One(Vec<u8>);

    impl Contents for One {
        fn manifest(&self, _: &Digest) -> Option<Bytes> {
            None
        }

        fn blob(&self, digest: &Digest, _: usize) -> Option<Vec<u8>> {
            (Digest::of(&self.0) == *digest).then(|| self.0.clone())
        }
    }

    fn key(name: &str) -> (EcdsaKeyPair, CosignKey) {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let der = [P256, pair.public_key().as_ref()].concat();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64.encode(der));
        (pair, CosignKey::parse(&pem, name).unwrap())
    }

    #[test]
    fn a_claim_counts_for_its_key_and_its_digest() {
        let (subject, other) = (Digest::of(b"subject"), Digest::of(b"other"));
        let (pair, ours) = key("cosign.pub");
        let (_, theirs) = key("other.pub");
        let claim = format!(
            r#"{{"critical":{{"identity":{{}},"image":{{"docker-manifest-digest":"{subject}"}},"type":"x"}},"optional":null}}"#
        );
        let signature = BASE64.encode(pair.sign(&SystemRandom::new(), claim.as_bytes()).unwrap());
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","layers":[{{"digest":"{}","size":9,"annotations":{{"{ANNOTATION}":"{signature}"}}}}]}}"#,
            media_type::OCI_MANIFEST,
            Digest::of(claim.as_bytes()),
        );
        let manifest = Manifest::parse(text.as_bytes(), "").unwrap();
        assert!(has_claims(&manifest));
        let contents = One(claim.into_bytes());
        let says = |of: Digest, subjects: &[Digest], keys: &[CosignKey]| {
            standing(&[(of, &manifest)], subjects, keys, &contents)
        };
        assert_eq!(says(subject, &[subject], &[theirs.clone(), ours.clone()]), "verified by cosign.pub");
        assert_eq!(says(subject, &[subject], &[]), "carried, not verified");
        assert_eq!(says(subject, &[subject], &[theirs]), "carried, not by a key that was given");
        // A true claim about something else, under this one's tag.
        assert_eq!(says(other, &[other], std::slice::from_ref(&ours)), "carried, not by a key that was given");
        assert_eq!(says(subject, &[other], &[ours]), "none carried");
    }

    #[test]
    fn tags_name_digests() {
        let digest = Digest::of(b"x");
        assert_eq!(tag(&format!("sha256-{}.sig", digest.hex())), Some((digest, "sig")));
        assert_eq!(tag(&format!("sha256-{}", digest.hex())), Some((digest, "")));
        assert_eq!(tag("1.25"), None);
        assert_eq!(tag("sha256-x.sig"), None);
        CosignKey::parse("-----BEGIN PUBLIC KEY-----\nAAAA\n", "k").unwrap_err();
    }
}
