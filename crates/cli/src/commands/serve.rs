//! `naru serve`: hands the store out, and carries commands out for who cannot open it meanwhile.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use artifact::Progress;
use kinds::client::Client;
use serde_json::{Value, json};
use serve::{Audit, Collection, Config, Server};
use store::Store;
use tokio::sync::oneshot;

use super::holder::{Changes, Secrets};
use super::in_place::{self, State};
use super::{Context, collect_by_itself, gc, holder, setup};
use crate::environment::Environment;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::signals;
use crate::terminal::{Speaker, Voice};

/// Between two looks whether it is time to collect.
const LOOK: Duration = Duration::from_secs(10);

/// How old the copy of the catalog may become while a server runs.
const DAY: Duration = Duration::from_hours(24);

/// How to serve. What is not given here stands in the configuration, or has its default.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Request {
    /// Speaks TLS and plain HTTP here; port 0 takes a free one [default: 0.0.0.0:5000]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Speaks plain HTTP alone here, for containerd's mirrors with http:// addresses
    #[arg(long, value_name = "ADDR")]
    plain: Option<SocketAddr>,
    /// Another name or address for the certificate
    #[arg(long, value_name = "NAME")]
    san: Vec<String>,
    /// A PEM certificate chain in place of the site's own
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Takes credentials over plain HTTP from other machines too: whoever is on the way can read them
    #[arg(long)]
    plain_auth: bool,
    /// The configuration [default: serve.yaml in the store's folder, when it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Writes a line for each request, `-` to standard output
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// Hands out a bundle's volumes where they lie, in place of the store: nothing is copied, and nothing written there
    #[arg(long, value_name = "PATH", num_args = 1..)]
    bundle: Vec<PathBuf>,
    /// With --bundle: the folder of the site's own things, its CA and tokens [default: a temporary one]
    #[arg(long, value_name = "DIR", requires = "bundle")]
    state: Option<PathBuf>,
}

impl Request {
    /// The configuration with the flags above it.
    fn config(&self, store: &Path, environment: &Environment) -> anyhow::Result<Config> {
        let path = self.config.clone().unwrap_or_else(|| store.join("serve.yaml"));
        let mut config = match fs::read_to_string(&path) {
            Ok(text) => parse(&path, &text)?,
            Err(error) if error.kind() == ErrorKind::NotFound && self.config.is_none() => Config::default(),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Failure::new(format!("--config: {} is not there", path.display()))
                    .hint("without `--config`, serve.yaml in the store's folder is read when it is there")
                    .exit(Exit::Usage)
                    .into());
            }
            Err(error) => return Err(anyhow::Error::new(error).context(path.display().to_string())),
        };
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        config.plain = self.plain.or(config.plain);
        config.san.extend(self.san.iter().cloned());
        if self.cert.is_some() {
            config.cert.clone_from(&self.cert);
            config.key.clone_from(&self.key);
        }
        config.plain_auth |= self.plain_auth;
        if self.access_log.is_some() {
            config.access_log.clone_from(&self.access_log);
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        config.upstreams.seen_from(folder);
        config.surroundings = environment.surroundings();
        Ok(config)
    }
}

fn parse(path: &Path, text: &str) -> Result<Config, Failure> {
    serde_saphyr::from_str(text).map_err(|error| {
        Failure::new(format!("{}: {error}", path.display()))
            .hint("docs/reference/serve.md describes every key")
            .exit(Exit::Usage)
    })
}

/// Where a command writes down what it changes while no server runs: where the server would.
pub(crate) fn audit(store: &Path) -> Audit {
    // A configuration that is wrong keeps nobody from mending the store.
    let config = Request::default().config(store, &Environment::default()).unwrap_or_default();
    Audit::new(store, config.audit.as_deref())
}

/// The upstreams that the configuration of a store's server has.
pub(crate) fn upstreams(store: &Path, environment: &Environment) -> anyhow::Result<upstream::Upstreams> {
    Ok(Request::default().config(store, environment)?.upstreams)
}

/// Keeps a copy of the catalog, once a day when something has changed.
async fn keep_copies(store: Store) {
    let mut kept = None;
    loop {
        tokio::time::sleep(super::HOUR).await;
        keep_copy(&store, &mut kept).await;
    }
}

/// `kept` is the version that the copy has, as far as this server made it.
async fn keep_copy(store: &Store, kept: &mut Option<u64>) {
    let (version, voice): (_, Speaker) = (store.version(), Arc::new(Logged));
    if *kept != Some(version) && super::keep_catalog(store, DAY, &voice).await {
        *kept = Some(version);
    }
}

