//! The proxy: what a repository of an upstream has not here is asked of that upstream, stored, and handed out meanwhile.
//!
//! ```text
//! pull ─▶ here? ─yes─▶ answered as ever
//!           └─no─▶ policy ─▶ flight (one question, however many ask) ─▶ upstream
//!                               ├─ manifest: stored with its links, and answered
//!                               └─ blob: fetch writes it, all who ask read behind it (growth)
//! ```
//!
//! A manifest is stored as it comes, its blobs still missing; only its repository shows it then, and only while its
//! upstream may be asked. A tag is written down when an image that it names is whole: until then it is remembered here,
//! so that what was whole before goes on being served when the upstream fails. Of an index the children that somebody
//! pulled are carried, all others left out.
//!
//! Grants are given as by a verified pull: for bytes that came from that upstream, for that repository, or that it says
//! this repository has too. That the store has a blob from elsewhere is no reason to show it to who can name it.

mod failure;
mod fetch;
mod flight;
mod growth;
mod policy;
mod whole;

pub(crate) use failure::Failure;
pub(crate) use growth::Growth;
pub(crate) use policy::{Policies, Policy};

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use artifact::{Digest, Manifest, Repository, Shape, Trust};
use futures_util::FutureExt as _;
use moka::sync::Cache;
use store::{Change, Store, StoredManifest};
use tokio::time::timeout;
use upstream::{Client, Surroundings, Upstreams};

use crate::metrics::{Metrics, Proxied};
use fetch::Fetches;
use flight::Flights;
use whole::Names;

/// How long somebody waits for news of a tag that is here; then it is served as it was.
const NEWS: Duration = Duration::from_secs(3);
/// A tag that is never checked is looked at here once in a while all the same.
const DAY: Duration = Duration::from_hours(24);
/// How long an upstream's no is taken for one.
const NO: Duration = Duration::from_secs(10);
/// How long an upstream is left alone at most, whatever it asks.
const LONGEST_REST: Duration = Duration::from_hours(6);
/// Names that are remembered so, and tags that were asked.
const REMEMBERED: u64 = 10_000;
/// Blobs that come from one upstream at a time, where its section does not say. Each may hold some megabytes.
const BLOBS: usize = 8;
/// Questions that one upstream is asked at a time.
const QUESTIONS: usize = 16;

/// A manifest or a tag, as it was asked for.
type Name = (Repository, String);

/// The door to the upstreams, for those who pull.
pub(crate) struct Proxy {
    store: Store,
    metrics: Arc<Metrics>,
    /// Two, so that no question waits for a download to end.
    questions: Client,
    downloads: Client,
    tags: Flights<Name, Digest>,
    manifests: Flights<(Repository, Digest), ()>,
    fetches: Fetches,
    /// When a tag was asked for last, and answered.
    asked: Cache<Name, Instant>,
    refused: Cache<Name, Failure>,
    /// Upstreams that did not answer at all a moment ago: nobody waits for news from them.
    silent: Cache<String, Failure>,
    /// Upstreams that want to be left alone until then.
    resting: Mutex<HashMap<String, Instant>>,
    /// Names whose images are not whole yet.
    names: Names,
}

impl Proxy {
    /// A proxy to these upstreams. To be made inside a Tokio runtime.
    ///
    /// # Errors
    /// When certificates or credentials that the section names cannot be read.
    pub(crate) fn new(
        store: Store,
        upstreams: &Upstreams,
        surroundings: &Surroundings,
        metrics: Arc<Metrics>,
    ) -> upstream::Result<Self> {
        let with = |most: usize| {
            let mut upstreams = upstreams.clone();
            for upstream in upstreams.0.values_mut() {
                upstream.concurrency.get_or_insert(most);
            }
            Client::for_others(upstreams, surroundings)
        };
        Ok(Self {
            store,
            metrics,
            questions: with(QUESTIONS)?,
            downloads: with(BLOBS)?,
            tags: Flights::default(),
            manifests: Flights::default(),
            fetches: Fetches::default(),
            asked: Cache::new(REMEMBERED),
            refused: Cache::builder().max_capacity(REMEMBERED).time_to_live(NO).build(),
            silent: Cache::builder().max_capacity(REMEMBERED).time_to_live(NO).build(),
            resting: Mutex::default(),
            names: Names::default(),
        })
    }

