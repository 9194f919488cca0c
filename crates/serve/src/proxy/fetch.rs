//! Blobs on their way here: each is fetched once, and read by all who asked for it while it comes.

use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use artifact::{Descriptor, Digest, Repository};
use bundle::Extent;
use bytes::Bytes;
use futures_util::FutureExt as _;
use store::{Change, Incoming, NewBlob};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use upstream::Sink;

use super::{BLOBS, Failure, Growth, Proxy};
use crate::body::OpenBlob;
use crate::metrics::{Metrics, Proxied};

/// So many may be under way before it is looked whether somebody waits for each.
const FORGOTTEN: usize = 1000;

type Key = (Repository, Digest);
type OfHost = (String, Digest, u64);

/// Blobs that are under way.
#[derive(Default)]
pub(super) struct Fetches {
    /// By the repository that will show them: another one's upstream has not given them.
    under_way: UnderWay<Key>,
    /// By the upstream and the size that is expected, whichever of its repositories was asked first.
    of_host: UnderWay<OfHost>,
    /// Each upstream's. A fetch keeps a thread busy: who waits for a place shall not.
    places: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// Those who come at the same moment find the same cell, and one of them begins.
struct UnderWay<K>(Mutex<HashMap<K, Arc<OnceCell<Coming>>>>);

impl<K> Default for UnderWay<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash> UnderWay<K> {
    fn cells(&self) -> MutexGuard<'_, HashMap<K, Arc<OnceCell<Coming>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cell(&self, key: &K) -> Arc<OnceCell<Coming>> {
        let mut cells = self.cells();
        if cells.len() >= FORGOTTEN {
            // Whoever asked for those went away before they had begun.
            cells.retain(|_, cell| cell.initialized() || Arc::strong_count(cell) > 1);
        }
        Arc::clone(cells.entry(key.clone()).or_default())
    }

    fn remove(&self, key: &K) {
        self.cells().remove(key);
    }
}

/// A blob, and how far it has come.
#[derive(Clone)]
struct Coming {
    blob: Arc<OpenBlob>,
    /// `None` once it is all here.
    growth: Option<Arc<Growth>>,
    others: Arc<Others>,
}

/// Repositories of the same upstream that have the same blob, and wait for the one that was asked for it first.
#[derive(Default)]
struct Others(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    repositories: Vec<Repository>,
    /// The fetch has ended: nobody looks after who comes now.
    is_over: bool,
}

impl Others {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits with the others; `false`: it is over.
    fn join(&self, repository: &Repository) -> bool {
        let mut waiting = self.waiting();
        if !waiting.is_over {
            waiting.repositories.push(repository.clone());
        }
        !waiting.is_over
    }

    /// Those that wait. From now on nobody joins them.
    fn end(&self) -> Vec<Repository> {
        let mut waiting = self.waiting();
        waiting.is_over = true;
        std::mem::take(&mut waiting.repositories)
    }
}

impl Fetches {
    /// Waits for a place among those that come from this host.
    async fn place(&self, host: &str) -> Result<OwnedSemaphorePermit, Failure> {
        let places = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(places.entry(host.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(BLOBS))))
        };
        places.acquire_owned().await.map_err(Failure::inside)
    }
}

impl Proxy {
    /// A blob that this repository has not, of so many bytes: its upstream's. It may still be on its way when this
    /// returns, but its first bytes are here.
    pub(crate) async fn blob(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        size: u64,
    ) -> Result<Arc<OpenBlob>, Failure> {
        let key = (repository.clone(), *digest);
        let cell = self.fetches.under_way.cell(&key);
        let coming = match cell.get_or_try_init(|| self.begin(key.clone(), size)).await {
            Ok(coming) => coming.clone(),
            Err(failure) => {
                self.fetches.under_way.remove(&key);
                self.metrics.proxied(Proxied::Failed);
                return Err(failure);
            }
        };
        if let Some(growth) = coming.growth {
            growth.begun().await.inspect_err(|_| self.metrics.proxied(Proxied::Failed))?;
        }
        self.metrics.proxied(Proxied::Miss);
        Ok(coming.blob)
    }

