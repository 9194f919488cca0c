//! `naru history`: the store's generations.

use serde::{Deserialize, Serialize};
use serde_json::json;
use store::Store;

use crate::exit::Exit;
use crate::terminal::Voice;
use crate::thing;

/// How much of it.
#[derive(Debug, clap::Args, Serialize, Deserialize)]
pub(crate) struct Request {
    /// At most so many, newest first
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

pub(crate) async fn run(store: &Store, request: &Request, voice: &dyn Voice) -> anyhow::Result<Exit> {
    for (number, when, cause, changed) in store.history(request.limit).await? {
        let when = thing::time(when);
        let entries = if changed == 1 { "entry" } else { "entries" };
        let text =
            format!("{number:>5}  {when}  {:<8} {changed} {entries}  {}  by {}", cause.action, cause.subject, cause.by);
        let value = json!({
            "generation": number, "when": when, "action": cause.action, "subject": cause.subject, "by": cause.by,
            "entries": changed,
        });
        voice.answer(&text, &value)?;
    }
    Ok(Exit::Done)
}
