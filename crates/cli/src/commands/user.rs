//! `naru user`: people, with a password or a client certificate. Passwords are hashed by who reads them: nobody else
//! gets to see them.

use std::fs::File;
use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use artifact::Digest;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serve::accounts::{self, Proof, Scope};
use store::{AccountKind, Store};

use super::token::Rights;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::terminal::Speaker;

/// The largest file of htpasswd, or certificate, that is read.
const LIMIT: u64 = 4 << 20;
/// The longest password.
const LONGEST: usize = 512;

/// What to do with people's accounts.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Request {
    /// Adds a person; the password is asked for, or read from stdin
    Add {
        /// The user name
        name: String,
        #[command(flatten)]
        rights: Rights,
        /// A client certificate in place of a password: its PEM file, or its SHA-256
        #[arg(long, value_name = "FILE|SHA256")]
        certificate: Option<String>,
    },
    /// Lists people, and what each may do
    Ls,
    /// Ends a person's account, at once
    Rm {
        /// The user name
        name: String,
    },
    /// Gives a person another password (asked for, or read from stdin), or another certificate
    Passwd {
        /// The user name
        name: String,
        /// The certificate: its PEM file, or its SHA-256
        #[arg(long, value_name = "FILE|SHA256")]
        certificate: Option<String>,
    },
    /// Takes people over from a file of htpasswd, with bcrypt's hashes (of a cost up to 13); who is here already gets that password and
    /// these scopes
    Import {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        rights: Rights,
    },
}

/// The same, as far as it needs the store.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Command {
    Add { name: String, rights: Rights, shown: Shown },
    Ls,
    Rm { name: String },
    Passwd { name: String, shown: Shown },
    Import { users: Vec<(String, String)>, rights: Rights },
}

/// What a person shows: by its hash.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Shown {
    Password(String),
    Certificate(Digest),
}

impl From<&Shown> for Proof {
    fn from(shown: &Shown) -> Self {
        match shown {
            Shown::Password(hash) => Self::Password(hash.clone()),
            Shown::Certificate(digest) => Self::Certificate(*digest),
        }
    }
}

impl Command {
    /// As the audit has it.
    pub(crate) fn audited(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Add { name, rights, .. } => Some(("user add", with_scopes(name, &rights.scopes))),
            Self::Rm { name } => Some(("user rm", name.clone())),
            Self::Passwd { name, .. } => Some(("user passwd", name.clone())),
            Self::Import { users, rights } => {
                let names: Vec<&str> = users.iter().map(|(name, _)| name.as_str()).collect();
                Some(("user import", with_scopes(&names.join(" "), &rights.scopes)))
            }
            Self::Ls => None,
        }
    }

    /// Whether it makes a store where there is none.
    pub(crate) fn brings(&self) -> bool {
        matches!(self, Self::Add { .. } | Self::Import { .. })
    }
}

/// A name with what it may do.
pub(crate) fn with_scopes(name: &str, scopes: &[Scope]) -> String {
    format!("{name} ({})", scopes.iter().map(Scope::to_string).collect::<Vec<_>>().join(" "))
}

/// Reads what is to be read here: passwords, certificates, files.
pub(crate) async fn prepare(request: Request, voice: &Speaker) -> anyhow::Result<Command> {
    Ok(match request {
        Request::Add { name, rights, certificate } => {
            let shown = shown(&name, certificate.as_deref(), voice).await?;
            Command::Add { name, rights, shown }
        }
        Request::Ls => Command::Ls,
        Request::Rm { name } => Command::Rm { name },
        Request::Passwd { name, certificate } => {
            let shown = shown(&name, certificate.as_deref(), voice).await?;
            Command::Passwd { name, shown }
        }
        Request::Import { file, rights } => {
            let users = accounts::read_htpasswd(&read(&file)?).with_context(|| file.display().to_string())?;
            Command::Import { users, rights }
        }
    })
}

async fn shown(name: &str, certificate: Option<&str>, voice: &Speaker) -> anyhow::Result<Shown> {
    let Some(text) = certificate else {
        return Ok(Shown::Password(accounts::hash_password(&password(name, voice).await?)?));
    };
    let path = Path::new(text);
    let digest = if path.is_file() {
        accounts::fingerprint(&read(path)?).with_context(|| path.display().to_string())?
    } else {
        // It is a path that leads nowhere, as like as not.
        accounts::fingerprint(text).with_context(|| text.chars().take(100).collect::<String>())?
    };
    Ok(Shown::Certificate(digest))
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LIMIT).read_to_string(&mut text));
    read.with_context(|| path.display().to_string())?;
    Ok(text)
}

