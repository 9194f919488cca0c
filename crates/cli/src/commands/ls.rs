//! `naru ls`: what is here.

use artifact::Kind;
use serde::{Deserialize, Serialize};
use store::Store;

use crate::exit::Exit;
use crate::terminal::Speaker;
use crate::thing;

/// What to list.
#[derive(Debug, clap::Args, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Only names that begin so, as docker.io/library/
    #[arg(value_name = "PREFIX")]
    prefix: Option<String>,
    /// Only this kind: image, file
    #[arg(long, value_parser = carried)]
    kind: Option<Kind>,
}

/// A kind that a store can hold by now.
fn carried(text: &str) -> Result<Kind, String> {
    match text.parse() {
        Ok(kind @ (Kind::Image | Kind::File)) => Ok(kind),
        _ => Err("expected image or file".to_owned()),
    }
}

pub(crate) async fn run(store: &Store, request: &Request, voice: &Speaker) -> anyhow::Result<Exit> {
    let prefix = request.prefix.as_deref().unwrap_or_default();
    let mut entries = thing::Entries::of(store, request.kind);
    while let Some(hit) = entries.next().await? {
        if thing::label(&hit.repository, &hit.entry.name).starts_with(prefix) {
            voice.answer(&thing::line(&hit), &thing::value(&hit))?;
        }
    }
    Ok(Exit::Done)
}
