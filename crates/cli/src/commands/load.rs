//! `naru load`: from the medium into the store, whoever has made what lies there.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use artifact::Progress;
use bundle::{As, Imported, LoadOptions, Loaded, Piece, Sort};
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::{Cause, Change, Store};

use super::{Work, changed};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::size::size;
use crate::terminal::Speaker;
use crate::thing;

/// What to load.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Request {
    /// Volumes of bundles, archives of images (`docker save`, `podman save`, `ctr image export`, OCI layouts; also
    /// compressed, or in a package), or folders of them; in any order, some of them, or twice
    #[arg(required_unless_present = "watch", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Takes the volumes that come to lie in this folder, through a diode or a gateway, until it is ended
    #[arg(long, value_name = "DIR", conflicts_with_all = ["paths", "prune", "rename"])]
    watch: Option<PathBuf>,
    /// Ends by itself when all bundles of which something came are whole
    #[arg(long, requires = "watch")]
    until_whole: bool,
    /// What to call the image of an archive: image:NAME:TAG; without the tag, all its images go there under their own
    #[arg(long = "as", value_name = "KIND:NAME")]
    rename: Option<String>,
    /// Takes archives, which nobody has signed, into a store that trusts keys
    #[arg(long)]
    unsigned: bool,
    /// Lets what was seen earlier at its upstream replace what was seen later
    #[arg(long)]
    force: bool,
    /// Then lists what the store has and none of these bundles has, but for what was pushed here; with --yes, takes it out
    #[arg(long)]
    prune: bool,
    /// Does what --prune lists
    #[arg(long, requires = "prune")]
    yes: bool,
}

/// A load, as far as it needs the store; the files travel beside it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pieces: Vec<Piece>,
    /// Files beside them that could not be read, each in words.
    #[serde(default)]
    unread: Vec<String>,
    rename: Option<String>,
    unsigned: bool,
    force: bool,
    prune: bool,
    yes: bool,
}

impl Order {
    /// The paths that were given.
    pub(crate) fn names(&self) -> String {
        self.pieces.iter().map(|piece| piece.path.display().to_string()).collect::<Vec<_>>().join(" ")
    }
}

impl Request {
    /// The folder to watch, when that is what is wished.
    pub(crate) fn watched(&self) -> Option<&Path> {
        self.watch.as_deref()
    }

    /// Whether the watch ends by itself.
    pub(crate) fn ends_when_whole(&self) -> bool {
        self.until_whole
    }

    /// The same for these files.
    pub(crate) fn of(&self, paths: Vec<PathBuf>) -> Self {
        Self { paths, watch: None, until_whole: false, ..self.clone() }
    }
}

/// Opens the files: the holder of the store may not be allowed to.
pub(crate) fn order(request: &Request) -> anyhow::Result<(Work, Vec<File>)> {
    if request.until_whole {
        // The parser does not see it: what `--watch` excludes is given.
        return Err(Failure::new("--until-whole ends a --watch, and there is none")
            .hint("`naru load --watch DIR --until-whole`")
            .exit(Exit::Usage)
            .into());
    }
    let (mut pieces, mut unread) = (Vec::new(), Vec::new());
    for piece in bundle::pieces(&request.paths)? {
        match piece.sort {
            Sort::Unread(why) => unread.push(why),
            _ => pieces.push(piece),
        }
    }
    let rename = request.rename.clone();
    rename.as_deref().map(given).transpose()?;
    if rename.is_some() && pieces.iter().any(|piece| piece.sort == Sort::Volume) {
        return Err(Failure::new("--as gives a name to an archive's images, and a volume's have theirs")
            .hint("load the volumes by themselves")
            .exit(Exit::Usage)
            .into());
    }
    let files = pieces.iter().map(|piece| bundle::open_file(&piece.path)).collect::<bundle::Result<Vec<_>>>()?;
    let &Request { force, prune, yes, unsigned, .. } = request;
    if prune && pieces.iter().any(|piece| piece.sort != Sort::Volume) {
        return Err(Failure::new("--prune goes by what bundles hold, and an archive is none")
            .hint("load the archives by themselves")
            .exit(Exit::Usage)
            .into());
    }
    Ok((Work::Load(Order { pieces, unread, rename, unsigned, force, prune, yes }), files))
}

