//! `naru setup`: a client's configuration, printed, or written in place and taken back.

mod apply;
mod look;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;
use artifact::{Digest, Kind, Reference, Repository};
use kinds::client::{Address, Client, Configuration, Site, Version, configure};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::Store;
use upstream::{Upstream, Upstreams};
use url::Url;

use super::{Context, Work};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::terminal::Speaker;
use apply::Machine;

/// The document that says where the store was last served.
const SERVED: &str = "serve/address";
/// The largest answers that are read of a server.
const LIMIT: usize = 4 << 20;
/// What only a Naru answers, whoever asks, and the name of a file that is in its answer.
const OWN: &str = "/setup/podman";
const OWN_FILE: &str = "50-naru.conf";
/// Where pause images come from.
const PAUSE: &str = "registry.k8s.io/pause";

/// For whom.
#[derive(Debug, clap::Args)]
pub(crate) struct Request {
    /// containerd, docker or podman
    client: Client,
    /// The server, as `https://10.0.0.5:5000`; several stand in for each other [default: this store's]
    #[arg(long, value_name = "URL")]
    server: Vec<Address>,
    /// The client's version, as it prints it; without, what every version in use reads
    #[arg(long = "version", value_name = "VERSION")]
    version: Option<Version>,
    /// Writes the files on this machine, after showing what changes; the old ones stay beside, as FILE.before-naru
    #[arg(long, requires = "server")]
    apply: bool,
    /// Gives back what was there before --apply, byte for byte; refuses when a file was edited since
    #[arg(long, conflicts_with_all = ["apply", "check", "server"])]
    undo: bool,
    /// Shows what is not as --apply would have it, and what beats it; changes nothing
    #[arg(long, requires = "server", conflicts_with = "apply")]
    check: bool,
    /// The machine's files lie below this folder: for images of nodes
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Writes without asking
    #[arg(long, requires = "apply")]
    yes: bool,
    /// Restarts the client when files changed; without, nothing is restarted
    #[arg(long, conflicts_with_all = ["check", "root"])]
    restart: bool,
}

/// A set-up for the store's own server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    client: String,
    version: Option<String>,
}

/// Where a store was last served, for who sets clients up without naming a server.
#[derive(Debug, Serialize, Deserialize)]
struct Served {
    url: String,
    ca: Option<String>,
}

/// What is asked of servers that were named; or else of the store.
pub(crate) async fn run(
    request: &Request,
    context: &Context,
    voice: &Speaker,
) -> anyhow::Result<ControlFlow<Exit, Work>> {
    if let Some(root) = request.root.as_deref().filter(|root| !root.is_dir()) {
        return Err(Failure::new(format!("--root: {} is no folder", root.display()))
            .hint("name where the image of a node is mounted")
            .exit(Exit::Usage)
            .into());
    }
    let machine = Machine::new(request.root.as_deref());
    if request.undo {
        for (what, path) in apply::undo(request.client, &machine)? {
            voice.answer(&format!("{what:8} {path}"), &json!({ what: path }))?;
        }
        restart(request, voice)?;
        return Ok(ControlFlow::Break(Exit::Done));
    }
    if request.server.is_empty() {
        if !context.folder()?.join("naru.db").exists() {
            return Err(Failure::new("no server is named, and there is no store here that one could have served")
                .hint("name the server: `--server https://HOST:5000`")
                .exit(Exit::Usage)
                .into());
        }
        let version = request.version.map(|version| version.to_string());
        return Ok(ControlFlow::Continue(Work::Setup(Order { client: request.client.to_string(), version })));
    }
    let site = of_servers(&request.server, context, voice).await?;
    if !request.apply && !request.check {
        print(request.client, &site, request.version, voice)?;
        return Ok(ControlFlow::Break(Exit::Done));
    }
    let version = request.version.or_else(|| machine.is_this().then(|| installed(request.client)).flatten());
    if version.is_none() && request.client == Client::Containerd {
        return Err(Failure::new("which containerd it is cannot be told, and its files depend on it")
            .hint("say it: `--version 1.7.24`")
            .exit(Exit::Usage)
            .into());
    }
    let configuration = configure(request.client, &site, version);
    Ok(ControlFlow::Break(in_place(request, &configuration, &machine, voice)?))
}

