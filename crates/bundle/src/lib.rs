//! The bundle: what crosses the gap, as one volume or several.
//!
//! ```text
//! naru-0001.tar
//! ├── volume.json            which bundle, which volume of how many, the hashes of the list that follows
//! ├── volume.json.minisig    the signature of that, in minisign's format
//! ├── members.jsonl          every member's name, size, offset, sha256
//! ├── bundle.json            the plan; its sha256 is the bundle's id             ┐
//! ├── bundle.jsonl           every volume's members                              ├ in the first
//! ├── trees/sha256/…         one document a repository: entries, manifests       ├ and in the last
//! ├── manifests/sha256/…     every manifest, byte for byte                       ┘ volume
//! ├── blobs/sha256/…         every other byte once, named by its digest
//! └── parts/sha256/…/OFFSET  a blob that is larger than a volume is cut
//! ```
//!
//! Parity files beside the volumes bring back as many of them as were lost or damaged ([`repair`]).
//!
//! A difference leaves out what its sites have ([`receipt`](Receipt)), lists it as assumed, and a site that lacks some
//! of that says so in a want-list ([`WantList`]).
//!
//! Trust runs from the key to `volume.json` to its list to each member, so a volume can be checked and loaded alone, in any order,
//! twice. The layout is planned before a byte is written ([`plan`]), and has no clock in it: the same store and list
//! give the same volumes.

#![warn(missing_docs)]

use std::ffi::OsStr;
use std::path::Path;

mod arrival;
mod beside;
mod document;
mod error;
mod export;
mod foreign;
mod gather;
pub mod key;
mod lines;
mod load;
mod medium;
mod pack;
mod parity;
mod plan;
mod prune;
mod receipt;
mod report;
pub mod roots;
mod shelf;
mod sign;
mod tar;
mod together;
mod tree;
mod verify;
mod volume;
mod want;
mod words;

pub use arrival::Arrival;
pub use document::{Assumed, Member, Part, Plan, Share, TreeHead, VolumeHead};
pub use error::{Error, Result};
pub use export::{Archive, Exported};
#[cfg(fuzzing)]
pub use foreign::walk_archive;
pub use foreign::{As, Imported, Piece, Sort, import, pieces};
pub use gather::{Document, Gathered, gather};
pub use lines::List;
pub use load::{LoadOptions, Loaded, Pending, Spares, load};
pub use medium::open_file;
pub use pack::{PackOptions, Packed, PackedVolume, pack};
pub use parity::{Covered, repair};
pub use prune::{Names, stale};
pub use receipt::{Inventory, Receipt, Since, in_all, lister};
pub use report::{Beside, CosignKey, Counts, Findings, Format, Row, arrange, report_of_bundle, report_of_rows, why};
pub use shelf::{Extent, Lying, Shelf};
pub use sign::{PublicKey, SecretKey, Signature};
pub use verify::{Verified, verify, verify_for};
pub use volume::{Volume, signer, volumes_below};
pub use want::{WantList, Wanting};
pub use words::words;

/// Whether a file bears a volume's name, whatever its ending: what is damaged is known by that alone.
pub(crate) fn is_named_volume(path: &Path) -> bool {
    let name = path.file_name().map(OsStr::as_encoded_bytes).and_then(|name| name.strip_prefix(b"naru-"));
    name.and_then(|rest| rest.get(..4)).is_some_and(|digits| digits.iter().all(u8::is_ascii_digit))
}

/// The same, of a parity file's name.
pub(crate) fn is_named_parity(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"naru-parity-"))
}

/// Names of volumes: `naru-0001` and the suffix.
pub(crate) fn volume_name(number: usize, suffix: &str) -> String {
    format!("naru-{number:04}{suffix}")
}
