//! The verbs, a file each: read the request, call one crate, say what came of it.
//!
//! What touches the store takes a [`store::Store`], a request that can be serialised and a [`Voice`], so that a server
//! that holds the store can carry it out for a command line that cannot open it.

mod export;
mod fsck;
mod gc;
mod history;
mod holder;
mod image;
mod in_place;
mod init;
mod install;
mod key;
mod load;
mod lock;
mod ls;
mod pack;
mod pull;
mod push;
mod quickstart;
mod receipt;
mod report;
mod restore;
mod rm;
mod search;
mod serve;
mod setup;
mod show;
mod token;
mod user;
mod verify;
mod watch;
mod why;

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::serve::{Audit, Collection, Event};
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::{Applied, Replaced, Store};

use crate::environment::Environment;
use crate::exit::Exit;
use crate::signals;
use crate::terminal::Speaker;
use crate::thing;

/// How long a store that is held is waited for when nobody listens there: a server that was told to end hangs up a moment
/// before it lets the store go.
const ENDING: Duration = Duration::from_secs(2);
/// How old the copy of the catalog is when another is worth its while.
const HOUR: Duration = Duration::from_hours(1);
/// Between looks whether it is free.
const AGAIN: Duration = Duration::from_millis(20);

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

    /// Opens the store; for one that is held it waits a moment.
    pub(crate) async fn open(&self) -> anyhow::Result<Store> {
        self.open_in(&self.folder()?).await
    }

    /// The same, of a store elsewhere.
    pub(crate) async fn open_in(&self, folder: &Path) -> anyhow::Result<Store> {
        let began = Instant::now();
        loop {
            match Store::open(folder).await {
                Err(store::Error::Held { .. }) if began.elapsed() < ENDING => tokio::time::sleep(AGAIN).await,
                opened => return Ok(opened?),
            }
        }
    }
}

/// The verbs.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Writes a packing list to begin with
    Init,
    /// Resolves the packing list to digests, sizes and addresses
    Lock(lock::Request),
    /// Makes the store hold everything in the lock
    Pull(pull::Request),
    #[command(flatten)]
    InStore(InStore),
    /// Hashes everything again, compares it with the catalog, and heals it
    Fsck(fsck::Request),
    /// Packs the lock's things, or the store's, into volumes on a medium
    Pack(pack::Request),
    /// Writes what this store has, so that the other side packs only the rest
    Receipt(receipt::Request),
    /// Proves from the medium that a bundle is whole
    Verify(verify::Request),
    /// Lists what a bundle or a lock holds, for whoever must approve it
    Report(report::Request),
    /// Takes bundles, verified, and archives of images into the store
    Load(load::Request),
    /// Writes images into an archive that containerd, docker, podman and skopeo load
    Export(export::Request),
    /// Puts images into a registry that is already there
    Push(push::Request),
    /// Makes, trusts and lists keys
    #[command(subcommand)]
    Key(key::Request),
    /// Makes, lists and ends tokens, the passwords of machines
    #[command(subcommand)]
    Token(token::Request),
    /// Adds, lists and ends people's accounts
    #[command(subcommand)]
    User(user::Request),
    /// Serves the store to clients
    Serve(serve::Request),
    /// Makes the whole journey on this machine, on real input, and leaves nothing behind
    Quickstart(quickstart::Request),
    /// Prints the configuration with which a client pulls from here, or writes it
    Setup(setup::Request),
    /// Sets this machine up to serve: binary, user, folders, unit, labels, firewall
    Install(install::Request),
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
    /// Takes away what nothing in the store leads to any more
    Gc(gc::Request),
}

/// Carries a command out, unless `end` comes first. What was begun is dropped then, and goes on at the next run where it
/// stopped.
pub(crate) async fn run_until(
    command: Command,
    context: &Context,
    voice: &Speaker,
    end: impl Future<Output = Exit>,
) -> anyhow::Result<Exit> {
    if let Command::Serve(request) = &command {
        // A server ends by itself, when its pulls have.
        return serve::run(request, context, voice, end).await;
    }
    tokio::select! {
        result = run(command, context, voice) => result,
        exit = end => Ok(exit),
    }
}

/// What needs the store, and is carried out by whoever holds it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Work {
    InStore(InStore),
    Fsck(fsck::Order),
    Pull(Box<pull::Order>),
    Setup(setup::Order),
    Pack(Box<pack::Order>),
    Receipt {
        /// Standard output is the receipt itself.
        aside: bool,
    },
    Load(load::Order),
    Export(export::Order),
    Push(Box<push::Order>),
    Key(key::Command),
    Token(token::Request),
    User(user::Command),
}

