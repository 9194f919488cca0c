//! `naru key`: who may sign what this store loads.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bundle::{PublicKey, SecretKey, key};
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::Store;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::terminal::Speaker;

/// The name under which a store's own key is listed.
pub(crate) const OWN: &str = "own";

/// What to do with keys.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Request {
    /// Makes a key in FILE, and its public half in FILE.pub; minisign reads both
    New {
        /// Where; nothing is overwritten
        file: PathBuf,
    },
    /// Trusts a key: from then on the store loads nothing that others have signed
    Trust {
        /// The public key, or the file it is in
        key: String,
        /// What to call it [default: the file's name, or the fingerprint]
        #[arg(long)]
        name: Option<String>,
    },
    /// Takes the trust back
    Distrust {
        /// What it is called
        name: String,
    },
    /// Lists the store's own key, and those that it trusts
    Ls,
    /// Prints the public half of the store's own key, for the other side to trust
    Export,
}

/// The same, as far as it needs the store.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Command {
    Trust { key: String, name: String },
    Distrust { name: String },
    Ls,
    Export,
}

/// Does what needs no store, and answers what does.
pub(crate) fn prepare(request: Request, voice: &Speaker) -> anyhow::Result<Option<Command>> {
    Ok(Some(match request {
        Request::New { file } => {
            new(&file, voice)?;
            return Ok(None);
        }
        Request::Trust { key, name } => {
            let path = Path::new(&key);
            let (text, file) = match std::fs::read_to_string(path) {
                Ok(text) => (text, path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned)),
                Err(_) => (key.clone(), None),
            };
            let parsed = PublicKey::parse(&text, &key)?;
            let name = name.or(file).unwrap_or_else(|| parsed.fingerprint());
            if name == OWN {
                return Err(Failure::new("a key that is called `own` would be taken for the store's")
                    .hint("give it another with `--name`")
                    .exit(Exit::Usage)
                    .into());
            }
            Command::Trust { key: parsed.to_line(), name }
        }
        Request::Distrust { name } => Command::Distrust { name },
        Request::Ls => Command::Ls,
        Request::Export => Command::Export,
    }))
}

pub(crate) async fn run(store: &Store, command: &Command, voice: &Speaker) -> anyhow::Result<Exit> {
    match command {
        Command::Ls => list(store, voice).await?,
        Command::Trust { key, name } => {
            let key = PublicKey::parse(key, name)?;
            key::trust(store, &key, name).await?;
            let fingerprint = key.fingerprint();
            let value = json!({ "trusted": name, "fingerprint": fingerprint });
            voice.answer(&format!("trusted: {name}  {fingerprint}"), &value)?;
        }
        Command::Distrust { name } => {
            if !key::distrust(store, name).await? {
                return Err(Failure::new(format!("no key is called `{name}`")).hint("`naru key ls` lists them").into());
            }
            voice.answer(&format!("no longer trusted: {name}"), &json!({ "distrusted": name }))?;
            if key::trusted(store).await?.is_empty() {
                voice.warn("no key is trusted now: bundles of every key are loaded");
            }
        }
        Command::Export => {
            let public = key::of_store(store).await?.public();
            let value = json!({ "fingerprint": public.fingerprint(), "key": public.to_line() });
            voice.answer(public.to_text().trim_end(), &value)?;
        }
    }
    Ok(Exit::Done)
}

/// Every key that counts here.
pub(crate) async fn list(store: &Store, voice: &Speaker) -> anyhow::Result<()> {
    let show = |name: &str, key: &PublicKey| {
        let value = json!({ "name": name, "fingerprint": key.fingerprint(), "key": key.to_line() });
        voice.answer(&format!("{name}  {}  {}", key.fingerprint(), key.to_line()), &value)
    };
    // The first pack makes it; a listing does not.
    if store.documents("key/bundle").await?.iter().any(|name| name == "key/bundle") {
        show(OWN, &key::of_store(store).await?.public())?;
    }
    for trusted in key::trusted(store).await? {
        show(&trusted.name, &trusted.key)?;
    }
    Ok(())
}

fn new(file: &Path, voice: &Speaker) -> anyhow::Result<()> {
    let secret = SecretKey::generate()?;
    let mut public = file.as_os_str().to_owned();
    public.push(".pub");
    let public = PathBuf::from(public);
    write(file, 0o600, &secret.to_text())?;
    write(&public, 0o644, &secret.public().to_text())?;
    let fingerprint = secret.public().fingerprint();
    let text = format!("{}\n{}\nfingerprint {fingerprint}", file.display(), public.display());
    voice.answer(&text, &json!({ "secret": file, "public": public, "fingerprint": fingerprint }))
}

fn write(path: &Path, mode: u32, text: &str) -> anyhow::Result<()> {
    let named = || path.display().to_string();
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).with_context(named)?;
    file.write_all(text.as_bytes()).with_context(named)?;
    file.sync_all().with_context(named)
}
