//! What a running server shares between its requests.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use artifact::{Digest, Repository};
use moka::sync::Cache;
use store::{Blob, Store};

use crate::access::Log;
use crate::audit::Audit;
use crate::auth::{Gate, Passwords};
use crate::body::OpenBlob;
use crate::config::{Patience, Settings};
use crate::content::{Source, Thing};
use crate::metrics::Metrics;
use crate::proxy::{Policy, Proxy};
use crate::refusal::Refusal;
use crate::registry::Uploads;
use crate::resolve::{self, Meant};
use crate::stock::Stock;
use crate::tls::Certificates;

/// Manifests kept in memory, in bytes: design's invariant 6 bounds the whole server.
const WARM_BYTES: u64 = 12 * 1024 * 1024;
/// What an answer weighs beside its bytes.
const WARM_OVERHEAD: u32 = 1024;
/// Names that are shown as ambiguous.
const AMBIGUOUS: usize = 20;

/// A sealed place, serving.
pub(crate) struct Site {
    store: Store,
    stock: Stock,
    settings: ArcSwap<Settings>,
    /// None where nobody is asked for what is not here.
    proxy: ArcSwapOption<Proxy>,
    known: ArcSwap<Known>,
    warm: Cache<String, Arc<Warm>>,
    /// The store's version that `warm` was last cleared for.
    warm_version: AtomicU64,
    /// Counts the settings.
    epoch: AtomicU64,
    /// Counts how often what was pulled has been written down.
    round: AtomicU64,
    open: Cache<String, Arc<OpenBlob>>,
    pub(crate) gate: ArcSwap<Gate>,
    pub(crate) passwords: Passwords,
    pub(crate) audit: Arc<Audit>,
    pub(crate) uploads: Uploads,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) log: Option<Log>,
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) addresses: Addresses,
    pub(crate) patience: Patience,
    ambiguous: Mutex<VecDeque<Ambiguity>>,
}

/// Where the server can be reached.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    pub(crate) main: std::net::SocketAddr,
    pub(crate) plain: Option<std::net::SocketAddr>,
}

/// The upstream hosts of which there is something, at one version of the store.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) version: u64,
    pub(crate) images: BTreeSet<String>,
    pub(crate) files: BTreeSet<String>,
}

/// What an answer depends on beside its request: the store's version, and which settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    version: u64,
    epoch: u64,
}

/// A pull that was answered before: good as long as the store and the settings are what they were.
#[derive(Debug)]
pub(crate) struct Warm {
    moment: Moment,
    /// An upstream is asked again from then on.
    until: Option<Instant>,
    pub(crate) meant: Meant,
    pub(crate) thing: Thing,
    /// The round in which it was noted as pulled; 0: in none.
    noted: AtomicU64,
}

/// A name that several repositories have, and which of them was served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ambiguity {
    pub(crate) name: String,
    pub(crate) candidates: Vec<String>,
    pub(crate) chosen: Option<String>,
}

impl Site {
    pub(crate) fn new(
        store: Store,
        stock: Stock,
        settings: Settings,
        gate: Gate,
        passwords: Passwords,
        audit: Arc<Audit>,
        certificates: Arc<Certificates>,
        log: Option<Log>,
        addresses: Addresses,
        patience: Patience,
        open_files: u64,
    ) -> Self {
        // An open file is a descriptor more than bytes: those that answers hold are no more than those held open apart.
        let open_file = u32::try_from(WARM_BYTES / open_files.max(1)).unwrap_or(u32::MAX).max(8 * WARM_OVERHEAD);
        let weigh = move |key: &String, warm: &Arc<Warm>| {
            let bytes = match &warm.thing.bytes {
                Source::Memory(bytes) => u32::try_from(bytes.len()).unwrap_or(u32::MAX),
                Source::File(_) => open_file,
                Source::Elsewhere(_) => 0,
            };
            bytes.saturating_add(WARM_OVERHEAD).saturating_add(u32::try_from(key.len()).unwrap_or(u32::MAX))
        };
        Self {
            store,
            stock,
            settings: ArcSwap::from_pointee(settings),
            proxy: ArcSwapOption::empty(),
            known: ArcSwap::from_pointee(Known { version: u64::MAX, ..Known::default() }),
            warm: Cache::builder().weigher(weigh).max_capacity(WARM_BYTES).build(),
            warm_version: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            round: AtomicU64::new(1),
            open: Cache::new(open_files),
            gate: ArcSwap::from_pointee(gate),
            passwords,
            audit,
            uploads: Uploads::default(),
            metrics: Arc::new(Metrics::default()),
            log,
            certificates,
            addresses,
            patience,
            ambiguous: Mutex::new(VecDeque::new()),
        }
    }

