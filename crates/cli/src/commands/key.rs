//! `naru key`: who may sign what this store loads, and what makes a server its site's.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bundle::{PublicKey, SecretKey, key};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serve::SiteKeys;
use store::Store;

use super::{Context, Work, by_who_holds_it, setup};
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
        /// The public key, the file it is in, or a volume (or the folder of a bundle) that it signed
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
    /// Lists the store's own key, those that it trusts, and the site's CA
    Ls,
    /// Prints the public half of the store's own key, for the other side to trust; or writes all that is secret
    Export {
        /// Writes into FILE what makes another server this site's: the CA with its key, the key of the server's
        /// certificate, the store's own key, the keys that it trusts. Whoever has the file can speak for the site
        #[arg(long, value_name = "FILE")]
        secret: Option<PathBuf>,
    },
    /// Takes what `export --secret` wrote, so that clients take this server for the other
    Import {
        /// The file
        file: PathBuf,
        /// Gives up a CA and a signing key that this store has of its own
        #[arg(long)]
        force: bool,
    },
    /// Makes the site's next CA and publishes it beside the one that signs; with --finish, lets it sign
    Rotate {
        /// The next CA signs from now on, and the one before is no longer published: when all clients have both
        #[arg(long)]
        finish: bool,
    },
}

/// The same, as far as it needs the store.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Command {
    Trust {
        key: String,
        name: String,
    },
    Distrust {
        name: String,
    },
    Ls,
    Export,
    /// Into the file that travels beside.
    ExportSecret,
    Import {
        keys: Box<Keys>,
        force: bool,
    },
    Rotate {
        finish: bool,
    },
}

impl Command {
    /// As the audit has it.
    pub(crate) fn audited(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Trust { name, .. } => Some(("key trust", name.clone())),
            Self::Distrust { name } => Some(("key distrust", name.clone())),
            Self::ExportSecret => Some(("key export", String::new())),
            Self::Import { .. } => Some(("key import", String::new())),
            Self::Rotate { finish } => Some(("key rotate", if *finish { "finish" } else { "" }.to_owned())),
            Self::Ls | Self::Export => None,
        }
    }
}

/// What `export --secret` writes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Keys {
    format: u32,
    site: SiteKeys,
    /// The store's own key, as minisign writes one without a password; none, when it has not packed anything.
    own: Option<String>,
    /// By name.
    trusted: BTreeMap<String, String>,
}

/// The form of [`Keys`] that this binary writes and reads.
const FORMAT: u32 = 1;
/// The largest such file that is read.
const LIMIT: u64 = 1 << 20;

/// Does what needs no store, and has who holds it do the rest.
pub(crate) async fn begin(request: Request, context: &Context, voice: &Speaker) -> anyhow::Result<Exit> {
    let new = match &request {
        Request::Export { secret } => secret.clone(),
        _ => None,
    };
    let Some((command, files)) = prepare(request, voice)? else { return Ok(Exit::Done) };
    let outcome = by_who_holds_it(Work::Key(command), files, context, voice).await;
    if let Some(path) = new {
        if outcome.is_err() {
            // An empty file of that name would only be in the way.
            let _ = std::fs::remove_file(&path);
        } else {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| folder.display().to_string())?;
        }
    }
    outcome
}

/// Does what needs no store, and answers what does, with the files that it needs.
fn prepare(request: Request, voice: &Speaker) -> anyhow::Result<Option<(Command, Vec<File>)>> {
    let mut files = Vec::new();
    let command = match request {
        Request::New { file } => {
            new(&file, voice)?;
            return Ok(None);
        }
        Request::Trust { key, name } => {
            let path = Path::new(&key);
            let signer = if path.exists() { bundle::signer(path)? } else { None };
            let (parsed, file) = if let Some(signer) = signer {
                voice.warn(&format!(
                    "the key {} is the one that signed what lies there: if `naru pack` printed another, `naru key \
                     distrust` it",
                    signer.fingerprint()
                ));
                (signer, None)
            } else {
                let mut text = String::new();
                let read = File::open(path).and_then(|file| file.take(LIMIT).read_to_string(&mut text));
                let stem = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
                match read {
                    Ok(_) => (PublicKey::parse(&text, &key)?, stem),
                    Err(_) => (PublicKey::parse(&key, &key)?, None),
                }
            };
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
        Request::Export { secret: None } => Command::Export,
        Request::Export { secret: Some(path) } => {
            if path.symlink_metadata().is_ok() {
                return Err(Failure::new(format!("{}: there is a file already", path.display()))
                    .hint("name another: nothing is overwritten")
                    .exit(Exit::Usage)
                    .into());
            }
            files.push(create(&path, 0o600)?);
            voice.warn(&format!(
                "{}: whoever has this file can speak for the site. It is not encrypted: carry it by hand, and destroy it \
                 when the other server has it",
                path.display()
            ));
            Command::ExportSecret
        }
        Request::Import { file, force } => Command::Import { keys: Box::new(read(&file)?), force },
        Request::Rotate { finish } => Command::Rotate { finish },
    };
    Ok(Some((command, files)))
}

fn read(path: &Path) -> anyhow::Result<Keys> {
    let named = || path.display().to_string();
    let mut text = String::new();
    File::open(path).and_then(|file| file.take(LIMIT).read_to_string(&mut text)).with_context(named)?;
    let wrong = |why: String| {
        Failure::new(format!("{}: {why}", named())).hint("it is not what this naru's `key export --secret` writes")
    };
    let keys: Keys = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if keys.format != FORMAT {
        return Err(wrong(format!("its format is {}", keys.format)).into());
    }
    Ok(keys)
}

pub(crate) async fn run(store: &Store, command: &Command, files: Vec<File>, voice: &Speaker) -> anyhow::Result<Exit> {
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
        Command::ExportSecret => export(store, files).await?,
        Command::Import { keys, force } => import(store, keys, *force, voice).await?,
        Command::Rotate { finish: false } => {
            serve::keys::rotate(store).await?;
            authorities(store, voice).await?;
            voice.say(
                "/ca.crt has both now. Give it to every client (`naru setup CLIENT --apply` again); then \
                 `naru key rotate --finish`",
            );
        }
        Command::Rotate { finish: true } => {
            serve::keys::finish(store).await?;
            authorities(store, voice).await?;
        }
    }
    Ok(Exit::Done)
}

