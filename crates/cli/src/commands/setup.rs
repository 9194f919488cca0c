//! `naru setup`: a client's configuration, printed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use artifact::{Digest, Kind, Reference, Repository};
use kinds::client::{Address, Client, Site, Version, configure};
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

/// The document that says where the store was last served.
const SERVED: &str = "serve/address";
/// The largest answers that are read of a server.
const LIMIT: usize = 4 << 20;
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

/// What is asked of a server that was named; or else of the store.
pub(crate) async fn run(request: &Request, context: &Context, voice: &Speaker) -> anyhow::Result<Option<Work>> {
    let Some((first, others)) = request.server.split_first() else {
        let version = request.version.map(|version| version.to_string());
        return Ok(Some(Work::Setup(Order { client: request.client.to_string(), version })));
    };
    let site = others.iter().cloned().fold(Site::new(first.clone()), Site::server);
    let site = of_server(first, site, context, voice).await?;
    print(request.client, &site, request.version, voice)?;
    Ok(None)
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
    if let Some(pem) = ca {
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

async fn of_server(first: &Address, mut site: Site, context: &Context, voice: &Speaker) -> anyhow::Result<Site> {
    let asked = Asked::ask(first, context).await.with_context(|| format!("the server {first}"))?;
    if let Some(pem) = &asked.ca {
        voice.say(&format!(
            "The CA of {first} was asked of the server itself. Compare its fingerprint with the one that `naru serve` \
             printed there:\n  {}",
            fingerprint(pem)?
        ));
        site = site.ca(pem);
    }
    for host in &asked.hosts {
        site = site.host(host)?;
    }
    Ok(match asked.pause {
        Some(pause) => site.pause(pause),
        None => site,
    })
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
    hosts: BTreeSet<String>,
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
        let mut ca = None;
        if server.is_tls() {
            ca = Some(String::from_utf8(get("/ca.crt").await?.to_vec()).context("/ca.crt is no text")?);
        }
        // A site that lets nobody look around is set up all the same, for the upstreams that everybody uses.
        let catalog: Catalog = get("/v2/_catalog").await.ok().map(|bytes| read(&bytes)).unwrap_or_default();
        let is_host = |part: &str| part.contains(['.', ':']) || part == "localhost";
        let first = |name: &String| name.split_once('/').map(|(host, _)| host.to_owned());
        let hosts = catalog.repositories.iter().filter_map(first).filter(|host| is_host(host)).collect();
        let mut pause = None;
        if catalog.repositories.iter().any(|name| name == PAUSE) {
            let tags: Tags = get(&format!("/v2/{PAUSE}/tags/list")).await.ok().map(|b| read(&b)).unwrap_or_default();
            pause = newest(&tags.tags);
        }
        Ok(Self { ca, hosts, pause })
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
    let hex = Digest::of(&certificate).hex().to_ascii_uppercase();
    let pairs: Vec<_> = hex.as_bytes().chunks(2).map(String::from_utf8_lossy).collect();
    Ok(format!("SHA256 {}", pairs.join(":")))
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
