//! The words: what every crate of Naru speaks of, and nothing else. No I/O, no async, no clock.
//!
//! [`Digest`] names bytes. A [`Reference`] is what a user writes for an image; a [`Repository`] is a named
//! collection of one [`Kind`], a [`Pattern`] means several, and an [`Entry`] is a name in one. A [`Manifest`] is the little that must be read of
//! an OCI document whose bytes are kept verbatim. A [`Selection`] says what shall be carried. [`Progress`] is how
//! work tells whoever waits for it.

#![warn(missing_docs)]

mod digest;
mod entry;
mod kind;
mod manifest;
pub mod media_type;
mod pattern;
mod platform;
mod progress;
mod reference;
mod repository;
mod selection;

pub use digest::{Algorithm, Digest, Hasher, InvalidDigest};
pub use entry::{Entry, Trust, valid_path};
pub use kind::Kind;
pub use manifest::{Descriptor, InvalidManifest, MANIFEST_LIMIT, Manifest, Shape};
pub use pattern::{InvalidPattern, Pattern};
pub use platform::{InvalidPlatform, Platform};
pub use progress::{Progress, Silent};
pub use reference::{InvalidReference, Reference, normalise_host, valid_name, valid_tag};
pub use repository::{InvalidRepository, Repository};
pub use selection::{Selection, Wanted};
