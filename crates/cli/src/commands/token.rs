//! `naru token`: the keys of machines, and the admin's.

use clap::value_parser;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serve::accounts::{self, Scope};
use store::{AccountKind, Store};

use super::{gc, user};
use crate::exit::Exit;
use crate::terminal::Speaker;

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
    match gc::seconds(text)? {
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