impl Work {
    /// What the audit has of it: what was done, and with what. Nothing of what only looks, or only reads.
    fn audited(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Token(request) => request.audited(),
            Self::User(command) => command.audited(),
            Self::Key(command) => command.audited(),
            Self::Load(order) => Some(("load", order.names())),
            Self::InStore(InStore::Rm(request)) => Some(("rm", request.names())),
            Self::InStore(InStore::Gc(request)) => request.audited(),
            Self::InStore(InStore::Restore(request)) => Some(("restore", request.name())),
            Self::Fsck(order) => order.audited(),
            Self::Pull(_) => Some(("pull", String::new())),
            Self::InStore(_)
            | Self::Setup(_)
            | Self::Pack(_)
            | Self::Receipt { .. }
            | Self::Export(_)
            | Self::Push(_) => None,
        }
    }

    /// Whether the catalog is worth another copy when it is done.
    fn moves_much(&self) -> bool {
        match self {
            Self::Pull(_) | Self::Load(_) => true,
            Self::InStore(InStore::Gc(request)) => request.audited().is_some(),
            _ => false,
        }
    }

    /// Whether a server must read its secrets and accounts again after it.
    fn changes_secrets(&self) -> bool {
        match self {
            Self::Token(token::Request::Ls) | Self::User(user::Command::Ls) => false,
            Self::Token(_) | Self::User(_) => true,
            Self::Key(command) => matches!(command, key::Command::Import { .. } | key::Command::Rotate { .. }),
            _ => false,
        }
    }
}

/// Carries a command out.
async fn run(command: Command, context: &Context, voice: &Speaker) -> anyhow::Result<Exit> {
    let (work, files) = match command {
        Command::Init => return init::run(context, voice),
        Command::Verify(request) => return verify::run(&request, context, voice).await,
        Command::Report(request) => return report::run(request, context, voice).await,
        Command::Pack(request) => return pack::begin(request, context, voice).await,
        Command::Receipt(request) => return receipt::run(&request, context, voice).await,
        Command::Load(request) => match request.watched() {
            Some(folder) => return watch::run(&request, folder, context, voice).await,
            None => load::order(&request)?,
        },
        Command::Export(request) => return export::run(request, context, voice).await,
        Command::Push(request) => return push::run(request, context, voice).await,
        Command::Key(request) => return key::begin(request, context, voice).await,
        Command::Token(request) => return token::begin(request, context, voice).await,
        Command::User(request) => (Work::User(user::prepare(request, voice).await?), Vec::new()),
        Command::Setup(request) => match setup::run(&request, context, voice).await? {
            ControlFlow::Continue(work) => (work, Vec::new()),
            ControlFlow::Break(exit) => return Ok(exit),
        },
        Command::Serve(request) => return serve::run(&request, context, voice, signals::end()).await,
        Command::Quickstart(request) => return quickstart::run(&request, context, voice).await,
        Command::Install(request) => return install::run(&request, context, voice),
        Command::Lock(request) => return lock::run(&request, context, voice).await,
        Command::Image(request) => return image::run(request, context, voice).await,
        Command::Pull(request) => (pull::order(&request, context, voice).await?, Vec::new()),
        Command::InStore(command) => (Work::InStore(command), Vec::new()),
        Command::Fsck(request) if request.rebuilds() => return fsck::rebuild(context, voice).await,
        Command::Fsck(request) => fsck::order(&request, context)?,
    };
    by_who_holds_it(work, files, context, voice).await
}

/// Carries it out here, or has it carried out by the process that holds the store.
async fn by_who_holds_it(work: Work, files: Vec<File>, context: &Context, voice: &Speaker) -> anyhow::Result<Exit> {
    let (folder, began) = (context.folder()?, Instant::now());
    loop {
        // What looks at a store, or takes something out of it, makes none.
        let brings = match &work {
            Work::Pull(_) | Work::Load(_) | Work::Receipt { .. } => true,
            Work::Token(request) => request.brings(),
            Work::User(command) => command.brings(),
            Work::Key(command) => matches!(command, key::Command::Trust { .. } | key::Command::Import { .. }),
            Work::InStore(_) | Work::Fsck(_) | Work::Export(_) | Work::Push(_) | Work::Pack(_) | Work::Setup(_) => {
                false
            }
        };
        let opened = if brings { Store::open(&folder).await } else { Store::open_existing(&folder).await };
        let held = match opened {
            Ok(store) => {
                let exit = carry_out_here(&work, files, &store, voice).await;
                store.close().await;
                return exit;
            }
            Err(held @ store::Error::Held { .. }) => held,
            Err(error) => return Err(error.into()),
        };
        let lent = files.iter().map(File::try_clone).collect::<std::io::Result<_>>().context("the files to load")?;
        match holder::call(&folder, &work, lent, voice).await? {
            Some(exit) => return Ok(exit),
            None if began.elapsed() < ENDING => tokio::time::sleep(AGAIN).await,
            None => return Err(held.into()),
        }
    }
}

