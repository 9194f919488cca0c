//! `naru load --watch`: volumes as they come, through a diode or a gateway, in any order.
//!
//! Files are looked at once a second. One is taken when it stood still for that long and is all there by its own
//! account (a tar ends in zeros, and a head names what must lie before them); its bytes are proven by the load as ever.
//! Another file of the same name, sent again, is taken again. Nothing is removed from the folder.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use artifact::Digest;
use bundle::Arrival;

use super::{Context, by_who_holds_it, load};
use crate::exit::Exit;
use crate::failure::{Failure, Report};
use crate::terminal::Speaker;

/// How often the folder is looked at. Whoever copies writes in that time, or the file's time stays as it is.
const POLL: Duration = Duration::from_secs(1);

/// Size and time: what changes while a file is written.
type Stamp = (u64, Option<SystemTime>);

/// How far a file is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It was another one a moment ago.
    Moving,
    /// Taken, or refused: nothing more is done until it changes.
    Settled,
}

/// What has come of a bundle.
#[derive(Default)]
struct Bundle {
    of: usize,
    volumes: BTreeMap<u32, PathBuf>,
    parity: BTreeSet<PathBuf>,
    is_whole: bool,
}

pub(crate) async fn run(
    request: &load::Request,
    folder: &Path,
    context: &Context,
    voice: &Speaker,
) -> anyhow::Result<Exit> {
    if !folder.is_dir() {
        return Err(Failure::new(format!("{}: there is no such folder", folder.display()))
            .hint("name the folder into which the diode or the gateway writes")
            .exit(Exit::Usage)
            .into());
    }
    voice.say(&format!("watching {}; Ctrl-C ends it, and the next run goes on", folder.display()));
    let mut files: HashMap<PathBuf, (Stamp, State)> = HashMap::new();
    let mut bundles: BTreeMap<Digest, Bundle> = BTreeMap::new();
    loop {
        for path in settled(folder, &mut files)? {
            let look = path.clone();
            match tokio::task::spawn_blocking(move || Arrival::look(&look)).await? {
                Ok(None) => {}
                Ok(Some(arrival)) => take(request, &path, arrival, &mut bundles, context, voice).await?,
                Err(error) => voice.warn(&format!("not taken as it is now: {error}")),
            }
        }
        if request.ends_when_whole() && !bundles.is_empty() && bundles.values().all(|bundle| bundle.is_whole) {
            return Ok(Exit::Done);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The files that stand still and were not looked at as they are, in the order of their names.
fn settled(folder: &Path, files: &mut HashMap<PathBuf, (Stamp, State)>) -> anyhow::Result<Vec<PathBuf>> {
    let mut settled = Vec::new();
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let path = entry.with_context(|| folder.display().to_string())?.path();
        // rsync and others write under hidden names, naru under `.partial`.
        let is_hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let is_partial = path.extension().is_some_and(|extension| extension == "partial");
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        if is_hidden || is_partial || !metadata.is_file() {
            continue;
        }
        let stamp = (metadata.len(), metadata.modified().ok());
        match files.get_mut(&path) {
            Some((before, state)) if *before == stamp => {
                if *state == State::Moving {
                    *state = State::Settled;
                    settled.push(path);
                }
            }
            _ => drop(files.insert(path, (stamp, State::Moving))),
        }
    }
    settled.sort();
    Ok(settled)
}

/// Loads what came, and rebuilds what will not come, as soon as there is enough of it.
async fn take(
    request: &load::Request,
    path: &Path,
    arrival: Arrival,
    bundles: &mut BTreeMap<Digest, Bundle>,
    context: &Context,
    voice: &Speaker,
) -> anyhow::Result<()> {
    let bundle = bundles.entry(arrival.bundle).or_default();
    bundle.of = arrival.of;
    let mut batches = Vec::new();
    if let Some(volume) = arrival.volume {
        voice.say(&format!("{} has come: volume {volume} of {}", path.display(), arrival.of));
        bundle.volumes.insert(volume, path.to_owned());
        batches.push(vec![path.to_owned()]);
    } else {
        voice.say(&format!("{} has come: parity", path.display()));
        bundle.parity.insert(path.to_owned());
    }
    if !bundle.parity.is_empty() && bundle.volumes.len() + bundle.parity.len() >= bundle.of {
        batches.push(bundle.volumes.values().chain(&bundle.parity).cloned().collect());
    }
    for batch in batches.into_iter().filter(|batch| !batch.is_empty()) {
        if bundle.is_whole && batch.len() > 1 {
            continue;
        }
        let (work, files) = load::order(&request.of(batch))?;
        match by_who_holds_it(work, files, context, voice).await {
            Ok(exit) => bundle.is_whole = exit == Exit::Done,
            Err(error) => match Report::of(&error) {
                // Somebody else's volume does not end the watch.
                Some(report) if report.exit == Exit::Untrusted => voice.warn(&report.line),
                _ => return Err(error),
            },
        }
    }
    Ok(())
}
