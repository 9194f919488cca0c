//! `naru why`: what a thing is here for.

use artifact::Digest;
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::Store;

use crate::exit::Exit;
use crate::terminal::Speaker;
use crate::thing;

/// What is asked about.
#[derive(Debug, clap::Args, Serialize, Deserialize)]
pub(crate) struct Request {
    /// A name, or the digest of a manifest or blob
    name: String,
}

pub(crate) async fn run(store: &Store, request: &Request, voice: &Speaker) -> anyhow::Result<Exit> {
    let digests = match request.name.parse::<Digest>() {
        Ok(digest) => vec![digest],
        Err(_) => thing::find(store, &request.name).await?.into_iter().map(|hit| hit.entry.digest).collect(),
    };
    let mut found = false;
    for digest in digests {
        for holder in thing::holders(store, &digest).await? {
            found = true;
            let entry = &holder.hit.entry;
            let mut lines = vec![format!(
                "{} ({}, seen {}{})",
                thing::label(&holder.hit.repository, &entry.name),
                entry.trust.as_str(),
                thing::time(entry.seen),
                if entry.origin.is_empty() { String::new() } else { format!(", from {}", entry.origin) },
            )];
            lines.extend(holder.path.iter().map(|step| format!("  → {step}")));
            let mut value = thing::value(&holder.hit);
            value["path"] = json!(holder.path);
            voice.answer(&lines.join("\n"), &value)?;
        }
        if !found && (store.manifest(&digest).await?.is_some() || store.blob(&digest).await?.is_some()) {
            found = true;
            voice.answer(
                &format!("{digest} is here, and no entry holds it"),
                &json!({ "digest": digest, "path": [] }),
            )?;
        }
    }
    if found { Ok(Exit::Done) } else { Err(thing::missing(store, &request.name).await?.into()) }
}
