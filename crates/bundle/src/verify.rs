//! Verify: proves from the medium, before it leaves the room, that a bundle is whole.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use artifact::{Digest, Hasher, Kind, Manifest, Progress, Repository};

use crate::document::{ASSUMES, Assumed, CONTENTS, PLAN, TreeHead, What};
use crate::key::Trusted;
use crate::lines::Lines;
use crate::medium::{Medium, Past};
use crate::parity::{self, Parity};
use crate::tree::Tree;
use crate::volume::Volume;
use crate::{Error, Plan, Receipt, Result, beside, open_file, plan, volume_name, words};

/// What was proven, and what was not.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// The bundle's id in hex; empty when no volume could be read.
    pub id: String,
    /// The same as eight words.
    pub words: String,
    /// Who signed it.
    pub fingerprint: String,
    /// That key, as `naru key trust` takes it.
    pub key: String,
    /// Whether that key is one that is trusted here; `None`: none is.
    pub trusted: Option<bool>,
    /// How many volumes it has in all, and how many were read.
    pub volumes: (usize, usize),
    /// Volumes of which every byte was right.
    pub sound: usize,
    /// Members that were hashed.
    pub members: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Entries that are whole.
    pub entries: u64,
    /// Whether every byte came past the page cache; otherwise its pages were given up first.
    pub bypassed: bool,
    /// What is wrong, each in words.
    pub damage: Vec<String>,
    /// Volumes whose tar another program wrote again on the way, each in words.
    pub rewritten: Vec<String>,
    /// What is not there, each in words: volumes, and what they hold.
    pub missing: Vec<String>,
    /// Things that a difference takes to be at its site already, and their bytes: not proven by it.
    pub assumed: (u64, u64),
    /// What should lie beside the volumes and does not, by name. Nothing that is loaded is in it.
    pub beside: Vec<String>,
    /// Volumes that are missing or damaged, and parity files that are whole.
    pub parity: (usize, usize),
    /// Whether something is missing or damaged that was in no volume: no parity brings that back.
    pub is_beyond: bool,
}

impl Verified {
    /// Whether the bundle may leave the room.
    pub fn is_whole(&self) -> bool {
        self.damage.is_empty() && self.missing.is_empty()
    }

    /// Whether all that is missing or damaged can be brought back from the parity files.
    pub fn is_covered(&self) -> bool {
        let (lost, whole) = self.parity;
        lost > 0 && lost <= whole && !self.is_beyond
    }
}

/// Reads every byte of these volumes (or of the folders they lie in) past the page cache. What is wrong is in the
/// answer; `trusted` is who may have signed.
///
/// # Errors
/// When there is nothing to verify, the volumes are of several bundles, or the signer is not trusted.
pub async fn verify(paths: &[PathBuf], trusted: &[Trusted], progress: Arc<dyn Progress>) -> Result<Verified> {
    verify_for(paths, trusted, None, progress).await
}

/// The same, of a bundle that goes to who wrote this receipt: what it assumes must be in there.
///
/// # Errors
/// As [`verify`].
pub async fn verify_for(
    paths: &[PathBuf],
    trusted: &[Trusted],
    receipt: Option<Receipt>,
    progress: Arc<dyn Progress>,
) -> Result<Verified> {
    let (given, paths, trusted) = (paths.to_vec(), parity::volumes_or_parity(paths)?, trusted.to_vec());
    let work = move || {
        let (mut verified, failed) = verify_volumes(&paths, &trusted, receipt.as_ref(), progress.as_ref())?;
        verify_parity(&given, &trusted, progress.as_ref(), &mut verified)?;
        if verified.id.is_empty() {
            let nothing = || Error::NoVolumes { path: given.first().cloned().unwrap_or_default() };
            return Err(match failed {
                Some(error) if verified.damage.len() == 1 => error,
                _ if verified.damage.is_empty() => nothing(),
                _ => Error::Damaged { damage: verified.damage },
            });
        }
        for folder in given.iter().filter(|path| path.is_dir()).collect::<BTreeSet<_>>() {
            beside::check(folder, progress.as_ref(), &mut verified);
        }
        Ok(verified)
    };
    tokio::task::spawn_blocking(work).await?
}

