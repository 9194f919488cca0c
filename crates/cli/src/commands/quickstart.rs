//! `naru quickstart`: the whole journey on one machine, on real input, and nothing left behind.
//!
//! ```text
//! outside                                       the gap        sealed
//! origin ─serve→ lock → pull → store ─pack→ medium/*.tar ─load→ store ─serve→ clients
//! ```
//!
//! It runs the very commands that it shows. The input needs no address from this tree: Naru made into an image by
//! Naru, and what the machine's own tools name.

mod prove;
mod tools;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use artifact::Reference;
use clap::Parser as _;
use kinds::client::{Client, configure};
use serve::{Config, Server};
use store::Store;
use tokio::task::JoinHandle;
use url::Url;

use super::{Context, image, setup};
use crate::arguments::Arguments;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::terminal::Speaker;

/// A pause image: what every Kubernetes node pulls first.
const PAUSE: &str = "registry.k8s.io/pause:3.10";
/// So long may an upstream take to answer before it is left out.
const PATIENCE: Duration = Duration::from_secs(8);

/// How it ends.
#[derive(Debug, clap::Args)]
pub(crate) struct Request {
    /// Ends when everything is proven, and does not go on serving
    #[arg(long)]
    exit: bool,
}

/// Everything under one temporary folder.
struct Journey<'a> {
    folder: &'a Path,
    context: &'a Context,
    voice: &'a Speaker,
}

pub(crate) async fn run(request: &Request, context: &Context, voice: &Speaker) -> anyhow::Result<Exit> {
    let temporary = tempfile::Builder::new().prefix("naru-quickstart-").tempdir().context("a temporary folder")?;
    let journey = Journey { folder: temporary.path(), context, voice };
    voice.say(&format!("The whole journey, in {}. It goes when this ends.", temporary.path().display()));

    voice.say("\n── Outside: an upstream. Naru makes itself an image, and serves it.");
    let origin_folder = temporary.path().join("origin");
    journey.naru(&["image", "--store", text(&origin_folder)?]).await?;
    let origin = Serving::start(&origin_folder).await?;
    voice.say(&format!("the upstream listens on {}", origin.address()));

    voice.say("\n── Outside: the packing list, resolved and fetched.");
    journey.write_list(&origin).await?;
    let (list, outside) = (temporary.path().join("naru.yaml"), temporary.path().join("outside"));
    let medium = temporary.path().join("medium");
    let (list, outside, medium) = (text(&list)?, text(&outside)?, text(&medium)?);
    journey.naru(&["lock", "-f", list]).await?;
    journey.naru(&["pull", "-f", list, "--store", outside]).await?;

    voice.say("\n── Onto the medium, in volumes of 10 MiB.");
    journey.naru(&["pack", "-f", list, "--store", outside, "-o", medium, "--volume-size", "10MiB"]).await?;
    journey.naru(&["verify", "--store", outside, medium]).await?;

    voice.say("\n── Sealed side: an empty store. The upstream is gone.");
    origin.end().await;
    let sealed_folder = temporary.path().join("sealed");
    journey.naru(&["load", "--store", text(&sealed_folder)?, medium]).await?;
    let sealed = Serving::start(&sealed_folder).await?;
    voice.say(&format!("serving on https://{}", sealed.address()));

    voice.say("\n── Proof: one image and one file, back through the server.");
    let lock = collect::Lock::read(&collect::lock::path_beside(Path::new(list)))?;
    prove::prove(&lock, &sealed.server, temporary.path(), context, voice).await?;

    voice.say("\n── Clients");
    clients(&sealed, temporary.path(), voice).await?;
    if request.exit {
        sealed.end().await;
        voice.say("\nDone: everything that was packed is served, digest for digest.");
        return Ok(Exit::Done);
    }
    voice.say(&format!("\nServing on https://{} until Ctrl-C.", sealed.address()));
    sealed.task.await.context("the server's task")??;
    Ok(Exit::Done)
}

