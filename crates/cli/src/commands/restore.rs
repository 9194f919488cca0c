//! `naru restore`: makes the entries what they were after a generation.

use serde::{Deserialize, Serialize};
use store::Store;

use super::changed;
use crate::exit::Exit;
use crate::terminal::Speaker;

/// Where to go back to.
#[derive(Debug, clap::Args, Serialize, Deserialize)]
pub(crate) struct Request {
    /// The generation, as `naru history` prints it; 0 is before the first
    generation: i64,
    /// What was pushed here goes back too; without this, local repositories stay as they are
    #[arg(long)]
    local: bool,
}

impl Request {
    /// Where to, in words.
    pub(crate) fn name(&self) -> String {
        format!("generation {}", self.generation)
    }
}

pub(crate) async fn run(store: &Store, request: &Request, voice: &Speaker) -> anyhow::Result<Exit> {
    let applied = store.restore(request.generation, request.local, &voice.by()).await?;
    changed(&applied, voice)?;
    match (applied.replaced.is_empty(), request.local) {
        (true, true) => voice.say("everything is as it was then already"),
        (true, false) => voice.say(
            "what upstreams and bundles brought is as it was then already; what was pushed here stays as it is, and goes \
             back with --local",
        ),
        (false, _) => {}
    }
    Ok(Exit::Done)
}
