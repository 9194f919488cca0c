//! `--rebuild`: a catalog again, where it was lost or damaged.

use std::sync::Arc;

use artifact::Progress;
use serde_json::json;
use store::{Origin, Rebuilt, Store};

use super::{Context, Order, Work};
use crate::commands::carry_out_here;
use crate::exit::Exit;
use crate::size::size;
use crate::terminal::Speaker;

/// Makes the catalog again, and looks through the whole store then. A server that holds the store is not asked: it lives
/// by the catalog that is to be exchanged.
pub(crate) async fn rebuild(context: &Context, voice: &Speaker) -> anyhow::Result<Exit> {
    let folder = context.folder()?;
    let (store, rebuilt) = Store::rebuild(&folder, Arc::clone(voice) as Arc<dyn Progress>).await?;
    say(&rebuilt, voice)?;
    let work = Work::Fsck(Order { rebuilt: true, ..Order::default() });
    let exit = carry_out_here(&work, Vec::new(), &store, voice).await;
    store.close().await;
    match (exit?, rebuilt.origin) {
        (Exit::Done, Origin::Kept(_) | Origin::Nothing) => Ok(Exit::Incomplete),
        (exit, _) => Ok(exit),
    }
}

fn say(rebuilt: &Rebuilt, voice: &Speaker) -> anyhow::Result<()> {
    let Rebuilt { origin, why, aside, adopted: (blobs, bytes), wrong } = rebuilt;
    if let Some(aside) = aside {
        voice.say(&format!("the catalog that was here lies in {} now", aside.display()));
    }
    let why = why.as_deref().unwrap_or_default();
    let text = match origin {
        Origin::Sound => "sound     the catalog: it stays as it is".to_owned(),
        Origin::Kept(at) => format!(
            "REBUILT   the catalog, from the copy of {}: {why}. What was named, removed or restored since is lost, in \
             generations whose numbers are not known; so are accounts and keys made since, and those that were ended \
             since are back",
            time(*at),
        ),
        Origin::Nothing => format!(
            "REBUILT   the catalog, without a copy: {why}. All names, generations, accounts and keys are lost, this \
             site's CA and the keys that it trusted among them"
        ),
    };
    let origin = match origin {
        Origin::Sound => json!("sound"),
        Origin::Kept(at) => json!({ "kept": at }),
        Origin::Nothing => json!("nothing"),
    };
    voice.answer(
        &text,
        &json!({ "catalog": origin, "why": why, "aside": aside, "adopted": blobs, "bytes": bytes, "wrong": wrong }),
    )?;
    if *blobs > 0 {
        voice.say(&format!(
            "{blobs} blobs ({}) that no name led to are known again, and stay for as long as what was just brought",
            size(*bytes)
        ));
    }
    if rebuilt.origin != Origin::Sound {
        voice.say(
            "hint: `naru load` the bundles again that came since, or `naru pull` again: what is here is not carried \
             twice. Push again what was pushed since. `naru key import` brings back the site's keys where they are gone, \
             `naru key trust` whom it trusted; look through `naru token ls` and `naru user ls`",
        );
    }
    Ok(())
}

fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |at| at.to_string())
}
