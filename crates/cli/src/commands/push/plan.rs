//! What goes where. Everything that can be refused is refused here, before anything is sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use artifact::{Digest, Kind, Repository, media_type, valid_name};
use bundle::gather;
use store::{Hit, Store};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use upstream::Client;

use super::{Destination, Order};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::terminal::Speaker;
use crate::thing::{self, Entries};

/// Names that are looked for at a time.
const LOOKS: usize = 16;
/// Tags that cosign makes of one digest. Real ones are three.
const TAGS: u32 = 100;

/// An image and its place.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// What the store calls it.
    pub(super) source: String,
    /// Its repository in the store.
    pub(super) repository: Repository,
    /// Its digest.
    pub(super) digest: Digest,
    /// Its repository there.
    pub(super) to: Repository,
    /// Its tag or digest there.
    pub(super) name: String,
    /// What stands there now.
    pub(super) standing: Option<Digest>,
}

impl Item {
    /// The whole name there.
    pub(super) fn destination(&self) -> String {
        thing::label(&self.to, &self.name)
    }

    /// Whether it is there already.
    pub(super) fn is_there(&self) -> bool {
        self.standing.as_ref() == Some(&self.digest)
    }
}

/// Names everything, and refuses two images for one place.
pub(super) async fn plan(store: &Store, order: &Order, voice: &Speaker) -> anyhow::Result<Vec<Item>> {
    let hits = if order.images.is_empty() { all(store, voice).await? } else { named(store, order).await? };
    let mut items = BTreeMap::<String, Item>::new();
    for Hit { repository, entry } in hits {
        let source = thing::label(&repository, &entry.name);
        let to = place(&order.destination, &repository)?;
        let item = Item { source, repository, digest: entry.digest, to, name: entry.name, standing: None };
        if let Some(other) = items.insert(item.destination(), item.clone()) {
            if other.digest != item.digest {
                let Item { source, digest, .. } = &item;
                return Err(Failure::new(format!(
                    "{} ({}) and {source} ({digest}) would both be {}",
                    other.source,
                    other.digest,
                    item.destination()
                ))
                .hint("without `--flat` each keeps its upstream's name; or push them one by one with a `--prefix` each")
                .exit(Exit::Usage)
                .into());
            }
        }
    }
    Ok(items.into_values().collect())
}

/// Every image of the store.
async fn all(store: &Store, voice: &Speaker) -> anyhow::Result<Vec<Hit>> {
    let (mut hits, mut others) = (Vec::new(), 0_u64);
    let mut entries = Entries::of(store, None);
    while let Some(hit) = entries.next().await? {
        if hit.repository.kind != Kind::Image {
            others += 1;
        } else if !is_fallback(store, &hit).await? {
            hits.push(hit);
        }
    }
    if others > 0 {
        voice.say(&format!("{others} files stay here: a registry takes images alone"));
    }
    Ok(hits)
}

/// Whether it is the list of referrers that a registry without the API for it was given. Where one is needed, it is made
/// again from what is there.
async fn is_fallback(store: &Store, hit: &Hit) -> anyhow::Result<bool> {
    if hit.entry.name.replacen('-', ":", 1).parse::<Digest>().is_err() || hit.entry.name.contains(':') {
        return Ok(false);
    }
    let stored = store.manifest(&hit.entry.digest).await?;
    Ok(stored.is_some_and(|stored| media_type::is_index(&stored.media_type)))
}

/// These images, and what cosign named after them.
async fn named(store: &Store, order: &Order) -> anyhow::Result<Vec<Hit>> {
    let mut hits = Vec::new();
    for text in &order.images {
        let hit = thing::find_one(store, text).await?;
        if hit.repository.kind != Kind::Image {
            return Err(Failure::new(format!("`{text}` is no image")).hint("a registry is for images").into());
        }
        for document in gather(store, &hit.entry.digest, order.platform.as_ref()).await?.documents {
            let digest = document.stored.digest;
            let stem = format!("{}-{}.", digest.algorithm().as_str(), digest.hex());
            let entries = store.entries(&hit.repository, &stem, TAGS).await?;
            let tags = entries.into_iter().take_while(|entry| entry.name.starts_with(&stem));
            hits.extend(tags.map(|entry| Hit { repository: hit.repository.clone(), entry }));
        }
        hits.push(hit);
    }
    Ok(hits)
}

/// The repository that it is there.
fn place(destination: &Destination, repository: &Repository) -> Result<Repository, Failure> {
    let host = kinds::client::spelling(if destination.flat { "" } else { &repository.host });
    let parts = [destination.path.as_str(), host.as_str(), repository.name.as_str()];
    let name = parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("/");
    if !valid_name(&name) {
        return Err(Failure::new(format!("{repository}: no repository can be named `{name}`"))
            .hint("`--flat` leaves the upstream's host out")
            .exit(Exit::Usage));
    }
    Ok(Repository::image(&destination.host, name))
}

/// Asks what stands there.
pub(super) async fn look(client: &Client, items: &mut [Item]) -> anyhow::Result<()> {
    let (mut looks, permits) = (JoinSet::new(), Arc::new(Semaphore::new(LOOKS)));
    for (index, item) in items.iter().enumerate() {
        let (client, permits) = (client.clone(), Arc::clone(&permits));
        let (to, name) = (item.to.clone(), item.name.clone());
        looks.spawn(async move {
            let _permit = permits.acquire().await;
            (index, client.standing(&to, &name).await)
        });
    }
    while let Some(looked) = looks.join_next().await {
        let (index, standing) = looked?;
        let standing = standing?;
        if let Some(item) = items.get_mut(index) {
            item.standing = standing;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_have_the_upstreams_name() {
        let named = |path: &str, flat, host: &str, name: &str| {
            let destination = Destination { host: "r.example".to_owned(), path: path.to_owned(), flat };
            place(&destination, &Repository::image(host, name)).map(|place| place.to_string())
        };
        for (path, flat, host, name, whole) in [
            ("", false, "docker.io", "library/nginx", "r.example/docker.io/library/nginx"),
            ("", true, "docker.io", "library/nginx", "r.example/library/nginx"),
            ("a/b", false, "quay.io", "x/y", "r.example/a/b/quay.io/x/y"),
            ("a", true, "quay.io", "x/y", "r.example/a/x/y"),
            ("", false, "127.0.0.1:5000", "x", "r.example/127.0.0.1_5000/x"),
            ("", false, "", "team/app", "r.example/team/app"),
        ] {
            assert_eq!(named(path, flat, host, name).unwrap(), whole);
        }
        assert!(named("", false, "[::1]:5000", "x").is_err());
        assert!(named("", true, "[::1]:5000", "x").is_ok());
    }
}
