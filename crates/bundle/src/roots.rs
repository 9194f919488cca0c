//! What a collection leaves alone: bundles that are still coming, and what the newest receipt says that is here.

use artifact::Digest;
use store::Store;

use crate::receipt::{self, Receipt};
use crate::{Result, words};

/// A pending bundle's document of when its first volume came, in seconds since 1970.
pub(crate) const SINCE: &str = "since";
/// For so many seconds a receipt holds what it lists, unless the next one is written before.
const IN_FORCE_FOR: i64 = 90 * 24 * 60 * 60;

/// A bundle of which something is still to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its id.
    pub id: Digest,
    /// When its first volume came, in seconds since 1970 (0: not known). What came since stays.
    pub since: i64,
}

impl Waiting {
    /// Its id in words.
    pub fn words(&self) -> String {
        words(&self.id)
    }
}

/// The bundles that wait, the longest first.
///
/// # Errors
/// When the catalog cannot be read.
pub async fn waiting(store: &Store) -> Result<Vec<Waiting>> {
    let mut all: Vec<Waiting> = Vec::new();
    for name in store.documents("bundle/").await? {
        let id = name.strip_prefix("bundle/").and_then(|rest| rest.split_once('/'));
        let Some(id) = id.and_then(|(hex, _)| Digest::from_hex(hex).ok()) else { continue };
        if all.last().is_some_and(|last| last.id == id) {
            continue;
        }
        let since = store.document(&format!("bundle/{}/{SINCE}", id.hex())).await?;
        let since = since.and_then(|bytes| String::from_utf8(bytes).ok()?.parse().ok()).unwrap_or_default();
        all.push(Waiting { id, since });
    }
    all.sort_by_key(|waiting| waiting.since);
    Ok(all)
}

/// Gives up a bundle that waits: what it brought is kept only as long as something else leads to it.
///
/// # Errors
/// When the catalog cannot be written.
pub async fn forget(store: &Store, waiting: &Waiting) -> Result<()> {
    for name in store.documents(&format!("bundle/{}/", waiting.id.hex())).await? {
        store.set_document(&name, None).await?;
    }
    Ok(())
}

/// The receipt that holds what it lists, if one does.
///
/// # Errors
/// When the catalog cannot be read, or has a receipt that is damaged: what it held is then not known.
pub async fn in_force(store: &Store) -> Result<Option<Receipt>> {
    let newest = receipt::newest(store).await?;
    Ok(newest.filter(|receipt| store.now() < receipt.at.saturating_add(IN_FORCE_FOR)))
}
