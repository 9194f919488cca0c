//! `naru history`: the store's generations.

use serde::{Deserialize, Serialize};
use serde_json::json;
use store::{Generation, Store};

use super::replaced;
use crate::exit::Exit;
use crate::terminal::Speaker;
use crate::thing;

/// How much of it.
#[derive(Debug, clap::Args, Serialize, Deserialize)]
pub(crate) struct Request {
    /// At most so many, newest first
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// What this one changed, entry by entry
    generation: Option<i64>,
}

pub(crate) async fn run(store: &Store, request: &Request, voice: &Speaker) -> anyhow::Result<Exit> {
    if let Some(number) = request.generation {
        for change in store.changes(number).await? {
            replaced(&change, voice)?;
        }
        return Ok(Exit::Done);
    }
    for Generation { number, at, cause, changed } in store.history(request.limit).await? {
        let when = thing::time(at);
        let entries = if changed == 1 { "entry" } else { "entries" };
        let text =
            format!("{number:>5}  {when}  {:<8} {changed} {entries}  {}  by {}", cause.action, cause.subject, cause.by);
        let value = json!({
            "generation": number, "at": when, "action": cause.action, "subject": cause.subject, "by": cause.by,
            "changed": changed,
        });
        voice.answer(&text, &value)?;
    }
    Ok(Exit::Done)
}
