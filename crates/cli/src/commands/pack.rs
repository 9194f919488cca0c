//! `naru pack`: the lock's things, or the store's, onto a medium.

use std::fs;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use artifact::{Progress, Selection};
use bundle::{PackOptions, SecretKey};
use collect::lock::path_beside;
use collect::{Lock, PackingList};
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::Store;

use super::{Context, Work, lock};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::size::{VolumeSize, size};
use crate::terminal::Speaker;

/// What to pack, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Request {
    /// The folder on the medium
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Everything in the store, whatever the lock says
    #[arg(long)]
    all: bool,
    /// Bytes that a volume may have, from 10MiB up: a number, 700MB, 4GiB, fat32, dvd or bd
    #[arg(long, value_name = "SIZE")]
    volume_size: Option<VolumeSize>,
    /// Only these volumes again, byte for byte, as 2 or 2..4
    #[arg(long, value_name = "N..M", value_parser = volumes)]
    only: Option<RangeInclusive<usize>>,
    /// What the volumes' names end in
    #[arg(long, value_name = "SUFFIX", default_value = ".tar")]
    suffix: String,
    /// Signs with this key, as `naru key new` writes it, and not with the store's own
    #[arg(long, value_name = "FILE")]
    sign: Option<PathBuf>,
}

/// A pack, as far as it needs the store.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    selection: Selection,
    output: PathBuf,
    volume_size: Option<u64>,
    only: Option<RangeInclusive<usize>>,
    suffix: String,
    /// The key's text: the holder of the store may not read the file.
    sign: Option<String>,
}

/// Reads what is to be packed.
pub(crate) fn order(request: &Request, context: &Context) -> anyhow::Result<Work> {
    let selection = if request.all { Selection::All } else { selection(context)? };
    let sign = request.sign.as_ref().map(|path| fs::read_to_string(path).with_context(|| path.display().to_string()));
    Ok(Work::Pack(Order {
        selection,
        output: std::path::absolute(&request.output).with_context(|| request.output.display().to_string())?,
        volume_size: request.volume_size.map(|VolumeSize(bytes)| bytes),
        only: request.only.clone(),
        suffix: request.suffix.clone(),
        sign: sign.transpose()?,
    }))
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
    Ok(lock.selection())
}

pub(crate) async fn run(store: &Store, order: &Order, voice: &Speaker) -> anyhow::Result<Exit> {
    let sign = order.sign.as_deref().map(|text| SecretKey::parse(text, "the key to sign with")).transpose()?;
    // A bare sealed machine needs nothing else. Where there is no /proc, nobody knows where we are.
    let binary = Some(PathBuf::from("/proc/self/exe")).filter(|path| path.exists());
    if binary.is_none() {
        voice.warn("naru itself cannot be laid beside the volumes, as there is no /proc here: carry it yourself");
    }
    let options = PackOptions {
        out: order.output.clone(),
        volume_size: order.volume_size,
        only: order.only.clone(),
        suffix: order.suffix.clone(),
        sign,
        binary,
    };
    let packed = bundle::pack(store, &order.selection, options, Arc::clone(voice) as Arc<dyn Progress>).await?;
    for volume in &packed.volumes {
        let kept = if volume.kept { "  (was there)" } else { "" };
        let text = format!("{}  {}  {}{kept}", volume.sha256.hex(), size(volume.size), volume.path.display());
        let value =
            json!({ "volume": volume.path, "bytes": volume.size, "sha256": volume.sha256.hex(), "kept": volume.kept });
        voice.answer(&text, &value)?;
    }
    let text = format!(
        "bundle {}\n  in words  {}\n  volumes   {}\n  signed by {}\n  public key {}",
        packed.id.hex(),
        packed.words,
        packed.of,
        packed.fingerprint,
        packed.public_key.trim().lines().last().unwrap_or_default(),
    );
    let value = json!({
        "done": "pack", "bundle": packed.id.hex(), "words": packed.words, "volumes": packed.of,
        "fingerprint": packed.fingerprint, "publicKey": packed.public_key,
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
