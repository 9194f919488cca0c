//! Ed25519 in minisign's formats (jedisct1.github.io/minisign, "Signature format"), so that `minisign -V` checks a
//! volume's head without Naru. Prehashed (`ED`): what is signed is the BLAKE2b-512 of the document. No time is written
//! into the trusted comment: the same bundle has the same bytes.

use std::fmt;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use blake2::{Blake2b512, Digest as _};

use crate::{Error, Result};

/// Who may be believed: a key's id and its 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey {
    id: [u8; 8],
    key: [u8; 32],
}

/// A key that signs.
pub struct SecretKey {
    id: [u8; 8],
    seed: [u8; 32],
    pair: Ed25519KeyPair,
}

/// A signature, as it lies beside what it signs.
#[derive(Clone, PartialEq, Eq)]
pub struct Signature {
    id: [u8; 8],
    own: [u8; 64],
    comment: String,
    global: [u8; 64],
}

impl PublicKey {
    /// Sixteen hex digits in four groups: what people compare.
    pub fn fingerprint(&self) -> String {
        let digest = Blake2b512::digest(self.key);
        let hex: Vec<String> = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        hex.chunks(2).map(<[String]>::concat).collect::<Vec<_>>().join("-")
    }

    /// minisign's public-key file: a comment and a line of base64.
    pub fn to_text(&self) -> String {
        format!("untrusted comment: naru public key {}\n{}\n", self.fingerprint(), self.to_line())
    }

    /// The line of base64 alone.
    pub fn to_line(&self) -> String {
        let mut bytes = b"Ed".to_vec();
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&self.key);
        BASE64.encode(bytes)
    }

    /// Reads a public-key file, or its line alone. `what` names it in errors.
    pub fn parse(text: &str, what: &str) -> Result<Self> {
        let wrong = |why: &str| Error::Key { what: what.to_owned(), why: why.to_owned() };
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty() && !line.contains(':'));
        let bytes = BASE64.decode(line.unwrap_or_default()).map_err(|_| wrong("it is not base64"))?;
        match bytes.as_slice() {
            [b'E', b'd', rest @ ..] if rest.len() == 40 => {
                let (id, key) = rest.split_at(8);
                Ok(Self { id: array(id), key: array(key) })
            }
            _ => Err(wrong("it is not an Ed25519 public key of minisign's form")),
        }
    }

    /// Checks a signature of `document`.
    ///
    /// # Errors
    /// In words, when it is another key's, or not of this document.
    pub fn check(&self, document: &[u8], signature: &Signature) -> std::result::Result<(), &'static str> {
        if signature.id != self.id {
            return Err("it is by another key");
        }
        let key = UnparsedPublicKey::new(&ED25519, self.key);
        let hash = Blake2b512::digest(document);
        key.verify(&hash, &signature.own).map_err(|_| "the document is not what was signed")?;
        let mut commented = signature.own.to_vec();
        commented.extend_from_slice(signature.comment.as_bytes());
        key.verify(&commented, &signature.global).map_err(|_| "its comment is not what was signed")
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.fingerprint())
    }
}

impl SecretKey {
    /// A new key, from the system's randomness.
    pub fn generate() -> Result<Self> {
        let mut seed = [0; 32];
        let wrong = |_| Error::Key { what: "a new key".to_owned(), why: "the system has no randomness".to_owned() };
        SystemRandom::new().fill(&mut seed).map_err(wrong)?;
        Self::from_seed(&seed)
    }