/// From a terminal unseen and twice, else the first line of stdin.
async fn password(name: &str, voice: &Speaker) -> anyhow::Result<String> {
    let wrong = |why: &str| Failure::new(format!("the password of {name} {why}")).exit(Exit::Usage);
    let password = if io::stdin().is_terminal() {
        let first = unseen(&format!("password of {name}: ")).await?;
        if unseen("the same again: ").await? != first {
            return Err(wrong("was not the same both times").into());
        }
        first
    } else {
        voice.say("the password is read from stdin");
        line().await?
    };
    match password.len() {
        0 => Err(wrong("is empty").hint("write it on stdin, or run this on a terminal").into()),
        length if length > LONGEST => Err(wrong("is too long").hint(format!("at most {LONGEST} bytes")).into()),
        _ => Ok(password),
    }
}

async fn line() -> anyhow::Result<String> {
    let reading = tokio::task::spawn_blocking(|| {
        let mut text = String::new();
        io::stdin().lock().take(LIMIT).read_line(&mut text).map(|_| text)
    });
    let mut text = reading.await?.context("stdin")?;
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    Ok(text)
}

/// A terminal that shows nothing of what is typed, until this is dropped: at Ctrl-C too.
struct Unseen(Termios);

impl Drop for Unseen {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
        let _ = writeln!(io::stderr());
    }
}

async fn unseen(prompt: &str) -> anyhow::Result<String> {
    let mut error = io::stderr();
    write!(error, "{prompt}").and_then(|()| error.flush()).context("stderr")?;
    let before = tcgetattr(io::stdin()).context("the terminal")?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ECHO);
    let _unseen = Unseen(before);
    tcsetattr(io::stdin(), OptionalActions::Now, &quiet).context("the terminal")?;
    line().await
}

pub(crate) async fn run(store: &Store, command: &Command, voice: &Speaker) -> anyhow::Result<Exit> {
    match command {
        Command::Add { name, rights, shown } => {
            let end = rights.end(store);
            accounts::add_user(store, name, &shown.into(), &rights.scopes, end).await?;
            voice.answer(&format!("added    user {name}"), &json!({ "added": name, "expires": time(end) }))?;
        }
        Command::Ls => list(store, AccountKind::User, voice).await?,
        Command::Rm { name } => remove(store, AccountKind::User, name, voice).await?,
        Command::Passwd { name, shown } => {
            accounts::set_proof(store, name, &shown.into()).await?;
            voice.answer(&format!("changed  user {name}"), &json!({ "changed": name }))?;
        }
        Command::Import { users, rights } => {
            let before = accounts::import(store, users, &rights.scopes, rights.end(store)).await?;
            for (name, _) in users {
                let done = if before.contains(name) { "changed" } else { "added" };
                voice.answer(&format!("{done:<8} user {name}"), &json!({ done: name }))?;
            }
        }
    }
    Ok(Exit::Done)
}

/// Every account of this kind.
pub(crate) async fn list(store: &Store, kind: AccountKind, voice: &Speaker) -> anyhow::Result<()> {
    for account in store.accounts().await?.into_iter().filter(|account| account.kind == kind) {
        let is_over = account.expires.is_some_and(|end| end <= store.now());
        let end = time(account.expires).map(|end| format!("{} {end}", if is_over { "ended" } else { "until" }));
        let certificate = account.certificate.map(|digest| format!("certificate {}", digest.hex()));
        let parts = [Some(account.name.clone()), Some(account.scopes.clone()), end, certificate];
        let text = parts.into_iter().flatten().collect::<Vec<_>>().join("  ");
        let value = json!({
            "name": account.name, "scopes": account.scopes.split(' ').collect::<Vec<_>>(), "expires": time(account.expires),
            "made": time(Some(account.made)), "certificate": account.certificate.map(|digest| digest.hex()),
        });
        voice.answer(&text, &value)?;
    }
    Ok(())
}

/// Ends an account.
pub(crate) async fn remove(store: &Store, kind: AccountKind, name: &str, voice: &Speaker) -> anyhow::Result<()> {
    accounts::remove(store, kind, name).await?;
    voice.answer(&format!("removed  {kind} {name}"), &json!({ "removed": name }))
}

/// RFC 3339, in UTC.
pub(crate) fn time(seconds: Option<i64>) -> Option<String> {
    jiff::Timestamp::from_second(seconds?).ok().map(|time| time.to_string())
}