impl Journey<'_> {
    /// Runs a command as the user would, and shows it.
    async fn naru(&self, words: &[&str]) -> anyhow::Result<()> {
        self.voice.say(&format!("$ naru {}", words.join(" ").replace(text(self.folder)?, "$DIR")));
        let arguments = Arguments::try_parse_from(std::iter::once("naru").chain(words.iter().copied()))?;
        let context =
            Context { store: arguments.store, list: arguments.list, environment: self.context.environment.clone() };
        match Box::pin(super::run(arguments.command, &context, self.voice)).await? {
            Exit::Done => Ok(()),
            exit => Err(Failure::new(format!("`naru {}` did not get through", words.join(" "))).exit(exit).into()),
        }
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.folder.join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    }

    /// Writes the packing list, with everything that can be had.
    async fn write_list(&self, origin: &Serving) -> anyhow::Result<()> {
        let host = origin.address();
        // Its CA is private, as a company's registry's is.
        let authority = origin.server.authority_pem().context("the upstream has no CA")?;
        self.write("upstream-ca.crt", &authority)?;
        let mut images = vec![format!("{host}/{}", image::NAME)];
        let client = upstream::Client::new(upstream::Upstreams::default(), &self.context.environment.surroundings())?;
        let (pause, apt, pip) = tokio::join!(pause(&client), tools::apt("hostname"), tools::pip("six"));
        match pause {
            Ok(()) => images.push(PAUSE.to_owned()),
            Err(why) => self.voice.say(&format!("left out: {PAUSE}: {why}")),
        }
        let mut files = Vec::new();
        for (tool, found) in [("apt", apt), ("pip", pip)] {
            let answers = match found {
                Ok(found) => answers(&client, &found.url).await.map(|()| found),
                Err(why) => Err(why),
            };
            match answers {
                Ok(tools::Found { url, sha256 }) => files.push(format!("url: \"{url}\"\n    sha256: {sha256}")),
                Err(why) => self.voice.say(&format!("left out: a package by {tool}: {why}")),
            }
        }
        // A file there is always: a local one needs no network.
        self.write("hello.txt", "Carried across by Naru.\n")?;
        files.push("path: ./hello.txt".to_owned());
        let list = format!(
            "images:\n  - {}\nfiles:\n  - {}\nupstreams:\n  \"{host}\":\n    ca: upstream-ca.crt\n",
            images.join("\n  - "),
            files.join("\n  - ")
        );
        self.write("naru.yaml", &list)?;
        self.voice.say(&format!("{}:\n  {}", "$DIR/naru.yaml", list.trim_end().replace('\n', "\n  ")));
        Ok(())
    }
}

/// Whether the pause image's registry answers soon.
async fn pause(client: &upstream::Client) -> Result<(), String> {
    let reference: Reference = PAUSE.parse().map_err(|error: artifact::InvalidReference| error.to_string())?;
    soon(client.resolve(&reference)).await.map(drop)
}

/// Whether a URL answers soon.
async fn answers(client: &upstream::Client, url: &str) -> Result<(), String> {
    let url = Url::parse(url).map_err(|error| error.to_string())?;
    soon(client.head(&url)).await.map(drop)
}

async fn soon<T>(asked: impl Future<Output = upstream::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// Each client's way here.
async fn clients(sealed: &Serving, folder: &Path, voice: &Speaker) -> anyhow::Result<()> {
    let url = format!("https://{}", sealed.address());
    let mut site = kinds::client::Site::new(url.parse()?);
    if let Some(pem) = sealed.server.authority_pem() {
        site = site.ca(&pem);
    }
    let site = setup::of_store(&sealed.store, site).await?;
    for client in Client::ALL {
        voice.say(&format!("naru setup {client} --server {url}   # then: {}", configure(client, &site, None).then));
    }
    voice.say(&format!("curl --cacert {} {url}/files/", folder.join(prove::AUTHORITY).display()));
    Ok(())
}

/// A server on loopback, on a free port.
struct Serving {
    server: Arc<Server>,
    store: Store,
    task: JoinHandle<serve::Result<()>>,
    stop: tokio::sync::oneshot::Sender<()>,
}

impl Serving {
    async fn start(folder: &Path) -> anyhow::Result<Self> {
        let store = Store::open(folder).await?;
        let config = Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..Config::default() };
        let server = Arc::new(Server::bind(store.clone(), config).await?);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let task = tokio::spawn({
            let server = Arc::clone(&server);
            async move {
                let shutdown = async {
                    // Nobody holds the other end any more: it goes on until the process ends.
                    if stopped.await.is_err() {
                        std::future::pending::<()>().await;
                    }
                };
                server.run(shutdown).await
            }
        });
        Ok(Self { server, store, task, stop })
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    async fn end(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
        self.store.close().await;
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("the temporary folder's name is not UTF-8")
}
