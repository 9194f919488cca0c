//! What shall be carried: made from a lock or from the whole store, read by `pack`, `report` and `verify`.

use serde::{Deserialize, Serialize};

use crate::{Digest, Entry, Repository};

/// One wished-for entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Its repository.
    pub repository: Repository,
    /// The entry, as the lock has it: the same lock gives the same bytes, whatever else was pulled since.
    pub entry: Entry,
    /// Of an image: the manifests below its digest to carry (all platforms' that were chosen). `None`: whatever the
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
