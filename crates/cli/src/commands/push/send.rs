//! Brings images to their places: blobs first, each once, then manifests, children before parents.
//!
//! Images go several at a time; how much a registry is asked at once is the client's business. A blob that two
//! repositories share is sent to the first and mounted into the second. What refers to an image follows it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use artifact::{Descriptor, Digest, Platform, Repository, Shape};
use bundle::{Document, Gathered, gather};
use store::{Blob, Referrer, Replaced, Store, StoredManifest};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use upstream::{Arrival, Client, Fetched, Outgoing};

use super::plan::Item;
use crate::commands::replaced;
use crate::exit::Exit;
use crate::failure::{Failure, Report};
use crate::terminal::Speaker;

/// Images at a time.
const IMAGES: usize = 8;
/// Blobs at a time, which is files that are open.
const BLOBS: usize = 16;

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    /// Images that were there already.
    pub(super) images_there: u64,
    /// Blobs that were sent.
    pub(super) blobs: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Blobs that the registry had in another repository of its own.
    pub(super) mounted: u64,
    /// Blobs that were there already.
    pub(super) there: u64,
}

/// Who waits for a blob waits here; whoever has it knows the repositories that it came to.
type Places = Arc<tokio::sync::Mutex<Vec<Repository>>>;

struct Sending {
    store: Store,
    client: Client,
    platform: Option<Platform>,
    voice: Speaker,
    blobs: Mutex<HashMap<Digest, Places>>,
    images: Semaphore,
    files: Semaphore,
    sent: Mutex<Sent>,
    /// What was looked through for referrers, by its place.
    looked: Mutex<HashSet<(Repository, Digest)>>,
    /// Referrers that the registry does not list by itself, by their subject.
    unlisted: Mutex<BTreeMap<(Repository, Digest), Vec<Descriptor>>>,
}

/// Sends them all. One that fails stops no other, unless the registry is gone.
///
/// # Errors
/// With everything that could not be sent; the rest is there.
pub(super) async fn send(
    store: &Store,
    client: Client,
    items: Vec<Item>,
    platform: Option<Platform>,
    voice: Speaker,
) -> anyhow::Result<Sent> {
    voice.begin("push", total(store, &items, platform.as_ref()).await?);
    let sending = Arc::new(Sending {
        store: store.clone(),
        client,
        platform,
        voice: Arc::clone(&voice),
        blobs: Mutex::default(),
        images: Semaphore::new(IMAGES),
        files: Semaphore::new(BLOBS),
        sent: Mutex::default(),
        looked: Mutex::default(),
        unlisted: Mutex::default(),
    });
    let total = items.len();
    let (mut work, mut failures) = (JoinSet::new(), BTreeMap::new());
    for item in items {
        let sending = Arc::clone(&sending);
        work.spawn(async move {
            let _permit = sending.images.acquire().await;
            let done = sending.image(&item).await;
            (item.destination(), done)
        });
    }
    while let Some(done) = work.join_next().await {
        let (name, result) = done?;
        let Err(error) = result else { continue };
        if error.downcast_ref::<upstream::Error>().is_some_and(upstream::Error::is_unreachable) {
            work.shutdown().await;
            voice.end();
            return Err(error);
        }
        failures.insert(name, error);
    }
    voice.end();
    sending.list().await?;
    let sent = *lock(&sending.sent);
    failed(failures, total).map(|()| sent)
}

/// The bytes that may have to be sent. Reading everything once before shows what is not whole, too.
async fn total(store: &Store, items: &[Item], platform: Option<&Platform>) -> anyhow::Result<u64> {
    let mut sizes = HashMap::new();
    for item in items.iter().filter(|item| !item.is_there()) {
        let gathered = gather(store, &item.digest, platform).await.with_context(|| item.source.clone())?;
        sizes.extend(gathered.blobs.iter().map(|blob| (blob.digest, blob.size)));
    }
    Ok(sizes.values().fold(0, |sum, size| sum.saturating_add(*size)))
}

