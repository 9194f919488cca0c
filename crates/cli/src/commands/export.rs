//! `naru export`: images as one archive that every runtime loads.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use artifact::{Kind, Platform, Progress};
use bundle::{Archive, Exported, LoadOptions, Sort};
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::Store;

use super::{Context, Work, by_who_holds_it, verify};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::size::size;
use crate::terminal::Speaker;
use crate::thing;

/// What to export.
#[derive(Debug, clap::Args)]
pub(crate) struct Request {
    /// Images, as their clients name them: `nginx:1.27`, `registry.k8s.io/pause:3.10`, or by digest
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// The archive; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Of images for several platforms, only this one; their digests stay what they are
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<Platform>,
    /// Takes them from a bundle (its volumes, or their folder) and not from the store
    #[arg(long, value_name = "BUNDLE")]
    from: Vec<PathBuf>,
}

/// An export, as far as it needs the store; the open archive travels beside it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    images: Vec<String>,
    platform: Option<Platform>,
    /// The archive's name, for what is said.
    output: PathBuf,
}

/// Writes into a file that gets its name when it is whole.
pub(crate) async fn run(request: Request, context: &Context, voice: &Speaker) -> anyhow::Result<Exit> {
    let Request { images, output, platform, from } = request;
    let order = Order { images, platform, output: output.clone() };
    if output == Path::new("-") {
        if io::stdout().is_terminal() {
            return Err(Failure::new("an archive is nothing for a terminal")
                .hint(
                    "name a file with -o, or send standard output on: `naru export IMAGE -o - | ssh NODE docker load`",
                )
                .exit(Exit::Usage)
                .into());
        }
        let file = File::from(io::stdout().as_fd().try_clone_to_owned().context("standard output")?);
        return taken(&from, order, file, context, voice).await;
    }
    let named = || output.display().to_string();
    let file = Output::begin(&output).with_context(named)?;
    let exit = taken(&from, order, file.file().try_clone().with_context(named)?, context, voice).await?;
    if exit == Exit::Done {
        file.finish().with_context(named)?;
    }
    Ok(exit)
}

/// From the store, or from a bundle, which is loaded into a store of its own for as long as it takes.
async fn taken(from: &[PathBuf], order: Order, file: File, context: &Context, voice: &Speaker) -> anyhow::Result<Exit> {
    if from.is_empty() {
        return by_who_holds_it(Work::Export(order), vec![file], context, voice).await;
    }
    let folder =
        order.output.parent().filter(|folder| folder.is_dir() && folder.to_str().is_some()).map(Path::to_owned);
    let folder = folder.unwrap_or_else(std::env::temp_dir);
    from_bundle(from, &folder, context, voice, async |store| carry_out(store, &order, vec![file], voice).await).await
}

/// Loads a bundle into a store of its own, below `folder`, for as long as the work takes.
pub(super) async fn from_bundle(
    from: &[PathBuf],
    folder: &Path,
    context: &Context,
    voice: &Speaker,
    work: impl AsyncFnOnce(&Store) -> anyhow::Result<Exit>,
) -> anyhow::Result<Exit> {
    let mut volumes = Vec::new();
    for bundle::Piece { path, sort } in bundle::pieces(from)? {
        match sort {
            Sort::Volume => volumes.push((path.clone(), bundle::open_file(&path)?)),
            Sort::Unread(why) => voice.warn(&format!("damaged: {why}")),
            Sort::Archive { .. } | Sort::Layout(_) => {}
        }
    }
    let folder = tempfile::Builder::new().prefix(".naru-export-").tempdir_in(folder).context("a store for a while")?;
    let store = Store::open(folder.path()).await?;
    let options = LoadOptions { by: voice.by(), ..LoadOptions::default() };
    let done = async {
        // Whom this user's own store trusts, this one does.
        for bundle::key::Trusted { name, key } in verify::trusted(context).await? {
            bundle::key::trust(&store, &key, &name).await?;
        }
        // The answer may be the archive itself: all of this is said beside it.
        for loaded in bundle::load(&store, volumes, &options, Arc::clone(voice) as Arc<dyn Progress>).await? {
            let signer = loaded.trusted.as_deref().unwrap_or("no key is trusted here: compare it");
            voice.say(&format!("bundle {}, signed by {} ({signer})", loaded.words, loaded.fingerprint));
            loaded.damage.iter().for_each(|damage| voice.warn(&format!("damaged: {damage}")));
            let missing = loaded.pending.iter().flat_map(|pending| &pending.missing);
            missing.for_each(|missing| voice.warn(&format!("missing: {missing}")));
        }
        work(&store).await
    };
    let exit = done.await;
    store.close().await;
    exit
}

/// The images that are meant.
pub(super) async fn named(store: &Store, texts: &[String]) -> anyhow::Result<Vec<Exported>> {
    let mut images = Vec::new();
    for text in texts {
        let hit = thing::find_bytes(store, text).await?;
        if hit.repository.kind != Kind::Image {
            return Err(Failure::new(format!("`{text}` is no image")).hint("an archive is for images").into());
        }
        let name = thing::label(&hit.repository, &hit.entry.name);
        images.push(Exported { name, digest: hit.entry.digest });
    }
    Ok(images)
}

/// Plans and writes the archive.
pub(crate) async fn carry_out(
    store: &Store,
    order: &Order,
    mut files: Vec<File>,
    voice: &Speaker,
) -> anyhow::Result<Exit> {
    let images = named(store, &order.images).await?;
    let archive = Archive::plan(store, &images, order.platform.as_ref()).await?;
    let file = files.pop().context("the archive was not handed over")?;
    for left_out in &archive.left_out {
        voice.say(&format!("not in it: {left_out}"));
    }
    let bytes = archive.size;
    let progress = Arc::clone(voice) as Arc<dyn Progress>;
    tokio::task::spawn_blocking(move || archive.write(BufWriter::with_capacity(1 << 20, file), progress.as_ref()))
        .await??;
    let output = order.output.display();
    for Exported { name, digest } in &images {
        // Standard output may be the archive.
        voice.say(&format!("{name}  {digest}"));
    }
    if order.output != Path::new("-") {
        let value = json!({
            "done": "export", "file": order.output.to_string_lossy(), "bytes": bytes,
            "images": images.iter().map(|image| json!({ "name": image.name, "digest": image.digest })).collect::<Vec<_>>(),
        });
        voice.answer(&format!("{output}  {}", size(bytes)), &value)?;
    }
    Ok(Exit::Done)
}
