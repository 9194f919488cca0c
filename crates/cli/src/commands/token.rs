//! `naru token`: the keys of machines, and the admin's.

use clap::value_parser;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serve::accounts::{self, Scope};
use store::{AccountKind, Store};

use super::user;
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
    /// How long it is good, as 12h, 30d or 1y [default: until it is removed]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    expires: Option<i64>,
}

impl Rights {
    /// When it ends, in seconds since 1970, when it is made now.
    pub(crate) fn end(&self, store: &Store) -> Option<i64> {
        self.expires.map(|seconds| store.now().saturating_add(seconds))
    }
}

/// `30d`: a number and s, m, h, d, w or y.
fn seconds(text: &str) -> Result<i64, String> {
    let invalid = || "write a number and a unit, as 12h, 30d, 4w or 1y".to_owned();
    let (at, unit) = text.char_indices().last().ok_or_else(invalid)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        'y' => 366 * 86_400,
        _ => return Err(invalid()),
    };
    let number: u32 = text.get(..at).and_then(|number| number.parse().ok()).ok_or_else(invalid)?;
    if number == 0 { Err(invalid()) } else { Ok(i64::from(number) * seconds) }
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

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn how_long_is_written_with_a_unit() {
        for (text, expected) in [("1s", 1), ("90m", 5400), ("12h", 43_200), ("30d", 2_592_000), ("2w", 1_209_600)] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for bad in ["", "d", "30", "0d", "-1d", "3 d", "99999999999d", "1é"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
