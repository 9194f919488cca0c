//! The lock: a packing list resolved to digests, sizes and addresses. The same lock gives the same bytes.
//!
//! `naru lock` writes it ([`resolve`]), people read its diffs and commit it, `pull` and `pack` follow it. Everything in
//! it has one place, whatever the order in which upstreams answered: images by reference, files by host and path.

mod document;
mod resolve;
mod walk;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use artifact::{Digest, Entry, Reference, Repository, Selection, Trust, Wanted};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::list::{Check, ForeignLayers, LOCAL, PackingList, Platforms};
pub use resolve::{changed_here, lock};

/// A packing list, resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// What was done about foreign layers.
    pub foreign_layers: ForeignLayers,
    /// Images, by reference.
    pub images: Vec<LockedImage>,
    /// Files of web servers, by host and path.
    pub files: Vec<LockedFile>,
    /// Files of this machine, by path.
    pub local: Vec<LockedLocal>,
}

/// An image, resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedImage {
    /// The reference as it was wished for, normalised.
    pub reference: Reference,
    /// Its digest.
    pub digest: Digest,
    /// Why that is believed.
    pub trust: Trust,
    /// When its upstream was asked, in seconds since 1970 (written as RFC 3339).
    #[serde(with = "document::time")]
    pub resolved: i64,
    /// The platforms that were wished for.
    #[serde(serialize_with = "document::one_line")]
    pub platforms: Platforms,
    /// Whether what refers to it was wished for.
    pub referrers: bool,
    /// What is odd about it: a tag that has another digest than the one that was wished for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The image's own manifest or index first, then those below it that are carried; parents before children.
    pub manifests: Vec<LockedManifest>,
    /// What refers to it: signatures, SBOMs, attestations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attached: Vec<Attached>,
}

/// A manifest or index that is carried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedManifest {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
    /// The platform that its index, or its configuration, says it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Its configuration and layers.
    #[serde(default, skip_serializing_if = "Vec::is_empty", serialize_with = "document::lines")]
    pub blobs: Vec<LockedBlob>,
}

/// A blob of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Its media type.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// Where else it may be had (foreign layers).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Whether it is left out: a foreign layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
}

/// What refers to an image: by the referrers API, or by a tag that is made of the digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attached {
    /// The manifest that it refers to.
    pub subject: Digest,
    /// Its digest.
    pub digest: Digest,
    /// Its tag: `sha256-….sig` and its like; absent: it was found by the referrers API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Its own manifest and those below it, as far as they do not stand above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<LockedManifest>,
}

/// A file of a web server, resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedFile {
    /// Where it comes from.
    pub url: Url,
    /// The host under which it is served.
    pub host: String,
    /// The path under which it is served.
    pub path: String,
    /// Its bytes.
    pub size: u64,
    /// Its sha256.
    pub digest: Digest,
    /// Why that is believed.
    pub trust: Trust,
    /// The document that named its sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum_url: Option<Url>,
    /// `Last-Modified`, as the server wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
    /// When its server was asked, in seconds since 1970 (written as RFC 3339).
    #[serde(with = "document::time")]
    pub resolved: i64,
}

/// A file of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedLocal {
    /// The path under which it is served, below `/files/local/`.
    pub path: String,
    /// Where it lies, seen from the packing list's folder.
    pub source: PathBuf,
    /// Its bytes.
    pub size: u64,
    /// Its sha256.
    pub digest: Digest,
    /// When it was first locked as it is, in seconds since 1970 (written as RFC 3339).
    #[serde(with = "document::time")]
    pub resolved: i64,
}

impl LockedLocal {
    /// What a store names among the files of this machine.
    pub fn entry(&self) -> Entry {
        Entry {
            name: self.path.clone(),
            digest: self.digest,
            size: self.size,
            seen: self.resolved,
            origin: self.source.display().to_string(),
            trust: Trust::Local,
        }
    }
}

/// How much a lock holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Images.
    pub images: u64,
    /// Files.
    pub files: u64,
    /// Blobs and manifests, each once.
    pub things: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl LockedImage {
    /// Every manifest that is carried for it, referrers included; parents before children.
    pub fn all_manifests(&self) -> impl DoubleEndedIterator<Item = &LockedManifest> {
        self.manifests.iter().chain(self.attached.iter().flat_map(|attached| &attached.manifests))
    }

    /// Every blob that is carried for it; one that two manifests share comes twice.
    pub fn blobs(&self) -> impl Iterator<Item = &LockedBlob> {
        self.all_manifests().flat_map(|manifest| &manifest.blobs).filter(|blob| !blob.skipped)
    }

    /// What a store names: the image itself, then what is attached to it by a tag.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        let named = self.attached.iter().filter_map(|one| Some((one.tag.clone()?, one.digest, Trust::Tag)));
        let own = (self.reference.entry_name(), self.digest, self.trust);
        std::iter::once(own).chain(named).map(|(name, digest, trust)| {
            let size = self.all_manifests().find(|one| one.digest == digest).map_or(0, |one| one.size);
            let origin = if name == self.reference.entry_name() {
                self.reference.to_string()
            } else {
                format!("{}:{name}", self.reference.repository())
            };
            Entry { name, digest, size, seen: self.resolved, origin, trust }
        })
    }

    /// How many blobs are left out.
    pub fn skipped(&self) -> usize {
        self.all_manifests().flat_map(|manifest| &manifest.blobs).filter(|blob| blob.skipped).count()
    }
}

impl LockedFile {
    /// Where it is served.
    pub fn repository(&self) -> Repository {
        Repository::files(&self.host)
    }

