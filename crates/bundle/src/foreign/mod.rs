//! Archives that others have made: images come in as `docker save`, `podman save`, `ctr image export`, skopeo, umoci or
//! a vendor's package have them.
//!
//! What a file is, its bytes tell, not its name ([`piece`]). A tar is walked header by header ([`archive`]), and what is
//! compressed is unpacked as it is read ([`stream`]); either way the members are known by name then, with a place each
//! where their bytes are ([`contents`]). Nothing is ever unpacked to a path that an archive names.
//!
//! Where an `index.json` or docker's `manifest.json` lies, there are images ([`oci`], [`docker`]); an archive without
//! either is a package, and the archives in it are opened in turn, three deep. An image that is not whole is refused by
//! name, and the others come in ([`import`](mod@import)): blobs first, straight from their place to the store, then
//! manifests, grants and entries in one change.
//!
//! Nobody has signed any of it, so a store that trusts keys takes it only when it is told to. No upstream was asked, so
//! an entry from here replaces whatever is there, and gives way to whatever comes later.

mod archive;
mod contents;
mod docker;
mod image;
mod import;
mod name;
mod oci;
mod piece;
mod stream;
#[cfg(test)]
mod tests;

pub use import::{Imported, import};
pub use name::As;
pub use piece::{Piece, Sort, pieces};

/// Walks a tar: the door for `fuzz/`.
#[cfg(fuzzing)]
pub fn walk_archive(bytes: &[u8]) {
    let stream = archive::Tape::Stream(Box::new(std::io::Cursor::new(bytes.to_vec())));
    let mut walk = archive::Walk::new(stream);
    while matches!(walk.next(), Ok(Some(_))) {}
    if let stream::Look::Compressed(compression) = stream::look(bytes) {
        let stream = archive::Tape::Stream(Box::new(std::io::Cursor::new(bytes.to_vec())));
        if let Ok(tape) = stream::open(stream, compression) {
            let _ = contents::beginning(tape);
        }
    }
}
