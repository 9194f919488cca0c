//! A bundle that is asked where it lies: what `serve --bundle` answers from, with nothing copied and nothing written.
//!
//! The same questions that a store is asked are answered here by searching sorted lists on the medium
//! ([`lines`](crate::lines)): a tree says what its repository has, `bundle.jsonl` which volume has a digest, that volume's
//! `members.jsonl` where. So it opens at once whatever it holds, and keeps only the heads in memory. Volumes may be
//! missing; what they hold is not offered, and is named with the volume that has it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use artifact::{Digest, Entry, Kind, Manifest, Repository};
use store::{Candidate, Hit, Referrer, StoredManifest, Usage};

use crate::document::{CONTENTS, Content, Member, PLAN, Share, TreeHead, order};
use crate::key::Trusted;
use crate::lines::{Lines, List, Reading};
use crate::tree::{Line, Spot, TreeManifest};
use crate::verify::{same_bundle, shown};
use crate::volume::{Volume, volumes_below};
use crate::{Error, Plan, PublicKey, Result, open_file, plan, volume_name, words};

/// Images may need each other's manifests so deep.
const DEPTH: usize = 32;
/// Entries that are looked at to say what a missing volume holds.
const LOOKED_AT: usize = 2000;

/// A bundle's volumes, open for reading.
#[derive(Debug)]
pub struct Shelf {
    volumes: BTreeMap<u32, Volume>,
    plan: Plan,
    trees: BTreeMap<Repository, TreeHead>,
    id: Digest,
    key: PublicKey,
    unreadable: Vec<Error>,
}

/// A stretch of a volume.
#[derive(Clone, Debug)]
pub struct Extent {
    /// The volume, for messages.
    pub path: PathBuf,
    /// The same, open.
    pub file: Arc<File>,
    /// Where the stretch begins.
    pub offset: u64,
    /// Its bytes.
    pub size: u64,
}

/// Where a blob lies: in one piece, or in several, in their order. Its bytes were not hashed yet.
#[derive(Clone, Debug)]
pub struct Lying {
    /// The whole blob's bytes.
    pub size: u64,
    /// The pieces.
    pub pieces: Vec<Extent>,
}

