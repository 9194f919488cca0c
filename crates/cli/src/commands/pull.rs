//! `naru pull`: the store holds everything that is in the lock.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::Context as _;
use artifact::Digest;
use bundle::WantList;
use collect::lock::path_beside;
use collect::{Lock, PackingList};
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::Store;
use upstream::Upstreams;

use super::{Context, Work, lock, replaced};
use crate::environment::Environment;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::size::size;
use crate::terminal::Speaker;

/// How to pull.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Request {
    /// Never resolves: without a lock it fails
    #[arg(long)]
    locked: bool,
    /// Fetches what a site's want-list lists, as far as the lock still names it
    #[arg(long, value_name = "FILE")]
    want: Option<PathBuf>,
}

/// A pull, as far as it needs the store.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    lock: Lock,
    /// Whence the list's relative paths are seen.
    folder: PathBuf,
    upstreams: Upstreams,
    environment: Environment,
    want: Option<WantList>,
}

/// Reads list and lock, and resolves first when there is no lock yet.
pub(crate) async fn order(request: &Request, context: &Context, voice: &Speaker) -> anyhow::Result<Work> {
    let list = PackingList::read(&context.list)?;
    let path = path_beside(&list.path);
    let want = request.want.as_deref().map(WantList::read).transpose()?;
    let lock = if path.exists() {
        let lock = Lock::read(&path)?;
        lock::covered(&lock, &list)?;
        // A want-list is met as far as the lock still names it.
        if want.is_none() {
            lock::current(&lock, &list).await?;
        }
        lock
    } else if request.locked {
        return Err(Failure::new(format!("{} is not there", path.display()))
            .hint("`naru lock` writes it; without `--locked`, pull does")
            .exit(Exit::Stale)
            .into());
    } else {
        voice.say(&format!("there is no {} yet: resolving {}", path.display(), list.path.display()));
        lock::resolve(&list, &[], context, voice).await?
    };
    // A holder of the store runs in another folder.
    let folder = std::path::absolute(list.folder()).with_context(|| list.folder().display().to_string())?;
    let Context { environment, .. } = context;
    Ok(Work::Pull(Box::new(Order { lock, folder, upstreams: list.upstreams, environment: environment.clone(), want })))
}

pub(crate) async fn run(store: &Store, order: &Order, voice: &Speaker) -> anyhow::Result<Exit> {
    let client = upstream::Client::new(order.upstreams.clone(), &order.environment.surroundings())?;
    let lock = match &order.want {
        Some(want) => wanted(store, want, &order.lock).await?,
        None => order.lock.clone(),
    };
    let pulled = collect::pull(&lock, &order.folder, &client, store, voice.as_ref()).await?;
    for change in &pulled.changed {
        replaced(change, voice)?;
    }
    let text = format!(
        "{} images and files are here; {} blobs fetched ({}), {} were here already",
        pulled.items,
        pulled.fetched,
        size(pulled.bytes),
        pulled.present
    );
    let value = json!({
        "done": "pull", "items": pulled.items, "fetched": pulled.fetched, "bytes": pulled.bytes,
        "present": pulled.present,
    });
    voice.answer(&text, &value)?;
    let Some(want) = &order.want else { return Ok(Exit::Done) };
    let missing = missing(store, want).await?;
    for digest in &missing {
        let names = want.things.get(digest).map(|wanting| wanting.names.join(", ")).unwrap_or_default();
        voice.answer(&format!("MISSING  {digest}  {names}"), &json!({ "missing": digest, "names": names }))?;
    }
    if missing.is_empty() {
        voice.say(&format!("all of the {} things wanted are here", want.things.len()));
        return Ok(Exit::Done);
    }
    voice.warn(
        "the lock names these no more: what needs them has moved on; a new difference brings the site what is now",
    );
    Ok(Exit::Incomplete)
}

/// What of a want-list the store has not.
async fn missing(store: &Store, want: &WantList) -> anyhow::Result<HashSet<Digest>> {
    let mut missing = HashSet::new();
    for (digest, wanting) in &want.things {
        let is_here = if wanting.manifest {
            store.manifest(digest).await?.is_some()
        } else {
            store.blob(digest).await?.is_some()
        };
        if !is_here {
            missing.insert(*digest);
        }
    }
    Ok(missing)
}

/// The part of a lock that brings what is missing.
async fn wanted(store: &Store, want: &WantList, lock: &Lock) -> anyhow::Result<Lock> {
    let missing = missing(store, want).await?;
    let mut lock = lock.clone();
    lock.images.retain(|image| {
        let manifests = image.all_manifests().map(|manifest| &manifest.digest);
        let mut all = manifests.chain(image.blobs().map(|blob| &blob.digest)).chain([&image.digest]);
        all.any(|digest| missing.contains(digest))
    });
    lock.files.retain(|file| missing.contains(&file.digest));
    lock.local.retain(|file| missing.contains(&file.digest));
    Ok(lock)
}