async fn export(store: &Store, files: Vec<File>) -> anyhow::Result<()> {
    let own = has_own(store).await?.then_some(key::of_store(store).await?.to_text());
    let trusted = key::trusted(store).await?.into_iter().map(|trusted| (trusted.name, trusted.key.to_line())).collect();
    let keys = Keys { format: FORMAT, site: serve::keys::export(store).await?, own, trusted };
    for mut file in files {
        file.write_all((serde_json::to_string_pretty(&keys)? + "\n").as_bytes())?;
        file.sync_all()?;
    }
    Ok(())
}

async fn import(store: &Store, keys: &Keys, force: bool, voice: &Speaker) -> anyhow::Result<()> {
    // Everything is looked at before the first of it is taken.
    let own = keys.own.as_ref().map(|text| SecretKey::parse(text, "the store's own key")).transpose()?;
    let trusted = keys.trusted.iter().map(|(name, line)| Ok((name, PublicKey::parse(line, name)?)));
    let trusted = trusted.collect::<anyhow::Result<Vec<_>>>()?;
    if let (Some(own), true, false) = (&own, has_own(store).await?, force) {
        let (here, there) = (key::of_store(store).await?.public().fingerprint(), own.public().fingerprint());
        if here != there {
            return Err(Failure::new(format!(
                "this store signs with a key of its own, {here}, and the file has another, {there}"
            ))
            .hint("whoever trusts the first would refuse what is packed here from now on; `--force` gives it up")
            .exit(Exit::Usage)
            .into());
        }
    }
    serve::keys::import(store, &keys.site, force).await?;
    if let Some(own) = own {
        key::set_own(store, &own).await?;
    }
    for (name, key) in trusted {
        key::trust(store, &key, name).await?;
    }
    list(store, voice).await
}

/// The first pack makes it; a listing does not.
async fn has_own(store: &Store) -> anyhow::Result<bool> {
    Ok(store.documents("key/bundle").await?.iter().any(|name| name == "key/bundle"))
}

/// The site's CA, and the next one while it is exchanged.
async fn authorities(store: &Store, voice: &Speaker) -> anyhow::Result<()> {
    for (digest, name) in serve::keys::fingerprints(store).await?.into_iter().zip(["ca", "next-ca"]) {
        let fingerprint = setup::fingerprint_of(digest);
        voice.answer(&format!("{name}  {fingerprint}"), &json!({ "name": name, "fingerprint": fingerprint }))?;
    }
    Ok(())
}

/// Every key that counts here.
pub(crate) async fn list(store: &Store, voice: &Speaker) -> anyhow::Result<()> {
    let show = |name: &str, key: &PublicKey| {
        let value = json!({ "name": name, "fingerprint": key.fingerprint(), "key": key.to_line() });
        voice.answer(&format!("{name}  {}  {}", key.fingerprint(), key.to_line()), &value)
    };
    if has_own(store).await? {
        show(OWN, &key::of_store(store).await?.public())?;
    }
    for trusted in key::trusted(store).await? {
        show(&trusted.name, &trusted.key)?;
    }
    authorities(store, voice).await
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
    voice.answer(
        &text,
        &json!({ "secret": file.to_string_lossy(), "public": public.to_string_lossy(), "fingerprint": fingerprint }),
    )
}

fn write(path: &Path, mode: u32, text: &str) -> anyhow::Result<()> {
    let named = || path.display().to_string();
    let mut file = create(path, mode)?;
    file.write_all(text.as_bytes()).with_context(named)?;
    file.sync_all().with_context(named)
}

/// A new file, with these rights from its first byte on.
fn create(path: &Path, mode: u32) -> anyhow::Result<File> {
    let options = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    options.with_context(|| path.display().to_string())
}
