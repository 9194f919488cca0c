//! `naru search`: what has this in its name.

use serde::{Deserialize, Serialize};
use store::Store;

use crate::exit::Exit;
use crate::terminal::Speaker;
use crate::thing;

/// What to look for.
#[derive(Debug, clap::Args, Serialize, Deserialize)]
pub(crate) struct Request {
    /// A part of the name, in any case
    text: String,
    /// At most so many
    #[arg(long, default_value_t = 100)]
    limit: u32,
}

pub(crate) async fn run(store: &Store, request: &Request, voice: &Speaker) -> anyhow::Result<Exit> {
    for hit in store.search(&request.text, request.limit).await? {
        voice.answer(&thing::line(&hit), &thing::value(&hit))?;
    }
    Ok(Exit::Done)
}
