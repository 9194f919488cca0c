//! `naru verify`: is the bundle on this medium whole?

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use artifact::{Progress, Silent};
use bundle::key::Trusted;
use bundle::{PublicKey, Receipt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::Store;

use super::{Context, Work, holder, key};
use crate::exit::Exit;
use crate::size::size;
use crate::terminal::{Speaker, Voice};

/// What to read.
#[derive(Debug, clap::Args)]
pub(crate) struct Request {
    /// Volumes, or the folder they lie in
    #[arg(required = true, value_name = "BUNDLE")]
    paths: Vec<PathBuf>,
    /// Holds what a difference assumes against what its site says that it has
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
    /// Brings missing and damaged volumes back into this folder, from the parity files that lie beside the others
    #[arg(long, value_name = "DIR")]
    repair: Option<PathBuf>,
}

pub(crate) async fn run(request: &Request, context: &Context, voice: &Speaker) -> anyhow::Result<Exit> {
    // Looking at a medium takes nothing over: where nobody can be asked, it is looked at all the same.
    let trusted = trusted(context).await.unwrap_or_else(|error| {
        voice.warn(&format!("whom this user's store trusts cannot be read, so no key is known here: {error:#}"));
        Vec::new()
    });
    let receipt = request.receipt.as_deref().map(Receipt::open).transpose()?;
    let site = receipt.as_ref().map(|receipt| (receipt.store.fingerprint(), receipt.generation));
    let verified =
        bundle::verify_for(&request.paths, &trusted, receipt, Arc::clone(voice) as Arc<dyn Progress>).await?;
    for damage in &verified.damage {
        voice.answer(&format!("DAMAGED  {damage}"), &json!({ "damaged": damage }))?;
    }
    for missing in &verified.missing {
        voice.answer(&format!("MISSING  {missing}"), &json!({ "missing": missing }))?;
    }
    for rewritten in &verified.rewritten {
        voice.warn(rewritten);
    }
    if !verified.beside.is_empty() {
        voice.warn(&format!(
            "SHA256SUMS lists what does not lie beside the volumes; they do without it: {}",
            verified.beside.join(", ")
        ));
    }
    let whole = verified.is_whole();
    let (of, read) = verified.volumes;
    let signer = match verified.trusted {
        Some(true) => "trusted here",
        Some(false) => "not trusted here",
        None => "compare it with what `naru pack` printed",
    };
    // Whoever finds it the same wants it for `naru key trust`.
    let key = match verified.trusted {
        Some(_) => String::new(),
        None => format!("\n  public key {}", verified.key),
    };
    let medium = if verified.bypassed {
        "read from the medium, past the page cache"
    } else {
        "read after the page cache was told to drop it: this file system has no way past it"
    };
    let (assumed, assumed_bytes) = verified.assumed;
    let difference = match (&site, assumed) {
        (_, 0) => String::new(),
        (Some((store, generation)), _) => {
            format!(
                "\n  assumes   {assumed} things ({}), held against store {store}, generation {generation}",
                size(assumed_bytes)
            )
        }
        (None, _) => format!(
            "\n  assumes   {assumed} things ({}) to be at its site: not proven here, `--receipt FILE` does",
            size(assumed_bytes)
        ),
    };
    let parity = match verified.parity {
        (_, 0) => String::new(),
        (0, files) => format!("\n  parity    {files} files: as many lost volumes could be brought back"),
        (lost, files) => format!("\n  parity    {files} files whole, {lost} volumes lost or damaged"),
    };
    let text = format!(
        "{}: bundle {}\n  in words  {}\n  volumes   {read} of {of}\n  members   {} ({}), every one hashed\n  entries   \
         {} whole\n  signed by {} ({signer}){key}\n  {medium}{difference}{parity}",
        match (whole, verified.is_covered()) {
            (true, _) => "whole",
            (false, true) => "NOT WHOLE, but covered by parity",
            (false, false) => "NOT WHOLE",
        },
        verified.id,
        verified.words,
        verified.members,
        size(verified.bytes),
        verified.entries,
        verified.fingerprint,
    );
    let value = json!({
        "whole": whole, "bundle": verified.id, "words": verified.words, "fingerprint": verified.fingerprint,
        "publicKey": verified.key, "notBeside": verified.beside,
        "trusted": verified.trusted, "volumes": of, "read": read, "members": verified.members,
        "bytes": verified.bytes, "entries": verified.entries, "bypassed": verified.bypassed,
        "covered": verified.is_covered(), "lost": verified.parity.0, "parity": verified.parity.1,
        "assumed": assumed, "assumedBytes": assumed_bytes, "receipt": site.as_ref().map(|(store, _)| store),
    });
    voice.answer(&text, &value)?;
    if let Some(into) = request.repair.clone().filter(|_| !whole) {
        let (paths, voice_too) = (request.paths.clone(), Arc::clone(voice));
        let work = move || bundle::repair(&paths, &trusted, &into, voice_too.as_ref());
        let rebuilt = tokio::task::spawn_blocking(work).await??;
        for path in &rebuilt {
            voice.answer(&format!("rebuilt  {}", path.display()), &json!({ "rebuilt": path.to_string_lossy() }))?;
        }
    }
    Ok(if whole || verified.is_covered() { Exit::Done } else { Exit::Incomplete })
}

/// A key of a store, as `naru key ls` lists it for machines.
#[derive(Debug, Serialize, Deserialize)]
struct Listed {
    name: String,
    key: Option<String>,
}

/// The keys that this user's store trusts, its own among them; none where there is no store. A store is not made for
/// it, and one that is held is asked.
///
/// # Errors
/// When there is one and it cannot be asked: it may trust somebody.
pub(super) async fn trusted(context: &Context) -> anyhow::Result<Vec<Trusted>> {
    // Who has no place for a store has none.
    let Ok(folder) = context.folder() else { return Ok(Vec::new()) };
    if !folder.join("naru.db").exists() {
        return Ok(Vec::new());
    }
    let listed = Arc::new(Collected::default());
    let speaker: Speaker = listed.clone();
    match Store::open(&folder).await {
        Ok(store) => {
            key::list(&store, &speaker).await?;
            store.close().await;
        }
        Err(held @ store::Error::Held { .. }) => {
            let work = Work::Key(key::Command::Ls);
            if holder::call(&folder, &work, Vec::new(), &speaker).await?.is_none() {
                return Err(held.into());
            }
        }
        Err(error) => return Err(error.into()),
    }
    let listed = std::mem::take(&mut *listed.0.lock().unwrap_or_else(PoisonError::into_inner));
    let mut keys = Vec::new();
    for value in listed {
        // The site's CA is listed too, and signs no bundle.
        let Listed { name, key: Some(key) } = serde_json::from_value(value)? else { continue };
        keys.push(Trusted { key: PublicKey::parse(&key, &name)?, name });
    }
    // A store that trusts nobody in particular does not distrust others for it.
    Ok(if keys.iter().all(|trusted| trusted.name == key::OWN) { Vec::new() } else { keys })
}

/// Keeps answers, for a command that asks another.
#[derive(Default)]
struct Collected(Mutex<Vec<Value>>);

impl Voice for Collected {
    fn answer(&self, _: &str, value: &Value) -> anyhow::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(value.clone());
        Ok(())
    }

    fn by(&self) -> String {
        crate::terminal::this_user()
    }
}

impl Progress for Collected {
    fn say(&self, line: &str) {
        Silent.say(line);
    }
    fn warn(&self, line: &str) {
        Silent.warn(line);
    }
    fn begin(&self, phase: &str, total: u64) {
        Silent.begin(phase, total);
    }
    fn advance(&self, bytes: u64) {
        Silent.advance(bytes);
    }
    fn end(&self) {
        Silent.end();
    }
}
