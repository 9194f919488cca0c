//! What users call things in a store, on the command line.
//!
//! A thing is named as its client would name it: an image by its reference (`nginx:1.27` is Docker Hub's, as it is for
//! docker), a local image by its bare name, a file by host and path, and anything by its digest.

use std::str::FromStr as _;

use artifact::{Digest, Entry, Kind, Reference, Repository, valid_name, valid_tag};
use serde_json::{Value, json};
use store::{Hit, Store};

use crate::failure::Failure;
use crate::size::size;

/// How many manifests above a digest are walked. Real graphs have two or three.
const ANCESTORS: usize = 10_000;

/// The entries that `text` names. Several, when repositories of different kinds or hosts have that name, or a digest has
/// several names.
///
/// # Errors
/// When the store cannot be read. Nothing found is an empty answer.
pub(crate) async fn find(store: &Store, text: &str) -> anyhow::Result<Vec<Hit>> {
    if let Ok(digest) = Digest::from_str(text) {
        return Ok(store.entries_of(&digest).await?);
    }
    let mut hits = Vec::new();
    if let Some((name, digest)) = pinned(text) {
        // Both must be right: a tag that has moved on is not what was meant.
        let meanings = meanings(name);
        let is_tagged = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
        hits = store.entries_of(&digest).await?;
        hits.retain(|Hit { repository, entry }| {
            meanings.iter().any(|(meant, tag)| meant == repository && (!is_tagged || *tag == entry.name))
        });
        return Ok(hits);
    }
    for (repository, name) in meanings(text) {
        if let Some(entry) = store.entry(&repository, &name).await? {
            hits.push(Hit { repository, entry });
        }
    }
    Ok(hits)
}

/// As [`find`], where exactly one thing can be meant.
///
/// # Errors
/// When there is none, or more than one.
pub(crate) async fn find_one(store: &Store, text: &str) -> anyhow::Result<Hit> {
    let mut hits = find(store, text).await?;
    match (hits.pop(), hits.pop()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(missing(store, text).await?.into()),
        (Some(last), Some(other)) => {
            let (last, other) =
                (label(&last.repository, &last.entry.name), label(&other.repository, &other.entry.name));
            Err(Failure::new(format!("`{text}` can mean {other} and {last}"))
                .hint("write the whole name, as `naru ls` prints it")
                .into())
        }
    }
}

/// As [`find_one`], where one name is as good as another: of several that a digest has, the first.
///
/// # Errors
/// When there is none, or names of different digests.
pub(crate) async fn find_bytes(store: &Store, text: &str) -> anyhow::Result<Hit> {
    let mut hits = find(store, text).await?.into_iter();
    match hits.next() {
        Some(first) if hits.all(|other| other.entry.digest == first.entry.digest) => Ok(first),
        _ => find_one(store, text).await,
    }
}

/// The error when a store has not what was asked for.
///
/// # Errors
/// When the store cannot be read.
pub(crate) async fn missing(store: &Store, text: &str) -> anyhow::Result<Failure> {
    if let Some((name, _)) = pinned(text) {
        for (repository, entry) in meanings(name) {
            if let Some(there) = store.entry(&repository, &entry).await? {
                let label = label(&repository, &entry);
                return Ok(Failure::new(format!("{label} is {} here, and `{text}` is another", there.digest))
                    .hint("write the name alone to mean what is here"));
            }
        }
    }
    let name = pinned(text).map_or(text, |(name, _)| name);
    Ok(Failure::new(format!("the store has nothing named `{text}`"))
        .hint(format!("look for a part of the name: `naru search {}`", name.rsplit('/').next().unwrap_or(name))))
}

/// A name with the digest that it must have.
fn pinned(text: &str) -> Option<(&str, Digest)> {
    let (name, digest) = text.split_once('@')?;
    Some((name, digest.parse().ok()?))
}

/// Which entries a name may mean, the likeliest first.
fn meanings(text: &str) -> Vec<(Repository, String)> {
    let mut meanings = Vec::new();
    // A local image has no host; `naru:1` is not Docker Hub's when the store has one of its own.
    let (name, tag) = text.rsplit_once(':').filter(|(_, tag)| valid_tag(tag)).unwrap_or((text, "latest"));
    if valid_name(name) {
        meanings.push((Repository::image("", name), tag.to_owned()));
    }
    if let Ok(reference) = Reference::from_str(text) {
        meanings.push((reference.repository(), reference.entry_name()));
    }
    if let Some((host, path)) = text.split_once('/') {
        if artifact::valid_path(path) {
            meanings.push((Repository::files(host), path.to_owned()));
        }
    }
    meanings
}

