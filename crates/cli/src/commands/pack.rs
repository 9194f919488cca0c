//! `naru pack`: the lock's things, or the store's, onto a medium.

use std::fs::{self, File};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use artifact::{Progress, Selection};
use bundle::{PackOptions, SecretKey, Since, WantList};
use collect::lock::path_beside;
use collect::{Lock, PackingList};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::Store;

use super::{Context, Work, by_who_holds_it, export, lock};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::size::{VolumeSize, size};
use crate::terminal::{Overheard, Speaker};
use crate::thing;

/// What to pack, and how.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Request {
    /// The folder on the medium
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Everything in the store, whatever the lock says
    #[arg(long)]
    all: bool,
    /// What a server's proxy gathered in the store, and nothing else
    #[arg(long, conflicts_with = "all")]
    from_cache: bool,
    /// Bytes that a volume may have, from 10MiB up: a number, 700MB, 4GiB, fat32, dvd or bd
    #[arg(long, value_name = "SIZE")]
    volume_size: Option<VolumeSize>,
    /// Only these volumes again, byte for byte, as 2 or 2..4
    #[arg(long, value_name = "N..M", value_parser = volumes)]
    only: Option<RangeInclusive<usize>>,
    /// Writes to several media in turn: what there is room for, then asks for the next at the same place
    #[arg(long, conflicts_with = "parity", requires = "volume_size")]
    media: bool,
    /// What the volumes' names end in
    #[arg(long, value_name = "SUFFIX", default_value = ".tar", value_parser = suffix)]
    suffix: String,
    /// Signs with this key, as `naru key new` writes it, and not with the store's own
    #[arg(long, value_name = "FILE")]
    sign: Option<PathBuf>,
    /// Leaves out what is there already: a receipt, a bundle that was sent before, or their words. Given several times,
    /// for several sites, only what all of them have is left out
    #[arg(long, value_name = "RECEIPT|BUNDLE|WORDS")]
    since: Vec<PathBuf>,
    /// So many parity files beside the volumes: any so many volumes that are lost or damaged can be brought back
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "only")]
    parity: usize,
    /// Lays these images beside the volumes too, as one archive that a node without a server loads; given several times
    #[arg(long, value_name = "IMAGE")]
    seed: Vec<String>,
    /// Only what a site's want-list lists
    #[arg(long, value_name = "FILE", conflicts_with_all = ["all", "from_cache", "since"])]
    want: Option<PathBuf>,
}

/// A pack, as far as it needs the store.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    selection: Selection,
    output: PathBuf,
    volume_size: Option<u64>,
    only: Option<RangeInclusive<usize>>,
    in_turn: bool,
    suffix: String,
    /// The key's text: the holder of the store may not read the file.
    sign: Option<String>,
    parity: usize,
    seed: Vec<String>,
    since: Vec<Before>,
    want: Option<WantList>,
}

/// What a site is said to have; files travel beside the order, in this order.
#[derive(Debug, Serialize, Deserialize)]
enum Before {
    File(PathBuf),
    Words(String),
}

/// Packs; with `--media`, onto one after the other.
pub(crate) async fn begin(mut request: Request, context: &Context, voice: &Speaker) -> anyhow::Result<Exit> {
    loop {
        let (work, files) = order(&request, context)?;
        let heard: Arc<Mutex<Option<(usize, usize)>>> = Arc::default();
        let hearing = Arc::clone(&heard);
        let hear = move |value: &Value| {
            if let Some(rest) = value.get("rest") {
                let rest = serde_json::from_value(rest.clone()).unwrap_or_default();
                *hearing.lock().unwrap_or_else(PoisonError::into_inner) = rest;
            }
        };
        let speaker: Speaker = Arc::new(Overheard { voice: Arc::clone(voice), hear });
        let exit = by_who_holds_it(work, files, context, &speaker).await?;
        let rest = heard.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((first, last)) = rest else { return Ok(exit) };
        let out = request.output.display();
        voice.say(&format!(
            "{out} is full: {} left. Put the next medium there and press Enter",
            if first == last { format!("volume {first} is") } else { format!("volumes {first} to {last} are") }
        ));
        // A thread that waits for a line cannot be ended: the process ends without it.
        let (sender, answered) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || sender.send(std::io::stdin().read_line(&mut String::new()).unwrap_or_default()));
        if answered.await.unwrap_or_default() == 0 {
            return Err(Failure::new(format!("there is nobody to put the next medium at {out}"))
                .hint(format!("run it again there with `--only {first}..{last}`"))
                .exit(Exit::Incomplete)
                .into());
        }
        request.only = Some(first..=last);
        request.seed.clear();
    }
}