/// All failures as one.
fn failed(failures: BTreeMap<String, anyhow::Error>, total: usize) -> anyhow::Result<()> {
    if total == 1 {
        return failures.into_values().next().map_or(Ok(()), Err);
    }
    let mut text = format!("{} of {total} could not be pushed", failures.len());
    let mut hint = None;
    for (name, error) in &failures {
        if let Some(report) = Report::of(error) {
            let _ = write!(text, "\n  {name}: {}", report.line);
            hint = hint.or(report.hint);
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    let failure = Failure::new(text).exit(Exit::Incomplete);
    Err(match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
    .into())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sending {
    async fn image(self: &Arc<Self>, item: &Item) -> anyhow::Result<()> {
        let gathered = gather(&self.store, &item.digest, self.platform.as_ref()).await?;
        if item.is_there() {
            lock(&self.sent).images_there += 1;
        } else if let Some(digest) = self.put(&item.to, &gathered, &item.name).await? {
            if item.standing != Some(digest) {
                let Item { to, name, standing, .. } = item;
                let change = Replaced {
                    repository: Arc::new(to.clone()),
                    name: name.clone(),
                    old: *standing,
                    new: Some(digest),
                };
                replaced(&change, &self.voice)?;
            }
        }
        self.referrers(item, &gathered).await
    }

    /// Puts all of it there; answers what the name stands for then.
    async fn put(self: &Arc<Self>, to: &Repository, gathered: &Gathered, name: &str) -> anyhow::Result<Option<Digest>> {
        let digests = gathered.blobs.iter().map(|blob| blob.digest).collect::<Vec<_>>();
        let mut work = JoinSet::new();
        for blob in self.store.blobs(&digests).await? {
            let (sending, to) = (Arc::clone(self), to.clone());
            work.spawn(async move { sending.blob(&to, &blob).await });
        }
        while let Some(done) = work.join_next().await {
            done??;
        }
        let Some((top, below)) = gathered.documents.split_last() else { return Ok(None) };
        for document in below {
            let digest = document.stored.digest.to_string();
            match self.client.push_manifest(to, &digest, &fetched(&document.stored)).await {
                // It is one of the index's that cannot stand there either.
                Err(upstream::Error::Refused { .. }) if is_sparse(document) => {}
                done => done?,
            }
        }
        match self.client.push_manifest(to, name, &fetched(&top.stored)).await {
            Err(error @ upstream::Error::Refused { .. }) if gathered.documents.iter().any(is_sparse) => {
                self.in_its_place(to, gathered, name, error).await.map(Some)
            }
            done => Ok(done.map(|()| Some(top.stored.digest))?),
        }
    }

    /// Where a registry wants every child of an index: the image of one platform.
    async fn in_its_place(
        &self,
        to: &Repository,
        gathered: &Gathered,
        name: &str,
        error: upstream::Error,
    ) -> anyhow::Result<Digest> {
        let here = Platform::here();
        let single = gathered.for_platform(self.platform.as_ref().unwrap_or(&here));
        let (Some(top), Some(single)) = (gathered.documents.last(), single) else { return Err(error.into()) };
        let (index, digest) = (top.stored.digest, single.stored.digest);
        let place = if name.contains(':') { digest.to_string() } else { name.to_owned() };
        self.client.push_manifest(to, &place, &fetched(&single.stored)).await?;
        let platform = top.manifest.manifests.iter().find(|child| child.digest == digest);
        let platform = platform.and_then(Descriptor::platform).map(|of| format!(" for {of}")).unwrap_or_default();
        self.voice.warn(&format!(
            "{}: the registry takes no index of which a part was left out ({error}); the image{platform} alone stands \
             there, {digest} and not {index}",
            crate::thing::label(to, &place)
        ));
        Ok(digest)
    }

    /// Sees to it that a blob is there, once however many want it.
    async fn blob(&self, to: &Repository, blob: &Blob) -> anyhow::Result<()> {
        let places = Arc::clone(lock(&self.blobs).entry(blob.digest).or_default());
        let mut places = places.lock().await;
        if places.contains(to) {
            return Ok(());
        }
        let _permit = self.files.acquire().await;
        let is_first = places.is_empty();
        let voice = Arc::clone(&self.voice);
        let tell = move |bytes| {
            if is_first {
                voice.advance(bytes);
            }
        };
        let bytes = Arc::new(Outgoing::new(self.store.open_blob(blob)?, blob.size, tell));
        let arrival = self.client.push_blob(to, &blob.digest, &bytes, places.first()).await?;
        let mut sent = lock(&self.sent);
        match arrival {
            Arrival::There => sent.there += 1,
            Arrival::Mounted => sent.mounted += 1,
            Arrival::Sent => {
                sent.blobs += 1;
                sent.bytes = sent.bytes.saturating_add(blob.size);
            }
        }
        drop(sent);
        places.push(to.clone());
        Ok(())
    }

    /// Puts what refers to any part of it there, and what refers to that.
    async fn referrers(self: &Arc<Self>, item: &Item, gathered: &Gathered) -> anyhow::Result<()> {
        let mut open = gathered.documents.iter().map(|document| document.stored.digest).collect::<Vec<_>>();
        while let Some(subject) = open.pop() {
            if !lock(&self.looked).insert((item.to.clone(), subject)) {
                continue;
            }
            let referrers = self.store.referrers(&item.repository, &subject).await?;
            if referrers.is_empty() {
                continue;
            }
            let listed = self.client.standing_referrers(&item.to, &subject).await?;
            for referrer in referrers {
                open.push(referrer.digest);
                let name = referrer.digest.to_string();
                let is_listed = listed.iter().any(|one| one.digest == referrer.digest);
                if is_listed && self.client.standing(&item.to, &name).await?.is_some() {
                    continue;
                }
                let gathered = gather(&self.store, &referrer.digest, None).await?;
                self.put(&item.to, &gathered, &name).await?;
                if !is_listed {
                    let key = (item.to.clone(), subject);
                    lock(&self.unlisted).entry(key).or_default().push(descriptor(referrer));
                }
            }
        }
        Ok(())
    }

    /// Writes the lists of referrers that the registry does not keep by itself.
    async fn list(&self) -> anyhow::Result<()> {
        let unlisted = std::mem::take(&mut *lock(&self.unlisted));
        for ((to, subject), referrers) in unlisted {
            let listed = self.client.standing_referrers(&to, &subject).await?;
            let is_listed = |referrer: &Descriptor| listed.iter().any(|one| one.digest == referrer.digest);
            if !referrers.iter().all(is_listed) {
                self.client.push_referrers(&to, &subject, &referrers).await?;
            }
        }
        Ok(())
    }
}

/// Whether a part of it was left out.
fn is_sparse(document: &Document) -> bool {
    document.manifest.shape == Shape::Index && !document.left_out.is_empty()
}

fn fetched(stored: &StoredManifest) -> Fetched {
    Fetched { digest: stored.digest, bytes: stored.bytes.clone(), media_type: stored.media_type.clone() }
}

fn descriptor(referrer: Referrer) -> Descriptor {
    let Referrer { digest, size, media_type, artifact_type, annotations } = referrer;
    let annotations = annotations.and_then(|value| value.as_object().cloned());
    Descriptor { media_type, digest, size, urls: Vec::new(), platform: None, artifact_type, annotations }
}