fn given(text: &str) -> anyhow::Result<As> {
    text.parse().map_err(|why| Failure::new(format!("--as {text}: {why}")).exit(Exit::Usage).into())
}

pub(crate) async fn run(store: &Store, order: &Order, files: Vec<File>, voice: &Speaker) -> anyhow::Result<Exit> {
    let rename = order.rename.as_deref().map(given).transpose()?;
    let options = LoadOptions { force: order.force, by: voice.by(), rename, unsigned: order.unsigned };
    let (volumes, others): (Vec<_>, Vec<_>) =
        order.pieces.iter().cloned().zip(files).partition(|(piece, _)| piece.sort == Sort::Volume);
    let progress: Arc<dyn Progress> = Arc::clone(voice) as Arc<dyn Progress>;
    let mut exit = Exit::Done;
    for why in &order.unread {
        voice.answer(&format!("DAMAGED  {why}"), &json!({ "damaged": why }))?;
        exit = Exit::Incomplete;
    }
    let has_volumes = !volumes.is_empty();
    if has_volumes {
        let volumes = volumes.into_iter().map(|(piece, file)| (piece.path, file)).collect();
        let all = bundle::load(store, volumes, &options, Arc::clone(&progress)).await?;
        for loaded in &all {
            say(loaded, voice)?;
            if loaded.pending.is_some() || !loaded.damage.is_empty() {
                exit = Exit::Incomplete;
            }
        }
        if order.prune {
            prune(store, &all, order.yes, exit == Exit::Done, voice).await?;
        }
    }
    let all = bundle::import(store, others, &options, &progress).await?;
    if let Some(piece) = order.pieces.first().filter(|_| !has_volumes && all.is_empty()) {
        let path = piece.path.clone();
        return Err(bundle::Error::Strange { path, what: "an archive with no image in it".to_owned() }.into());
    }
    for imported in &all {
        say_imported(imported, voice)?;
        if !imported.refused.is_empty() {
            exit = Exit::Incomplete;
        }
    }
    Ok(exit)
}

/// Lists what no bundle of this load has, and takes it out when that was wished.
async fn prune(store: &Store, all: &[Loaded], wished: bool, whole: bool, voice: &Speaker) -> anyhow::Result<()> {
    if !whole {
        voice.warn("nothing is pruned: what is loaded is not whole, so it does not tell what should go");
        return Ok(());
    }
    let mut held = bundle::Names::new();
    let Some(known) = all.iter().map(|loaded| loaded.names.as_ref()).collect::<Option<Vec<_>>>() else {
        voice.warn("nothing is pruned: give the first or the last volume of each bundle, which say what it holds");
        return Ok(());
    };
    for (repository, names) in known.into_iter().flatten() {
        held.entry(repository.clone()).or_default().extend(names.iter().cloned());
    }
    let stale = bundle::stale(store, &held).await?;
    if !wished || stale.is_empty() {
        for (repository, entry) in &stale {
            let name = thing::label(repository, &entry.name);
            voice.answer(
                &format!("stale    {name}  {}", entry.digest),
                &json!({ "stale": name, "old": entry.digest }),
            )?;
        }
        voice.say(&match stale.len() {
            0 => "there is nothing to prune".to_owned(),
            count => format!("{count} would go; nothing was removed: the same with --yes removes them"),
        });
        return Ok(());
    }
    let bundles = all.iter().map(|loaded| loaded.id.as_str()).collect::<Vec<_>>().join(" ");
    let mut change = Change::because(Cause { action: "prune".to_owned(), subject: bundles, by: voice.by() });
    for (repository, entry) in &stale {
        change.remove(repository, &entry.name);
    }
    let applied = store.apply(change).await?;
    changed(&applied, voice)?;
    let before = applied.generation.map_or(0, |generation| generation - 1);
    voice.say(&format!("{} pruned; `naru restore {before}` brings them back", applied.replaced.len()));
    Ok(())
}