    /// What a tag names: here, or at its upstream where that is to be asked.
    pub(crate) async fn tag(
        self: &Arc<Self>,
        policy: &Policy,
        repository: &Repository,
        tag: &str,
    ) -> Result<Digest, Failure> {
        let entry = self.store.entry(repository, tag).await?;
        let here = entry.as_ref().map(|entry| entry.digest);
        // What was pushed here is this site's own word.
        if let Some(digest) = here.filter(|_| entry.is_some_and(|entry| entry.trust == Trust::Local)) {
            return Ok(digest);
        }
        let name = (repository.clone(), tag.to_owned());
        let newest = self.names.digest(&name).or(here);
        let is_fresh = !policy.checks || self.asked.get(&name).is_some_and(|at| at.elapsed() < policy.recheck);
        if let Some(digest) = newest.filter(|_| is_fresh) {
            self.metrics.proxied(Proxied::Hit);
            return Ok(digest);
        }
        let old = here.or(newest);
        let asking = async {
            let silent = old.and_then(|_| self.silent.get(&repository.host));
            if let Some(failure) = self.refused.get(&name).or(silent) {
                return Err(failure);
            }
            let (proxy, asking, budget) = (Arc::clone(self), name.clone(), policy.budget);
            self.tags.join(name.clone(), proxy.ask_tag(asking, budget).boxed()).await
        };
        let answer = match old {
            Some(_) => timeout(NEWS, asking).await.unwrap_or_else(|_| {
                // It may answer yet; until then others wait no longer than this one did.
                let failure = Failure::late(repository);
                self.silent.insert(repository.host.clone(), failure.clone());
                Err(failure)
            }),
            None => asking.await,
        };
        match (answer, old) {
            (Ok(digest), _) => {
                self.metrics.proxied(if here == Some(digest) { Proxied::Hit } else { Proxied::Miss });
                Ok(digest)
            }
            (Err(_), Some(old)) => {
                self.metrics.proxied(Proxied::Stale);
                Ok(old)
            }
            (Err(failure), None) => {
                self.metrics.proxied(Proxied::Failed);
                Err(failure)
            }
        }
    }

    /// Until when a tag's answer may be given again without a look; `None` when it may not.
    pub(crate) fn fresh_until(&self, policy: &Policy, repository: &Repository, tag: &str) -> Option<Instant> {
        let name = (repository.clone(), tag.to_owned());
        // What waits to be whole is another thing in a moment.
        if self.names.digest(&name).is_some() {
            return None;
        }
        let now = Instant::now();
        let until =
            if policy.checks { self.asked.get(&name)?.checked_add(policy.recheck) } else { now.checked_add(DAY) };
        until.filter(|until| *until > now)
    }

    async fn ask_tag(self: Arc<Self>, name: Name, budget: u64) -> Result<Digest, Failure> {
        let (repository, tag) = &name;
        let seen = jiff::Timestamp::now().as_second();
        let answer = async {
            self.may_ask(repository)?;
            self.metrics.asked_upstream();
            let resolved = self.questions.resolve_tag(repository, tag).await;
            let resolved = resolved.map_err(|error| self.failed(repository, &error))?;
            if self.store.granted_manifest(repository, &resolved.digest).await?.is_none() {
                self.get_manifest(repository, &resolved.digest, budget).await?;
            }
            Ok::<_, Failure>((resolved.digest, resolved.trust))
        };
        match answer.await {
            Ok((digest, trust)) => {
                self.asked.insert(name.clone(), Instant::now());
                self.name(repository, tag, digest, seen, trust).await?;
                Ok(digest)
            }
            Err(failure) => {
                self.refused.insert(name, failure.clone());
                Err(failure)
            }
        }
    }

