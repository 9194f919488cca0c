//! `naru pull`: the store holds everything that is in the lock.

use std::path::PathBuf;

use anyhow::Context as _;
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
}

/// A pull, as far as it needs the store.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    lock: Lock,
    /// Whence the list's relative paths are seen.
    folder: PathBuf,
    upstreams: Upstreams,
    environment: Environment,
}

/// Reads list and lock, and resolves first when there is no lock yet.
pub(crate) async fn order(request: &Request, context: &Context, voice: &Speaker) -> anyhow::Result<Work> {
    let list = PackingList::read(&context.list)?;
    let path = path_beside(&list.path);
    let lock = if path.exists() {
        let lock = Lock::read(&path)?;
        lock::covered(&lock, &list)?;
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
    Ok(Work::Pull(Box::new(Order { lock, folder, upstreams: list.upstreams, environment: environment.clone() })))
}

pub(crate) async fn run(store: &Store, order: &Order, voice: &Speaker) -> anyhow::Result<Exit> {
    let client = upstream::Client::new(order.upstreams.clone(), &order.environment.surroundings())?;
    let pulled = collect::pull(&order.lock, &order.folder, &client, store, voice.as_ref()).await?;
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
    Ok(Exit::Done)
}
