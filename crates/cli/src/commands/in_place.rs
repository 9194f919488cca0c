//! `naru serve --bundle`: volumes that are handed out where they lie. Nothing is written there; what a site needs of its
//! own (a CA, an admin token) is in a small store elsewhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bundle::{Shelf, key};
use store::Store;

use super::{Context, verify};
use crate::size::size;
use crate::terminal::Speaker;

/// Names of what a missing volume holds that are said.
const NAMES: usize = 5;

/// Opens the volumes. Who may have signed them is for the state's store and this user's to say.
pub(super) async fn open(
    paths: &[PathBuf],
    state: &Store,
    context: &Context,
    voice: &Speaker,
) -> anyhow::Result<Arc<Shelf>> {
    let mut trusted = key::trusted(state).await?;
    if context.folder().is_ok_and(|folder| folder != state.folder()) {
        trusted.extend(verify::trusted(context).await?);
    }
    let (paths, known) = (paths.to_vec(), trusted.clone());
    let shelf = tokio::task::spawn_blocking(move || Shelf::open(&paths, &known)).await??;
    for unreadable in shelf.unreadable() {
        voice.warn(&unreadable);
    }
    let signer = if trusted.is_empty() { "no key is trusted here: compare it" } else { "trusted here" };
    let (of, here) = shelf.volumes();
    voice.say(&format!(
        "bundle {}\n  in words  {}\n  signed by {} ({signer})\n  {here} of {of} volumes are here",
        shelf.id().hex(),
        shelf.words(),
        shelf.fingerprint(),
    ));
    if shelf.is_difference() {
        voice.warn("the bundle is a difference: what it takes to be at its site is not in it, and is not served");
    }
    Ok(Arc::new(shelf))
}

/// Says which volumes are not here, and some of what they hold; what is asked for and lies there is named when it is
/// asked for. On a large bundle this takes a while, and the server does not wait for it.
pub(super) async fn tell_what_is_missing(shelf: Arc<Shelf>, voice: Speaker) {
    let told = tokio::task::spawn_blocking(move || {
        for (number, share) in shelf.missing() {
            let held = match shelf.held_by(number, NAMES) {
                Ok((names, _)) if names.is_empty() => String::new(),
                Ok((names, false)) => format!(": {}", names.join(", ")),
                Ok((names, true)) => format!(": {}, and perhaps more", names.join(", ")),
                Err(error) => format!("; what they are cannot be read: {error}"),
            };
            let (blobs, bytes) = (share.blobs, size(share.bytes));
            voice.warn(&format!("volume {number} (naru-{number:04}) is not here; it has {blobs} blobs, {bytes}{held}"));
        }
    });
    let _ = told.await;
}

/// The folder for a site's own things: the one that was given, or one that goes when the server ends.
pub(super) enum State {
    Given(PathBuf),
    Temporary(tempfile::TempDir),
}

impl State {
    pub(super) fn new(given: Option<&Path>, voice: &Speaker) -> std::io::Result<Self> {
        if let Some(folder) = given {
            return Ok(Self::Given(folder.to_owned()));
        }
        let folder = tempfile::Builder::new().prefix("naru-serve-").tempdir()?;
        voice.say(&format!(
            "the site's CA and admin token are in {}, and go when this ends (--state DIR keeps them)",
            folder.path().display()
        ));
        Ok(Self::Temporary(folder))
    }

    pub(super) fn folder(&self) -> &Path {
        match self {
            Self::Given(folder) => folder,
            Self::Temporary(folder) => folder.path(),
        }
    }
}
