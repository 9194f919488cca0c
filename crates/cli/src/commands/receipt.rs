//! `naru receipt`: what this store has, for the side that packs.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bundle::Receipt;
use serde_json::json;
use store::Store;

use super::{Context, Work, by_who_holds_it};
use crate::exit::Exit;
use crate::output::Output;
use crate::terminal::Speaker;

/// Where to write it.
#[derive(Debug, clap::Args)]
pub(crate) struct Request {
    /// The file to carry out; `-` is standard output. Without it only the short form is printed, which can be typed
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) async fn run(request: &Request, context: &Context, voice: &Speaker) -> anyhow::Result<Exit> {
    let Some(path) = &request.output else {
        return by_who_holds_it(Work::Receipt { aside: false }, Vec::new(), context, voice).await;
    };
    if path == Path::new("-") {
        let file = File::from(io::stdout().as_fd().try_clone_to_owned().context("standard output")?);
        return by_who_holds_it(Work::Receipt { aside: true }, vec![file], context, voice).await;
    }
    // The holder of the store may not write where this user may: it gets the open file.
    let named = || path.display().to_string();
    let output = Output::begin(path).with_context(named)?;
    let file = output.file().try_clone().with_context(named)?;
    let exit = by_who_holds_it(Work::Receipt { aside: false }, vec![file], context, voice).await?;
    if exit == Exit::Done {
        output.finish().with_context(named)?;
    }
    Ok(exit)
}

/// Writes it; `aside`: standard output is the receipt, and what is said of it is said beside it.
pub(crate) async fn write(store: &Store, aside: bool, files: Vec<File>, voice: &Speaker) -> anyhow::Result<Exit> {
    let (receipt, bytes) = Receipt::write(store).await?;
    for mut file in files {
        file.write_all(&bytes).context("the receipt")?;
    }
    let bundle = receipt.bundle.map(|bundle| bundle::words(&bundle));
    let newest = bundle.as_deref().unwrap_or("none has been loaded whole");
    let text = format!(
        "receipt of store {}\n  generation     {}\n  things         {}\n  in words       {}\n  newest bundle  {newest}",
        receipt.store.fingerprint(),
        receipt.generation,
        receipt.inventory.len(),
        receipt.short(),
    );
    let value = json!({
        "done": "receipt", "store": receipt.store.fingerprint(), "generation": receipt.generation,
        "things": receipt.inventory.len(), "bytes": bytes.len(), "short": receipt.short(), "newestBundle": bundle,
    });
    if aside {
        voice.say(&text);
    } else {
        voice.answer(&text, &value)?;
    }
    voice.say(
        "on the side that packs: `naru pack --since FILE`; where no file may go out, `naru pack --since 'WORDS'` with the \
         words of the newest bundle",
    );
    Ok(Exit::Done)
}