    /// The key that a seed of 32 bytes makes.
    pub fn from_seed(seed: &[u8]) -> Result<Self> {
        let wrong = || Error::Key { what: "a seed".to_owned(), why: "it has not 32 bytes".to_owned() };
        let seed: [u8; 32] = seed.try_into().map_err(|_| wrong())?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| wrong())?;
        let id = array(&Blake2b512::digest(pair.public_key().as_ref())[..8]);
        Ok(Self { id, seed, pair })
    }

    /// The seed it is made of: what the store keeps.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        PublicKey { id: self.id, key: array(self.pair.public_key().as_ref()) }
    }

    /// minisign's secret-key file, without a password.
    pub fn to_text(&self) -> String {
        // Ed, no key derivation, BLAKE2b checksum; salt and limits are unused; id, seed, public key, checksum.
        let mut bytes = b"Ed\0\0B2".to_vec();
        bytes.extend_from_slice(&[0; 48]);
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&self.seed);
        bytes.extend_from_slice(self.pair.public_key().as_ref());
        bytes.extend_from_slice(&self.checksum());
        format!("untrusted comment: naru secret key {}\n{}\n", self.public().fingerprint(), BASE64.encode(bytes))
    }

    /// Reads minisign's secret-key file. `what` names it in errors.
    pub fn parse(text: &str, what: &str) -> Result<Self> {
        let wrong = |why: &str| Error::Key { what: what.to_owned(), why: why.to_owned() };
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty() && !line.contains(':'));
        let bytes = BASE64.decode(line.unwrap_or_default()).map_err(|_| wrong("it is not base64"))?;
        if bytes.len() != 158 || !bytes.starts_with(b"Ed") {
            return Err(wrong("it is not an Ed25519 secret key of minisign's form"));
        }
        if bytes.get(2..4) != Some(&[0, 0]) {
            return Err(wrong("it is locked with a password; make one without (`minisign -G -W`)"));
        }
        let (id, seed) = (bytes.get(54..62), bytes.get(62..94));
        let mut key = Self::from_seed(seed.unwrap_or_default())?;
        key.id = array(id.unwrap_or_default());
        if bytes.get(94..126) != Some(key.pair.public_key().as_ref()) {
            return Err(wrong("its halves do not belong together"));
        }
        Ok(key)
    }

    fn checksum(&self) -> [u8; 32] {
        use blake2::digest::consts::U32;
        let mut hasher = blake2::Blake2b::<U32>::new();
        hasher.update(b"Ed");
        hasher.update(self.id);
        hasher.update(self.seed);
        hasher.update(self.pair.public_key().as_ref());
        hasher.finalize().into()
    }

    /// Signs a document. `comment` is one line; it is signed too.
    pub fn sign(&self, document: &[u8], comment: &str) -> Signature {
        let signature: [u8; 64] = array(self.pair.sign(&Blake2b512::digest(document)).as_ref());
        let mut commented = signature.to_vec();
        commented.extend_from_slice(comment.as_bytes());
        let global = array(self.pair.sign(&commented).as_ref());
        Signature { id: self.id, own: signature, comment: comment.to_owned(), global }
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.public().fingerprint())
    }
}

impl Signature {
    /// The four lines of a `.minisig` file.
    pub fn to_text(&self) -> String {
        let mut bytes = b"ED".to_vec();
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&self.own);
        format!(
            "untrusted comment: signature of a naru bundle\n{}\ntrusted comment: {}\n{}\n",
            BASE64.encode(bytes),
            self.comment,
            BASE64.encode(self.global)
        )
    }

    /// Reads a `.minisig` file.
    ///
    /// # Errors
    /// In words.
    pub fn parse(text: &str) -> std::result::Result<Self, &'static str> {
        let mut lines = text.lines();
        let mut next = || lines.next().map(str::trim_end).ok_or("it has fewer than four lines");
        next()?;
        let bytes = BASE64.decode(next()?).map_err(|_| "its second line is not base64")?;
        let comment = next()?.strip_prefix("trusted comment: ").ok_or("it has no trusted comment")?.to_owned();
        let global = BASE64.decode(next()?).map_err(|_| "its fourth line is not base64")?;
        match bytes.as_slice() {
            [b'E', b'D', rest @ ..] if rest.len() == 72 && global.len() == 64 => {
                let (id, signature) = rest.split_at(8);
                Ok(Self { id: array(id), own: array(signature), comment, global: array(&global) })
            }
            _ => Err("it is not a prehashed Ed25519 signature"),
        }
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({:?})", self.comment)
    }
}

/// The lengths were looked at by the caller; another length gives zeros, which no key has.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_and_refuses() {
        let key = SecretKey::from_seed(&[7; 32]).unwrap();
        let signature = key.sign(b"document", "naru");
        let read = Signature::parse(&signature.to_text()).unwrap();
        assert_eq!(read, signature);
        key.public().check(b"document", &read).unwrap();
        key.public().check(b"documenu", &read).unwrap_err();
        let mut changed = read.clone();
        changed.comment = "other".to_owned();
        key.public().check(b"document", &changed).unwrap_err();
        SecretKey::from_seed(&[8; 32]).unwrap().public().check(b"document", &read).unwrap_err();
        let again = SecretKey::parse(&key.to_text(), "k").unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(PublicKey::parse(&key.public().to_text(), "p").unwrap(), key.public());
        assert_eq!(PublicKey::parse(&key.public().to_line(), "p").unwrap(), key.public());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[ -~\n]{0,400}") {
            let _ = Signature::parse(&text);
            let _ = PublicKey::parse(&text, "x");
            let _ = SecretKey::parse(&text, "x");
        }
    }
}
