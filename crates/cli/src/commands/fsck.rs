//! `naru fsck`: is everything in the store what its name says, and is all of it there? If not, it is brought again, and a
//! catalog that was lost is made again.

mod rebuild;
mod repair;

pub(crate) use rebuild::rebuild;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{Finding, Fsck, Hit, Store};

use super::{Context, Work};
use crate::exit::Exit;
use crate::size::size;
use crate::terminal::Speaker;
use crate::thing;

/// How thoroughly, and what then.
#[derive(Debug, clap::Args)]
pub(crate) struct Request {
    /// Removes files that nothing names: what killed writers left; and what was begun and left alone for a day
    #[arg(long)]
    tidy: bool,
    /// Brings what is lost or damaged again: from volumes of bundles, or the folders they lie in; from the upstreams that
    /// the store's things are of (`upstream`, as naru.yaml and serve.yaml reach them); from one of those (its host)
    #[arg(long, value_name = "PATH|upstream|HOST", num_args = 1..)]
    repair_from: Vec<PathBuf>,
    /// Makes a catalog again that is lost or damaged, from the copy that the store keeps of it and from the bytes that are
    /// here; no server may hold the store
    #[arg(long, conflicts_with = "repair_from")]
    rebuild: bool,
}

impl Request {
    /// Whether a catalog shall be made again.
    pub(crate) fn rebuilds(&self) -> bool {
        self.rebuild
    }
}

/// A scrub, as far as it needs the store; the volumes travel beside it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Order {
    tidy: bool,
    repair: Option<Box<repair::Order>>,
    /// Whether it follows a catalog that was made again.
    rebuilt: bool,
}

impl Order {
    /// As the audit has it; nothing of what only looks.
    pub(crate) fn audited(&self) -> Option<(&'static str, String)> {
        if self.rebuilt {
            return Some(("fsck", "--rebuild".to_owned()));
        }
        self.repair.as_ref().map(|repair| ("fsck", repair.names()))
    }
}

/// Opens the volumes: the holder of the store may not be allowed to.
pub(crate) fn order(request: &Request, context: &Context) -> anyhow::Result<(Work, Vec<File>)> {
    let (repair, files) = match request.repair_from.as_slice() {
        [] => (None, Vec::new()),
        places => {
            let (order, files) = repair::order(places, context)?;
            (Some(Box::new(order)), files)
        }
    };
    Ok((Work::Fsck(Order { tidy: request.tidy, repair, rebuilt: false }), files))
}

pub(crate) async fn run(store: &Store, order: &Order, files: Vec<File>, voice: &Speaker) -> anyhow::Result<Exit> {
    // Who may not be asked is refused before hours of hashing.
    let mut sources = match &order.repair {
        Some(repair) => repair::open(store, repair, files, voice).await?,
        None => Vec::new(),
    };
    let fsck = store.fsck(order.tidy, Arc::clone(voice) as Arc<dyn artifact::Progress>).await?;
    for finding in &fsck.findings {
        let (text, value) = describe(finding);
        voice.answer(&text, &value)?;
    }
    let is_damaged = fsck.findings.iter().any(|finding| matches!(finding, Finding::Catalog { .. }));
    let is_repaired = !sources.is_empty() && !fsck.is_clean() && !is_damaged;
    let clean = if is_repaired { repair::repair(store, &fsck, &mut sources, voice).await? } else { fsck.is_clean() };
    summary(&fsck, clean, is_repaired, voice)?;
    if is_damaged {
        voice.say("hint: `naru fsck --rebuild` makes the catalog again");
    } else if !clean && !is_repaired {
        voice.say(
            "hint: to heal it, `naru fsck --repair-from` the bundles that brought these, or `--repair-from upstream`; only \
             what is missing or was damaged is written",
        );
    }
    Ok(if clean { Exit::Done } else { Exit::Incomplete })
}

fn summary(fsck: &Fsck, clean: bool, is_repaired: bool, voice: &Speaker) -> anyhow::Result<()> {
    let text = format!(
        "{}: {} blobs ({}) and {} manifests hashed again; {} partial files wait for their next run; {} removed",
        match (clean, is_repaired) {
            (true, true) => "healed",
            (true, false) => "clean",
            (false, _) => "NOT CLEAN",
        },
        fsck.blobs,
        size(fsck.bytes),
        fsck.manifests,
        fsck.partial,
        fsck.removed,
    );
    let value = json!({
        "clean": clean, "healed": clean && is_repaired, "blobs": fsck.blobs, "bytes": fsck.bytes,
        "manifests": fsck.manifests, "partial": fsck.partial, "removed": fsck.removed,
    });
    voice.answer(&text, &value)
}

/// Who cannot be whole without it, in words.
fn needed(names: &[String]) -> String {
    match names {
        [] => "no entry needs it".to_owned(),
        names => format!("needed by {}", names.join(", ")),
    }
}

fn names(hits: &[Hit]) -> Vec<String> {
    hits.iter().map(|hit| thing::label(&hit.repository, &hit.entry.name)).collect()
}

fn describe(finding: &Finding) -> (String, Value) {
    match finding {
        Finding::Catalog { what } => {
            (format!("damaged   the catalog: {what}"), json!({ "finding": "catalog", "what": what }))
        }
        Finding::Missing { digest, needed_by } => {
            let names = names(needed_by);
            let text = format!("missing   {digest}: its bytes are not there; {}", needed(&names));
            (text, json!({ "finding": "missing", "digest": digest, "neededBy": names }))
        }
        Finding::Corrupt { digest, found, needed_by } => {
            let names = names(needed_by);
            let text = format!("corrupt   {digest}: {found}; {}", needed(&names));
            (text, json!({ "finding": "corrupt", "digest": digest, "found": found, "neededBy": names }))
        }
        Finding::CorruptManifest { digest, needed_by } => {
            let names = names(needed_by);
            let text =
                format!("corrupt   {digest}: the manifest's bytes are not what its name says; {}", needed(&names));
            (text, json!({ "finding": "corrupt-manifest", "digest": digest, "neededBy": names }))
        }
        Finding::Gone { digest, is_manifest, needed_by } => {
            let (names, kind) = (names(needed_by), if *is_manifest { "manifest" } else { "blob" });
            let text = format!("gone      {digest}: the catalog has this {kind} no more; {}", needed(&names));
            (text, json!({ "finding": "gone", "digest": digest, "kind": kind, "neededBy": names }))
        }
        Finding::MisLinked { digest, what } => {
            (format!("linked    {digest}: {what}"), json!({ "finding": "mis-linked", "digest": digest, "what": what }))
        }
        Finding::Orphan { path, size: bytes } => (
            format!("orphan    {} ({}): no row names it; `--tidy` removes it", path.display(), size(*bytes)),
            json!({ "finding": "orphan", "path": path.to_string_lossy(), "size": bytes }),
        ),
        // The store may learn to find more before this file does.
        other => (format!("{other:?}"), json!({ "finding": format!("{other:?}") })),
    }
}
