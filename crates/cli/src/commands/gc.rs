//! `naru gc`: takes away what nothing in the store leads to any more.

use std::sync::Mutex;

use bundle::roots;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serve::{Collection, Span};
use store::{Gone, Store, Sweep, Swept, Why};

use super::serve::day;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::size::size;
use crate::terminal::Speaker;

/// What may go.
#[derive(Debug, Default, clap::Args, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Takes nothing away, and lists what would go
    #[arg(long)]
    dry_run: bool,
    /// What was brought, asked for before a push, or let go of by its last name within this time stays
    /// [default: as serve.yaml has it, 24h]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    grace: Option<i64>,
    /// So many of the last generations can still be restored; what `naru rm` removed, and what local names were before,
    /// goes all the same
    /// [default: as serve.yaml has it, 10]
    #[arg(long, value_name = "N")]
    keep: Option<u32>,
    /// Gives up bundles that wait for what is missing, by their ids or words as `naru load` printed them
    #[arg(long, value_name = "BUNDLE")]
    forget: Vec<String>,
}

/// `90s`, `30m`, `24h`, `7d`, `2w`; `0` is none.
pub(super) fn seconds(text: &str) -> Result<i64, String> {
    Ok(text.parse::<Span>()?.seconds())
}

impl Request {
    /// As the audit has it; nothing of what only looks.
    pub(crate) fn audited(&self) -> Option<(&'static str, String)> {
        (!self.dry_run).then(|| ("gc", self.forget.join(" ")))
    }
}

/// When the store was last collected, in seconds since 1970, as text.
const LAST: &str = "gc/last";

/// Whether it is so many seconds ago that the store was last collected. A store that never was is as good as collected
/// now: who has just begun to serve it may want to look first.
pub(super) async fn is_due(store: &Store, every: i64) -> anyhow::Result<bool> {
    let now = store.now();
    let last = store.document_once(LAST, now.to_string().as_bytes()).await?;
    let last = String::from_utf8_lossy(&last).parse().unwrap_or(0);
    // A clock that was ahead for a while must not keep it waiting for years.
    Ok(!(now.saturating_sub(every)..=now).contains(&last))
}

/// Collects by the rules of the server's configuration. What the request says stands above them.
pub(crate) async fn run(
    store: &Store,
    request: &Request,
    collection: &Collection,
    voice: &Speaker,
) -> anyhow::Result<Exit> {
    let mut waiting = roots::waiting(store).await?;
    for wanted in &request.forget {
        let is_it = |one: &roots::Waiting| one.words() == *wanted || one.id.hex().starts_with(wanted.as_str());
        let Some(at) = waiting.iter().position(is_it) else {
            return Err(Failure::new(format!("no bundle waits that is called `{wanted}`"))
                .hint("`naru gc --dry-run` lists those that wait")
                .into());
        };
        let one = waiting.remove(at);
        if !request.dry_run {
            roots::forget(store, &one).await?;
        }
        voice.say(&format!("the bundle {} ({}) is given up", one.words(), one.id.hex()));
    }
    let receipt = roots::in_force(store).await?;
    // No grace is none, for what was brought in this very second and by a clock that was ahead, too.
    let grace = request.grace.unwrap_or(collection.grace);
    let mut before = if grace == 0 { i64::MAX } else { store.now().saturating_sub(grace) };
    for one in &waiting {
        voice.warn(&format!(
            "the bundle {} ({}) waits for what is missing of it: what came since its first volume stays. `naru load` the \
             rest, or give it up with --forget",
            one.words(),
            one.id.hex()
        ));
        before = before.min(one.since);
    }
    let pinned = |digest: &artifact::Digest| receipt.as_ref().is_some_and(|receipt| receipt.inventory.has(digest));
    let failed = Mutex::new(None);
    let report = |gone: Gone| {
        let (text, value) = describe(&gone);
        if let Err(error) = voice.answer(&text, &value) {
            failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
        }
    };
    let sweep = Sweep {
        before,
        keep: request.keep.unwrap_or(collection.keep),
        rules: &collection.rules,
        by: &voice.by(),
        pinned: &pinned,
        report: &report,
        dry_run: request.dry_run,
    };
    let swept = store.gc(&sweep).await?;
    if !request.dry_run {
        store.set_document(LAST, Some(store.now().to_string().as_bytes())).await?;
    }
    let heard = failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    heard.map_or(Ok(()), Err)?;
    say(&swept, request.dry_run, voice)?;
    if swept == Swept::default() && receipt.is_some() && request.dry_run {
        voice.say("what the newest receipt lists stays for ninety days, or until the next one");
    }
    Ok(Exit::Done)
}

fn describe(gone: &Gone) -> (String, serde_json::Value) {
    match gone {
        Gone::Tag { repository, name, digest, why } => {
            let (repository, why) = (shown(repository), because(why));
            let text = format!("tag      {repository}:{name}  {digest}: {why}");
            (text, json!({ "gone": "tag", "repository": repository, "tag": name, "digest": digest, "why": why }))
        }
        Gone::Grant { repository, digest, is_manifest } => {
            let (repository, kind) = (shown(repository), if *is_manifest { "manifest" } else { "blob" });
            let text = format!("unnamed  {repository}  {digest}: no name in this repository leads to this {kind}");
            (text, json!({ "gone": "grant", "repository": repository, "digest": digest, "kind": kind }))
        }
        Gone::Manifest { digest } => {
            (format!("manifest {digest}: no repository has it"), json!({ "gone": "manifest", "digest": digest }))
        }
        Gone::Blob { digest, size: bytes } => (
            format!("blob     {digest}  {}: no repository has it", size(*bytes)),
            json!({ "gone": "blob", "digest": digest, "size": bytes }),
        ),
    }
}

fn because(why: &Why) -> String {
    match why {
        Why::Rule { seen, pulled } => {
            let pulled = pulled.map_or_else(|| "never pulled from here".to_owned(), |at| format!("pulled {}", day(at)));
            format!("no rule keeps it (from {}, {pulled})", day(*seen))
        }
        Why::Without(subject) => format!("it belongs to {subject}, which is gone"),
    }
}

/// A local repository is told from an upstream's.
fn shown(repository: &artifact::Repository) -> String {
    if repository.is_local() { format!("local {repository}") } else { repository.to_string() }
}

fn say(swept: &Swept, dry_run: bool, voice: &Speaker) -> anyhow::Result<()> {
    let text = format!(
        "{}: {} tags, {} manifests, {} blobs ({})",
        if dry_run { "would go" } else { "gone" },
        swept.tags,
        swept.manifests,
        swept.blobs,
        size(swept.bytes)
    );
    let value = json!({
        "dryRun": dry_run, "tags": swept.tags, "grants": swept.grants, "manifests": swept.manifests, "blobs": swept.blobs,
        "bytes": swept.bytes,
    });
    voice.answer(&text, &value)
}