    /// What a store names there.
    pub fn entry(&self) -> Entry {
        Entry {
            name: self.path.clone(),
            digest: self.digest,
            size: self.size,
            seen: self.resolved,
            origin: self.url.to_string(),
            trust: self.trust,
        }
    }

    fn check(&self) -> Check {
        match (&self.checksum_url, self.trust) {
            (Some(url), _) => Check::Document(url.clone()),
            (None, Trust::FirstUse) => Check::FirstUse,
            (None, _) => Check::Sha256(self.digest),
        }
    }
}

impl LockedLocal {
    /// Whether this file is what `wish` names, or lies in it. A lock may come from somebody else: it cannot reach out of
    /// what its user's list names.
    fn is_of(&self, wish: &Path) -> bool {
        let Ok(below) = self.source.strip_prefix(wish) else { return false };
        below.components().all(|part| matches!(part, std::path::Component::Normal(_)))
    }
}

/// The lock that belongs to a packing list: `X.lock` beside `X.yaml`.
pub fn path_beside(list: &Path) -> PathBuf {
    list.with_extension("lock")
}

impl Lock {
    /// Whether this lock is what that list would be resolved to, apart from what changed at the upstreams.
    ///
    /// # Errors
    /// With one line for each thing that is missing, too much or different.
    pub fn covers(&self, list: &PackingList) -> Result<(), Vec<String>> {
        let mut differences = Vec::new();
        if self.foreign_layers != list.foreign_layers {
            differences.push("changed: foreign_layers".to_owned());
        }
        let mut images: BTreeMap<_, _> = self.images.iter().map(|image| (image.reference.clone(), image)).collect();
        for wish in &list.images {
            match images.remove(&wish.reference) {
                None => differences.push(format!("not locked: {}", wish.reference)),
                Some(locked) if locked.platforms != wish.platforms => differences.push(format!(
                    "changed: {}: locked for {}, wanted for {}",
                    wish.reference, locked.platforms, wish.platforms
                )),
                Some(locked) if locked.referrers != wish.referrers => {
                    differences.push(format!("changed: {}: referrers", wish.reference));
                }
                Some(_) => {}
            }
        }
        differences.extend(images.into_keys().map(|reference| format!("no longer wanted: {reference}")));
        let mut files: BTreeMap<_, _> = self.files.iter().map(|file| ((&*file.host, &*file.path), file)).collect();
        for wish in &list.files {
            match files.remove(&(&*wish.host, &*wish.path)) {
                None => differences.push(format!("not locked: {}", wish.url)),
                Some(locked) if locked.url != wish.url => {
                    differences.push(format!("changed: {} was locked from {}", wish.url, locked.url));
                }
                Some(locked) if locked.check() != wish.check => {
                    differences.push(format!("changed: {}: {} now, {} before", wish.url, wish.check, locked.check()));
                }
                Some(_) => {}
            }
        }
        differences.extend(files.into_values().map(|file| format!("no longer wanted: {}", file.url)));
        for wish in &list.local {
            if !self.local.iter().any(|file| file.is_of(&wish.path)) {
                differences.push(format!("not locked: {}", wish.path.display()));
            }
        }
        let extra = self.local.iter().filter(|file| !list.local.iter().any(|wish| file.is_of(&wish.path)));
        differences.extend(extra.map(|file| format!("no longer wanted: {}", file.source.display())));
        if differences.is_empty() { Ok(()) } else { Err(differences) }
    }

    /// What `pack`, `report` and `verify` are asked to carry.
    pub fn selection(&self) -> Selection {
        let mut wanted = Vec::new();
        for image in &self.images {
            // Referrers have no name of their own: they come with what they refer to.
            let below = image.all_manifests().map(|manifest| manifest.digest).filter(|digest| *digest != image.digest);
            let manifests = std::iter::once(Some(below.collect())).chain(std::iter::repeat(None));
            let repository = image.reference.repository();
            wanted.extend(image.entries().zip(manifests).map(|(entry, manifests)| Wanted {
                repository: repository.clone(),
                entry,
                manifests,
            }));
        }
        let file = |(repository, entry)| Wanted { repository, entry, manifests: None };
        wanted.extend(self.files.iter().map(|locked| file((locked.repository(), locked.entry()))));
        wanted.extend(self.local.iter().map(|locked| file((Repository::files(LOCAL), locked.entry()))));
        Selection::These(wanted)
    }

    /// How much it holds, everything counted once.
    pub fn totals(&self) -> Totals {
        let mut seen = HashSet::new();
        let manifests = self.images.iter().flat_map(LockedImage::all_manifests).map(|one| (one.digest, one.size));
        let blobs = self.images.iter().flat_map(LockedImage::blobs).map(|one| (one.digest, one.size));
        let files = self.files.iter().map(|one| (one.digest, one.size));
        let local = self.local.iter().map(|one| (one.digest, one.size));
        let bytes = manifests
            .chain(blobs)
            .chain(files)
            .chain(local)
            .filter(|(digest, _)| seen.insert(*digest))
            .fold(0_u64, |sum, (_, size)| sum.saturating_add(size));
        Totals {
            images: self.images.len() as u64,
            files: (self.files.len() + self.local.len()) as u64,
            things: seen.len() as u64,
            bytes,
        }
    }

    /// Puts everything in its one place.
    fn sort(&mut self) {
        self.images.sort_by(|one, two| one.reference.cmp(&two.reference));
        self.files.sort_by(|one, two| (&one.host, &one.path).cmp(&(&two.host, &two.path)));
        self.local.sort_by(|one, two| one.path.cmp(&two.path));
    }
}

#[cfg(test)]
mod tests;