impl Shelf {
    /// Opens volumes, or those in folders. One that cannot be read is left out when there are others.
    ///
    /// # Errors
    /// When there is no volume, they are of several bundles, the signer is not trusted, or neither the first nor the last
    /// volume is there: they say what the bundle holds.
    pub fn open(paths: &[PathBuf], trusted: &[Trusted]) -> Result<Self> {
        let (mut volumes, mut unreadable): (BTreeMap<u32, Volume>, Vec<Error>) = Default::default();
        for path in volumes_below(paths)? {
            let opened = open_file(&path).and_then(|file| Volume::read_head(&path, file));
            match opened {
                // Nothing in it lies where its list says.
                Ok(volume) if volume.rewritten > 0 => unreadable.push(Error::not_a_volume(
                    &path,
                    "another program wrote its tar again on the way: `naru load` takes it, but it cannot be served in place",
                )),
                Ok(volume) => {
                    volume.check_trust(trusted)?;
                    if let Some(first) = volumes.values().next() {
                        same_bundle(first, &volume)?;
                    }
                    volumes.entry(volume.head.volume).or_insert(volume);
                }
                Err(error @ (Error::NotAVolume { .. } | Error::Io { .. } | Error::Signature { .. })) => {
                    unreadable.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        let Some(first) = volumes.values().next() else {
            let nothing = || Error::NoVolumes { path: paths.first().cloned().unwrap_or_default() };
            return Err(unreadable.pop().unwrap_or_else(nothing));
        };
        let (id, key) = (first.head.bundle, first.key);
        let mut failed = None;
        let plan = volumes.values().find_map(|volume| match read_plan(volume) {
            Ok(plan) => plan,
            Err(error) => {
                failed.get_or_insert(error);
                None
            }
        });
        let Some(mut plan) = plan else {
            let why = "what its bundle holds is said in the first and in the last volume, and neither is here";
            return Err(failed.unwrap_or_else(|| Error::not_a_volume(&first.path, why)));
        };
        let trees = std::mem::take(&mut plan.trees).into_iter().map(|head| (head.repository.clone(), head)).collect();
        Ok(Self { volumes, plan, trees, id, key, unreadable })
    }

    /// Whether it is a difference, which leaves out what its sites have.
    pub fn is_difference(&self) -> bool {
        !self.plan.assumptions.is_empty()
    }

    /// The bundle's id.
    pub fn id(&self) -> &Digest {
        &self.id
    }

    /// The same as eight words.
    pub fn words(&self) -> String {
        words(&self.id)
    }

    /// The fingerprint of the key that signed it.
    pub fn fingerprint(&self) -> String {
        self.key.fingerprint()
    }

    /// How many volumes it has in all, and how many are here.
    pub fn volumes(&self) -> (usize, usize) {
        (self.plan.shares.len(), self.volumes.len())
    }

    /// Volumes that could not be read at all, each in words.
    pub fn unreadable(&self) -> Vec<String> {
        self.unreadable.iter().map(ToString::to_string).collect()
    }

    /// The volumes that are not here, and how much they hold.
    pub fn missing(&self) -> impl Iterator<Item = (u32, Share)> {
        let numbered = (1_u32..).zip(self.plan.shares.iter().copied());
        numbered.filter(|(number, _)| !self.volumes.contains_key(number))
    }

    fn is_all_here(&self) -> bool {
        self.missing().next().is_none()
    }

    /// Some of what needs a volume that is not here: names as people write them, and whether there may be more.
    ///
    /// # Errors
    /// When the lists cannot be read.
    pub fn held_by(&self, volume: u32, most: usize) -> Result<(Vec<String>, bool)> {
        let (mut names, mut looked_at) = (Vec::new(), 0);
        for head in self.trees.values() {
            for line in self.lines_from(head, Spot::Entry(""))? {
                let Line::Entry(entry) = line? else { continue };
                if names.len() == most || looked_at == LOOKED_AT {
                    return Ok((names, true));
                }
                looked_at += 1;
                if let Err(Error::Elsewhere { volumes, .. }) = self.check(&head.repository, &entry.digest) {
                    if volumes.contains(&volume) {
                        names.push(shown(&head.repository, &entry.name));
                    }
                }
            }
        }
        Ok((names, false))
    }

    /// An entry whose bytes are all here.
    ///
    /// # Errors
    /// [`Error::Elsewhere`] when some lie in a volume that is not; when the lists cannot be read.
    pub fn entry(&self, repository: &Repository, name: &str) -> Result<Option<Entry>> {
        let Some(head) = self.trees.get(repository) else { return Ok(None) };
        match self.lines_from(head, Spot::Entry(name))?.next().transpose()? {
            Some(Line::Entry(entry)) if entry.name == name => {
                self.check(repository, &entry.digest)?;
                Ok(Some(entry))
            }
            _ => Ok(None),
        }
    }

    /// Entries whose names sort (bytewise) after `after` and whose bytes are here, at most `limit`.
    ///
    /// # Errors
    /// When the lists cannot be read.
    pub fn entries(&self, repository: &Repository, after: &str, limit: u32) -> Result<Vec<Entry>> {
        let Some(head) = self.trees.get(repository) else { return Ok(Vec::new()) };
        let mut entries = Vec::new();
        for line in self.lines_from(head, Spot::Entry(after))? {
            let Line::Entry(entry) = line? else { continue };
            if entry.name == after {
                continue;
            }
            match self.check(repository, &entry.digest) {
                Err(Error::Elsewhere { .. }) => continue,
                other => other?,
            }
            entries.push(entry);
            if entries.len() == limit as usize {
                break;
            }
        }
        Ok(entries)
    }

    /// Names of repositories as they are shown that sort (bytewise) after `after`; at most `limit`, each once.
    pub fn repository_names(&self, kind: Kind, after: &str, limit: u32) -> Vec<String> {
        let named = self.trees.keys().filter(|repository| repository.kind == kind).map(ToString::to_string);
        let sorted: BTreeSet<String> = named.filter(|name| name.as_str() > after).collect();
        sorted.into_iter().take(limit as usize).collect()
    }

    /// The hosts of which there are repositories of this kind, sorted; a local one's is empty.
    pub fn hosts(&self, kind: Kind) -> Vec<String> {
        let mut hosts: Vec<String> =
            self.trees.keys().filter(|repository| repository.kind == kind).map(|one| one.host.clone()).collect();
        hosts.sort();
        hosts.dedup();
        hosts
    }

    /// Image repositories of every host named `name` that have this tag, manifest or blob.
    ///
    /// # Errors
    /// When the lists cannot be read.
    pub fn candidates(&self, name: &str, reference: &str) -> Result<Vec<Candidate>> {
        let mut candidates = Vec::new();
        for host in self.hosts(Kind::Image) {
            let repository = Repository::image(host, name);
            let Some(head) = self.trees.get(&repository) else { continue };
            let found = if let Ok(digest) = reference.parse::<Digest>() {
                let has = self.manifest_line(head, &digest)?.is_some() || self.may_show(&repository, &digest)?;
                has.then_some(digest)
            } else {
                match self.lines_from(head, Spot::Entry(reference))?.next().transpose()? {
                    Some(Line::Entry(entry)) if entry.name == reference => Some(entry.digest),
                    _ => None,
                }
            };
            candidates.extend(found.map(|digest| Candidate { repository, digest }));
        }
        Ok(candidates)
    }

    /// A blob that this repository may show. Of files, an entry names it: who asks has found that.
    ///
    /// # Errors
    /// [`Error::Elsewhere`] when it, or a piece of it, is in a volume that is not here.
    pub fn granted_blob(&self, repository: &Repository, digest: &Digest) -> Result<Option<Lying>> {
        if !self.may_show(repository, digest)? {
            return Ok(None);
        }
        self.blob(digest)
    }

    fn may_show(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        let Some(head) = self.trees.get(repository) else { return Ok(false) };
        if repository.kind != Kind::Image {
            return Ok(true);
        }
        let found = self.lines_from(head, Spot::Blob(digest))?.next().transpose()?;
        Ok(matches!(found, Some(Line::Blob(found)) if found == *digest))
    }

    /// A manifest that this repository may show, with its bytes, proven.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged in each volume that has it.
    pub fn granted_manifest(&self, repository: &Repository, digest: &Digest) -> Result<Option<StoredManifest>> {
        let Some(head) = self.trees.get(repository) else { return Ok(None) };
        let Some(known) = self.manifest_line(head, digest)? else { return Ok(None) };
        let bytes = self.document("manifests", digest)?;
        let complete = match self.check(repository, digest) {
            Ok(()) => true,
            Err(Error::Elsewhere { .. }) => false,
            Err(error) => return Err(error),
        };
        Ok(Some(StoredManifest { digest: *digest, bytes: bytes.into(), media_type: known.media_type, complete }))
    }

    /// What refers to `subject` in this repository, sorted by digest.
    ///
    /// # Errors
    /// When the lists or a manifest cannot be read.
    pub fn referrers(&self, repository: &Repository, subject: &Digest) -> Result<Vec<Referrer>> {
        let Some(head) = self.trees.get(repository) else { return Ok(Vec::new()) };
        let mut referrers = Vec::new();
        for known in self.manifest_lines(head)? {
            let TreeManifest { digest, size, media_type, subject: its, .. } = known?;
            if its.as_ref() != Some(subject) {
                continue;
            }
            let bytes = self.document("manifests", &digest)?;
            let read =
                Manifest::parse(&bytes, &media_type).map_err(|source| store::Error::Manifest { digest, source })?;
            let annotations = read.annotations.map(serde_json::Value::Object);
            referrers.push(Referrer { digest, size, media_type, artifact_type: read.artifact_type, annotations });
        }
        Ok(referrers)
    }

    /// The manifest of this repository that names `digest` as left out on purpose, and whether it is a manifest itself.
    ///
    /// # Errors
    /// When the lists cannot be read.
    pub fn left_out(&self, repository: &Repository, digest: &Digest) -> Result<Option<(Digest, bool)>> {
        let Some(head) = self.trees.get(repository) else { return Ok(None) };
        for known in self.manifest_lines(head)? {
            let known = known?;
            if known.omitted.contains(digest) {
                return Ok(Some((known.digest, artifact::media_type::is_index(&known.media_type))));
            }
        }
        Ok(None)
    }

    /// Entries whose repository, name or digest has `text` in it (a substring, any case of ASCII letters).
    ///
    /// # Errors
    /// When the lists cannot be read.
    pub fn search(&self, text: &str, limit: u32) -> Result<Vec<Hit>> {
        let text = text.to_ascii_lowercase();
        let hex = text.trim_start_matches("sha256:");
        let mut hits = Vec::new();
        for head in self.trees.values() {
            for line in self.lines_from(head, Spot::Entry(""))? {
                let Line::Entry(entry) = line? else { continue };
                let named = shown(&head.repository, &entry.name).to_ascii_lowercase().contains(&text);
                if named || (!hex.is_empty() && entry.digest.hex().contains(hex)) {
                    hits.push(Hit { repository: head.repository.clone(), entry });
                    if hits.len() == limit as usize {
                        return Ok(hits);
                    }
                }
            }
        }
        Ok(hits)
    }

    /// How much the whole bundle holds.
    pub fn usage(&self) -> Usage {
        let Self { trees, plan, .. } = self;
        let sum = |numbers: &mut dyn Iterator<Item = u64>| numbers.sum::<u64>().cast_signed();
        Usage {
            repositories: i64::try_from(trees.len()).unwrap_or(i64::MAX),
            entries: sum(&mut trees.values().map(|tree| tree.entries)),
            manifests: sum(&mut trees.values().map(|tree| tree.manifests)),
            blobs: sum(&mut plan.shares.iter().map(|share| share.blobs)),
            bytes: sum(&mut plan.shares.iter().map(|share| share.bytes)),
        }
    }

    /// Whether everything is here that a manifest of an image, or a file's blob, needs.
    fn check(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        if self.is_all_here() {
            return Ok(());
        }
        let elsewhere = |volumes: Vec<u32>| {
            let names = volumes.iter().map(|number| volume_name(*number as usize, "")).collect();
            Err(Error::Elsewhere { digest: *digest, volumes, names })
        };
        if repository.kind != Kind::Image {
            let volumes = self.not_here(digest)?;
            return if volumes.is_empty() { Ok(()) } else { elsewhere(volumes) };
        }
        let Some(head) = self.trees.get(repository) else { return Ok(()) };
        let (mut open, mut seen) = (vec![(*digest, 0)], HashSet::new());
        while let Some((digest, depth)) = open.pop() {
            let Some(known) = self.manifest_line(head, &digest)?.filter(|_| depth < DEPTH) else { continue };
            let bytes = self.document("manifests", &digest)?;
            let read = Manifest::parse(&bytes, &known.media_type)
                .map_err(|source| store::Error::Manifest { digest, source })?;
            for blob in read.blobs().filter(|blob| !known.omitted.contains(&blob.digest)) {
                let volumes = self.not_here(&blob.digest)?;
                if !volumes.is_empty() {
                    return elsewhere(volumes);
                }
            }
            let children = read.manifests.iter().filter(|child| !known.omitted.contains(&child.digest));
            let children = children.filter(|child| seen.insert(child.digest));
            open.extend(children.map(|child| (child.digest, depth + 1)));
        }
        Ok(())
    }

    /// The volumes that have a blob, or pieces of it, and are not here.
    fn not_here(&self, digest: &Digest) -> Result<Vec<u32>> {
        let found = self.contents(digest)?.into_iter().map(|content| content.volume);
        Ok(found.filter(|volume| !self.volumes.contains_key(volume)).collect())
    }

    /// Which volumes have a blob: one, or those with its pieces, in their order.
    fn contents(&self, digest: &Digest) -> Result<Vec<Content>> {
        let (algorithm, hex) = (digest.algorithm().as_str(), digest.hex());
        let search = |name: String, is_one: &dyn Fn(&str) -> bool| -> Result<Vec<Content>> {
            let mut found = Vec::new();
            let contents = self.edges(CONTENTS, &self.plan.contents)?;
            for content in contents.after(|content: &Content| content.member.order() < order(&name))? {
                let content = content?;
                if !is_one(&content.member.name) {
                    break;
                }
                found.push(content);
            }
            Ok(found)
        };
        let name = format!("blobs/{algorithm}/{hex}");
        let whole = search(name.clone(), &|found| found == name)?;
        if !whole.is_empty() {
            return Ok(whole);
        }
        let name = format!("parts/{algorithm}/{hex}/");
        search(name.clone(), &|found| found.starts_with(&name))
    }

    /// Where a blob lies, whoever may show it.
    ///
    /// # Errors
    /// [`Error::Elsewhere`] when it, or a piece of it, is in a volume that is not here.
    pub fn blob(&self, digest: &Digest) -> Result<Option<Lying>> {
        let contents = self.contents(digest)?;
        let Some(first) = contents.first() else { return Ok(None) };
        let size = first.member.part.as_ref().map_or(first.member.size, |part| part.size);
        let (mut pieces, mut at, mut volumes) = (Vec::new(), 0, Vec::new());
        for Content { volume: number, member } in &contents {
            let fits = member.part.as_ref().map_or(0, |part| part.at) == at;
            at += member.size;
            let Some(volume) = self.volumes.get(number) else {
                volumes.push(*number);
                continue;
            };
            let found = find(volume, &member.name)?.filter(|found| fits && found.size == member.size);
            let Some(found) = found else {
                return Err(Error::not_a_volume(&volume.path, format!("`{}` is not where it should be", member.name)));
            };
            let (path, file) = (volume.path.clone(), Arc::clone(&volume.file));
            pieces.push(Extent { path, file, offset: found.offset, size: found.size });
        }
        if !volumes.is_empty() {
            let names = volumes.iter().map(|number| volume_name(*number as usize, "")).collect();
            return Err(Error::Elsewhere { digest: *digest, volumes, names });
        }
        Ok((at == size).then_some(Lying { size, pieces }))
    }

    /// A tree's lines from a place on.
    fn lines_from<'a>(&'a self, head: &'a TreeHead, spot: Spot<'_>) -> Result<Reading<'a, Line>> {
        let name = format!("trees/{}/{}", head.digest.algorithm().as_str(), head.digest.hex());
        self.edges(&name, &head.list)?.after(|line: &Line| line.spot() < spot)
    }

    /// A tree's manifests.
    fn manifest_lines<'a>(&'a self, head: &'a TreeHead) -> Result<impl Iterator<Item = Result<TreeManifest>> + 'a> {
        let lines = self.lines_from(head, Spot::Manifest(None))?;
        Ok(lines.map_while(|line| match line {
            Ok(Line::Manifest(manifest)) => Some(Ok(manifest)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        }))
    }

    fn manifest_line(&self, head: &TreeHead, digest: &Digest) -> Result<Option<TreeManifest>> {
        match self.lines_from(head, Spot::Manifest(Some(digest)))?.next().transpose()? {
            Some(Line::Manifest(manifest)) if manifest.digest == *digest => Ok(Some(manifest)),
            _ => Ok(None),
        }
    }

    /// What `take` makes of the first and of the last volume, as far as they are here. An error counts when none answers.
    fn at_edges<T>(&self, take: impl Fn(&Volume) -> Result<Option<T>>) -> Result<Vec<T>> {
        let last = u32::try_from(self.plan.shares.len()).unwrap_or(u32::MAX);
        let (mut all, mut failed) = (Vec::new(), None);
        for volume in BTreeSet::from([1, last]).iter().filter_map(|number| self.volumes.get(number)) {
            match take(volume) {
                Ok(found) => all.extend(found),
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        failed.filter(|_| all.is_empty()).map_or(Ok(all), Err)
    }

    /// A list that the first and the last volume have.
    fn edges<'a>(&'a self, name: &str, list: &'a List) -> Result<Lines<'a>> {
        let places = self.at_edges(|volume| Ok(find(volume, name)?.map(|member| volume.place(member.offset))))?;
        Ok(Lines::new(name, list, places))
    }

    /// A small document that the first and the last volume have, proven.
    fn document(&self, kind: &str, digest: &Digest) -> Result<Vec<u8>> {
        let name = format!("{kind}/{}/{}", digest.algorithm().as_str(), digest.hex());
        let read = |volume: &Volume| find(volume, &name)?.map(|member| volume.document(&member)).transpose();
        let missing = || Error::Damaged { damage: vec![format!("`{name}` is in none of the volumes that are here")] };
        self.at_edges(read)?.into_iter().next().ok_or_else(missing)
    }
}

/// The plan, where this volume has it.
fn read_plan(volume: &Volume) -> Result<Option<Plan>> {
    let Some(member) = find(volume, PLAN)? else { return Ok(None) };
    let bytes = volume.document(&member)?;
    if Digest::of(&bytes) != volume.head.bundle {
        return Err(Error::not_a_volume(&volume.path, "its plan is not the one its head names"));
    }
    Ok(Some(plan::read(&bytes, &volume.path)?))
}

/// A member of a volume, found in its list.
fn find(volume: &Volume, name: &str) -> Result<Option<Member>> {
    let found = volume.lines().after(|member: &Member| member.order() < order(name))?.next().transpose()?;
    Ok(found.filter(|member| member.name == name && member.what().is_some()))
}

#[cfg(test)]
mod tests;
