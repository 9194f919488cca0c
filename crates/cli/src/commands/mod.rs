//! The verbs, a file each: read the request, call one crate, say what came of it.
//!
//! What touches the store takes a [`store::Store`], a request that can be serialised and a [`Voice`], so that a server
//! that holds the store can carry it out for a command line that cannot open it.

mod fsck;
mod history;
mod image;
mod ls;
mod restore;
mod rm;
mod search;
mod show;
mod why;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::json;
use store::{Applied, Replaced, Store};

use crate::environment::Environment;
use crate::exit::Exit;
use crate::terminal::{Speaker, Voice as _};
use crate::thing;

/// What a command finds around itself.
#[derive(Debug)]
pub(crate) struct Context {
    /// `--store`, when it was given.
    pub(crate) store: Option<PathBuf>,
    /// `-f`: the packing list.
    pub(crate) list: PathBuf,
    /// The process's environment.
    pub(crate) environment: Environment,
}

impl Context {
    /// The store's folder: given, or this user's.
    pub(crate) fn folder(&self) -> anyhow::Result<PathBuf> {
        match &self.store {
            Some(folder) => Ok(folder.clone()),
            None => Ok(self.environment.default_store()?),
        }
    }

    /// Opens the store.
    pub(crate) async fn open(&self) -> anyhow::Result<Store> {
        Ok(Store::open(&self.folder()?).await?)
    }
}

/// The verbs.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    InStore(InStore),
    /// Makes Naru itself into an image, without docker
    Image(image::Request),
}

/// The verbs that need nothing but the store; a server that holds it can carry them out.
#[derive(Debug, clap::Subcommand, Serialize, Deserialize)]
pub(crate) enum InStore {
    /// Lists what is in the store
    Ls(ls::Request),
    /// Shows everything that is known of one thing
    Show(show::Request),
    /// Says what holds a thing in the store
    Why(why::Request),
    /// Finds things by a part of their name
    Search(search::Request),
    /// Takes names out of the store
    Rm(rm::Request),
    /// Lists the store's generations
    History(history::Request),
    /// Makes the store's entries what they were after a generation
    Restore(restore::Request),
    /// Hashes everything again, and compares it with the catalog
    Fsck(fsck::Request),
}

/// Carries a command out, unless `end` comes first. What was begun is dropped then, and goes on at the next run where it
/// stopped.
pub(crate) async fn run_until(
    command: Command,
    context: &Context,
    voice: &Speaker,
    end: impl Future<Output = Exit>,
) -> anyhow::Result<Exit> {
    tokio::select! {
        result = run(command, context, voice) => result,
        exit = end => Ok(exit),
    }
}

/// Carries a command out.
pub(crate) async fn run(command: Command, context: &Context, voice: &Speaker) -> anyhow::Result<Exit> {
    match command {
        Command::InStore(command) => {
            let store = context.open().await?;
            let exit = in_store(&command, &store, voice).await;
            store.close().await;
            exit
        }
        Command::Image(request) => image::run(request, context, voice).await,
    }
}

/// Carries out a command of the store's.
pub(crate) async fn in_store(command: &InStore, store: &Store, voice: &Speaker) -> anyhow::Result<Exit> {
    match command {
        InStore::Ls(request) => ls::run(store, request, voice).await,
        InStore::Show(request) => show::run(store, request, voice).await,
        InStore::Why(request) => why::run(store, request, voice).await,
        InStore::Search(request) => search::run(store, request, voice).await,
        InStore::Rm(request) => rm::run(store, request, voice).await,
        InStore::History(request) => history::run(store, request, voice).await,
        InStore::Restore(request) => restore::run(store, request, voice).await,
        InStore::Fsck(request) => fsck::run(store, request, voice).await,
    }
}

/// Says which entries are other than before, and which were kept because they are newer.
fn changed(applied: &Applied, voice: &Speaker) -> anyhow::Result<()> {
    for Replaced { repository, name, old, new } in &applied.replaced {
        let name = thing::label(repository, name);
        let text = match (old, new) {
            (None, Some(new)) => format!("added    {name}  {new}"),
            (Some(old), Some(new)) => format!("moved    {name}  {new} (was {old})"),
            (_, None) => format!("removed  {name}"),
        };
        voice.answer(&text, &json!({ "changed": name, "old": old, "new": new }))?;
    }
    for Replaced { repository, name, old, new } in &applied.kept {
        let name = thing::label(repository, name);
        let text = match old {
            Some(old) => format!("kept     {name}  {old}: what is here was seen later at its upstream"),
            None => format!("kept     {name}"),
        };
        voice.answer(&text, &json!({ "kept": name, "old": old, "new": new }))?;
    }
    Ok(())
}