fn say_imported(imported: &Imported, voice: &Speaker) -> anyhow::Result<()> {
    let Imported { path, images, renamed, left_out, refused, written: (blobs, bytes), present, applied } = imported;
    for (written, name) in renamed {
        let text = format!("named    {written} → {name}");
        voice.answer(&text, &json!({ "named": name, "written": written }))?;
    }
    changed(applied, voice)?;
    for platform in left_out {
        voice.answer(&format!("omitted  {platform}"), &json!({ "omitted": platform }))?;
    }
    for why in refused {
        voice.answer(&format!("REFUSED  {why}"), &json!({ "refused": why }))?;
    }
    let text = format!(
        "{}: {}, which nobody has signed\n  images    {images}\n  blobs     {blobs} written ({}), {present} were here already",
        if refused.is_empty() { "loaded" } else { "PARTLY LOADED" },
        path.display(),
        size(*bytes),
    );
    let value = json!({
        "done": "load", "archive": path.to_string_lossy(), "images": images, "blobs": blobs, "bytes": bytes, "present": present,
        "generation": applied.generation, "refused": refused, "omitted": left_out,
    });
    voice.answer(&text, &value)
}

fn say(loaded: &Loaded, voice: &Speaker) -> anyhow::Result<()> {
    changed(&loaded.applied, voice)?;
    for damage in &loaded.damage {
        voice.answer(&format!("DAMAGED  {damage}"), &json!({ "damaged": damage }))?;
    }
    for rewritten in &loaded.rewritten {
        voice.warn(rewritten);
    }
    if let Some(pending) = &loaded.pending {
        for missing in &pending.missing {
            voice.answer(&format!("MISSING  {missing}"), &json!({ "missing": missing }))?;
        }
        let waiting = match pending.entries {
            Some(1) => "one entry waits for it".to_owned(),
            Some(entries) => format!("{entries} entries wait for it"),
            None => "the list of what the bundle holds is among it".to_owned(),
        };
        voice.warn(&format!(
            "the bundle is not whole yet, and {waiting}; load only what is missing, and it is finished"
        ));
    }
    for volume in &loaded.rebuilt {
        voice.answer(&format!("rebuilt  volume {volume}, from parity"), &json!({ "rebuilt": volume }))?;
    }
    if let Some(path) = &loaded.want {
        voice.warn(&format!(
            "what no volume will bring is listed in {0}: on the collecting side, `naru pull --want` and `naru pack --want` \
             with that file fetch and pack just that; `naru pack --only N`, with what it was packed with, writes a volume again",
            path.display()
        ));
    }
    let fingerprint = &loaded.fingerprint;
    let known = loaded.trusted.as_ref().map_or("no key is trusted yet".to_owned(), |name| format!("{name}, trusted"));
    if loaded.trusted.is_none() {
        voice.warn(&format!(
            "no key is trusted here yet, so anybody's bundle is loaded: compare {fingerprint} with what `naru pack` \
             printed, then: naru key trust {}",
            loaded.key
        ));
    }
    let (blobs, bytes) = loaded.written;
    let text = format!(
        "{}: bundle {}\n  in words  {}\n  signed by {fingerprint} ({known})\n  entries   {} whole\n  blobs     {blobs} written ({}), {} \
         were here already",
        if loaded.pending.is_none() && loaded.damage.is_empty() { "loaded" } else { "PARTLY LOADED" },
        loaded.id,
        loaded.words,
        loaded.entries,
        size(bytes),
        loaded.present,
    );
    let value = json!({
        "done": "load", "bundle": loaded.id, "words": loaded.words, "fingerprint": fingerprint, "publicKey": loaded.key,
        "trusted": loaded.trusted, "entries": loaded.entries, "blobs": blobs, "bytes": bytes,
        "present": loaded.present, "generation": loaded.applied.generation,
        "pending": loaded.pending.as_ref().map(|pending| &pending.missing),
        "assumed": loaded.assumed.0, "lacking": loaded.assumed.1, "want": loaded.want.as_ref().map(|path| path.to_string_lossy()),
    });
    voice.answer(&text, &value)
}