/// By which rules a command collects while no server runs: those that the server would.
pub(crate) fn collection(store: &Path) -> anyhow::Result<Collection> {
    Ok(Collection::new(&Request::default().config(store, &Environment::default())?.gc)?)
}

/// The log, in place of a terminal: of what the server does without having been asked.
pub(super) struct Logged;

impl Voice for Logged {
    fn answer(&self, text: &str, _: &Value) -> anyhow::Result<()> {
        tracing::info!("{text}");
        Ok(())
    }

    fn by(&self) -> String {
        "the server".to_owned()
    }
}

impl Progress for Logged {
    fn say(&self, line: &str) {
        tracing::info!("{line}");
    }
    fn warn(&self, line: &str) {
        tracing::warn!("{line}");
    }
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

/// Collects when it is time, as the configuration has it at that moment.
async fn collect(store: &Store, server: &Server) {
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tick.tick().await;
        let collection = server.collection();
        let Some(every) = collection.every else { continue };
        let collected = async {
            if gc::is_due(store, every).await? {
                collect_by_itself(store, &collection, &server.audit()).await?;
            }
            anyhow::Ok(())
        };
        if let Err(error) = collected.await {
            tracing::error!(error = %format!("{error:#}"), "the collection failed; it is tried again in an hour");
            // A disk that is full is full for longer than until the next look.
            tokio::time::sleep(super::HOUR).await;
        }
    }
}

/// Serves until `end` comes, and then lets the pulls that are under way end too; at a second signal it goes at once.
pub(crate) async fn run(
    request: &Request,
    context: &Context,
    voice: &Speaker,
    end: impl Future<Output = Exit>,
) -> anyhow::Result<Exit> {
    let state = match request.bundle.as_slice() {
        [] => State::Given(context.folder()?),
        _ => State::new(request.state.as_deref(), voice)?,
    };
    let folder = state.folder().to_owned();
    let config = request.config(&folder, &context.environment)?;
    let store = context.open_in(&folder).await?;
    let socket = store.listen()?;
    let server = if request.bundle.is_empty() {
        Server::bind(store.clone(), config).await?
    } else {
        let shelf = in_place::open(&request.bundle, &store, context, voice).await?;
        tokio::spawn(in_place::tell_what_is_missing(Arc::clone(&shelf), Arc::clone(voice)));
        Server::bind_bundle(store.clone(), shelf, config).await?
    };
    let server = Arc::new(server);
    announce(&server, &store, voice).await?;
    let (secrets, mut changes) = Secrets::new();
    let (over, is_over) = oneshot::channel();
    let commands = tokio::spawn(holder::listen(store.clone(), socket, secrets, Arc::clone(&server), is_over));
    let copies = tokio::spawn(keep_copies(store.clone()));
    let (ending, ended) = oneshot::channel();
    let shutdown = async {
        end.await;
        voice.say("ending; pulls that are under way may finish (once more ends them too)");
        let _ = ending.send(());
    };
    let hurried = async {
        let _ = ended.await;
        signals::end().await
    };
    let result = tokio::select! {
        result = server.run(shutdown) => result.map(|()| Exit::Done).map_err(anyhow::Error::from),
        exit = hurried => {
            commands.abort();
            Ok(exit)
        }
        () = reload(request, (&folder, &context.environment), &server, &mut changes, voice) => Ok(Exit::Done),
        () = collect(&store, &server) => Ok(Exit::Done),
    };
    drop(over);
    copies.abort();
    let _ = commands.await;
    store.close().await;
    result
}

/// At each SIGHUP, and when its secrets have changed, takes the configuration as it is now. A mistake in it is said, and
/// changes nothing.
async fn reload(
    request: &Request,
    (folder, environment): (&Path, &Environment),
    server: &Server,
    changes: &mut Changes,
    voice: &Speaker,
) {
    let mut hangups = signals::hangups();
    let mut hangup = async || {
        let heard = match &mut hangups {
            Some(hangups) => hangups.recv().await,
            None => None,
        };
        if heard.is_none() {
            std::future::pending::<()>().await;
        }
    };
    loop {
        let renewed = tokio::select! {
            () = hangup() => None,
            Some(reading) = changes.recv() => Some(reading),
        };
        if let Some(_reading) = renewed {
            if let Err(error) = server.reload_secrets().await {
                voice.warn(&format!("the secrets could not be read again: {error}"));
            }
            continue;
        }
        let result = match request.config(folder, environment) {
            Ok(config) => server.reload(&config).await.map_err(anyhow::Error::from),
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => voice.say("the configuration was read again"),
            Err(error) => voice.warn(&format!("the configuration stays as it was: {error:#}")),
        }
    }
}

