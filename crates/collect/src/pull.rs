//! Pull: the store gets everything that a lock says.
//!
//! Each image and each file is a job of its own. A job fetches the blobs that the store has not, each blob once however
//! many jobs want it; a blob is named in the catalog as soon as it is whole, so that a run that is killed loses only
//! what was under way, and of that only what was not written yet. Last, one [`Change`] makes the image visible:
//! its manifests, the grants, its names. A job that fails stops no other.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use artifact::{Digest, Entry, Manifest, Progress, Repository};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use store::{Change, NewBlob, Replaced, Store, StoredManifest};
use tokio::sync::{OnceCell, Semaphore};
use upstream::Client;

use crate::error::{Error, Failure, Result};
use crate::fetch::{self, Source};
use crate::list::LOCAL;
use crate::local;
use crate::lock::{Lock, LockedBlob, LockedFile, LockedImage, LockedLocal};
use crate::readable;
use crate::together::{each, together};

/// Jobs at a time.
const JOBS: usize = 16;
/// Blobs under way at a time, over all hosts; the client bounds what one host gets.
const BLOBS: usize = 16;
/// Bytes that a catalog takes for each thing, and then some.
const CATALOG: u64 = 4096;

/// What a pull did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pulled {
    /// Images and files that the store now offers.
    pub items: u64,
    /// Blobs that were fetched.
    pub fetched: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that were there already.
    pub present: u64,
    /// Entries that name something new.
    pub changed: Vec<Replaced>,
}

/// Makes `store` hold everything in `lock`. Files of this machine are looked for in `folder`, the packing list's.
///
/// # Errors
/// [`Error::NoSpace`] before anything is fetched, and [`Error::Failed`] with everything that could not be had; what could
/// is in the store.
pub async fn pull(
    lock: &Lock,
    folder: &Path,
    client: &Client,
    store: &Store,
    progress: &dyn Progress,
) -> Result<Pulled> {
    let pulling = Pulling::begin(lock, folder, client, store, progress).await?;
    let images = lock.images.iter().map(Job::Image);
    let jobs = images.chain(lock.files.iter().map(Job::File)).chain(lock.local.iter().map(Job::Local));
    let jobs: Vec<_> = jobs.collect();
    let total = jobs.len();
    let running = &pulling;
    let done = each(JOBS, &jobs, &|job| running.job(job)).await;
    progress.end();
    let mut pulled = pulling.pulled();
    let mut failures = Vec::new();
    for result in done {
        match result {
            Ok(changed) => {
                pulled.items += 1;
                pulled.changed.extend(changed);
            }
            Err(failure) => failures.push(failure),
        }
    }
    if failures.is_empty() { Ok(pulled) } else { Err(Error::Failed { action: "pull", total, failures }) }
}

enum Job<'a> {
    Image(&'a LockedImage),
    File(&'a LockedFile),
    Local(&'a LockedLocal),
}

impl Job<'_> {
    fn name(&self) -> String {
        match self {
            Self::Image(image) => image.reference.to_string(),
            Self::File(file) => file.url.to_string(),
            Self::Local(file) => file.source.display().to_string(),
        }
    }
}

/// Where a blob may be had.
enum Place<'a> {
    Upstream(Source<'a>),
    Disk(PathBuf),
}

struct Pulling<'a> {
    folder: &'a Path,
    client: &'a Client,
    store: &'a Store,
    progress: &'a dyn Progress,
    /// One cell a blob: whoever comes first fetches it, and where that fails the next one tries its own source.
    blobs: HashMap<Digest, OnceCell<()>>,
    present: u64,
    sizes: HashMap<Digest, u64>,
    permits: Semaphore,
}

impl<'a> Pulling<'a> {
    /// Looks what is there, says what will be done, and refuses what cannot fit.
    async fn begin(
        lock: &'a Lock,
        folder: &'a Path,
        client: &'a Client,
        store: &'a Store,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        let mut sizes = HashMap::new();
        for image in &lock.images {
            sizes.extend(image.blobs().map(|blob| (blob.digest, blob.size)));
        }
        sizes.extend(lock.files.iter().map(|file| (file.digest, file.size)));
        sizes.extend(lock.local.iter().map(|file| (file.digest, file.size)));
        let digests: Vec<Digest> = sizes.keys().copied().collect();
        let mut blobs: HashMap<Digest, OnceCell<()>> =
            digests.iter().map(|digest| (*digest, OnceCell::new())).collect();
        let there = store.blobs(&digests).await?;
        let here: Vec<Digest> = there.iter().map(|blob| blob.digest).collect();
        store.renew(here).await?;
        for blob in &there {
            blobs.insert(blob.digest, OnceCell::new_with(Some(())));
            sizes.remove(&blob.digest);
        }
        let missing = sizes.values().fold(0_u64, |sum, size| sum.saturating_add(*size));
        let manifests = lock.images.iter().flat_map(LockedImage::all_manifests);
        let catalog = manifests.fold(0_u64, |sum, manifest| sum.saturating_add(manifest.size))
            + CATALOG * (digests.len() + lock.images.len() + lock.files.len() + lock.local.len()) as u64;
        let needed = if sizes.is_empty() { 0 } else { missing.saturating_add(catalog) };
        progress.say(&format!(
            "{} blobs to fetch ({}), {} here already; {} needed on disk",
            sizes.len(),
            readable(missing),
            there.len(),
            readable(needed),
        ));
        let free = store.free_space()?;
        // What an earlier run left half done is on the disk already.
        let partial = sizes.keys().map(|digest| store.partial(digest)).fold(0_u64, u64::saturating_add);
        if needed.saturating_sub(partial) > free {
            return Err(Error::NoSpace { folder: store.folder().to_owned(), needed, free });
        }
        progress.begin("pull", missing);
        Ok(Self {
            folder,
            client,
            store,
            progress,
            blobs,
            present: there.len() as u64,
            sizes,
            permits: Semaphore::new(BLOBS),
        })
    }

