//! What a running server shares between its requests.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use artifact::Repository;
use moka::sync::Cache;
use store::{Blob, Store};

use crate::access::Log;
use crate::auth::Gate;
use crate::body::OpenBlob;
use crate::config::Settings;
use crate::content::{Source, Thing};
use crate::metrics::Metrics;
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
    known: ArcSwap<Known>,
    warm: Cache<String, Arc<Warm>>,
    /// The store's version that `warm` was last cleared for.
    warm_version: AtomicU64,
    open: Cache<String, Arc<OpenBlob>>,
    pub(crate) gate: ArcSwap<Gate>,
    pub(crate) uploads: Uploads,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) log: Option<Log>,
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) addresses: Addresses,
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

/// A pull that was answered before: good as long as the store is what it was.
#[derive(Debug)]
pub(crate) struct Warm {
    version: u64,
    pub(crate) meant: Meant,
    pub(crate) thing: Thing,
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
        certificates: Arc<Certificates>,
        log: Option<Log>,
        addresses: Addresses,
        open_files: u64,
    ) -> Self {
        let weigh = |key: &String, warm: &Arc<Warm>| {
            let bytes = match &warm.thing.bytes {
                Source::Memory(bytes) => u32::try_from(bytes.len()).unwrap_or(u32::MAX),
                // An open file is a descriptor more than bytes.
                Source::File(_) => 8 * WARM_OVERHEAD,
            };
            bytes.saturating_add(WARM_OVERHEAD).saturating_add(u32::try_from(key.len()).unwrap_or(u32::MAX))
        };
        Self {
            store,
            stock,
            settings: ArcSwap::from_pointee(settings),
            known: ArcSwap::from_pointee(Known { version: u64::MAX, ..Known::default() }),
            warm: Cache::builder().weigher(weigh).max_capacity(WARM_BYTES).build(),
            warm_version: AtomicU64::new(0),
            open: Cache::new(open_files),
            gate: ArcSwap::from_pointee(gate),
            uploads: Uploads::default(),
            metrics: Arc::new(Metrics::default()),
            log,
            certificates,
            addresses,
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
        self.warm.invalidate_all();
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

    /// What this request was answered with before, when nothing has changed since.
    pub(crate) fn warm(&self, key: &str) -> Option<Arc<Warm>> {
        let version = self.stock.version();
        if self.warm_version.load(Ordering::Relaxed) != version {
            self.warm_version.store(version, Ordering::Relaxed);
            // Not only stale: a blob that was removed must not be kept open.
            self.warm.invalidate_all();
            self.open.invalidate_all();
            return None;
        }
        self.warm.get(key).filter(|warm| warm.version == version)
    }

    /// Remembers an answer that was found while the store had `version`.
    pub(crate) fn remember(&self, key: String, version: u64, meant: Meant, thing: Thing) {
        if version == self.stock.version() {
            self.warm.insert(key, Arc::new(Warm { version, meant, thing }));
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