    /// Where the site's own things are kept, and what is pushed.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// What is handed out.
    pub(crate) fn stock(&self) -> &Stock {
        &self.stock
    }

    pub(crate) fn settings(&self) -> arc_swap::Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// Takes new settings; names may mean other repositories now.
    pub(crate) fn set(&self, settings: Settings, gate: Gate) {
        self.settings.store(Arc::new(settings));
        self.gate.store(Arc::new(gate));
        // After the swap: an answer that was found by the settings before has a moment before, and is not remembered.
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.warm.invalidate_all();
    }

    /// Takes the door to the upstreams.
    pub(crate) fn set_proxy(&self, proxy: Option<Arc<Proxy>>) {
        self.proxy.store(proxy);
    }

    /// The door to a repository's upstream, where that may be asked for what is not here.
    pub(crate) fn proxied(&self, repository: &Repository) -> Option<(Arc<Proxy>, Arc<Policy>)> {
        let settings = self.settings();
        let policy = settings.upstreams.of(&repository.host).filter(|policy| policy.permits(&repository.name))?;
        Some((self.proxy.load_full()?, Arc::clone(policy)))
    }

    /// Takes new secrets.
    pub(crate) fn set_gate(&self, gate: Gate) {
        self.gate.store(Arc::new(gate));
    }

    /// The upstreams that there is something of.
    pub(crate) async fn known(&self) -> Result<Arc<Known>, Refusal> {
        let version = self.stock.version();
        let known = self.known.load_full();
        if known.version == version {
            return Ok(known);
        }
        let fresh = Arc::new(resolve::known_hosts(&self.stock, version).await?);
        self.known.store(Arc::clone(&fresh));
        Ok(fresh)
    }

    /// Now. Taken before the settings and the store are asked.
    pub(crate) fn moment(&self) -> Moment {
        Moment { version: self.stock.version(), epoch: self.epoch.load(Ordering::Acquire) }
    }

    /// What this request was answered with before, when nothing has changed since.
    pub(crate) fn warm(&self, key: &str) -> Option<Arc<Warm>> {
        let moment = self.moment();
        let version = moment.version;
        if self.warm_version.load(Ordering::Relaxed) != version {
            self.warm_version.store(version, Ordering::Relaxed);
            // Not only stale: a blob that was removed must not be kept open.
            self.warm.invalidate_all();
            self.open.invalidate_all();
            return None;
        }
        let is_good = |warm: &Arc<Warm>| warm.until.is_none_or(|until| Instant::now() < until);
        self.warm.get(key).filter(|warm| warm.moment == moment).filter(is_good)
    }

    /// Remembers an answer whose finding began at `moment`.
    pub(crate) fn remember(&self, key: String, moment: Moment, meant: Meant, thing: Thing) {
        self.remember_until(None, key, moment, meant, thing);
    }

    /// The same, of what is to be asked for again.
    pub(crate) fn remember_until(
        &self,
        until: Option<Instant>,
        key: String,
        moment: Moment,
        meant: Meant,
        thing: Thing,
    ) {
        if moment == self.moment() {
            self.warm.insert(key, Arc::new(Warm { moment, until, meant, thing, noted: AtomicU64::new(0) }));
        }
    }

    /// Notes that somebody pulled a manifest that was answered from memory: once a round, so that it costs next to nothing.
    pub(crate) fn pulled(&self, warm: &Warm) {
        let round = self.round.load(Ordering::Relaxed);
        if warm.noted.load(Ordering::Relaxed) != round && self.note_pull(&warm.meant.repository, &warm.thing.digest) {
            warm.noted.store(round, Ordering::Relaxed);
        }
    }