    fn job<'b>(&'b self, job: &'b Job<'_>) -> BoxFuture<'b, Result<Vec<Replaced>, Failure>> {
        async move {
            let done = match job {
                Job::Image(image) => self.image(image).await,
                Job::File(file) => self.file(file).await,
                Job::Local(file) => self.local(file).await,
            };
            done.map_err(|error| Failure { name: job.name(), error })
        }
        .boxed()
    }

    /// What was fetched so far.
    fn pulled(&self) -> Pulled {
        let fetched = |(digest, _): &(&Digest, &u64)| self.blobs.get(digest).is_some_and(OnceCell::initialized);
        let fetched = self.sizes.iter().filter(fetched).map(|(_, size)| *size);
        let (count, bytes) = fetched.fold((0, 0_u64), |(count, sum), size| (count + 1, sum.saturating_add(size)));
        Pulled { fetched: count, bytes, present: self.present, ..Pulled::default() }
    }

    /// Fetches a blob unless it is there, or somebody else is at it.
    async fn blob(&self, digest: &Digest, source: Place<'_>) -> Result<()> {
        let fetch = async || {
            let _permit = self.permits.acquire().await;
            let blob = match &source {
                Place::Disk(path) => self.copy(digest, path.clone()).await?,
                Place::Upstream(source) => fetch::blob(self.client, self.store, digest, source, self.progress).await?,
            };
            let mut change = Change::new();
            change.blob(None, blob);
            self.store.apply(change).await?;
            Ok(())
        };
        match self.blobs.get(digest) {
            Some(cell) => cell.get_or_try_init(fetch).await.copied(),
            None => fetch().await,
        }
    }

    async fn copy(&self, digest: &Digest, path: PathBuf) -> Result<NewBlob> {
        let (store, digest) = (self.store.clone(), *digest);
        let written = tokio::task::spawn_blocking(move || -> Result<NewBlob> {
            let mut writer = store.writer(Some(&digest))?;
            local::read(&path, |bytes| Ok(writer.write(bytes)?))?;
            writer.finish().map_err(|error| match error {
                store::Error::Mismatch { .. } => Error::Changed { path },
                other => other.into(),
            })
        });
        let blob = written.await.map_err(Error::thread)??;
        self.progress.advance(blob.size());
        Ok(blob)
    }

    async fn image(&self, image: &LockedImage) -> Result<Vec<Replaced>> {
        let repository = image.reference.repository();
        let place = |blob: &LockedBlob| Place::Upstream(Source::Registry(&repository, Box::new(blob.descriptor())));
        let fetch = image.blobs().map(|blob| self.blob(&blob.digest, place(blob)).boxed());
        // All of them are tried before the first failure is told: what has come will not be fetched again.
        let results = together(BLOBS, fetch.collect()).await;
        results.into_iter().collect::<Result<()>>()?;

        let manifests = image.all_manifests().map(|manifest| manifest.digest);
        let carried: HashSet<Digest> = manifests.chain(image.blobs().map(|blob| blob.digest)).collect();
        let mut change = Change::new();
        // The lock is what is wanted, also when it is older than what another list brought.
        change.force();
        for blob in image.blobs() {
            change.grant_blob(&repository, &blob.digest);
        }
        for locked in image.all_manifests().collect::<Vec<_>>().into_iter().rev() {
            let (bytes, media_type) = self.manifest(&repository, &locked.digest).await?;
            let read = Manifest::parse(&bytes, &media_type)
                .map_err(|source| Error::Manifest { digest: locked.digest, source })?;
            let omitted = read.links().map(|link| link.digest).filter(|digest| !carried.contains(digest)).collect();
            change.manifest(&repository, &locked.digest, bytes, &media_type, omitted);
        }
        for entry in image.entries() {
            change.entry(&repository, entry);
        }
        Ok(self.store.apply(change).await?.replaced)
    }

    /// A manifest's bytes, from the store where it has them.
    async fn manifest(&self, repository: &Repository, digest: &Digest) -> Result<(Bytes, String)> {
        if let Some(there) = self.store.manifest(digest).await?.filter(StoredManifest::is_sound) {
            return Ok((there.bytes, there.media_type));
        }
        let fetched = self.client.manifest(repository, digest).await?;
        Ok((fetched.bytes, fetched.media_type))
    }

    async fn file(&self, file: &LockedFile) -> Result<Vec<Replaced>> {
        self.blob(&file.digest, Place::Upstream(Source::Web(&file.url, Some(file.size)))).await?;
        self.name_file(&file.repository(), file.entry()).await
    }

    async fn local(&self, file: &LockedLocal) -> Result<Vec<Replaced>> {
        self.blob(&file.digest, Place::Disk(self.folder.join(&file.source))).await?;
        self.name_file(&Repository::files(LOCAL), file.entry()).await
    }

    async fn name_file(&self, repository: &Repository, entry: Entry) -> Result<Vec<Replaced>> {
        let mut change = Change::new();
        change.force().grant_blob(repository, &entry.digest).entry(repository, entry);
        Ok(self.store.apply(change).await?.replaced)
    }
}
