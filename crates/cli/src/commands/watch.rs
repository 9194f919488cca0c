//! `naru load --watch`: volumes as they come, through a diode or a gateway, in any order.
//!
//! Files are looked at once a second. One is taken when it stood still for that long and is all there by its own
//! account (a tar ends in zeros, and a head names what must lie before them); its bytes are proven by the load as ever.
//! Another file of the same name, sent again, is taken again. Nothing is removed from the folder.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use artifact::Digest;
use bundle::Arrival;
use serde_json::Value;

use super::{Context, by_who_holds_it, load};
use crate::exit::Exit;
use crate::failure::{Failure, Report};
use crate::terminal::{Overheard, Speaker};

/// How often the folder is looked at. Whoever copies writes in that time, or the file's time stays as it is.
const POLL: Duration = Duration::from_secs(1);

/// Size, times and number: what changes while a file is written, or when it is sent again.
type Stamp = (u64, Option<SystemTime>, i64, u64);

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
                Ok(Some(arrival)) => {
                    if !take(request, &path, arrival, &mut bundles, context, voice).await?
                        && let Some((_, state)) = files.get_mut(&path)
                    {
                        *state = State::Moving;
                    }
                }
                Err(error) => voice.warn(&format!("not taken as it is now: {error}")),
            }
        }
        let mut begun = bundles.values().filter(|bundle| !bundle.volumes.is_empty()).peekable();
        if request.ends_when_whole() && begun.peek().is_some() && begun.all(|bundle| bundle.is_whole) {
            return Ok(Exit::Done);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The files that stand still and were not looked at as they are, in the order of their names.
fn settled(folder: &Path, files: &mut HashMap<PathBuf, (Stamp, State)>) -> anyhow::Result<Vec<PathBuf>> {
    let (mut settled, mut seen) = (Vec::new(), HashSet::new());
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
        seen.insert(path.clone());
        let stamp = (metadata.len(), metadata.modified().ok(), metadata.ctime(), metadata.ino());
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
    // One that is sent again is another, whatever its time says.
    files.retain(|path, _| seen.contains(path));
    settled.sort();
    Ok(settled)
}

/// Loads what came, and rebuilds what will not come, as soon as there is enough of it. Whether it was taken: otherwise it
/// is to be tried again.
async fn take(
    request: &load::Request,
    path: &Path,
    arrival: Arrival,
    bundles: &mut BTreeMap<Digest, Bundle>,
    context: &Context,
    voice: &Speaker,
) -> anyhow::Result<bool> {
    if let Some(volume) = arrival.volume {
        voice.say(&format!("{} has come: volume {volume} of {}", path.display(), arrival.of));
        let heard = match load_these(request, vec![path.to_owned()], context, voice).await? {
            Taken::Loaded(heard) => heard,
            Taken::Refused => return Ok(true),
            Taken::Later => return Ok(false),
        };
        // Only now: a stranger's volume may say that it is of any bundle.
        let bundle = bundles.entry(arrival.bundle).or_default();
        bundle.of = arrival.of;
        bundle.volumes.insert(volume, path.to_owned());
        note(bundles, heard);
    } else {
        voice.say(&format!("{} has come: parity", path.display()));
        bundles.entry(arrival.bundle).or_default().parity.insert(path.to_owned());
    }
    let bundle = bundles.entry(arrival.bundle).or_default();
    // Somebody may have taken away what was loaded.
    bundle.parity.retain(|path| path.exists());
    let there: Vec<PathBuf> = bundle.volumes.values().filter(|path| path.exists()).cloned().collect();
    let is_enough = !bundle.parity.is_empty() && there.len() + bundle.parity.len() >= bundle.of.max(1);
    if !bundle.is_whole && is_enough && !there.is_empty() {
        let batch = there.into_iter().chain(bundle.parity.iter().cloned()).collect();
        if let Taken::Loaded(heard) = load_these(request, batch, context, voice).await? {
            note(bundles, heard);
        }
    }
    Ok(true)
}

/// Keeps what a load said: it may have finished another bundle than that whose volume came.
fn note(bundles: &mut BTreeMap<Digest, Bundle>, heard: BTreeMap<Digest, bool>) {
    for (id, is_whole) in heard {
        if let Some(bundle) = bundles.get_mut(&id) {
            bundle.is_whole = is_whole;
        }
    }
}

/// What became of files.
enum Taken {
    /// What the load said of bundles: whether each is whole now.
    Loaded(BTreeMap<Digest, bool>),
    /// They are another's, or damaged; said.
    Refused,
    /// The store was held by another command.
    Later,
}

/// Loads files. What is wrong with them is said and ends nothing; what is wrong with the store does.
async fn load_these(
    request: &load::Request,
    files: Vec<PathBuf>,
    context: &Context,
    voice: &Speaker,
) -> anyhow::Result<Taken> {
    let heard: Arc<Mutex<BTreeMap<Digest, bool>>> = Arc::default();
    let hearing = Arc::clone(&heard);
    let hear = move |value: &Value| {
        let of = |key: &str| value.get(key).and_then(Value::as_str);
        if let (Some("load"), Some(Ok(id))) = (of("done"), of("bundle").map(Digest::from_hex)) {
            let is_whole = value.get("pending").is_none_or(Value::is_null);
            hearing.lock().unwrap_or_else(PoisonError::into_inner).insert(id, is_whole);
        }
    };
    let speaker: Speaker = Arc::new(Overheard { voice: Arc::clone(voice), hear });
    let loaded = async {
        let (work, open) = load::order(&request.of(files.clone()))?;
        by_who_holds_it(work, open, context, &speaker).await
    };
    let Err(error) = loaded.await else {
        return Ok(Taken::Loaded(std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner))));
    };
    let Some(report) = Report::of(&error) else { return Err(error) };
    match report.exit {
        Exit::Held => {
            voice.warn(&report.line);
            Ok(Taken::Later)
        }
        Exit::Untrusted | Exit::Incomplete | Exit::Usage => {
            voice.warn(&report.line);
            Ok(Taken::Refused)
        }
        // It went, or is being written again: it is looked at again when it stands still.
        _ if files.iter().any(|path| !path.exists()) => {
            voice.warn(&report.line);
            Ok(Taken::Refused)
        }
        _ => Err(error),
    }
}
