//! `naru lock`: the packing list, resolved.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use collect::lock::path_beside;
use collect::{Lock, PackingList};
use serde_json::json;

use super::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::size::size;
use crate::terminal::Speaker;

/// How to resolve.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Request {
    /// Only says whether the lock covers the packing list (exit code 4: it does not)
    #[arg(long, conflicts_with = "update")]
    check: bool,
    /// Asks the upstream again for this image, file or repository, and keeps the rest; `*` for all
    #[arg(long, value_name = "NAME")]
    update: Vec<String>,
}

pub(crate) async fn run(request: &Request, context: &Context, voice: &Speaker) -> anyhow::Result<Exit> {
    let list = PackingList::read(&context.list)?;
    if request.check {
        let lock = Lock::read(&path_beside(&list.path))?;
        covered(&lock, &list)?;
        current(&lock, &list).await?;
        voice.say(&format!("{} covers {}", path_beside(&list.path).display(), list.path.display()));
        return Ok(Exit::Done);
    }
    let lock = resolve(&list, &request.update, context, voice).await?;
    let path = path_beside(&list.path);
    let totals = lock.totals();
    let text =
        format!("{}: {} images and {} files, {}", path.display(), totals.images, totals.files, size(totals.bytes));
    let value = json!({
        "file": path.to_string_lossy(), "images": totals.images, "files": totals.files, "things": totals.things, "bytes": totals.bytes,
    });
    voice.answer(&text, &value)?;
    Ok(Exit::Done)
}

/// Resolves a packing list and writes the lock beside it.
pub(crate) async fn resolve(
    list: &PackingList,
    update: &[String],
    context: &Context,
    voice: &Speaker,
) -> anyhow::Result<Lock> {
    let path = path_beside(&list.path);
    if list.is_empty() {
        voice.warn(&format!("{} wishes for nothing: name something under `images:` or `files:`", list.path.display()));
    }
    let previous = previous(&path, voice)?;
    let client = upstream::Client::new(list.upstreams.clone(), &context.environment.surroundings())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
    let lock = collect::lock::lock(list, previous.as_ref(), update, &client, now, voice.as_ref()).await?;
    let text = lock.print(&path)?;
    // A lock that says what it said keeps its time of modification, for make and its like.
    if fs::read_to_string(&path).ok().as_deref() != Some(&*text) {
        lock.write(&path).with_context(|| path.display().to_string())?;
    }
    Ok(lock)
}

/// The lock that is there. One that people or a merge have touched is no ground to build on: everything is asked for
/// again, which is what `naru lock` after it is for.
fn previous(path: &Path, voice: &Speaker) -> anyhow::Result<Option<Lock>> {
    if !path.exists() {
        return Ok(None);
    }
    match Lock::read(path) {
        Ok(lock) => Ok(Some(lock)),
        Err(
            error @ (collect::Error::EditedLock { .. }
            | collect::Error::Document { .. }
            | collect::Error::TooLarge { .. }),
        ) => {
            voice.warn(&format!("{error}; everything is resolved again"));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Refuses a lock that does not cover its list.
pub(crate) fn covered(lock: &Lock, list: &PackingList) -> Result<(), Failure> {
    lock.covers(list).map_err(|differences| stale(list, &differences))
}

/// Refuses a lock of which the files of this machine are no longer what it says: they would be carried as they were.
pub(crate) async fn current(lock: &Lock, list: &PackingList) -> anyhow::Result<()> {
    match collect::lock::changed_here(lock, list).await?.as_slice() {
        [] => Ok(()),
        differences => Err(stale(list, differences).into()),
    }
}

fn stale(list: &PackingList, differences: &[String]) -> Failure {
    let lock = path_beside(&list.path);
    let list = list.path.display();
    Failure::new(format!("{} does not cover {list}:\n  {}", lock.display(), differences.join("\n  ")))
        .hint("`naru lock` brings it up to date")
        .exit(Exit::Stale)
}
