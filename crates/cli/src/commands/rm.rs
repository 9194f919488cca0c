//! `naru rm`: takes names out of the store. The bytes stay until they are collected.

use serde::{Deserialize, Serialize};
use store::{Cause, Change, Store};

use super::changed;
use crate::exit::Exit;
use crate::terminal::Speaker;
use crate::thing;

/// What to take out.
#[derive(Debug, clap::Args, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Whole names, as `naru ls` prints them
    #[arg(required = true)]
    names: Vec<String>,
}

impl Request {
    /// All of them.
    pub(crate) fn names(&self) -> String {
        self.names.join(" ")
    }
}

pub(crate) async fn run(store: &Store, request: &Request, voice: &Speaker) -> anyhow::Result<Exit> {
    let mut change =
        Change::because(Cause { action: "rm".to_owned(), subject: request.names.join(" "), by: voice.by() });
    // All of them are looked up first: a typing error in the third removes nothing.
    for name in &request.names {
        let hit = thing::find_one(store, name).await?;
        change.remove(&hit.repository, &hit.entry.name);
    }
    let applied = store.apply(change).await?;
    changed(&applied, voice)?;
    if let Some(generation) = applied.generation {
        let is_local = applied.replaced.iter().any(|change| change.repository.is_local());
        let local = if is_local { " --local" } else { "" };
        voice.say(&format!("`naru restore {}{local}` takes it back", generation - 1));
    }
    Ok(Exit::Done)
}
