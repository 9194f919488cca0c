//! A quick sum beside the digest: tells rot from right bytes at the speed of memory.
//!
//! A blob's file is read again each time it is packed, and to hash it each time would cost as much as all the rest of
//! packing. So its name ends in the XXH3 sum of the bytes that its digest was proven by. The sum finds what a failing
//! disk does, not what somebody does on purpose: for that there is the digest, which the other side checks.

use std::hash::Hasher as _;

use artifact::{Digest, Hasher};
use twox_hash::XxHash3_64;

use crate::Blob;

/// Sums bytes (XXH3, 64 bits).
#[derive(Clone, Default)]
pub struct Sum(XxHash3_64);

impl std::fmt::Debug for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sum")
    }
}

impl Sum {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// The sum of everything taken.
    pub fn finish(&self) -> u64 {
        self.0.finish()
    }
}

/// Tells whether bytes are what they should be: by their sum where one is known, else by their digest.
#[derive(Debug)]
pub enum Check {
    /// By a sum.
    Sum(Sum, u64),
    /// By a digest.
    Digest(Hasher, Digest),
}

impl Check {
    /// By a sum that was taken before.
    pub fn by_sum(sum: u64) -> Self {
        Self::Sum(Sum::default(), sum)
    }

    /// By a digest.
    pub fn by_digest(digest: Digest) -> Self {
        Self::Digest(Hasher::new(digest.algorithm()), digest)
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sum(sum, _) => sum.update(bytes),
            Self::Digest(hasher, _) => hasher.update(bytes),
        }
    }

    /// Whether everything taken is what it should be.
    pub fn is_right(self) -> bool {
        match self {
            Self::Sum(sum, expected) => sum.finish() == expected,
            Self::Digest(hasher, expected) => hasher.finish() == expected,
        }
    }
}

impl Blob {
    /// Checks this blob's bytes. A build before sums left none in its name: then by the digest.
    pub fn check(&self) -> Check {
        let sum = self.key.rsplit_once('-').and_then(|(_, sum)| u64::from_str_radix(sum, 16).ok());
        sum.map_or_else(|| Check::by_digest(self.digest), Check::by_sum)
    }
}

/// What is known of bytes that come in.
#[derive(Debug)]
pub(crate) struct Arriving {
    hasher: Hasher,
    sum: Sum,
}

impl Arriving {
    pub(crate) fn new(algorithm: artifact::Algorithm) -> Self {
        Self { hasher: Hasher::new(algorithm), sum: Sum::default() }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.sum.update(bytes);
    }

    pub(crate) fn algorithm(&self) -> artifact::Algorithm {
        self.hasher.algorithm()
    }

    /// Their digest and their sum.
    pub(crate) fn finish(self) -> (Digest, u64) {
        (self.hasher.finish(), self.sum.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::new_key;

    #[test]
    fn a_name_bears_the_sum_or_the_digest_tells() {
        let bytes = b"what was carried";
        let mut arriving = Arriving::new(artifact::Algorithm::Sha256);
        arriving.update(bytes);
        let (digest, sum) = arriving.finish();
        let key = new_key(&digest, sum);
        let before_sums = key.split('-').next().unwrap_or_default().to_owned();
        for (key, by_sum) in [(key, true), (before_sums, false)] {
            let blob = Blob { digest, size: bytes.len() as u64, key };
            assert_eq!(matches!(blob.check(), Check::Sum(..)), by_sum);
            for (bytes, right) in [(&bytes[..], true), (b"what was corried", false), (b"", false)] {
                let mut check = blob.check();
                check.update(bytes);
                assert_eq!(check.is_right(), right, "{}", blob.key);
            }
        }
        // The sum is XXH3's own, as any tool tells it (`xxhsum -H3`).
        assert_eq!(Sum::default().finish(), 0x2d06_8005_38d3_94c2);
    }
}
