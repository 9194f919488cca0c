//! `naru rm`: takes names out of the store. The bytes stay until they are collected.

use serde::{Deserialize, Serialize};
use serde_json::json;
use store::{Cause, Change, Store};

use crate::exit::Exit;
use crate::terminal::Voice;
use crate::thing;

/// What to take out.
#[derive(Debug, clap::Args, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Whole names, as `naru ls` prints them
    #[arg(required = true)]
    names: Vec<String>,
}

pub(crate) async fn run(store: &Store, request: &Request, voice: &dyn Voice) -> anyhow::Result<Exit> {
    let mut change = Change::because(Cause {
        action: "rm".to_owned(),
        subject: request.names.join(" "),
        by: "the command line".to_owned(),
    });
    // All of them are looked up first: a typing error in the third removes nothing.
    for name in &request.names {
        let hit = thing::find_one(store, name).await?;
        change.remove(&hit.repository, &hit.entry.name);
    }
    let applied = store.apply(change).await?;
    for gone in &applied.replaced {
        let name = thing::label(&gone.repository, &gone.name);
        voice.answer(&format!("removed {name}"), &json!({ "removed": name, "digest": gone.old }))?;
    }
    if let Some(generation) = applied.generation {
        voice.say(&format!("`naru restore {}` takes it back", generation - 1));
    }
    Ok(Exit::Done)
}