    async fn begin(self: &Arc<Self>, key: Key, size: u64) -> Result<Coming, Failure> {
        let (repository, digest) = &key;
        let of_host = (repository.host.clone(), *digest, size);
        loop {
            if let Some(there) = self.there(&key, size).await? {
                return Ok(there);
            }
            let cell = self.fetches.of_host.cell(&of_host);
            let mut is_first = false;
            let coming = cell.get_or_try_init(|| {
                is_first = true;
                self.begin_alone(key.clone(), size, Some(of_host.clone()))
            });
            let coming = coming.await?.clone();
            if is_first {
                return Ok(coming);
            }
            if !self.has_it_too(repository, digest, size).await {
                return self.begin_alone(key, size, None).await;
            }
            if !coming.others.join(repository) {
                // It has ended since: what came of it is in the store, if anything.
                continue;
            }
            match &coming.growth {
                // What the upstream would not give to the other one it may yet give to this one.
                Some(growth) if growth.begun().await.is_err() => {}
                _ => return Ok(coming),
            }
        }
    }

    /// A blob that is here all the same: somebody may have brought it between our caller's look and this one, or another
    /// repository of the same upstream has.
    async fn there(&self, key: &Key, size: u64) -> Result<Option<Coming>, Failure> {
        let (repository, digest) = key;
        let granted = self.store.granted_blob(repository, digest).await?;
        let mut there = granted.filter(|there| self.store.holds(there));
        if there.is_none() && self.is_elsewhere_too(repository, digest, size).await? {
            let mut change = Change::new();
            change.grant_blob(repository, digest);
            match self.store.apply(change).await {
                Ok(_) => self.settle(repository, digest).await?,
                // It was collected in this very moment.
                Err(store::Error::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            there = self.store.granted_blob(repository, digest).await?;
        }
        let Some(there) = there else { return Ok(None) };
        let store = self.store.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let (path, file) = (PathBuf::from(&there.key), Arc::new(store.open_blob(&there)?));
            let piece = Extent { path, file, offset: 0, size: there.size };
            Ok::<_, store::Error>(OpenBlob::of_store(there.digest, piece))
        });
        self.fetches.under_way.remove(key);
        let blob = Arc::new(opened.await.map_err(Failure::inside)??);
        Ok(Some(Coming { blob, growth: None, others: Arc::default() }))
    }

    /// `of_host`: where those find it who ask another repository of the same upstream.
    async fn begin_alone(self: &Arc<Self>, key: Key, size: u64, of_host: Option<OfHost>) -> Result<Coming, Failure> {
        let (repository, digest) = &key;
        let place = self.fetches.place(&repository.host).await?;
        let growth = Arc::new(Growth::new(size));
        let hearing = Arc::clone(&growth);
        let (incoming, file) = Incoming::followed(&self.store, digest, move |written| hearing.tell(written)).await?;
        growth.tell(store::Written::UpTo(incoming.len()));
        let piece = Extent { path: PathBuf::from(digest.to_string()), file: Arc::new(file), offset: 0, size };
        let blob = Arc::new(OpenBlob::growing(*digest, piece, Arc::clone(&growth)));
        let coming = Coming { blob, growth: Some(growth), others: Arc::default() };
        let (proxy, running) = (Arc::clone(self), coming.clone());
        // Whoever asked may go away; others follow, and what has come is worth having.
        tokio::spawn(async move {
            let end = proxy.fetch(&key, size, incoming, &running).await;
            if let Some(of_host) = of_host {
                proxy.fetches.of_host.remove(&of_host);
            }
            proxy.end(&key, running, end).await;
            drop(place);
        });
        Ok(coming)
    }

    /// Whether another repository of the same upstream has brought a blob, and the upstream says that this one has it too:
    /// its layers are shared by many, and need not come again for each.
    async fn is_elsewhere_too(&self, repository: &Repository, digest: &Digest, size: u64) -> Result<bool, Failure> {
        let there = self.store.blob_of_host(&repository.host, digest).await?;
        Ok(there.is_some_and(|there| there.size == size) && self.has_it_too(repository, digest, size).await)
    }

