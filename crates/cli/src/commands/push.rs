//! `naru push`: images into a registry that is already there.
//!
//! [`plan`] says what goes where, and refuses what cannot; [`send`] brings it there.

mod plan;
mod send;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use artifact::{Platform, normalise_host, valid_name};
use collect::PackingList;
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::Store;
use upstream::{Client, Upstreams};

use super::{Context, Work, by_who_holds_it, export};
use crate::environment::Environment;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::size::size;
use crate::terminal::Speaker;

/// What to push, and where to.
#[derive(Debug, clap::Args)]
pub(crate) struct Request {
    /// Images, as their clients name them: `nginx:1.27`, `registry.k8s.io/pause:3.10`, or by digest; none: all
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// The registry, and a path in it if need be: `registry.example:5000`, `harbor.example/project`
    #[arg(long, value_name = "DEST")]
    to: String,
    /// Leaves the upstream's host out of the names: DEST/library/nginx and not DEST/docker.io/library/nginx
    #[arg(long)]
    flat: bool,
    /// Stands before each name
    #[arg(long, value_name = "PATH")]
    prefix: Option<String>,
    /// Of images for several platforms, only this one; their digests stay what they are
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<Platform>,
    /// Takes them from a bundle (its volumes, or their folder) and not from the store
    #[arg(long, value_name = "BUNDLE")]
    from: Vec<PathBuf>,
    /// A PEM file of CAs to trust for the registry, beside the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Takes any certificate of the registry, and plain HTTP where it has no TLS
    #[arg(long)]
    insecure: bool,
    /// Only says what would go where, and what is there already
    #[arg(long)]
    dry_run: bool,
}

/// A push, as far as it needs the store.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    images: Vec<String>,
    destination: Destination,
    platform: Option<Platform>,
    dry_run: bool,
    upstreams: Upstreams,
    environment: Environment,
}

/// The registry, and how names are made there.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Destination {
    host: String,
    /// Before each name, without a slash at its end; mostly empty.
    path: String,
    flat: bool,
}

impl Destination {
    fn parse(to: &str, prefix: Option<&str>, flat: bool) -> Result<Self, Failure> {
        let wrong = |why: &str| {
            Failure::new(format!("`{to}`: {why}"))
                .hint("write it as `registry.example:5000` or `harbor.example/project`")
                .exit(Exit::Usage)
        };
        if to.contains("://") {
            return Err(wrong("a registry is named without a scheme; `--insecure` allows plain HTTP"));
        }
        let (host, path) = to.split_once('/').unwrap_or((to, ""));
        let host = normalise_host(host).ok_or_else(|| wrong("it does not begin with a host"))?;
        let parts = [path, prefix.unwrap_or_default()].map(|part| part.trim_matches('/'));
        let path = parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("/");
        if !path.is_empty() && !valid_name(&path) {
            return Err(wrong(&format!("`{path}` cannot begin the name of a repository")));
        }
        Ok(Self { host, path, flat })
    }
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.is_empty() { f.write_str(&self.host) } else { write!(f, "{}/{}", self.host, self.path) }
    }
}

/// From the store, or from a bundle.
pub(crate) async fn run(request: Request, context: &Context, voice: &Speaker) -> anyhow::Result<Exit> {
    let Request { images, to, flat, prefix, platform, from, ca, insecure, dry_run } = request;
    let destination = Destination::parse(&to, prefix.as_deref(), flat)?;
    let mut upstreams =
        if context.list.exists() { PackingList::read(&context.list)?.upstreams } else { Upstreams::default() };
    if ca.is_some() || insecure {
        let known = upstreams.0.keys().find(|key| normalise_host(key).as_ref() == Some(&destination.host)).cloned();
        let upstream = upstreams.0.entry(known.unwrap_or_else(|| destination.host.clone())).or_default();
        upstream.insecure |= insecure;
        if let Some(ca) = ca {
            // A holder of the store runs in another folder.
            upstream.ca = Some(std::path::absolute(&ca).with_context(|| ca.display().to_string())?);
        }
    }
    let environment = context.environment.clone();
    let order = Order { images, destination, platform, dry_run, upstreams, environment };
    if from.is_empty() {
        return by_who_holds_it(Work::Push(Box::new(order)), Vec::new(), context, voice).await;
    }
    export::from_bundle(&from, &std::env::temp_dir(), context, voice, async |store| {
        carry_out(store, &order, voice).await
    })
    .await
}

/// Looks first, and sends then.
pub(crate) async fn carry_out(store: &Store, order: &Order, voice: &Speaker) -> anyhow::Result<Exit> {
    let client = Client::new(order.upstreams.clone(), &order.environment.surroundings())?;
    let mut plan = plan::plan(store, order, voice).await?;
    plan::look(&client, &mut plan).await?;
    if order.dry_run {
        for item in &plan {
            let plan::Item { source, digest, standing, .. } = item;
            let word = match standing {
                Some(standing) if standing == digest => "there",
                Some(_) => "moves",
                None => "new",
            };
            let to = item.destination();
            let value = json!({ "source": source, "destination": to, "digest": digest, "standing": standing });
            voice.answer(&format!("{word:<5}  {source} -> {to}  {digest}"), &value)?;
        }
        return Ok(Exit::Done);
    }
    let images = plan.len();
    let sent = send::send(store, client, plan, order.platform.clone(), Arc::clone(voice)).await?;
    let text = format!(
        "{images} images are at {}, {} of them from before; {} blobs sent ({}), {} mounted, {} were there already",
        order.destination,
        sent.images_there,
        sent.blobs,
        size(sent.bytes),
        sent.mounted,
        sent.there
    );
    let value = json!({
        "done": "push", "to": order.destination.to_string(), "images": images, "images_there": sent.images_there,
        "blobs": sent.blobs, "bytes": sent.bytes, "mounted": sent.mounted, "there": sent.there,
    });
    voice.answer(&text, &value)?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read() {
        let read = |to: &str, prefix| Destination::parse(to, prefix, false).map(|read| read.to_string());
        for (to, prefix, whole) in [
            ("Registry.Example:443", None, "registry.example"),
            ("127.0.0.1:5000/", None, "127.0.0.1:5000"),
            ("harbor.example/project", Some("a/b/"), "harbor.example/project/a/b"),
            ("index.docker.io/me", None, "docker.io/me"),
        ] {
            assert_eq!(read(to, prefix).unwrap(), whole);
        }
        for (to, prefix) in
            [("https://a.example", None), ("", None), ("a.example/UP", None), ("a.example", Some("a//b"))]
        {
            assert!(read(to, prefix).is_err(), "{to}");
        }
    }
}
