//! What a file is that came through a diode or a gateway: known from its own beginning, and whether all of it is there.

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use artifact::Digest;

use crate::document::HEAD;
use crate::parity::Parity;
use crate::{Result, Volume, open_file, tar};

/// A volume or a parity file that is all there. Its members are not hashed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The bundle that it is of.
    pub bundle: Digest,
    /// Which volume it is; `None`: parity.
    pub volume: Option<u32>,
    /// How many volumes the bundle has.
    pub of: usize,
}

impl Arrival {
    /// Looks at a file; `None`: it is neither a volume nor parity.
    ///
    /// # Errors
    /// [`crate::Error::NotAVolume`] as long as it is not all there; else what is wrong with it.
    pub fn look(path: &Path) -> Result<Option<Self>> {
        let file = open_file(path)?;
        if Parity::is_one(&file) {
            let parity = Parity::read(path, file)?;
            return Ok(Some(Self { bundle: parity.bundle(), volume: None, of: parity.volumes() }));
        }
        let first = tar::read(0, |at, buffer| file.read_exact_at(buffer, at));
        if !matches!(first, Ok(Ok(Some(header))) if header.name == HEAD) {
            return Ok(None);
        }
        let head = Volume::read(path, file)?.head;
        Ok(Some(Self { bundle: head.bundle, volume: Some(head.volume), of: head.of as usize }))
    }
}
