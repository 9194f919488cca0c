//! Prune: what the store has of its upstreams and the bundles that were just loaded have not.
//!
//! A load adds and moves, and removes nothing by itself: whoever gives one of several bundles does not mean that the
//! others' things should go. Local repositories are this side's own, and so are images that were pushed here under an
//! upstream's name: neither is ever part of it. Nobody pushes files: those of a packing list's machine came with a bundle,
//! and go with it.

use std::collections::{BTreeMap, BTreeSet};

use artifact::{Entry, Kind, Repository, Trust};
use store::Store;

use crate::Result;

/// Entries that are read at a time.
const PAGE: u32 = 1000;

/// Names of entries, by repository.
pub type Names = BTreeMap<Repository, BTreeSet<String>>;

/// The mirrored entries of a store that are not among `held`, in order.
///
/// # Errors
/// When the catalog cannot be read.
pub async fn stale(store: &Store, held: &Names) -> Result<Vec<(Repository, Entry)>> {
    let (mut stale, mut last) = (Vec::new(), None);
    loop {
        let repositories = store.repositories(None, last.as_ref(), PAGE).await?;
        let Some(next) = repositories.last().cloned() else { return Ok(stale) };
        for repository in repositories.into_iter().filter(|repository| !repository.is_local()) {
            let mut after = String::new();
            loop {
                let entries = store.entries(&repository, &after, PAGE).await?;
                let Some(entry) = entries.last() else { break };
                after.clone_from(&entry.name);
                let names = held.get(&repository);
                let gone = entries.into_iter().filter(|entry| {
                    let was_pushed = entry.trust == Trust::Local && repository.kind == Kind::Image;
                    !was_pushed && !names.is_some_and(|names| names.contains(&entry.name))
                });
                stale.extend(gone.map(|entry| (repository.clone(), entry)));
            }
        }
        last = Some(next);
    }
}
