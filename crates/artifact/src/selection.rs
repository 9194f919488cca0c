//! What shall be carried: made from a lock or from the whole store, read by `pack`, `report` and `verify`.

use serde::{Deserialize, Serialize};

use crate::{Digest, Repository};

/// One wished-for entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Its repository.
    pub repository: Repository,
    /// Its name there.
    pub name: String,
    /// The digest that the lock says it has.
    pub digest: Digest,
    /// Of an image: the manifests below `digest` to carry (all platforms' that were chosen). `None`: whatever the
    /// store marks as carried.
    pub manifests: Option<Vec<Digest>>,
}

/// Which entries of a store are meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Selection {
    /// Every complete entry.
    All,
    /// What a server's proxy gathered, and no packing list asked for.
    Gathered,
    /// These, in this order.
    These(Vec<Wanted>),
}