fn verify_volumes(
    paths: &[PathBuf],
    trusted: &[Trusted],
    receipt: Option<&Receipt>,
    progress: &dyn Progress,
) -> Result<(Verified, Option<Error>)> {
    let mut verified = Verified { bypassed: true, ..Verified::default() };
    let mut failed = None;
    let mut volumes: Vec<Volume> = Vec::new();
    for path in paths {
        match open_file(path).and_then(|file| Volume::read_trusted(path, file, trusted)) {
            Ok(volume) => {
                if let Some(first) = volumes.first() {
                    same_bundle(first, &volume)?;
                }
                volumes.push(volume);
            }
            Err(
                error @ (Error::NotAVolume { .. } | Error::Signature { .. } | Error::Damaged { .. } | Error::Io { .. }),
            ) => {
                verified.damage.push(error.to_string());
                failed.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    let Some(first) = volumes.first() else { return Ok((verified, failed)) };
    verified.id = first.head.bundle.hex();
    verified.words = words(&first.head.bundle);
    verified.fingerprint = first.key.fingerprint();
    verified.key = first.key.to_line();
    verified.trusted = (!trusted.is_empty()).then_some(true);
    let numbers: HashSet<u32> = volumes.iter().map(|volume| volume.head.volume).collect();
    verified.volumes = (first.head.of as usize, numbers.len());
    let (good, wrong) = hash_everything(&volumes, progress, &mut verified);
    for volume in &volumes {
        verified.damage.extend(volume.removed.iter().map(|member| volume.removal(member)));
        verified.rewritten.extend(volume.rewriting());
    }
    let is_sound = |volume: &&Volume| {
        // Parity goes by the whole file: one that was written again is none of those that it was made of.
        volume.removed.is_empty() && volume.rewritten == 0 && !wrong.contains(&volume.path)
    };
    let sound: HashSet<u32> = volumes.iter().filter(is_sound).map(|volume| volume.head.volume).collect();
    verified.sound = sound.len();
    check_graphs(&volumes, &good, receipt, &mut verified)?;
    Ok((verified, failed))
}

/// Hashes the parity files, and holds them against what is lost.
fn verify_parity(
    given: &[PathBuf],
    trusted: &[Trusted],
    progress: &dyn Progress,
    verified: &mut Verified,
) -> Result<()> {
    let bundle = Digest::from_hex(&verified.id).ok();
    let mut damage = Vec::new();
    let parities = Parity::open_below(given, bundle, trusted, |error| match error {
        Error::Untrusted { .. } => progress.warn(&format!("it covers nothing: {error}")),
        damaged => damage.push(damaged.to_string()),
    })?;
    verified.damage.extend(damage);
    let Some(first) = parities.first() else { return Ok(()) };
    if bundle.is_none() {
        verified.id = first.bundle().hex();
        verified.words = words(&first.bundle());
        verified.fingerprint = first.key().fingerprint();
        verified.key = first.key().to_line();
        verified.trusted = (!trusted.is_empty()).then_some(true);
        verified.volumes = (first.volumes(), 0);
        verified.missing.push(format!("all of its {} volumes", first.volumes()));
    }
    let (of, _) = verified.volumes;
    let whole = parity::whole(first, &parities, progress).len();
    verified.parity = (of.saturating_sub(verified.sound), whole);
    if whole < first.of() {
        verified.damage.push(format!("{} of {} parity files are missing or damaged", first.of() - whole, first.of()));
    }
    Ok(())
}

pub(crate) fn same_bundle(first: &Volume, other: &Volume) -> Result<()> {
    if first.head.bundle == other.head.bundle {
        return Ok(());
    }
    Err(Error::OtherBundle {
        path: other.path.clone(),
        found: words(&other.head.bundle),
        first: first.path.clone(),
        expected: words(&first.head.bundle),
    })
}

/// Hashes every member; answers those that are right, by name, and the volumes that have one that is not.
fn hash_everything(
    volumes: &[Volume],
    progress: &dyn Progress,
    verified: &mut Verified,
) -> (HashSet<String>, HashSet<PathBuf>) {
    let work: Vec<(&Volume, usize)> =
        volumes.iter().flat_map(|volume| (0..volume.head.members.len()).map(move |number| (volume, number))).collect();
    let total = volumes.iter().flat_map(|volume| &volume.head.members).map(|member| member.size).sum();
    progress.begin("verify", total);
    let next = AtomicUsize::new(0);
    let shared = Mutex::new((verified, HashSet::new(), HashSet::new()));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut open: Option<(&Path, Result<Medium>)> = None;
                while let Some((volume, number)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Some(member) = volume.head.members.get(*number) else { continue };
                    // One at a time: a bundle may have more volumes than a process may have files.
                    let (_, medium) = match open.take() {
                        Some(same) if same.0 == volume.path => open.insert(same),
                        _ => open.insert((&volume.path, Medium::open(&volume.path))),
                    };
                    let mut hasher = Hasher::sha256();
                    let read = match medium {
                        Ok(medium) => medium.stream(member.offset, member.size, |bytes| {
                            hasher.update(bytes);
                            progress.advance(bytes.len() as u64);
                        }),
                        Err(error) => Err(Error::not_a_volume(&volume.path, error.to_string())),
                    };
                    let is_right = read.is_ok() && hasher.finish() == member.sha256;
                    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    let (verified, good, wrong) = &mut *shared;
                    verified.members += 1;
                    verified.bytes += member.size;
                    verified.bypassed &= matches!(medium, Ok(medium) if medium.past == Past::Bypassed);
                    if is_right {
                        good.insert(member.name.clone());
                    } else {
                        let why = read.err().map_or_else(String::new, |error| format!(": {error}"));
                        verified.damage.push(format!("{}{why}", volume.damage(member)));
                        wrong.insert(volume.path.clone());
                    }
                }
            });
        }
    });
    progress.end();
    let (verified, good, wrong) = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    verified.damage.sort();
    (good, wrong)
}

