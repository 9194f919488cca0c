//! `naru fsck`: is everything in the store what its name says, and is all of it there?

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{Finding, Hit, Store};

use crate::exit::Exit;
use crate::size::size;
use crate::terminal::Speaker;
use crate::thing;

/// How thoroughly.
#[derive(Debug, clap::Args, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Removes files that nothing names: what killed writers left
    #[arg(long)]
    tidy: bool,
}

pub(crate) async fn run(store: &Store, request: &Request, voice: &Speaker) -> anyhow::Result<Exit> {
    let fsck = store.fsck(request.tidy, Arc::clone(voice) as Arc<dyn artifact::Progress>).await?;
    for finding in &fsck.findings {
        let (text, value) = describe(finding);
        voice.answer(&text, &value)?;
    }
    let clean = fsck.is_clean();
    let text = format!(
        "{}: {} blobs ({}) and {} manifests hashed again; {} partial files wait for their next run; {} removed",
        if clean { "clean" } else { "NOT CLEAN" },
        fsck.blobs,
        size(fsck.bytes),
        fsck.manifests,
        fsck.partial,
        fsck.removed,
    );
    let value = json!({
        "clean": clean, "blobs": fsck.blobs, "bytes": fsck.bytes, "manifests": fsck.manifests,
        "partial": fsck.partial, "removed": fsck.removed,
    });
    voice.answer(&text, &value)?;
    if fsck.findings.iter().any(|finding| matches!(finding, Finding::Missing { .. } | Finding::Corrupt { .. })) {
        voice.say(
            "hint: to heal it, `naru load` the bundles again that brought these, or `naru pull` again; only what is \
             missing or was damaged is written",
        );
    }
    Ok(if clean { Exit::Done } else { Exit::Incomplete })
}

fn describe(finding: &Finding) -> (String, Value) {
    let names =
        |hits: &[Hit]| hits.iter().map(|hit| thing::label(&hit.repository, &hit.entry.name)).collect::<Vec<_>>();
    let needed = |names: &[String]| match names {
        [] => "no entry needs it".to_owned(),
        names => format!("needed by {}", names.join(", ")),
    };
    match finding {
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
        Finding::CorruptManifest { digest } => (
            format!("corrupt   {digest}: the manifest's bytes are not what its name says"),
            json!({ "finding": "corrupt-manifest", "digest": digest }),
        ),
        Finding::MisLinked { digest, what } => {
            (format!("linked    {digest}: {what}"), json!({ "finding": "mis-linked", "digest": digest, "what": what }))
        }
        Finding::Orphan { path, size: bytes } => (
            format!("orphan    {} ({}): no row names it; `--tidy` removes it", path.display(), size(*bytes)),
            json!({ "finding": "orphan", "path": path, "size": bytes }),
        ),
        // The store may learn to find more before this file does.
        other => (format!("{other:?}"), json!({ "finding": format!("{other:?}") })),
    }
}
