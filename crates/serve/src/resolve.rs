//! Which repository a client means. The first rule that applies decides; a miss there is a miss, never the next rule.
//!
//! 1. `ns=H`: `H/NAME`. One of the server's own names means a local repository. A configured namespace is stripped,
//!    and what is not found then is looked up as a local `NAMESPACE/NAME` (the one fall-through).
//! 2. `Host` is a known upstream: as `ns`.
//! 3. NAME begins with a known host: that host's repository.
//! 4. A search over every host, local ones too, for NAME with that tag or digest: one digest is served, of several
//!    the configured order decides, and what it does not decide is not found, with the candidates named.

use std::collections::BTreeSet;

use artifact::{Digest, Kind, Repository};
use http::StatusCode;

use crate::config::Settings;
use crate::refusal::Refusal;
use crate::router::{Asked, Reference};
use crate::site::{Known, Site};
use crate::stock::Stock;

/// The repository that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meant {
    pub(crate) repository: Repository,
    /// What `OCI-Namespace` says, when rule 1 or 2 decided.
    pub(crate) namespace: Option<String>,
}

/// What is looked for in it, where that decides.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sought<'a> {
    /// A manifest by tag or digest.
    Manifest(&'a Reference),
    /// A blob.
    Blob(&'a Digest),
    /// The repository itself: its tags, its referrers.
    Anything,
}

/// For what reads.
pub(crate) async fn to_read(site: &Site, asked: &Asked, sought: Sought<'_>) -> Result<Meant, Refusal> {
    let (settings, known) = (site.settings(), site.known().await?);
    if let Some(host) = named_host(asked, &settings, &known) {
        return at_host(site, asked, &settings, &known, host, sought).await;
    }
    if let Some(repository) = by_path(asked, &settings, &known) {
        return Ok(Meant { repository, namespace: None });
    }
    let repository = search(site, asked, &settings, &known, sought).await?;
    Ok(Meant { repository, namespace: None })
}

/// For what writes: by rule 1 or 3, else local. Of rule 3 the host need not be known yet: what was pushed must not come
/// to mean another repository when it is.
pub(crate) async fn to_write(site: &Site, asked: &Asked) -> Result<Meant, Refusal> {
    let (settings, known) = (site.settings(), site.known().await?);
    if let Some(host) = asked.ns.clone().map(|ns| settings.unalias(ns)) {
        let name = name_at(asked, &settings, &host)?;
        if settings.own.contains(&host) {
            return Ok(Meant { repository: Repository::image("", name), namespace: Some(host) });
        }
        return Ok(Meant { repository: Repository::image(&host, name), namespace: Some(host) });
    }
    let repository = match by_path(asked, &settings, &known).or_else(|| by_written_host(asked, &settings)) {
        Some(repository) => repository,
        None => Repository::image("", asked.name.clone().ok_or_else(|| Refusal::name(&asked.written))?),
    };
    Ok(Meant { repository, namespace: None })
}

/// Rules 1 and 2.
fn named_host(asked: &Asked, settings: &Settings, known: &Known) -> Option<String> {
    if let Some(ns) = &asked.ns {
        return Some(settings.unalias(ns.clone()));
    }
    let host = asked.host.clone().filter(|host| !settings.own.contains(host))?;
    Some(settings.unalias(host)).filter(|host| known.images.contains(host))
}

/// The name below `host`: without the host, where a client put it into the path as well; Docker Hub's official
/// images with `library/`.
fn name_at(asked: &Asked, settings: &Settings, host: &str) -> Result<String, Refusal> {
    let below = asked.hosted.as_ref().filter(|(first, _)| settings.unalias(first.clone()) == host);
    let name = match (below, &asked.name) {
        (Some((_, rest)), _) => rest.clone(),
        (None, Some(name)) => name.clone(),
        (None, None) => return Err(Refusal::name(&asked.written)),
    };
    Ok(official(host, name))
}

fn official(host: &str, name: String) -> String {
    if host == "docker.io" && !name.contains('/') { format!("library/{name}") } else { name }
}

async fn at_host(
    site: &Site,
    asked: &Asked,
    settings: &Settings,
    known: &Known,
    host: String,
    sought: Sought<'_>,
) -> Result<Meant, Refusal> {
    let name = name_at(asked, settings, &host)?;
    if settings.own.contains(&host) {
        return Ok(Meant { repository: Repository::image("", name), namespace: Some(host) });
    }
    let stripped = settings.namespaces.iter().find_map(|namespace| {
        let rest = asked.name.as_ref()?.strip_prefix(namespace.as_str())?.strip_prefix('/')?;
        Some((rest, asked.name.clone()?))
    });
    if let Some((rest, whole)) = stripped {
        let repository = Repository::image(&host, official(&host, rest.to_owned()));
        if has(site, &repository, sought).await? {
            return Ok(Meant { repository, namespace: Some(host) });
        }
        return Ok(Meant { repository: Repository::image("", whole), namespace: Some(host) });
    }
    if !known.images.contains(&host) {
        let message = format!("there are no images of {host} here (`ns` is a key to look up, and is never dialled)");
        return Err(Refusal::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", message));
    }
    Ok(Meant { repository: Repository::image(&host, name), namespace: Some(host) })
}

/// Rule 3.
fn by_path(asked: &Asked, settings: &Settings, known: &Known) -> Option<Repository> {
    let (first, rest) = asked.hosted.as_ref()?;
    let host = settings.unalias(first.clone());
    known.images.contains(&host).then(|| Repository::image(&host, official(&host, rest.clone())))
}

/// A first segment that can be nothing but a host: with a dot or a port in it.
fn by_written_host(asked: &Asked, settings: &Settings) -> Option<Repository> {
    let (first, rest) = asked.hosted.as_ref().filter(|(first, _)| first.contains(['.', ':']))?;
    let host = settings.unalias(first.clone());
    Some(Repository::image(&host, official(&host, rest.clone())))
}

async fn has(site: &Site, repository: &Repository, sought: Sought<'_>) -> Result<bool, Refusal> {
    let stock = site.stock();
    Ok(match sought {
        Sought::Manifest(Reference::Tag(tag)) => stock.entry(repository, tag).await?.is_some(),
        Sought::Manifest(Reference::Digest(digest)) => stock.granted_manifest(repository, digest).await?.is_some(),
        Sought::Blob(digest) => stock.granted_blob(repository, digest).await?.is_some(),
        Sought::Anything => stock.shows_anything(repository).await?,
    })
}

/// Rule 4.
async fn search(
    site: &Site,
    asked: &Asked,
    settings: &Settings,
    known: &Known,
    sought: Sought<'_>,
) -> Result<Repository, Refusal> {
    let Some(name) = &asked.name else { return Err(Refusal::name(&asked.written)) };
    let mut found: Vec<(Repository, Option<Digest>)> = Vec::new();
    let hub = (!name.contains('/')).then(|| format!("library/{name}"));
    match sought {
        Sought::Manifest(_) | Sought::Blob(_) => {
            let text = match sought {
                Sought::Manifest(reference) => reference.text().into_owned(),
                Sought::Blob(digest) => digest.to_string(),
                Sought::Anything => String::new(),
            };
            let here = site.stock().candidates(name, &text).await?;
            found.extend(here.into_iter().map(|candidate| (candidate.repository, Some(candidate.digest))));
            if let Some(hub) = &hub {
                let there = site.stock().candidates(hub, &text).await?.into_iter();
                let there = there.filter(|candidate| candidate.repository.host == "docker.io");
                found.extend(there.map(|candidate| (candidate.repository, Some(candidate.digest))));
            }
        }
        Sought::Anything => {
            for host in std::iter::once("").chain(known.images.iter().map(String::as_str)) {
                let repository = Repository::image(host, official(host, name.clone()));
                if has(site, &repository, sought).await? {
                    found.push((repository, None));
                }
            }
        }
    }
    choose(site, settings, name, &found).ok_or_else(|| match sought {
        Sought::Manifest(reference) => Refusal::manifest_unknown(name, &reference.text()),
        Sought::Blob(digest) => Refusal::blob_unknown(name, digest),
        Sought::Anything => Refusal::repository_unknown(&Repository::image("", name)),
    })?
}

/// `None`: nobody has it. An error: several do, and the order does not say which.
fn choose(
    site: &Site,
    settings: &Settings,
    name: &str,
    found: &[(Repository, Option<Digest>)],
) -> Option<Result<Repository, Refusal>> {
    let preferred =
        || settings.order.iter().find_map(|host| found.iter().find(|(repository, _)| repository.host == *host));
    let first = found.first()?;
    // Without digests (a list of tags is asked) two repositories are two answers.
    let one = found.len() == 1 || (first.1.is_some() && found.iter().all(|(_, digest)| *digest == first.1));
    if one {
        return Some(Ok(preferred().unwrap_or(first).0.clone()));
    }
    let names: BTreeSet<String> = found.iter().map(|(repository, _)| shown(repository)).collect();
    let names: Vec<String> = names.into_iter().collect();
    let chosen = preferred().map(|(repository, _)| repository.clone());
    site.ambiguous(name, &names, chosen.as_ref());
    Some(chosen.ok_or_else(|| {
        let message = format!("{name} is ambiguous here: it could be {}; name its host", names.join(" or "));
        Refusal::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", message).about(serde_json::json!({ "candidates": names }))
    }))
}

/// A local repository is told from an upstream's.
pub(crate) fn shown(repository: &Repository) -> String {
    if repository.is_local() { format!("local {repository}") } else { repository.to_string() }
}

/// The hosts that images and files are known of.
pub(crate) async fn known_hosts(stock: &Stock, version: u64) -> Result<Known, Refusal> {
    let images = stock.hosts(Kind::Image).await?.into_iter().filter(|host| !host.is_empty()).collect();
    let files = stock.hosts(Kind::File).await?.into_iter().filter(|host| !host.is_empty()).collect();
    Ok(Known { version, images, files })
}