/// The plan, and the trees with their manifests, from whichever edge volume has them undamaged.
pub(crate) struct Documents {
    pub(crate) plan: Plan,
    pub(crate) trees: Vec<Tree>,
}

/// Reads them; `None`: neither edge volume is there, or whole.
pub(crate) fn documents(volumes: &[Volume]) -> Result<Option<Documents>> {
    for volume in volumes {
        let Some(member) = volume.member(PLAN) else { continue };
        let Ok(bytes) = volume.document(member) else { continue };
        if Digest::of(&bytes) != volume.head.bundle {
            return Err(Error::not_a_volume(&volume.path, "its plan is not the one its head names"));
        }
        let mut plan = plan::read(&bytes, &volume.path)?;
        let (contents, assumptions) = (plan.contents.clone(), plan.assumptions.clone());
        let lines = |name, list| {
            let places = volumes.iter().filter_map(|volume| Some(volume.place(volume.member(name)?.offset)));
            Lines::new(name, list, places.collect())
        };
        let (contents, assumptions) = (lines(CONTENTS, &contents), lines(ASSUMES, &assumptions));
        let read = plan::read_lists(&mut plan, contents, assumptions, &volume.path);
        match read {
            Err(Error::Damaged { .. } | Error::Io { .. }) => return Ok(None),
            other => other?,
        }
        let mut trees = Vec::new();
        for TreeHead { digest, .. } in &plan.trees {
            let name = format!("trees/{}/{}", digest.algorithm().as_str(), digest.hex());
            let found = volumes.iter().find_map(|volume| volume.document(volume.member(&name)?).ok());
            let Some(bytes) = found else { return Ok(None) };
            trees.push(Tree::parse(&bytes, digest)?);
        }
        return Ok(Some(Documents { plan, trees }));
    }
    Ok(None)
}

/// The bytes of a manifest that one of these volumes has.
pub(crate) fn manifest_bytes(volumes: &[Volume], digest: &Digest) -> Option<Vec<u8>> {
    let name = format!("manifests/{}/{}", digest.algorithm().as_str(), digest.hex());
    volumes.iter().find_map(|volume| volume.document(volume.member(&name)?).ok())
}

