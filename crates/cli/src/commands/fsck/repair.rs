//! `--repair-from`: what was lost comes again from where it came from, proven by its digest.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use artifact::{Progress, normalise_host};
use bundle::{Sort, Spares};
use collect::PackingList;
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::{Fsck, Lost, Store};
use upstream::{Client, Upstreams};

use super::{Context, describe, names, needed};
use crate::commands::serve;
use crate::environment::Environment;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::terminal::Speaker;

/// The word that stands for every upstream.
const UPSTREAM: &str = "upstream";
/// What was brought may need what was lost below it; images are not as deep.
const ROUNDS: usize = 32;

/// From where, as far as it needs the store; the volumes' files travel beside it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// Volumes.
    paths: Vec<PathBuf>,
    /// Every upstream.
    all: bool,
    /// These upstreams.
    hosts: Vec<String>,
    /// As the packing list reaches them.
    upstreams: Upstreams,
    environment: Environment,
}

impl Order {
    /// The places, as they are audited.
    pub(super) fn names(&self) -> String {
        let paths = self.paths.iter().map(|path| path.display().to_string());
        let all = self.all.then(|| UPSTREAM.to_owned());
        paths.chain(all).chain(self.hosts.iter().cloned()).collect::<Vec<_>>().join(" ")
    }
}

/// Reads what was given, and opens the volumes.
pub(super) fn order(places: &[PathBuf], context: &Context) -> anyhow::Result<(Order, Vec<File>)> {
    let (mut paths, mut all, mut hosts) = (Vec::new(), false, Vec::new());
    for place in places {
        let text = place.to_string_lossy();
        if text == UPSTREAM {
            all = true;
        } else if place.exists() {
            paths.push(place.clone());
        } else if let Some(host) = normalise_host(&text).filter(|_| !text.contains('/')) {
            hosts.push(host);
        } else {
            return Err(Failure::new(format!("--repair-from {text}: there is no such file or folder"))
                .hint("give volumes of a bundle or their folder, `upstream`, or an upstream's host")
                .exit(Exit::Usage)
                .into());
        }
    }
    let pieces = if paths.is_empty() { Vec::new() } else { bundle::pieces(&paths)? };
    // The archives in a bundle's own folder are of its images; one that was named has names of its own to bring.
    if let Some(piece) = pieces
        .iter()
        .find(|piece| !matches!(piece.sort, Sort::Volume | Sort::Unread(_) | Sort::Archive { named: false }))
    {
        return Err(Failure::new(format!("{} is no volume of a bundle", piece.path.display()))
            .hint("`naru load` it again: what was lost of it is brought with its names")
            .exit(Exit::Usage)
            .into());
    }
    let given = paths;
    let paths: Vec<PathBuf> =
        pieces.into_iter().filter(|piece| piece.sort == Sort::Volume).map(|piece| piece.path).collect();
    if let (Some(given), true) = (given.first(), paths.is_empty()) {
        return Err(bundle::Error::NoVolumes { path: given.clone() }.into());
    }
    let files = paths
        .iter()
        .map(|path| File::open(path).with_context(|| path.display().to_string()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let asks = all || !hosts.is_empty();
    let upstreams = if asks { listed(&context.list)? } else { Upstreams::default() };
    Ok((Order { paths, all, hosts, upstreams, environment: context.environment.clone() }, files))
}

/// The upstreams of the packing list, when there is one.
fn listed(list: &Path) -> anyhow::Result<Upstreams> {
    match std::fs::metadata(list) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Upstreams::default()),
        _ => Ok(PackingList::read(list)?.upstreams),
    }
}

/// Something that may have what was lost.
pub(super) enum Source {
    Volumes(Spares),
    Upstreams { client: Client, hosts: Option<Vec<String>> },
}

/// Opens what was given: a bundle that is not trusted is refused here, as `load` refuses it.
pub(super) async fn open(
    store: &Store,
    order: &Order,
    files: Vec<File>,
    voice: &Speaker,
) -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    if !order.paths.is_empty() {
        let files = order.paths.iter().cloned().zip(files).collect();
        sources.push(Source::Volumes(Spares::open(store, files, voice.as_ref()).await?));
    }
    if order.all || !order.hosts.is_empty() {
        // What the packing list says of a host counts more: its user has just named it.
        let mut upstreams = serve::upstreams(store.folder(), &order.environment)?;
        upstreams.0.extend(order.upstreams.0.clone());
        let client = Client::new(upstreams, &order.environment.surroundings())?;
        let hosts = (!order.all).then(|| order.hosts.clone());
        sources.push(Source::Upstreams { client, hosts });
    }
    Ok(sources)
}

/// Brings what was lost, from one source after the other; says what came, and what did not and who needs it. Answers
/// whether the store is whole then.
pub(super) async fn repair(
    store: &Store,
    fsck: &Fsck,
    sources: &mut [Source],
    voice: &Speaker,
) -> anyhow::Result<bool> {
    let progress: Arc<dyn Progress> = Arc::clone(voice) as Arc<dyn Progress>;
    store.relink(fsck).await?;
    let mut rest = store.recheck(fsck).await?;
    for source in sources {
        for _ in 0..ROUNDS {
            let lost = store.lost(&rest).await?;
            if lost.is_empty() {
                break;
            }
            let brought = match source {
                Source::Volumes(spares) => spares.bring(store, &lost, &progress).await?,
                Source::Upstreams { client, hosts } => {
                    let healed = collect::heal(client, store, &lost, hosts.as_deref(), voice.as_ref()).await?;
                    for failure in healed.failures {
                        voice.warn(&format!("{}: {}", failure.name, failure.error));
                    }
                    healed.brought
                }
            };
            if brought == 0 {
                break;
            }
            store.relink(&rest).await?;
            let after = store.recheck(&rest).await?;
            say_healed(&lost, &store.lost(&after).await?, voice)?;
            rest = after;
        }
        if let Source::Volumes(spares) = source {
            for damage in spares.damage() {
                voice.answer(&format!("DAMAGED   {damage}"), &json!({ "damaged": damage }))?;
            }
        }
    }
    let lost = store.lost(&rest).await?;
    for one in &lost {
        let names = names(&one.needed_by);
        let text = format!("LOST      {}: it is nowhere where it was looked for; {}", one.digest, needed(&names));
        voice.answer(&text, &json!({ "lost": one.digest, "neededBy": names }))?;
    }
    for finding in rest.findings.iter().filter(|finding| matches!(finding, store::Finding::MisLinked { .. })) {
        let (text, value) = describe(finding);
        voice.answer(&text, &value)?;
    }
    Ok(rest.is_clean())
}

fn say_healed(before: &[Lost], after: &[Lost], voice: &Speaker) -> anyhow::Result<()> {
    for one in before.iter().filter(|one| after.iter().all(|other| other.digest != one.digest)) {
        voice.answer(&format!("healed    {}", one.digest), &json!({ "healed": one.digest }))?;
    }
    Ok(())
}