/// Shows what is to change, and writes it when that was wished.
fn in_place(
    request: &Request,
    configuration: &Configuration,
    machine: &Machine,
    voice: &Speaker,
) -> anyhow::Result<Exit> {
    let client = request.client;
    let changes = apply::changes(configuration, machine)?;
    apply::show(&changes, voice)?;
    for change in &changes {
        if change
            .old
            .as_deref()
            .is_some_and(|old| old.contains("registry.mirrors") && !change.new.contains("registry.mirrors"))
        {
            voice.warn(&format!(
                "{}: its registry.mirrors go; with them beside config_path containerd's CRI plug-in does not load",
                change.path
            ));
        }
    }
    let servers: Vec<_> = request.server.iter().map(|server| server.host().to_owned()).collect();
    let found = look::look(client, configuration, &servers, machine);
    for line in &found {
        voice.warn(line);
    }
    if request.check {
        let whole = changes.is_empty() && found.is_empty();
        if whole {
            voice.say(&format!("{client} is set up, and nothing that was looked for stands in its way"));
        }
        return Ok(if whole { Exit::Done } else { Exit::Incomplete });
    }
    if changes.is_empty() {
        voice.say("everything is as it should be; nothing was written");
        return Ok(Exit::Done);
    }
    if !request.yes && !apply::confirmed(voice)? {
        voice.say("nothing was written");
        return Ok(Exit::Failed);
    }
    apply::apply(client, &changes, machine)?;
    for change in &changes {
        voice.answer(&format!("written  {}", change.path), &json!({ "written": change.path }))?;
    }
    if !request.restart {
        voice.say(&format!("nothing was restarted; then: {}", configuration.then));
    }
    restart(request, voice)?;
    Ok(Exit::Done)
}

/// Restarts the client, when that was wished. podman has nothing that runs.
fn restart(request: &Request, voice: &Speaker) -> anyhow::Result<()> {
    if !request.restart || request.client == Client::Podman {
        return Ok(());
    }
    let unit = format!("{}.service", request.client);
    voice.say(&format!("restarting {unit}"));
    let status = Command::new("systemctl").args(["restart", &unit]).status().context("systemctl")?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("systemctl restart {unit}: {status}"))
        .hint(format!(
            "what it says: journalctl -u {unit}; the files as they were: `naru setup {} --undo`",
            request.client
        ))
        .into())
}

/// The version of the client on this machine, as it says itself.
fn installed(client: Client) -> Option<Version> {
    let program = match client {
        Client::Containerd => "containerd",
        Client::Docker => "dockerd",
        Client::Podman => "podman",
    };
    let output = Command::new(program).arg("--version").output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.split_whitespace().find_map(|word| word.trim_end_matches(',').parse().ok())
}

/// Sets a client up for the server that last served this store.
pub(crate) async fn of_own(store: &Store, order: &Order, voice: &Speaker) -> anyhow::Result<Exit> {
    let Some(served) = store.document(SERVED).await? else {
        return Err(Failure::new(format!("the store {} was not served yet", store.folder().display()))
            .hint("name the server: `--server https://HOST:5000`")
            .into());
    };
    let Served { url, ca } = serde_json::from_slice(&served).context(SERVED)?;
    let mut site = Site::new(url.parse()?);
    if ca.is_some()
        && let Some(pem) = serve::keys::published(store).await?
    {
        // It may have been exchanged since.
        site = site.ca(&pem);
    }
    let site = of_store(store, site).await?;
    let version = order.version.as_deref().map(str::parse).transpose()?;
    print(order.client.parse()?, &site, version, voice)?;
    Ok(Exit::Done)
}

/// Keeps where a store is served.
pub(crate) async fn remember(store: &Store, url: &str, ca: Option<&str>) -> anyhow::Result<()> {
    let served = serde_json::to_vec(&Served { url: url.to_owned(), ca: ca.map(str::to_owned) })?;
    Ok(store.set_document(SERVED, Some(&served)).await?)
}