    /// The same of one that was not.
    pub(crate) fn note_pull(&self, repository: &Repository, digest: &Digest) -> bool {
        // Of a bundle that is served where it lies nothing is collected.
        self.stock.is_fixed().is_some() || self.store.note_pull(repository, digest)
    }

    /// Has the catalog know of what was pulled. What it does not take now it is told the next time.
    pub(crate) async fn write_pulls(&self) {
        // First: what is pulled meanwhile is noted once more.
        self.round.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = self.store.write_pulls().await {
            tracing::warn!(%error, "what was pulled could not be written down");
        }
    }

    /// A blob's open file.
    pub(crate) async fn open(&self, blob: &Blob) -> Result<Arc<OpenBlob>, Refusal> {
        if let Some(open) = self.open.get(&blob.key) {
            return Ok(open);
        }
        let open = Arc::new(self.stock.open(blob).await?);
        self.open.insert(blob.key.clone(), Arc::clone(&open));
        Ok(open)
    }

    /// Counts, logs and keeps for the page that a name meant several things.
    pub(crate) fn ambiguous(&self, name: &str, candidates: &[String], chosen: Option<&Repository>) {
        self.metrics.ambiguous();
        let chosen = chosen.map(resolve::shown);
        let met = Ambiguity { name: name.to_owned(), candidates: candidates.to_vec(), chosen };
        let mut seen = self.ambiguous.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.contains(&met) {
            return;
        }
        tracing::warn!(
            name,
            "the name {name} could be {}; {}",
            candidates.join(" or "),
            met.chosen.as_deref().map_or("none is in the order".to_owned(), |chosen| format!("{chosen} was served")),
        );
        if seen.len() == AMBIGUOUS {
            seen.pop_front();
        }
        seen.push_back(met);
    }

    /// Names that meant several things, oldest first.
    pub(crate) fn ambiguities(&self) -> Vec<Ambiguity> {
        self.ambiguous.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::{Config, tls};

    async fn site(folder: &std::path::Path, open_files: u64) -> Site {
        let store = Store::open(folder).await.unwrap();
        let config = Config::default();
        let (gate, _) = Gate::open(&store).await.unwrap();
        let certificates = Certificates::open(&store, &config, tls::names(&config).unwrap(), 0).await.unwrap();
        let main: SocketAddr = "127.0.0.1:5000".parse().unwrap();
        let addresses = Addresses { main, plain: None };
        let settings = Settings::default();
        let stock = Stock::Store(store.clone());
        Site::new(
            store,
            stock,
            settings,
            gate,
            Passwords::new().unwrap(),
            Arc::new(Audit::new(folder, None)),
            Arc::new(certificates),
            None,
            addresses,
            Patience::default(),
            open_files,
        )
    }

    fn meant() -> Meant {
        Meant { repository: Repository::image("", "app"), namespace: None }
    }

    #[tokio::test]
    async fn an_answer_by_old_settings_is_not_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let site = site(folder.path(), 8).await;
        let thing = || Thing::new(Digest::of(b"x"), "text/plain", Source::Memory("x".into()));
        assert!(site.warm("key").is_none());
        let before = site.moment();
        site.remember("key".to_owned(), before, meant(), thing());
        assert!(site.warm("key").is_some());
        // A request is under way while the settings are replaced, and ends after that.
        let (gate, _) = Gate::open(site.store()).await.unwrap();
        site.set(Settings::default(), gate);
        site.remember("key".to_owned(), before, meant(), thing());
        assert!(site.warm("key").is_none());
    }

    #[tokio::test]
    async fn answers_hold_no_more_files_than_may_be_open() {
        let folder = tempfile::tempdir().unwrap();
        let site = site(folder.path(), 8).await;
        assert!(site.warm("key").is_none());
        let moment = site.moment();
        for number in 0..100 {
            let blob = Arc::new(OpenBlob::on_medium(Digest::of(b"x"), Vec::new()));
            let thing = Thing::new(Digest::of(b"x"), "text/plain", Source::File(blob));
            site.remember(number.to_string(), moment, meant(), thing);
        }
        site.warm.run_pending_tasks();
        assert!((1..=8).contains(&site.warm.entry_count()), "{}", site.warm.entry_count());
    }
}
