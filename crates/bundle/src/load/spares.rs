//! Volumes as spares: what a store has lost comes out of them again, and nothing else does.

use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use artifact::{Digest, Progress};
use store::{Change, Lost, Store};

use super::{LoadOptions, Loaded, Loading, Opened, open};
use crate::verify::manifest_bytes;
use crate::volume::Volume;
use crate::{Result, key};

/// Volumes of one bundle or of several, from which a store is healed.
pub struct Spares {
    bundles: Vec<(Digest, Arc<Vec<Volume>>)>,
    /// What of the media cannot be read, each in words.
    damage: Vec<String>,
}

impl Spares {
    /// Opens volumes, as a load does: signed by a key that is trusted here, once one is.
    ///
    /// # Errors
    /// As [`load`](super::load). One damaged volume does not keep the others out.
    pub async fn open(store: &Store, files: Vec<(PathBuf, File)>, progress: &dyn Progress) -> Result<Self> {
        let trusted = key::trusted(store).await?;
        let Opened { bundles, damage, .. } = open(&trusted, files, progress).await?;
        let bundles = bundles.into_iter().map(|(id, volumes)| (id, Arc::new(volumes))).collect();
        Ok(Self { bundles, damage: damage.iter().map(ToString::to_string).collect() })
    }

    /// What of the media was found to be damaged so far, each in words.
    pub fn damage(&self) -> &[String] {
        &self.damage
    }

    /// Brings what of this is in the volumes, and answers how much that is. Names are left as they are.
    ///
    /// # Errors
    /// When the store takes no more: damage of the media is told by [`Spares::damage`].
    pub async fn bring(&mut self, store: &Store, lost: &[Lost], progress: &Arc<dyn Progress>) -> Result<u64> {
        let options = LoadOptions::default();
        let wanted: HashSet<Digest> = lost.iter().filter(|one| !one.is_manifest).map(|one| one.digest).collect();
        let mut brought = 0;
        for (id, volumes) in &self.bundles {
            let mut loaded = Loaded::default();
            let loading = Loading { store, id: *id, options: &options, progress };
            loading.blobs(volumes, &|digest| wanted.contains(digest), &mut loaded).await?;
            brought += loaded.written.0;
            for damage in loaded.damage {
                if !self.damage.contains(&damage) {
                    self.damage.push(damage);
                }
            }
            for one in lost.iter().filter(|one| one.is_manifest) {
                let Some(bytes) = manifest_bytes(volumes, &one.digest) else { continue };
                let known = store.manifest(&one.digest).await?;
                let media_type = known.map(|known| known.media_type).unwrap_or_default();
                let mut change = Change::new();
                change.heal_manifest(&one.digest, bytes.into(), &media_type);
                store.apply(change).await?;
                brought += 1;
            }
        }
        Ok(brought)
    }
}
