//! How bytes get in: hashed while they are written, and nowhere visible before they are whole.

use artifact::Digest;

use crate::{Result, Store};

/// A blob that is whole, durable and in its place, and that no change has named yet. Dropped unused, its file goes.
#[derive(Debug)]
pub struct NewBlob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl NewBlob {
    /// Its digest, proven.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// Writes one blob, in order. Blocking: for blocking threads.
#[derive(Debug)]
pub struct BlobWriter {}

impl BlobWriter {
    /// How many bytes are there already: more than none when a partial file of an earlier run was found.
    pub fn len(&self) -> u64 {
        todo!()
    }

    /// Whether nothing is there yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the next bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        todo!("{bytes:?}")
    }

    /// Begins again from nothing (the upstream would not continue where we were).
    pub fn restart(&mut self) -> Result<()> {
        todo!()
    }

    /// Checks the digest against what was expected, makes the bytes durable and puts them in their place. Wrong bytes
    /// are removed: a partial file never survives a mismatch.
    pub fn finish(self) -> Result<NewBlob> {
        todo!()
    }

    /// Leaves what is there for a later run to continue (only a writer made by [`Store::resume`]; another's is removed).
    pub fn keep(self) {
        todo!()
    }
}

/// A blob whose bytes arrive in pieces, in any order (a blob cut over several volumes). Blocking.
#[derive(Debug)]
pub struct Patchwork {}

impl Patchwork {
    /// Writes a piece at its offset. Pieces survive a crash only after [`Patchwork::keep`].
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        todo!("{offset} {bytes:?}")
    }

    /// Makes the pieces written so far durable and leaves them for a later [`Store::patchwork`] of the same digest.
    pub fn keep(self) -> Result<()> {
        todo!()
    }

    /// Re-reads the whole, checks its digest, and puts it in its place.
    pub fn finish(self) -> Result<NewBlob> {
        todo!()
    }
}

impl Store {
    /// A writer for bytes whose digest is known (`expected`), or will be what it is.
    pub fn writer(&self, expected: Option<&Digest>) -> Result<BlobWriter> {
        todo!("{expected:?}")
    }

    /// A writer that goes on where an earlier run stopped (its bytes are hashed again first), or begins.
    pub fn resume(&self, expected: &Digest) -> Result<BlobWriter> {
        todo!("{expected}")
    }

    /// The file of a blob that is put together from pieces; kept across runs.
    pub fn patchwork(&self, digest: &Digest, size: u64) -> Result<Patchwork> {
        todo!("{digest} {size}")
    }
}
