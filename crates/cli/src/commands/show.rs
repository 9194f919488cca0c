//! `naru show`: everything that is known of one thing.

use artifact::{Digest, Kind, Manifest};
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::{Hit, Store};

use crate::exit::Exit;
use crate::size::size;
use crate::terminal::Speaker;
use crate::thing;

/// What to show.
#[derive(Debug, clap::Args, Serialize, Deserialize)]
pub(crate) struct Request {
    /// An image's reference, a file's host and path, or a digest
    name: String,
}

pub(crate) async fn run(store: &Store, request: &Request, voice: &Speaker) -> anyhow::Result<Exit> {
    let hits = thing::find(store, &request.name).await?;
    for hit in &hits {
        entry(store, hit, voice).await?;
    }
    if hits.is_empty() {
        // A manifest or a blob below an entry has a digest and no name.
        let Ok(digest) = request.name.parse::<Digest>() else {
            return Err(thing::missing(store, &request.name).await?.into());
        };
        bare(store, &digest, &request.name, voice).await?;
    }
    Ok(Exit::Done)
}

async fn entry(store: &Store, hit: &Hit, voice: &Speaker) -> anyhow::Result<()> {
    let mut value = thing::value(hit);
    let entry = &hit.entry;
    let mut lines = vec![
        thing::label(&hit.repository, &entry.name),
        format!("  kind      {}", hit.repository.kind),
        format!("  digest    {}", entry.digest),
        format!("  origin    {}", if entry.origin.is_empty() { "this side" } else { &entry.origin }),
        format!("  trust     {}", entry.trust.as_str()),
        format!("  seen      {}", thing::time(entry.seen)),
    ];
    if hit.repository.kind == Kind::Image {
        let (graph, carried) = graph(store, &entry.digest).await?;
        lines.push(format!("  carries   {}", size(carried)));
        lines.extend(graph.iter().map(|part| part.line.clone()));
        value["carries"] = json!(carried);
        value["parts"] = graph.into_iter().map(|part| part.value).collect();
        let referrers = store.referrers(&hit.repository, &entry.digest).await?;
        for referrer in &referrers {
            let kind = referrer.artifact_type.as_deref().unwrap_or(&referrer.media_type);
            lines.push(format!("  referrer  {}  {kind}", referrer.digest));
        }
        value["referrers"] = referrers
            .iter()
            .map(|referrer| json!({ "digest": referrer.digest, "artifactType": referrer.artifact_type }))
            .collect();
    } else {
        lines.push(format!("  size      {}", size(entry.size)));
    }
    voice.answer(&lines.join("\n"), &value)
}

async fn bare(store: &Store, digest: &Digest, name: &str, voice: &Speaker) -> anyhow::Result<()> {
    if let Some(manifest) = store.manifest(digest).await? {
        let (graph, carried) = graph(store, digest).await?;
        let mut lines = vec![
            digest.to_string(),
            format!("  media type  {}", manifest.media_type),
            format!("  complete    {}", if manifest.complete { "yes" } else { "no" }),
            format!("  carries     {}", size(carried)),
        ];
        lines.extend(graph.iter().map(|part| part.line.clone()));
        let parts: Vec<_> = graph.into_iter().map(|part| part.value).collect();
        let value = json!({
            "digest": digest, "mediaType": manifest.media_type, "complete": manifest.complete,
            "carries": carried, "parts": parts,
        });
        return voice.answer(&lines.join("\n"), &value);
    }
    let Some(blob) = store.blob(digest).await? else { return Err(thing::missing(store, name).await?.into()) };
    let text = format!("{digest}\n  blob  {}", size(blob.size));
    voice.answer(&text, &json!({ "digest": digest, "size": blob.size }))
}

struct Part {
    line: String,
    value: serde_json::Value,
}

/// The manifests below `top` and their blobs, depth first, and the bytes that are here.
async fn graph(store: &Store, top: &Digest) -> anyhow::Result<(Vec<Part>, u64)> {
    let mut parts = Vec::new();
    let mut carried = 0;
    let mut seen = std::collections::HashSet::new();
    let mut waiting = vec![(*top, 1)];
    while let Some((digest, depth)) = waiting.pop() {
        if !seen.insert(digest) {
            continue;
        }
        let Some(stored) = store.manifest(&digest).await? else { continue };
        carried += stored.bytes.len() as u64;
        let document = Manifest::parse(&stored.bytes, &stored.media_type).ok();
        for link in store.links(&digest).await? {
            let descriptor = document.as_ref().and_then(|document| document.links().find(|d| d.digest == link.child));
            let platform = descriptor.and_then(artifact::Descriptor::platform).map(|platform| platform.to_string());
            let state = match (link.carried, link.present) {
                (true, true) => "",
                (true, false) => "  MISSING",
                (false, _) => "  omitted",
            };
            let what = match (&platform, link.is_manifest) {
                (Some(platform), _) => platform.as_str(),
                (None, true) => "manifest",
                (None, false) => "blob",
            };
            parts.push(Part {
                line: format!("{:indent$}{}  {what}  {}{state}", "", link.child, size(link.size), indent = depth * 2),
                value: json!({
                    "digest": link.child, "parent": digest, "manifest": link.is_manifest, "size": link.size,
                    "platform": platform, "carried": link.carried, "present": link.present,
                }),
            });
            if link.is_manifest && link.present {
                waiting.push((link.child, depth + 1));
            } else if link.present && seen.insert(link.child) {
                carried += link.size;
            }
        }
    }
    Ok((parts, carried))
}