/// A site, as its servers describe it. One that does not answer is set up all the same, when another does.
async fn of_servers(servers: &[Address], context: &Context, voice: &Speaker) -> anyhow::Result<Site> {
    let Some((first, others)) = servers.split_first() else { return Err(Failure::new("no server").into()) };
    let mut site = others.iter().cloned().fold(Site::new(first.clone()), Site::server);
    let (mut authorities, mut answered) = (Vec::<String>::new(), false);
    let mut silent = None;
    for server in servers {
        let asked = match Asked::ask(server, context).await.with_context(|| format!("the server {server}")) {
            Ok(asked) => asked,
            // Another program there is no server that rests.
            Err(error) if error.is::<Failure>() => return Err(error),
            Err(error) => {
                silent.get_or_insert((server, error));
                continue;
            }
        };
        answered = true;
        if server.is_tls() && asked.ca.is_none() {
            voice.say(&format!(
                "{server} was given its certificate, and has no CA to hand out: clients must know who signed it"
            ));
        }
        for pem in asked.ca.iter().flat_map(|text| certificates(text)) {
            if !authorities.contains(&pem) {
                voice.say(&format!(
                    "The CA of {server} was asked of the server itself. Compare its fingerprint with the one that \
                     `naru serve` printed there:\n  {}",
                    fingerprint(&pem)?
                ));
                authorities.push(pem);
            }
        }
        let Some(hosts) = &asked.hosts else {
            voice
                .say(&format!("{server} shows nobody what it has: only the upstreams that everybody uses are written"));
            site = site.unseen();
            continue;
        };
        for host in hosts {
            site = site.host(host)?;
        }
        if let Some(pause) = asked.pause {
            site = site.pause(pause);
        }
    }
    match silent {
        Some((_, error)) if !answered => return Err(error),
        Some((server, error)) => {
            voice.warn(&format!("{server} does not answer ({error:#}); its CA is taken to be the other's"));
        }
        None => {}
    }
    if servers.len() > 1 && authorities.len() > 1 {
        voice.say(
            "clients will trust more than one CA; `naru key export --secret` and `import` give two servers the same",
        );
    }
    Ok(if authorities.is_empty() { site } else { site.ca(&authorities.concat()) })
}

/// The certificates of a PEM file, each as its own text.
fn certificates(text: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    text.split_inclusive(END).filter(|part| part.contains(END)).map(|part| part.trim().to_owned() + "\n").collect()
}

/// Prints a client's configuration.
pub(crate) fn print(client: Client, site: &Site, version: Option<Version>, voice: &Speaker) -> anyhow::Result<()> {
    let configuration = configure(client, site, version);
    let files: Vec<_> = configuration
        .files
        .iter()
        .map(|file| {
            let mode = format!("{:04o}", file.mode);
            json!({ "path": file.path, "mode": mode, "text": file.text, "part": file.part })
        })
        .collect();
    let value = json!({
        "client": client.as_str(), "files": files, "notes": configuration.notes, "then": configuration.then,
    });
    voice.answer(configuration.to_string().trim_end(), &value)
}

