//! Which repository a client means. The first rule that applies decides; a miss there is a miss, never the next rule.
//!
//! 1. `ns=H`: `H/NAME`. One of the server's own names means a local repository. A configured namespace is stripped,
//!    and what is not found then is looked up as a local `NAMESPACE/NAME` (the one fall-through).
//! 2. `Host` is a known upstream: as `ns`.
//! 3. NAME begins with a known host: that host's repository.
//! 4. A search over every host, local ones too, for NAME with that tag or digest: one digest is served, of several
//!    the configured order decides, and what it does not decide is not found, with the candidates named.
//!
//! What the caller may not read takes no part in this, and what is found may be read. Which upstreams there are is no
//! secret (`/setup` names them all); what there is of one is.

use std::collections::BTreeSet;

use artifact::{Digest, Kind, Repository};
use http::StatusCode;

use crate::config::Settings;
use crate::refusal::Refusal;
use crate::registry::Call;
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
    /// What refers to a manifest.
    Referrers(&'a Digest),
    /// The repository itself: its tags.
    Anything,
}

impl Sought<'_> {
    /// That `name` has it not: also of what a known caller may not see.
    fn unknown(self, name: &str) -> Refusal {
        match self {
            Self::Manifest(reference) => Refusal::manifest_unknown(name, &reference.text()),
            Self::Blob(digest) => Refusal::blob_unknown(name, digest),
            Self::Referrers(_) | Self::Anything => Refusal::repository_unknown(&Repository::image("", name)),
        }
    }
}

/// For what reads. What is answered with may be read by the caller; whether it is there is not said.
pub(crate) async fn to_read(call: &Call<'_>, asked: &Asked, sought: Sought<'_>) -> Result<Meant, Refusal> {
    let (settings, known) = (call.site.settings(), call.site.known().await?);
    if let Some(host) = named_host(asked, &settings, &known) {
        return at_host(call, asked, &settings, &known, host, sought).await;
    }
    if let Some(repository) = by_path(asked, &settings, &known) {
        return readable(call, asked, Meant { repository, namespace: None }, sought);
    }
    let repository = search(call, asked, &settings, &known, sought).await?;
    Ok(Meant { repository, namespace: None })
}

fn readable(call: &Call<'_>, asked: &Asked, meant: Meant, sought: Sought<'_>) -> Result<Meant, Refusal> {
    if call.may_read(&meant.repository) {
        return Ok(meant);
    }
    Err(call.hidden(&asked.written, || sought.unknown(&asked.written)))
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
    Some(settings.unalias(host)).filter(|host| known.images.contains(host) || settings.upstreams.names(host))
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
    call: &Call<'_>,
    asked: &Asked,
    settings: &Settings,
    known: &Known,
    host: String,
    sought: Sought<'_>,
) -> Result<Meant, Refusal> {
    let name = name_at(asked, settings, &host)?;
    if settings.own.contains(&host) {
        return readable(call, asked, Meant { repository: Repository::image("", name), namespace: Some(host) }, sought);
    }
    let stripped = settings.namespaces.iter().find_map(|namespace| {
        let rest = asked.name.as_ref()?.strip_prefix(namespace.as_str())?.strip_prefix('/')?;
        Some((rest, asked.name.clone()?))
    });
    if let Some((rest, whole)) = stripped {
        let repository = Repository::image(&host, official(&host, rest.to_owned()));
        if call.may_read(&repository) && has(call.site, &repository, sought).await? {
            return Ok(Meant { repository, namespace: Some(host) });
        }
        let local = Meant { repository: Repository::image("", whole), namespace: Some(host) };
        return readable(call, asked, local, sought);
    }
    let meant = Meant { repository: Repository::image(&host, name), namespace: Some(host.clone()) };
    let meant = readable(call, asked, meant, sought)?;
    if !is_known(settings, known, &host) {
        let message = format!("there are no images of {host} here (`ns` is a key to look up, and is never dialled)");
        return Err(Refusal::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", message));
    }
    Ok(meant)
}

/// Whether there is something of a host, or its upstream is asked.
fn is_known(settings: &Settings, known: &Known, host: &str) -> bool {
    known.images.contains(host) || settings.upstreams.of(host).is_some()
}

/// Rule 3.
fn by_path(asked: &Asked, settings: &Settings, known: &Known) -> Option<Repository> {
    let (first, rest) = asked.hosted.as_ref()?;
    let host = settings.unalias(first.clone());
    is_known(settings, known, &host).then(|| Repository::image(&host, official(&host, rest.clone())))
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
        Sought::Referrers(subject) => {
            stock.granted_manifest(repository, subject).await?.is_some()
                || !stock.referrers_after(repository, subject, None, None).await?.0.is_empty()
        }
        Sought::Anything => stock.shows_anything(repository).await?,
    })
}

/// Rule 4.
async fn search(
    call: &Call<'_>,
    asked: &Asked,
    settings: &Settings,
    known: &Known,
    sought: Sought<'_>,
) -> Result<Repository, Refusal> {
    let Some(name) = &asked.name else { return Err(Refusal::name(&asked.written)) };
    let site = call.site;
    let mut found: Vec<(Repository, Option<Digest>)> = Vec::new();
    let hub = (!name.contains('/')).then(|| format!("library/{name}"));
    match sought {
        Sought::Manifest(_) | Sought::Blob(_) | Sought::Referrers(_) => {
            let text = match sought {
                Sought::Manifest(reference) => reference.text().into_owned(),
                Sought::Blob(digest) | Sought::Referrers(digest) => digest.to_string(),
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
                if call.may_read(&repository) && has(site, &repository, sought).await? {
                    found.push((repository, None));
                }
            }
        }
    }
    found.retain(|(repository, _)| call.may_read(repository));
    if let (Sought::Referrers(subject), true) = (sought, found.is_empty()) {
        found.extend(by_referrer(call, known, name, subject).await?.map(|repository| (repository, None)));
    }
    if found.is_empty() && matches!(sought, Sought::Manifest(_) | Sought::Blob(_)) {
        // Who names no host means the first in the order; its upstream may have it.
        let mut order = settings.order.iter().map(|host| Repository::image(host, official(host, name.clone())));
        let is_asked = |repository: &Repository| call.may_read(repository) && site.proxied(repository).is_some();
        if let Some(repository) = order.find(is_asked) {
            return Ok(repository);
        }
    }
    choose(site, settings, name, &found).ok_or_else(|| {
        let missing = || match sought {
            // Of a subject that is nowhere here, the list is empty (`end-12a`).
            Sought::Referrers(subject) => Refusal::manifest_unknown(name, &subject.to_string()),
            sought => sought.unknown(name),
        };
        // It could be where nobody but the known may read: who does not say who he is, is asked.
        let is_told = call.caller.is_known() || call.caller.may_read_everything(settings);
        if is_told { missing() } else { call.hidden(&asked.written, missing) }
    })?
}

/// The one repository of that name that has something which refers to `subject`, where nobody has the subject itself.
async fn by_referrer(
    call: &Call<'_>,
    known: &Known,
    name: &str,
    subject: &Digest,
) -> Result<Option<Repository>, Refusal> {
    let mut found = None;
    for host in std::iter::once("").chain(known.images.iter().map(String::as_str)) {
        let repository = Repository::image(host, name);
        if !call.may_read(&repository)
            || call.site.stock().referrers_after(&repository, subject, None, None).await?.0.is_empty()
        {
            continue;
        }
        if found.replace(repository).is_some() {
            return Ok(None);
        }
    }
    Ok(found)
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
