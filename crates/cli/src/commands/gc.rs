//! `naru gc`: takes away what nothing in the store leads to any more.

use std::sync::Mutex;

use bundle::roots;
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::{Gone, Store, Sweep, Swept};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::size::size;
use crate::terminal::Speaker;

/// What may go.
#[derive(Debug, clap::Args, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Takes nothing away, and lists what would go
    #[arg(long)]
    dry_run: bool,
    /// What was brought, asked for before a push, or let go of by its last name within this time stays
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = seconds)]
    grace: i64,
    /// So many of the last generations can still be restored; what `naru rm` removed, and what local names were before,
    /// goes all the same
    #[arg(long, value_name = "N", default_value_t = 10)]
    keep: u32,
    /// Gives up bundles that wait for what is missing, by their ids or words as `naru load` printed them
    #[arg(long, value_name = "BUNDLE")]
    forget: Vec<String>,
}

/// `90s`, `30m`, `24h`, `7d`, `2w`; `0` is none.
pub(super) fn seconds(text: &str) -> Result<i64, String> {
    if text == "0" {
        return Ok(0);
    }
    let wrong = || "not a time: write 30m, 24h, 7d or 0".to_owned();
    let span: jiff::Span = text.parse().map_err(|_| wrong())?;
    let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    Some(duration.as_secs()).filter(|seconds| *seconds >= 0).ok_or_else(wrong)
}

impl Request {
    /// As the audit has it; nothing of what only looks.
    pub(crate) fn audited(&self) -> Option<(&'static str, String)> {
        (!self.dry_run).then(|| ("gc", self.forget.join(" ")))
    }
}

pub(crate) async fn run(store: &Store, request: &Request, voice: &Speaker) -> anyhow::Result<Exit> {
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
    let mut before = if request.grace == 0 { i64::MAX } else { store.now().saturating_sub(request.grace) };
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
    let sweep = Sweep { before, keep: request.keep, pinned: &pinned, report: &report, dry_run: request.dry_run };
    let swept = store.gc(&sweep).await?;
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

/// A local repository is told from an upstream's.
fn shown(repository: &artifact::Repository) -> String {
    if repository.is_local() { format!("local {repository}") } else { repository.to_string() }
}

fn say(swept: &Swept, dry_run: bool, voice: &Speaker) -> anyhow::Result<()> {
    let text = format!(
        "{}: {} manifests, {} blobs ({})",
        if dry_run { "would go" } else { "gone" },
        swept.manifests,
        swept.blobs,
        size(swept.bytes)
    );
    let value = json!({
        "dryRun": dry_run, "grants": swept.grants, "manifests": swept.manifests, "blobs": swept.blobs,
        "bytes": swept.bytes,
    });
    voice.answer(&text, &value)
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn times() {
        let all = [("0", 0), ("90s", 90), ("30m", 1800), ("24h", 86400), ("7d", 604_800), ("2w", 1_209_600)];
        for (text, expected) in all {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "5", "-1h", "1month", "soon", "99999999999999999d"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
