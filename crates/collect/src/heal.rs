//! Heal: what a store has lost is fetched again from the upstreams that it came from.
//!
//! Nothing is resolved and no lock is asked: each thing is known by its digest, and the repositories that show it say
//! which upstream has it. A file is asked for at the address that its entry has.

use artifact::{Descriptor, Kind, Progress, Repository};
use futures_util::FutureExt as _;
use store::{Change, Lost, Store};
use upstream::Client;
use url::Url;

use crate::error::{Error, Failure, Result};
use crate::fetch::{self, Source};
use crate::together::each;

/// Things under way at a time.
const JOBS: usize = 16;

/// What came of it.
#[derive(Debug, Default)]
pub struct Healed {
    /// Things that were brought.
    pub brought: u64,
    /// Those that could not be had where they were looked for, and why.
    pub failures: Vec<Failure>,
}

/// Brings what of this the upstreams have; with `hosts`, these upstreams alone. Names are left as they are.
///
/// # Errors
/// Only when the store takes no more: what could not be had is in the answer.
pub async fn heal(
    client: &Client,
    store: &Store,
    lost: &[Lost],
    hosts: Option<&[String]>,
    progress: &dyn Progress,
) -> Result<Healed> {
    let healing = Healing { client, store, hosts, progress };
    let running = &healing;
    progress.begin("fetch", lost.iter().filter_map(|one| one.size).sum());
    let done = each(JOBS, lost, &|one| running.one(one).boxed()).await;
    progress.end();
    let mut healed = Healed::default();
    for outcome in done {
        match outcome? {
            None => healed.brought += 1,
            Some(failed) => healed.failures.extend(failed),
        }
    }
    Ok(healed)
}

struct Healing<'a> {
    client: &'a Client,
    store: &'a Store,
    hosts: Option<&'a [String]>,
    progress: &'a dyn Progress,
}

impl Healing<'_> {
    /// Brings one thing from the first repository that has it. `Some`: none has, and why, where one was asked.
    async fn one(&self, lost: &Lost) -> Result<Option<Option<Failure>>> {
        let mut failed = None;
        let is_meant = |host: &String| !host.is_empty() && self.hosts.is_none_or(|hosts| hosts.contains(host));
        for repository in lost.shown_by.iter().filter(|repository| is_meant(&repository.host)) {
            match self.bring(lost, repository).await {
                Ok(true) => return Ok(None),
                Ok(false) => {}
                // Nobody else's bytes would be taken either.
                Err(Error::Store(error)) if !matches!(error, store::Error::Mismatch { .. }) => return Err(error.into()),
                Err(error) => {
                    let name = format!("{} of {repository}", lost.digest);
                    failed.get_or_insert(Failure { name, error });
                }
            }
        }
        Ok(Some(failed))
    }

    /// Brings one thing from where this repository came from. `false`: it cannot be asked for there.
    async fn bring(&self, lost: &Lost, repository: &Repository) -> Result<bool> {
        let &Self { client, store, progress, .. } = self;
        let digest = &lost.digest;
        let mut change = Change::new();
        if repository.kind != Kind::Image {
            let mut origins =
                lost.needed_by.iter().filter(|hit| hit.repository == *repository && hit.entry.digest == *digest);
            let Some(url) = origins.find_map(|hit| Url::parse(&hit.entry.origin).ok()) else {
                return Ok(false);
            };
            let source = Source::Web(&url, lost.size);
            change.blob(None, fetch::blob(client, store, digest, &source, progress).await?);
        } else if lost.is_manifest {
            let fetched = client.manifest(repository, digest).await?;
            change.heal_manifest(digest, fetched.bytes, &fetched.media_type);
        } else {
            let size = match lost.size {
                Some(size) => size,
                None => client.blob_size(repository, digest).await?,
            };
            let descriptor = Descriptor {
                media_type: String::new(),
                digest: *digest,
                size,
                urls: Vec::new(),
                platform: None,
                artifact_type: None,
                annotations: None,
            };
            let source = Source::Registry(repository, Box::new(descriptor));
            change.blob(None, fetch::blob(client, store, digest, &source, progress).await?);
        }
        store.apply(change).await?;
        Ok(true)
    }
}