/// Says where it serves and how clients get there.
async fn announce(server: &Server, store: &Store, voice: &Speaker) -> anyhow::Result<()> {
    let url = url(server);
    let plain = server.plain_address().map(|address| format!("http://{}", server.reached_at(address)));
    let authority = server.authority_pem();
    setup::remember(store, &url, authority.as_deref()).await?;
    let value = json!({
        "listening": server.address(), "url": url, "plain": plain, "fingerprint": server.fingerprint(),
        "pin": server.pin(), "names": server.names(), "validity": server.validity().map(|(from, until)| [day(from), day(until)]), "adminToken": server.admin_token(),
    });
    let mut lines = vec![format!("serving {} on {url}", store.folder().display())];
    lines.extend(plain.map(|url| format!("plain HTTP alone on {url}")));
    let what = if authority.is_some() { "the site's CA" } else { "the certificate" };
    lines.push(format!("{what} has the SHA-256 fingerprint\n  {}", server.fingerprint()));
    if let Some((from, until)) = server.validity() {
        let now = jiff::Timestamp::now().as_second();
        lines.push(format!(
            "the server's certificate is good from {} to {}; the clock here says {}",
            day(from),
            day(until),
            day(now)
        ));
        if !(from..until).contains(&now) {
            voice.warn("the clock here is outside of what the server's certificate is good for: set it right, or clients that have the same time will refuse it");
        }
    }
    lines.push("clients are set up by".to_owned());
    lines.extend(Client::ALL.map(|client| format!("  naru setup {client} --server {url}")));
    if let Some(token) = server.admin_token() {
        lines.push(format!(
            "the admin token, shown only now (it is in {} too)\n  {token}",
            store.folder().join("admin.token").display()
        ));
    }
    voice.answer(&lines.join("\n"), &value)
}

/// The address by which others reach it.
pub(crate) fn url(server: &Server) -> String {
    format!("https://{}", server.reached_at(server.address()))
}

/// The day of a time in seconds since 1970.
pub(super) fn day(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.strftime("%F").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_stand_above_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let read = |request: &Request| request.config(folder.path(), &Environment::default());
        assert_eq!(read(&Request::default()).unwrap(), Config::default());
        fs::write(folder.path().join("serve.yaml"), "listen: 127.0.0.1:7\nsan: [a.example]\n").unwrap();
        assert_eq!(read(&Request::default()).unwrap().listen.port(), 7);
        let flags = Request {
            listen: Some("127.0.0.1:8".parse().unwrap()),
            san: vec!["b.example".to_owned()],
            ..Request::default()
        };
        let config = read(&flags).unwrap();
        assert_eq!(config.listen.port(), 8);
        assert_eq!(config.san, ["a.example", "b.example"]);
    }

    #[tokio::test]
    async fn a_copy_of_the_catalog_is_kept_each_day_when_something_changed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let copy = || fs::File::options().write(true).open(folder.path().join("naru.db.kept"));
        let age = || copy().unwrap().set_modified(std::time::SystemTime::now() - DAY).unwrap();
        let is_old = || copy().unwrap().metadata().unwrap().modified().unwrap().elapsed().unwrap() >= DAY;
        let change = async || drop(store.apply(store::Change::new()).await.unwrap());
        let mut kept = None;
        keep_copy(&store, &mut kept).await;
        assert!(!is_old(), "there was none");
        age();
        keep_copy(&store, &mut kept).await;
        assert!(is_old(), "nothing changed");
        change().await;
        keep_copy(&store, &mut kept).await;
        assert!(!is_old(), "something changed");
        change().await;
        keep_copy(&store, &mut kept).await;
        age();
        keep_copy(&store, &mut kept).await;
        assert!(!is_old(), "what changed within the day is in the next copy");
    }

    #[test]
    fn a_mistake_in_the_file_is_shown() {
        let error = parse(Path::new("serve.yaml"), "listne: 1").unwrap_err();
        assert!(error.to_string().starts_with("serve.yaml: ") && error.to_string().contains("listne"), "{error}");
    }
}
