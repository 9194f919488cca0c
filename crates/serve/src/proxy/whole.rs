//! When an image that the proxy gathers is whole, and its names are written down.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use artifact::{Digest, Entry, Manifest, Repository, Shape, Trust};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use store::{Change, StoredManifest};

use super::{Failure, Name, Proxy, REMEMBERED};

/// So deep may indexes lie in indexes.
const DEPTH: usize = 8;

/// Names whose images are not whole yet.
#[derive(Default)]
pub(super) struct Names(Mutex<HashMap<Name, Waiting>>);

/// What a name will mean.
#[derive(Clone)]
struct Waiting {
    digest: Digest,
    /// When its upstream said so, in seconds since 1970.
    seen: i64,
    trust: Trust,
}

impl Names {
    /// What this name will mean, when it waits.
    pub(super) fn digest(&self, name: &Name) -> Option<Digest> {
        self.lock().get(name).map(|waiting| waiting.digest)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Name, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, name: Name, waiting: Waiting) {
        let mut names = self.lock();
        if names.len() as u64 >= REMEMBERED && !names.contains_key(&name) {
            let oldest = names.iter().min_by_key(|(_, waiting)| waiting.seen).map(|(name, _)| name.clone());
            oldest.and_then(|oldest| names.remove(&oldest));
        }
        names.insert(name, waiting);
    }

    fn of(&self, repository: &Repository, digest: &Digest) -> Vec<(String, Waiting)> {
        let names = self.lock();
        let those = names.iter().filter(|((of, _), waiting)| of == repository && waiting.digest == *digest);
        those.map(|((_, name), waiting)| (name.clone(), waiting.clone())).collect()
    }

    /// Forgets a name, unless it means something else by now.
    fn remove(&self, name: &Name, digest: &Digest) {
        let mut names = self.lock();
        if names.get(name).is_some_and(|waiting| waiting.digest == *digest) {
            names.remove(name);
        }
    }
}

impl Proxy {
    /// Gives a manifest a name: now if it is whole, else when it is.
    pub(super) async fn name(
        &self,
        repository: &Repository,
        name: &str,
        digest: Digest,
        seen: i64,
        trust: Trust,
    ) -> Result<(), Failure> {
        let key = (repository.clone(), name.to_owned());
        if self.store.entry(repository, name).await?.is_some_and(|entry| entry.digest == digest) {
            self.names.lock().remove(&key);
            return Ok(());
        }
        self.names.insert(key, Waiting { digest, seen, trust });
        self.offer(repository, &digest).await
    }

    /// Follows what has come upwards: indexes carry the children that are whole now, and names that waited are written
    /// down.
    pub(super) async fn settle(&self, repository: &Repository, arrived: &Digest) -> Result<(), Failure> {
        let mut open = vec![(*arrived, 0)];
        while let Some((digest, depth)) = open.pop() {
            self.offer(repository, &digest).await?;
            if depth > DEPTH {
                continue;
            }
            for parent in self.store.parents(&digest).await? {
                let Some(stored) = self.store.granted_manifest(repository, &parent).await? else { continue };
                let read = parsed(&stored)?;
                if read.manifests.iter().any(|child| child.digest == digest) {
                    if !self.is_whole(repository, digest, 0).await? || self.carries(&parent, &digest).await? {
                        continue;
                    }
                    let omitted = self.not_whole(repository, &read).await?;
                    let mut change = Change::new();
                    change.manifest(repository, &parent, stored.bytes, &stored.media_type, omitted);
                    self.store.apply(change).await?;
                }
                open.push((parent, depth + 1));
            }
        }
        Ok(())
    }

    /// Writes down the names that waited for this manifest, if it is whole.
    async fn offer(&self, repository: &Repository, digest: &Digest) -> Result<(), Failure> {
        let names = self.names.of(repository, digest);
        if names.is_empty() || !self.is_whole(repository, *digest, 0).await? {
            return Ok(());
        }
        let Some(stored) = self.store.granted_manifest(repository, digest).await? else { return Ok(()) };
        let mut change = Change::new();
        for (name, Waiting { seen, trust, .. }) in &names {
            let between = if name.contains(':') { '@' } else { ':' };
            let origin = Entry::gathered(&format!("{repository}{between}{name}"));
            let (size, digest) = (stored.bytes.len() as u64, *digest);
            change.entry(repository, Entry { name: name.clone(), digest, size, seen: *seen, origin, trust: *trust });
        }
        self.store.apply(change).await?;
        for (name, _) in names {
            self.names.remove(&(repository.clone(), name), digest);
        }
        Ok(())
    }

    /// Whether this repository can hand out all of an image; of an index, of one of its children.
    fn is_whole<'a>(
        &'a self,
        repository: &'a Repository,
        digest: Digest,
        depth: usize,
    ) -> BoxFuture<'a, Result<bool, Failure>> {
        async move {
            let stored = self.store.granted_manifest(repository, &digest).await?;
            let Some(stored) = stored.filter(|stored| stored.complete && depth <= DEPTH) else { return Ok(false) };
            let read = parsed(&stored)?;
            for child in &read.manifests {
                if self.is_whole(repository, child.digest, depth + 1).await? {
                    return Ok(true);
                }
            }
            for blob in read.blobs().filter(|blob| !blob.is_foreign()) {
                if self.store.granted_blob(repository, &blob.digest).await?.is_none() {
                    return Ok(false);
                }
            }
            Ok(read.manifests.is_empty())
        }
        .boxed()
    }

    /// The children of an index that are not whole here.
    pub(super) async fn not_whole(
        &self,
        repository: &Repository,
        index: &Manifest,
    ) -> Result<HashSet<Digest>, Failure> {
        let mut omitted = HashSet::new();
        for child in &index.manifests {
            if !self.is_whole(repository, child.digest, 0).await? {
                omitted.insert(child.digest);
            }
        }
        Ok(omitted)
    }

    async fn carries(&self, parent: &Digest, child: &Digest) -> Result<bool, Failure> {
        Ok(self.store.links(parent).await?.iter().any(|link| link.child == *child && link.carried))
    }

    /// The indexes of this repository that have this child.
    pub(super) async fn indexes_above(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Manifest>, Failure> {
        let mut above = Vec::new();
        for parent in self.store.parents(digest).await? {
            if let Some(stored) = self.store.granted_manifest(repository, &parent).await? {
                above.push(parsed(&stored)?);
            }
        }
        above.retain(|parent| parent.shape == Shape::Index);
        Ok(above)
    }
}

fn parsed(stored: &StoredManifest) -> Result<Manifest, Failure> {
    Manifest::parse(&stored.bytes, &stored.media_type).map_err(Failure::inside)
}