/// An entry's whole name: `docker.io/library/nginx:1.27`, `name@sha256:…`, `dl.k8s.io/release/stable.txt`.
pub(crate) fn label(repository: &Repository, name: &str) -> String {
    match repository.kind {
        Kind::Image if name.contains(':') => format!("{repository}@{name}"),
        Kind::Image => format!("{repository}:{name}"),
        _ => format!("{repository}/{name}"),
    }
}

/// An entry as one line.
pub(crate) fn line(hit: &Hit) -> String {
    let Hit { repository, entry } = hit;
    let bytes = if repository.kind == Kind::Image { String::new() } else { format!("  {}", size(entry.size)) };
    format!("{:<5}  {}  {}{bytes}", repository.kind.as_str(), label(repository, &entry.name), entry.digest)
}

/// An entry as a value.
pub(crate) fn value(hit: &Hit) -> Value {
    let Hit { repository, entry } = hit;
    json!({
        "kind": repository.kind,
        "name": label(repository, &entry.name),
        "repository": repository.to_string(),
        "entry": entry.name,
        "digest": entry.digest,
        "size": entry.size,
        "seen": time(entry.seen),
        "origin": entry.origin,
        "trust": entry.trust,
    })
}

/// Seconds since 1970 as RFC 3339.
pub(crate) fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

/// An entry that holds a digest, and the manifests between them, the entry's own first.
#[derive(Debug)]
pub(crate) struct Holder {
    pub(crate) hit: Hit,
    pub(crate) path: Vec<Digest>,
}

/// Everything that holds `digest`: the entries that name it, or a manifest above it.
///
/// # Errors
/// When the store cannot be read.
pub(crate) async fn holders(store: &Store, digest: &Digest) -> anyhow::Result<Vec<Holder>> {
    let mut holders = Vec::new();
    let mut seen = std::collections::HashSet::from([*digest]);
    let mut waiting = std::collections::VecDeque::from([vec![*digest]]);
    while let Some(path) = waiting.pop_front() {
        let Some(top) = path.first() else { continue };
        for hit in store.entries_of(top).await? {
            holders.push(Holder { hit, path: path.clone() });
        }
        for parent in store.parents(top).await? {
            if seen.len() < ANCESTORS && seen.insert(parent) {
                waiting.push_back(std::iter::once(parent).chain(path.iter().copied()).collect());
            }
        }
    }
    Ok(holders)
}

/// Every entry of the store, page by page.
pub(crate) struct Entries<'a> {
    store: &'a Store,
    kind: Option<Kind>,
    repository: Option<Repository>,
    after: String,
    page: std::vec::IntoIter<Entry>,
    full: bool,
}

impl<'a> Entries<'a> {
    const PAGE: u32 = 1000;

    /// Of one kind, or of all.
    pub(crate) fn of(store: &'a Store, kind: Option<Kind>) -> Self {
        Self { store, kind, repository: None, after: String::new(), page: Vec::new().into_iter(), full: false }
    }

    /// The next one, in the order of repositories and names.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Hit>> {
        loop {
            if let (Some(repository), Some(entry)) = (&self.repository, self.page.next()) {
                entry.name.clone_into(&mut self.after);
                return Ok(Some(Hit { repository: repository.clone(), entry }));
            }
            if !self.full {
                let next = self.store.repositories(self.kind, self.repository.as_ref(), 1).await?;
                let Some(next) = next.into_iter().next() else { return Ok(None) };
                self.repository = Some(next);
                self.after.clear();
            }
            let Some(repository) = &self.repository else { return Ok(None) };
            let page = self.store.entries(repository, &self.after, Self::PAGE).await?;
            self.full = page.len() >= Self::PAGE as usize;
            self.page = page.into_iter();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_their_clients_write() {
        let first = |text: &str| meanings(text).iter().map(|(r, n)| label(r, n)).collect::<Vec<_>>();
        assert_eq!(first("nginx"), ["nginx:latest", "docker.io/library/nginx:latest"]);
        assert_eq!(first("naru:0.1.0"), ["naru:0.1.0", "docker.io/library/naru:0.1.0"]);
        assert_eq!(
            first("registry.k8s.io/pause:3.10"),
            // A file of that host could be called so too.
            ["registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"]
        );
        assert!(first("dl.k8s.io/release/v1/kubectl").contains(&"dl.k8s.io/release/v1/kubectl".to_owned()));
    }
}