/// A part of a file's name, and nothing that leads elsewhere or that a load passes over.
fn suffix(text: &str) -> Result<String, String> {
    let is_plain = text.len() <= 40 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    match text {
        _ if !is_plain => Err("letters, digits, `.`, `_` and `-`, at most 40".to_owned()),
        _ if text.ends_with(".partial") => Err("`.partial` is what unfinished files end in".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

/// Reads what is to be packed.
fn order(request: &Request, context: &Context) -> anyhow::Result<(Work, Vec<File>)> {
    let want = request.want.as_deref().map(WantList::read).transpose()?;
    // A want-list names what it needs by itself.
    let selection = match request {
        _ if request.all || want.is_some() => Selection::All,
        _ if request.from_cache => Selection::Gathered,
        _ => selection(context)?,
    };
    let (mut since, mut files) = (Vec::new(), Vec::new());
    for given in &request.since {
        if given.exists() {
            let path = bundle::lister(given)?;
            files.push(File::open(&path).with_context(|| path.display().to_string())?);
            since.push(Before::File(path));
        } else {
            since.push(Before::Words(words(given)?));
        }
    }
    let sign = request.sign.as_ref().map(|path| fs::read_to_string(path).with_context(|| path.display().to_string()));
    let order = Order {
        selection,
        output: std::path::absolute(&request.output).with_context(|| request.output.display().to_string())?,
        volume_size: request.volume_size.map(|VolumeSize(bytes)| bytes),
        only: request.only.clone(),
        in_turn: request.media,
        suffix: request.suffix.clone(),
        sign: sign.transpose()?,
        parity: request.parity,
        seed: request.seed.clone(),
        since,
        want,
    };
    Ok((Work::Pack(Box::new(order)), files))
}

/// What is no path must be words, or an id.
fn words(given: &Path) -> anyhow::Result<String> {
    let text = given.to_string_lossy();
    let is_id = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id || text.split_whitespace().count() >= 8 {
        return Ok(text.into_owned());
    }
    Err(Failure::new(format!("{text}: there is no such file"))
        .hint("name a receipt, a bundle or its folder, or write all eight words of one in quotes")
        .exit(Exit::Usage)
        .into())
}

/// What a lock that covers its list says.
fn selection(context: &Context) -> anyhow::Result<Selection> {
    let list = PackingList::read(&context.list)?;
    let path = path_beside(&list.path);
    if !path.exists() {
        return Err(Failure::new(format!("{} is not there", path.display()))
            .hint("`naru lock` writes it, `naru pull` fetches what it says; `--all` packs the whole store")
            .exit(Exit::Stale)
            .into());
    }
    let lock = Lock::read(&path)?;
    lock::covered(&lock, &list)?;
    if list.is_empty() {
        return Err(nothing(&format!("{} wishes for nothing", list.path.display()))
            .hint("name something under `images:` or `files:`; `--all` packs the whole store")
            .into());
    }
    Ok(lock.selection())
}

fn nothing(why: &str) -> Failure {
    Failure::new(format!("there is nothing to pack: {why}"))
}

/// Whether the store has anything of what it is to give whole.
async fn has_any(store: &Store, selection: &Selection) -> anyhow::Result<bool> {
    if matches!(selection, Selection::These(_)) {
        return Ok(true);
    }
    let mut entries = thing::Entries::of(store, None);
    while let Some(hit) = entries.next().await? {
        if *selection == Selection::All || hit.entry.is_gathered() {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(crate) async fn run(store: &Store, order: &Order, files: Vec<File>, voice: &Speaker) -> anyhow::Result<Exit> {
    if !has_any(store, &order.selection).await? {
        let (why, hint) = match order.selection {
            Selection::Gathered => (
                "no proxy gathered anything in this store",
                "`upstreams:` with `proxy:` in serve.yaml makes a server gather",
            ),
            _ => ("the store is empty", "`naru pull` fetches what a packing list names"),
        };
        return Err(nothing(why).hint(hint).into());
    }
    let sign = order.sign.as_deref().map(|text| SecretKey::parse(text, "the key to sign with")).transpose()?;
    let mut files = files.into_iter();
    let since = order.since.iter().filter_map(|before| match before {
        Before::File(path) => Some(Since::File(path.clone(), files.next()?)),
        Before::Words(words) => Some(Since::Words(words.clone())),
    });
    let since: Vec<Since> = since.collect();
    // A bare sealed machine needs nothing else. Where there is no /proc, nobody knows where we are.
    let binary = Some(PathBuf::from("/proc/self/exe")).filter(|path| path.exists());
    if binary.is_none() {
        voice.warn("naru itself cannot be laid beside the volumes, as there is no /proc here: carry it yourself");
    }
    let options = PackOptions {
        out: order.output.clone(),
        volume_size: order.volume_size,
        only: order.only.clone(),
        in_turn: order.in_turn,
        suffix: order.suffix.clone(),
        sign,
        binary,
        parity: order.parity,
        seed: export::named(store, &order.seed).await?,
        since,
        want: order.want.clone(),
    };
    let packed = bundle::pack(store, &order.selection, options, Arc::clone(voice) as Arc<dyn Progress>).await?;
    for volume in packed.volumes.iter().chain(&packed.parity).chain(&packed.seed) {
        let kept = if volume.kept { "  (was there)" } else { "" };
        let text = format!("{}  {}  {}{kept}", volume.sha256.hex(), size(volume.size), volume.path.display());
        let value = json!({ "volume": volume.path.to_string_lossy(), "bytes": volume.size, "sha256": volume.sha256.hex(), "kept": volume.kept });
        voice.answer(&text, &value)?;
    }
    let (assumed, assumed_bytes) = packed.assumed;
    let difference = if assumed == 0 {
        String::new()
    } else {
        format!("\n  assumes   {assumed} things ({}) to be there already", size(assumed_bytes))
    };
    let text = format!(
        "bundle {}\n  in words  {}\n  volumes   {}\n  signed by {}\n  public key {}{difference}",
        packed.id.hex(),
        packed.words,
        packed.of,
        packed.fingerprint,
        packed.public_key.trim().lines().last().unwrap_or_default(),
    );
    let value = json!({
        "done": "pack", "bundle": packed.id.hex(), "words": packed.words, "volumes": packed.of,
        "fingerprint": packed.fingerprint, "publicKey": packed.public_key, "assumed": assumed, "assumedBytes": assumed_bytes,
        "rest": packed.rest,
    });
    voice.answer(&text, &value)?;
    Ok(Exit::Done)
}

/// `3`, or `2..4`, both included.
fn volumes(text: &str) -> Result<RangeInclusive<usize>, Failure> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) if 1 <= first && first <= last => Ok(first..=last),
        _ => Err(Failure::new(format!("`{text}` names no volumes: write 2, or 2..4")).exit(Exit::Usage)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_counted_from_one() {
        assert_eq!(volumes("2..4").unwrap(), 2..=4);
        assert_eq!(volumes("3").unwrap(), 3..=3);
        for bad in ["", "0", "4..2", "1..", "a", "1...2"] {
            assert!(volumes(bad).is_err(), "{bad}");
        }
    }
}