/// Walks every entry down to its last blob, within what is carried.
fn check_graphs(
    volumes: &[Volume],
    good: &HashSet<String>,
    receipt: Option<&Receipt>,
    verified: &mut Verified,
) -> Result<()> {
    let Some(Documents { plan, trees }) = documents(volumes)? else {
        verified.missing.push(format!(
            "the list of what the bundle holds: it is in the first and in the last of its {} volumes",
            verified.volumes.0
        ));
        return Ok(());
    };
    let present: BTreeSet<usize> = volumes.iter().map(|volume| volume.head.volume as usize).collect();
    // A blob is good when its member is, or all its pieces are.
    let mut whole: BTreeMap<Digest, (u64, u64)> = BTreeMap::new();
    for member in plan.volumes.iter().flatten() {
        let (digest, size) = match (member.what(), &member.part) {
            (Some(What::Blob(digest) | What::Manifest(digest)), _) => (digest, member.size),
            (Some(What::Part(digest)), Some(part)) => (digest, part.size),
            _ => continue,
        };
        let (have, of) = whole.entry(digest).or_insert((0, size));
        if good.contains(&member.name) && *have < *of {
            *have += member.size;
        }
        // Empty blobs have nothing to add.
        if *of == 0 && !good.contains(&member.name) {
            *of = 1;
        }
    }
    let assumed: HashMap<Digest, &Assumed> = plan.assumes.iter().map(|assumed| (assumed.digest, assumed)).collect();
    let is_assumed =
        |digest: &Digest| assumed.contains_key(digest) && receipt.is_none_or(|receipt| receipt.inventory.has(digest));
    verified.assumed = (assumed.len() as u64, assumed.values().map(|assumed| assumed.size).sum());
    let is_here = |digest: &Digest| whole.get(digest).is_some_and(|(have, of)| have == of) || is_assumed(digest);
    let mut needed_by: BTreeMap<Digest, BTreeSet<String>> = BTreeMap::new();
    for tree in &trees {
        let entries = tree.entries.values().map(|entry| (entry.digest, shown(&tree.repository, &entry.name), true));
        // Below a manifest that is assumed nothing can be looked at: what is carried of it is looked at by itself.
        let below = tree.manifests.keys().filter(|_| !assumed.is_empty());
        let below = below.map(|digest| (*digest, shown(&tree.repository, &digest.to_string()), false));
        for (root, shown, is_entry) in entries.chain(below) {
            let mut holes = Vec::new();
            let mut open = vec![root];
            let mut seen = HashSet::new();
            while let Some(digest) = open.pop() {
                if !seen.insert(digest) {
                    continue;
                }
                if !is_here(&digest) {
                    holes.push(digest);
                    continue;
                }
                if is_assumed(&digest) {
                    // What lies below it is in the tree as well, if it is carried; else it is assumed too.
                    continue;
                }
                if let Some(known) = tree.manifests.get(&digest) {
                    let Some(bytes) = manifest_bytes(volumes, &digest) else {
                        holes.push(digest);
                        continue;
                    };
                    match Manifest::parse(&bytes, &known.media_type) {
                        Ok(read) => open.extend(
                            read.links().map(|link| link.digest).filter(|child| !known.omitted.contains(child)),
                        ),
                        Err(error) => verified.damage.push(format!("{shown}: {digest}: {error}")),
                    }
                } else if tree.repository.kind == Kind::Image && digest == root {
                    holes.push(digest);
                }
            }
            if holes.is_empty() && is_entry {
                verified.entries += 1;
            }
            for hole in holes {
                needed_by.entry(hole).or_default().insert(shown.clone());
            }
        }
    }
    for (number, members) in plan.volumes.iter().enumerate().filter(|(number, _)| !present.contains(&(number + 1))) {
        let bytes: u64 = members.iter().map(|member| member.size).sum();
        let holds: BTreeSet<&String> = members
            .iter()
            .filter_map(|member| match member.what()? {
                What::Blob(digest) | What::Part(digest) => needed_by.get(&digest),
                _ => None,
            })
            .flatten()
            .collect();
        let holds: Vec<&str> = holds.into_iter().map(String::as_str).collect();
        let name = volume_name(number + 1, "");
        verified.missing.push(format!("volume {} ({name}), {bytes} bytes, needed by: {}", number + 1, some(&holds)));
    }
    if let Some(receipt) = receipt {
        let lacking = assumed.keys().filter(|digest| !receipt.inventory.has(digest) && !needed_by.contains_key(digest));
        let mut lacking: Vec<String> =
            lacking.map(|digest| format!("{digest}, assumed and not in the receipt")).collect();
        lacking.sort();
        verified.is_beyond |= !lacking.is_empty();
        verified.missing.extend(lacking);
    }
    verified.is_beyond |= needed_by.keys().any(|digest| !whole.contains_key(digest));
    for (digest, entries) in &needed_by {
        let carried_by_missing = plan.volumes.iter().enumerate().any(|(number, members)| {
            !present.contains(&(number + 1))
                && members
                    .iter()
                    .any(|member| matches!(member.what(), Some(What::Blob(d) | What::Part(d)) if d == *digest))
        });
        if !carried_by_missing {
            let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
            verified.missing.push(format!("{digest}, needed by: {}", some(&entries)));
        }
    }
    Ok(())
}

/// An entry as people write it.
pub(crate) fn shown(repository: &Repository, name: &str) -> String {
    match repository.kind {
        Kind::Image if name.contains(':') => format!("{repository}@{name}"),
        Kind::Image => format!("{repository}:{name}"),
        _ => format!("{repository}/{name}"),
    }
}

/// The first few of a list.
pub(crate) fn some(list: &[&str]) -> String {
    match list {
        [] => "nothing that is listed".to_owned(),
        [first @ .., _, _] if list.len() > 6 => {
            let few = first.get(..5).unwrap_or(first);
            format!("{} and {} more", few.join(", "), list.len() - few.len())
        }
        all => all.join(", "),
    }
}
