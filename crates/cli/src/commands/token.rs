//! `naru token`: the keys of machines, and the admin's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::value_parser;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use serve::accounts::{self, Scope};
use store::{AccountKind, Store};

use super::{Context, Work, by_who_holds_it, gc, user};
use crate::exit::Exit;
use crate::terminal::{Overheard, Speaker};

/// What to do with tokens.
#[derive(Debug, clap::Subcommand, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Makes another admin token and prints it; the one before ends
    New,
    /// Makes a token and prints it, this once: it is the password of any user name
    Add {
        /// What to call it: in `ls`, in the audit
        name: String,
        #[command(flatten)]
        #[serde(flatten)]
        rights: Rights,
    },
    /// Lists the tokens, and what each may do
    Ls,
    /// Ends a token, at once and with all that it brought
    Rm {
        /// What it is called
        name: String,
    },
}

/// What an account may do, and how long.
#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub(crate) struct Rights {
    /// What it may do: read, write, delete, admin (to push over a mirrored name) or all; and where: a pattern of
    /// repositories, as write:team/* or read:docker.io/**. Several: with commas between, or given again
    #[arg(
        long = "scope",
        value_name = "VERB[:PATTERN]",
        required = true,
        value_delimiter = ',',
        value_parser = value_parser!(Scope)
    )]
    pub(crate) scopes: Vec<Scope>,
    /// How long it is good, as 12h, 30d or 52w [default: until it is removed]
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    expires: Option<i64>,
}

impl Rights {
    /// When it ends, in seconds since 1970, when it is made now.
    pub(crate) fn end(&self, store: &Store) -> Option<i64> {
        self.expires.map(|seconds| store.now().saturating_add(seconds))
    }
}

fn lifetime(text: &str) -> Result<i64, String> {
    let seconds = gc::seconds(text).map_err(|_| "not a time: write 12h, 30d or 52w".to_owned())?;
    match seconds {
        0 => Err("what is made would have ended already: write 12h, 30d or 52w".to_owned()),
        seconds => Ok(seconds),
    }
}

impl Request {
    /// As the audit has it: what was done, with what. Nothing of what only looks.
    pub(crate) fn audited(&self) -> Option<(&'static str, String)> {
        match self {
            Self::New => Some(("token new", String::new())),
            Self::Add { name, rights } => Some(("token add", user::with_scopes(name, &rights.scopes))),
            Self::Rm { name } => Some(("token rm", name.clone())),
            Self::Ls => None,
        }
    }

    /// Whether it makes a store where there is none.
    pub(crate) fn brings(&self) -> bool {
        matches!(self, Self::New | Self::Add { .. })
    }
}

/// Has it done by whoever holds the store. A token that could not be shown ends again: nobody will ever have seen it.
pub(crate) async fn begin(request: Request, context: &Context, voice: &Speaker) -> anyhow::Result<Exit> {
    let Request::Add { name, .. } = &request else {
        return by_who_holds_it(Work::Token(request), Vec::new(), context, voice).await;
    };
    let (name, (made, hearing)) = (name.clone(), answered(voice));
    let added = by_who_holds_it(Work::Token(request), Vec::new(), context, &hearing).await;
    if added.is_err() && made.load(Ordering::Relaxed) {
        // That it is done can be shown no more than the token could.
        let (removed, hearing) = answered(voice);
        let end = Work::Token(Request::Rm { name: name.clone() });
        let _ = by_who_holds_it(end, Vec::new(), context, &hearing).await;
        if removed.load(Ordering::Relaxed) {
            voice.say(&format!("the token {name} could not be shown, and was ended again"));
        } else {
            voice.warn(&format!("the token {name} was made and not shown: end it with `naru token rm {name}`"));
        }
    }
    added
}

/// A voice that remembers whether it was to answer something, be it heard or not.
fn answered(voice: &Speaker) -> (Arc<AtomicBool>, Speaker) {
    let answered = Arc::new(AtomicBool::new(false));
    let remember = Arc::clone(&answered);
    let hear = move |_: &Value| remember.store(true, Ordering::Relaxed);
    (answered, Arc::new(Overheard { voice: Arc::clone(voice), hear }))
}

pub(crate) async fn run(store: &Store, request: &Request, voice: &Speaker) -> anyhow::Result<Exit> {
    match request {
        Request::New => {
            let token = serve::renew_admin_token(store).await?;
            voice.say("the admin token, which is the password of any user name; the one before has ended");
            voice.answer(&token, &json!({ "adminToken": token }))?;
        }
        Request::Add { name, rights } => {
            let end = rights.end(store);
            let token = accounts::add_token(store, name, &rights.scopes, end).await?;
            voice.say("the token, shown only now: it is the password of any user name");
            voice.answer(&token, &json!({ "name": name, "token": token, "expires": user::time(end) }))?;
        }
        Request::Ls => user::list(store, AccountKind::Token, voice).await?,
        Request::Rm { name } => user::remove(store, AccountKind::Token, name, voice).await?,
    }
    Ok(Exit::Done)
}