/// Carries it out by what the server's configuration says, while no server runs.
async fn carry_out_here(work: &Work, files: Vec<File>, store: &Store, voice: &Speaker) -> anyhow::Result<Exit> {
    let folder = store.folder();
    // Nothing is collected by rules that nobody can read; of everything else they keep nobody.
    let collection = match work {
        Work::InStore(InStore::Gc(_)) => self::serve::collection(folder)?,
        _ => Collection::default(),
    };
    carry_out(work, files, store, (&self::serve::audit(folder), &collection), voice).await
}

/// Collects without having been asked, as `serve.yaml` wants it; the log has what a terminal would.
async fn collect_by_itself(store: &Store, collection: &Collection, audit: &Audit) -> anyhow::Result<Exit> {
    let work = Work::InStore(InStore::Gc(gc::Request::default()));
    let voice: Speaker = Arc::new(self::serve::Logged);
    carry_out(&work, Vec::new(), store, (audit, collection), &voice).await
}

/// Carries out what needs the store, and has the audit know of what it changed.
async fn carry_out(
    work: &Work,
    files: Vec<File>,
    store: &Store,
    (audit, collection): (&Audit, &Collection),
    voice: &Speaker,
) -> anyhow::Result<Exit> {
    let mut recorded = Recorded { audit, work, by: voice.by(), outcome: "interrupted" };
    let result = do_it(work, files, store, collection, voice).await;
    if work.moves_much() && result.is_ok() {
        keep_catalog(store, HOUR, voice).await;
    }
    recorded.outcome = match &result {
        Ok(Exit::Done) => "done",
        Ok(Exit::Incomplete) => "incomplete",
        _ => "failed",
    };
    result
}

/// Has the audit know how a command ended: also of one that is dropped in the middle, which may have changed something.
struct Recorded<'a> {
    audit: &'a Audit,
    work: &'a Work,
    by: String,
    outcome: &'static str,
}

impl Drop for Recorded<'_> {
    fn drop(&mut self) {
        let Some((action, subject)) = self.work.audited() else { return };
        let by = std::mem::take(&mut self.by);
        self.audit.record(&Event { by, action, subject: &subject, outcome: self.outcome, ..Event::default() });
    }
}

/// Keeps a copy of the catalog, when the one there is older than that; says whether one was made.
async fn keep_catalog(store: &Store, age: Duration, voice: &Speaker) -> bool {
    store.keep_catalog(age).await.unwrap_or_else(|error| {
        voice.warn(&format!("no copy of the catalog could be kept: {error}"));
        false
    })
}

async fn do_it(
    work: &Work,
    files: Vec<File>,
    store: &Store,
    collection: &Collection,
    voice: &Speaker,
) -> anyhow::Result<Exit> {
    match work {
        Work::InStore(command) => in_store(command, store, collection, voice).await,
        Work::Fsck(order) => fsck::run(store, order, files, voice).await,
        Work::Pull(order) => pull::run(store, order, voice).await,
        Work::Pack(order) => pack::run(store, order, files, voice).await,
        Work::Receipt { aside } => receipt::write(store, *aside, files, voice).await,
        Work::Load(order) => load::run(store, order, files, voice).await,
        Work::Export(order) => export::carry_out(store, order, files, voice).await,
        Work::Push(order) => push::carry_out(store, order, voice).await,
        Work::Key(command) => key::run(store, command, files, voice).await,
        Work::Token(request) => token::run(store, request, voice).await,
        Work::User(command) => user::run(store, command, voice).await,
        Work::Setup(order) => setup::of_own(store, order, voice).await,
    }
}

/// Carries out a command of the store's.
async fn in_store(command: &InStore, store: &Store, collection: &Collection, voice: &Speaker) -> anyhow::Result<Exit> {
    match command {
        InStore::Ls(request) => ls::run(store, request, voice).await,
        InStore::Show(request) => show::run(store, request, voice).await,
        InStore::Why(request) => why::run(store, request, voice).await,
        InStore::Search(request) => search::run(store, request, voice).await,
        InStore::Rm(request) => rm::run(store, request, voice).await,
        InStore::History(request) => history::run(store, request, voice).await,
        InStore::Restore(request) => restore::run(store, request, voice).await,
        InStore::Gc(request) => gc::run(store, request, collection, voice).await,
    }
}

/// Says which entries are other than before, and which were kept because they are newer.
fn changed(applied: &Applied, voice: &Speaker) -> anyhow::Result<()> {
    for change in &applied.replaced {
        replaced(change, voice)?;
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

fn replaced(change: &Replaced, voice: &Speaker) -> anyhow::Result<()> {
    let Replaced { repository, name, old, new } = change;
    let name = thing::label(repository, name);
    let text = match (old, new) {
        (None, Some(new)) => format!("added    {name}  {new}"),
        (Some(old), Some(new)) => format!("moved    {name}  {new} (was {old})"),
        (_, None) => format!("removed  {name}"),
    };
    voice.answer(&text, &json!({ "changed": name, "old": old, "new": new }))
}