    /// A manifest that this repository has not: its upstream's.
    pub(crate) async fn manifest(
        self: &Arc<Self>,
        policy: &Policy,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<StoredManifest, Failure> {
        let above = self.indexes_above(repository, digest).await?;
        let is_wanted = |index: &Manifest| {
            index.chosen(|platform| policy.chooses(platform)).iter().any(|child| child.digest == *digest)
        };
        if !policy.platforms.is_empty() && !above.is_empty() && !above.iter().any(is_wanted) {
            return Err(Failure::left_out(repository, digest, policy));
        }
        let name = (repository.clone(), digest.to_string());
        if let Some(failure) = self.refused.get(&name) {
            self.metrics.proxied(Proxied::Failed);
            return Err(failure);
        }
        if let Err(failure) = self.get_manifest(repository, digest, policy.budget).await {
            self.metrics.proxied(Proxied::Failed);
            self.refused.insert(name, failure.clone());
            return Err(failure);
        }
        self.metrics.proxied(Proxied::Miss);
        // Whoever pins a digest wants that name; what an index names is its own.
        if above.is_empty() {
            let seen = jiff::Timestamp::now().as_second();
            self.name(repository, &digest.to_string(), *digest, seen, Trust::Digest).await?;
        }
        let stored = self.store.granted_manifest(repository, digest).await?;
        stored.ok_or_else(|| Failure::NotThere(format!("{repository} has no {digest} any more")))
    }

    /// Fetches a manifest and stores it, unless that is more than its upstream allows.
    async fn get_manifest(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        budget: u64,
    ) -> Result<(), Failure> {
        if self.questions.allowance(&repository.host).is_some_and(|left| left <= budget) {
            return Err(Failure::Limited { host: repository.host.clone(), left: NO });
        }
        let key = (repository.clone(), *digest);
        let (proxy, (repository, digest)) = (Arc::clone(self), key.clone());
        let getting = async move {
            proxy.may_ask(&repository)?;
            proxy.metrics.asked_upstream();
            let fetched = proxy.questions.manifest(&repository, &digest).await;
            let fetched = fetched.map_err(|error| proxy.failed(&repository, &error))?;
            let read = Manifest::parse(&fetched.bytes, &fetched.media_type).map_err(Failure::inside)?;
            let omitted = match read.shape {
                Shape::Index => proxy.not_whole(&repository, &read).await?,
                Shape::Manifest => HashSet::new(),
            };
            let mut change = Change::new();
            change.manifest(&repository, &digest, fetched.bytes, &fetched.media_type, omitted);
            proxy.store.apply(change).await?;
            proxy.settle(&repository, &digest).await
        };
        self.manifests.join(key, getting.boxed()).await
    }

    /// How many bytes a blob has: as the manifest says that names it, or else its upstream.
    pub(crate) async fn size(&self, repository: &Repository, digest: &Digest) -> Result<u64, Failure> {
        for parent in self.store.parents(digest).await? {
            if self.store.granted_manifest(repository, &parent).await?.is_none() {
                continue;
            }
            let links = self.store.links(&parent).await?;
            if let Some(link) = links.iter().find(|link| link.child == *digest && !link.is_manifest) {
                return Ok(link.size);
            }
        }
        let name = (repository.clone(), digest.to_string());
        if let Some(failure) = self.refused.get(&name) {
            return Err(failure);
        }
        self.metrics.asked_upstream();
        let size = self.questions.blob_size(repository, digest).boxed().await;
        size.map_err(|error| self.failed(repository, &error)).inspect_err(|failure| {
            self.refused.insert(name, failure.clone());
        })
    }

    /// Whether the upstream may be asked for manifests now. Those are what is limited: an image that was begun is brought to
    /// its end.
    fn may_ask(&self, repository: &Repository) -> Result<(), Failure> {
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(until) = resting.get(&repository.host) else { return Ok(()) };
        if let Some(left) = until.checked_duration_since(Instant::now()) {
            return Err(Failure::Limited { host: repository.host.clone(), left });
        }
        resting.remove(&repository.host);
        Ok(())
    }

    /// Takes note of what went wrong with an upstream; said here, and nowhere again.
    fn failed(&self, repository: &Repository, error: &upstream::Error) -> Failure {
        if !matches!(error, upstream::Error::NotFound { .. }) {
            self.metrics.upstream_failed();
            let host = &repository.host;
            tracing::error!(%repository, "the upstream {host} did not help: {error}");
        }
        if let upstream::Error::RateLimited { retry_after, .. } = error {
            let left = retry_after.unwrap_or(NO).min(LONGEST_REST);
            let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
            resting.insert(repository.host.clone(), Instant::now() + left);
            return Failure::Limited { host: repository.host.clone(), left };
        }
        let failure = Failure::of(repository, error);
        if matches!(error, upstream::Error::Unreachable { host, .. } if *host == repository.host) {
            self.silent.insert(repository.host.clone(), failure.clone());
        }
        failure
    }
}
