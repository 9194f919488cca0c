//! `naru token`: the key to writing.

use serde::{Deserialize, Serialize};
use serde_json::json;
use store::Store;

use crate::exit::Exit;
use crate::terminal::Speaker;

/// What to do with tokens.
#[derive(Debug, clap::Subcommand, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Makes another admin token and prints it; the one before ends
    New,
}

pub(crate) async fn run(store: &Store, request: &Request, voice: &Speaker) -> anyhow::Result<Exit> {
    match request {
        Request::New => {
            let token = serve::renew_admin_token(store).await?;
            voice.say("the admin token, which is the password of any user name; the one before has ended");
            voice.answer(&token, &json!({ "adminToken": token }))?;
        }
    }
    Ok(Exit::Done)
}