/// What a server says of itself.
struct Asked {
    ca: Option<String>,
    /// None: it lets nobody look.
    hosts: Option<BTreeSet<String>>,
    pause: Option<Reference>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Catalog {
    repositories: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Tags {
    tags: Vec<String>,
}

impl Asked {
    /// Asks without checking its certificate: the CA that would prove it is what is asked for. Its fingerprint is shown.
    async fn ask(server: &Address, context: &Context) -> anyhow::Result<Self> {
        let unchecked = Upstream { insecure: true, ..Upstream::default() };
        let upstreams = Upstreams(BTreeMap::from([(server.authority().to_owned(), unchecked)]));
        let client = upstream::Client::new(upstreams, &context.environment.surroundings())?;
        let get = async |path: &str| -> anyhow::Result<_> {
            let url = Url::parse(&format!("{server}{path}"))?;
            Ok(client.document(&url, LIMIT).await?)
        };
        // Whatever it then says of itself, or does not, is believed of a naru alone.
        let is_naru = match get(OWN).await {
            Ok(text) => text.windows(OWN_FILE.len()).any(|part| part == OWN_FILE.as_bytes()),
            Err(error) => match error.downcast_ref::<upstream::Error>() {
                Some(
                    upstream::Error::NotFound { .. }
                    | upstream::Error::Unauthorized { .. }
                    | upstream::Error::Status { code: ..500, .. }
                    | upstream::Error::BlockPage { .. }
                    | upstream::Error::TooLarge { .. }
                    | upstream::Error::Redirect { .. },
                ) => false,
                _ => return Err(error),
            },
        };
        if !is_naru {
            return Err(Failure::new(format!("what answers at {server} is no naru"))
                .hint("check the address and the port: `naru serve` prints them when it starts")
                .into());
        }
        let mut ca = None;
        if server.is_tls() {
            // A server whose certificate was given to it has no CA to hand out: clients know its issuer, or are told.
            let is_given =
                |error: &anyhow::Error| matches!(error.downcast_ref(), Some(upstream::Error::NotFound { .. }));
            ca = match get("/ca.crt").await {
                Ok(pem) => Some(String::from_utf8(pem.to_vec()).context("/ca.crt is no text")?),
                Err(error) if is_given(&error) => None,
                Err(error) => return Err(error),
            };
        }
        // A site that lets nobody look around is set up all the same, for the upstreams that everybody uses.
        let catalog: Catalog = match get("/v2/_catalog").await {
            Ok(catalog) => read(&catalog),
            Err(error) if matches!(error.downcast_ref(), Some(upstream::Error::Unauthorized { .. })) => {
                return Ok(Self { ca, hosts: None, pause: None });
            }
            Err(error) => return Err(error),
        };
        // A local repository's first part may look like one, and be none.
        let is_host = |part: &str| {
            (part.contains(['.', ':']) || part == "localhost")
                && artifact::normalise_host(part).is_some_and(|host| host == part)
        };
        let first = |name: &String| name.split_once('/').map(|(host, _)| host.to_owned());
        let hosts = catalog.repositories.iter().filter_map(first).filter(|host| is_host(host)).collect();
        let mut pause = None;
        if catalog.repositories.iter().any(|name| name == PAUSE) {
            let tags: Tags = get(&format!("/v2/{PAUSE}/tags/list")).await.ok().map(|b| read(&b)).unwrap_or_default();
            pause = newest(&tags.tags);
        }
        Ok(Self { ca, hosts: Some(hosts), pause })
    }
}

fn read<T: Default + for<'a> Deserialize<'a>>(bytes: &[u8]) -> T {
    serde_json::from_slice(bytes).unwrap_or_default()
}

/// The pause image with the highest version.
fn newest(tags: &[String]) -> Option<Reference> {
    let numbers = |tag: &str| tag.split('.').map(|number| number.parse().ok()).collect::<Option<Vec<u32>>>();
    let tag = tags.iter().filter_map(|tag| Some((numbers(tag)?, tag))).max()?.1;
    format!("{PAUSE}:{tag}").parse().ok()
}

/// What a store's own server would be asked.
pub(crate) async fn of_store(store: &Store, mut site: Site) -> anyhow::Result<Site> {
    for host in store.hosts(Kind::Image).await? {
        if !host.is_empty() {
            site = site.host(&host)?;
        }
    }
    let entries = store.entries(&Repository::image("registry.k8s.io", "pause"), "", 1000).await?;
    let tags: Vec<_> = entries.into_iter().map(|entry| entry.name).collect();
    Ok(match newest(&tags) {
        Some(pause) => site.pause(pause),
        None => site,
    })
}

/// The sha256 of a certificate, as browsers and openssl show it.
fn fingerprint(pem: &str) -> anyhow::Result<String> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).context("/ca.crt is no certificate")?;
    Ok(fingerprint_of(Digest::of(&certificate)))
}

/// The same, of a certificate's digest.
pub(crate) fn fingerprint_of(digest: Digest) -> String {
    let hex = digest.hex().to_ascii_uppercase();
    let pairs: Vec<_> = hex.as_bytes().chunks(2).map(String::from_utf8_lossy).collect();
    format!("SHA256 {}", pairs.join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_pause_is_taken() {
        let tags = ["3.9", "3.10", "3.10.1", "latest", "3.2"].map(str::to_owned);
        assert_eq!(newest(&tags).unwrap().to_string(), "registry.k8s.io/pause:3.10.1");
        assert_eq!(newest(&[]), None);
    }
}