    /// Whether the upstream says that this repository has such a blob.
    async fn has_it_too(&self, repository: &Repository, digest: &Digest, size: u64) -> bool {
        self.metrics.asked_upstream();
        let told = self.questions.blob_size(repository, digest).boxed().await;
        // If it does not tell, it may yet send it.
        told.is_ok_and(|told| told == size)
    }

    async fn fetch(&self, key: &Key, size: u64, incoming: Incoming, coming: &Coming) -> Result<(), Failure> {
        let (repository, digest) = key;
        let (blob, growth) = (Arc::clone(&coming.blob), coming.growth.clone());
        // They are right, whether the store can keep them or not: nobody waits for its disk.
        let proven = move || {
            blob.proven();
            if let Some(growth) = growth {
                growth.end(Ok(()));
            }
        };
        let new = self.receive(repository, digest, size, incoming, proven).await?;
        if let Err(failure) = self.keep(repository, new).await {
            tracing::error!(%digest, "{repository} {digest} was fetched and cannot be kept: {failure}");
        }
        Ok(())
    }

    /// Tells all who wait, once nobody finds it under way any more.
    async fn end(&self, key: &Key, coming: Coming, end: Result<(), Failure>) {
        let digest = &key.1;
        self.fetches.under_way.remove(key);
        for other in coming.others.end() {
            if end.is_ok() {
                if let Err(failure) = self.grant_too(&other, digest).await {
                    tracing::error!(%digest, "{other} {digest} was fetched and cannot be kept: {failure}");
                }
            }
            self.fetches.under_way.remove(&(other, *digest));
        }
        if let Some(growth) = coming.growth {
            growth.end(end);
        }
    }

    /// Shows a blob that has just come in another repository as well, whose upstream has said that it has it.
    async fn grant_too(&self, repository: &Repository, digest: &Digest) -> Result<(), Failure> {
        let mut change = Change::new();
        change.grant_blob(repository, digest);
        self.store.apply(change).await?;
        self.settle(repository, digest).await
    }

    async fn receive(
        &self,
        repository: &Repository,
        digest: &Digest,
        size: u64,
        incoming: Incoming,
        proven: impl FnOnce() + Send + 'static,
    ) -> Result<NewBlob, Failure> {
        let descriptor = Descriptor {
            media_type: "application/octet-stream".to_owned(),
            digest: *digest,
            size,
            // Where else a manifest says that it lies is the client's affair: nobody sends this server there.
            urls: Vec::new(),
            platform: None,
            artifact_type: None,
            annotations: None,
        };
        self.metrics.asked_upstream();
        let mut receiving = Receiving { incoming, metrics: &self.metrics };
        let received = self.downloads.blob(repository, &descriptor, &mut receiving).await;
        if let Err(error) = received {
            // When it was the store that would take no more, it says so here.
            receiving.incoming.stop().await?;
            return Err(self.failed(repository, &error));
        }
        match receiving.incoming.finish_telling(proven).await {
            Err(store::Error::Mismatch { expected, found }) => {
                self.metrics.upstream_failed();
                tracing::error!(%digest, "{repository}: the upstream sent {found} for {expected}; nothing of it was kept");
                Err(Failure::NoAnswer(format!("the upstream {} sent other bytes for {digest}", repository.host)))
            }
            finished => Ok(finished?),
        }
    }

    async fn keep(&self, repository: &Repository, new: NewBlob) -> Result<(), Failure> {
        let digest = *new.digest();
        let mut change = Change::new();
        change.blob(Some(repository), new);
        self.store.apply(change).await?;
        self.settle(repository, &digest).await
    }
}

/// What comes, counted.
struct Receiving<'a> {
    incoming: Incoming,
    metrics: &'a Metrics,
}

impl Sink for Receiving<'_> {
    fn len(&self) -> u64 {
        self.incoming.len()
    }

    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        self.metrics.received_from_upstream(bytes.len() as u64);
        self.incoming.write(bytes).await
    }

    async fn restart(&mut self) -> io::Result<()> {
        self.incoming.restart().await
    }
}
