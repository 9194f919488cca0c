//! The blobs of volumes, hashed on their way into the store; whole ones and pieces.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use artifact::{Digest, Progress};
use store::{Change, NewBlob, Store};

use super::{Loaded, Loading};
use crate::document::{Member, Part, What};
use crate::together::Together;
use crate::volume::Volume;
use crate::{Error, Result};

/// What a worker brings.
enum Brought {
    Blob(NewBlob),
    /// Pieces of a blob that are on disk and durable now, too.
    Pieces(Digest, Vec<(u64, u64)>),
    /// The pieces of a blob were wrong, and are gone.
    NoPieces(Digest),
    Damage(String),
}

impl Loading<'_> {
    /// Brings every blob of these volumes that is wanted and that the store has not.
    pub(super) async fn blobs(
        &self,
        volumes: &Arc<Vec<Volume>>,
        wanted: &(dyn Fn(&Digest) -> bool + Sync),
        loaded: &mut Loaded,
    ) -> Result<()> {
        // Of a million members, where each stands is enough.
        let mut plain: Vec<Spot> = Vec::new();
        let mut cut: BTreeMap<Digest, Vec<(usize, Member, Part)>> = BTreeMap::new();
        let (mut seen, mut here) = (HashSet::new(), Vec::new());
        for (number, volume) in volumes.iter().enumerate() {
            for (index, member) in volume.head.members.iter().enumerate() {
                match (member.what(), &member.part) {
                    (Some(What::Blob(digest) | What::Part(digest)), _) if !wanted(&digest) => {}
                    (Some(What::Blob(digest)), _) if seen.insert(digest) => {
                        if self.store.blob(&digest).await?.is_some() {
                            here.push(digest);
                        } else {
                            plain.push(Spot { volume: number, index });
                        }
                    }
                    (Some(What::Part(digest)), Some(part)) => {
                        let pieces = cut.entry(digest).or_default();
                        if !pieces.iter().any(|(_, known, _)| known.name == member.name) {
                            pieces.push((number, member.clone(), (**part).clone()));
                        }
                    }
                    _ => {}
                }
            }
        }
        let mut work: Vec<Work> = Vec::new();
        for (digest, mut pieces) in cut {
            if self.store.blob(&digest).await?.is_some() {
                here.push(digest);
                continue;
            }
            let Some(size) = pieces.first().map(|(_, _, part)| part.size) else { continue };
            let known = self.pieces(&digest).await?;
            pieces.retain(|(_, member, part)| part.size == size && !covers(&known, part.at, member.size));
            if !pieces.is_empty() || covers(&known, 0, size) {
                work.push(Work::Cut { digest, size, pieces, known });
            }
        }
        loaded.present += here.len() as u64;
        self.store.renew(here).await?;
        // The largest first: the last to finish should be a small one.
        plain.sort_by_key(|spot| std::cmp::Reverse(spot.size(volumes)));
        work.extend(plain.into_iter().map(Work::Plain));
        let total = work.iter().map(|work| work.size(volumes)).sum::<u64>();
        let free = self.store.free_space()?;
        if total > free {
            return Err(Error::NoSpace { path: self.store.folder().to_owned(), needed: total, free });
        }
        self.progress.begin("load", total);
        let (store, volumes, progress) = (self.store.clone(), Arc::clone(volumes), Arc::clone(self.progress));
        // An error is of our own disk, not of the medium.
        let mut together = Together::begin(work, move |work| bring(&store, &volumes, work, progress.as_ref()));
        loop {
            let group = together.group().await;
            if group.is_empty() {
                break;
            }
            let mut change = Change::new();
            let mut whole = Vec::new();
            for one in group {
                match one {
                    Brought::Blob(blob) => {
                        whole.push(*blob.digest());
                        loaded.written.0 += 1;
                        loaded.written.1 += blob.size();
                        change.blob(None, blob);
                    }
                    Brought::Pieces(digest, pieces) => self.add_pieces(&digest, &pieces).await?,
                    Brought::NoPieces(digest) => self.forget_pieces(&digest).await?,
                    Brought::Damage(damage) => loaded.damage.push(damage),
                }
            }
            self.store.apply(change).await?;
            // Only now are the pieces of a cut blob needed no more.
            for digest in whole {
                if !self.pieces(&digest).await?.is_empty() {
                    self.forget_pieces(&digest).await?;
                }
            }
        }
        self.progress.end();
        loaded.damage.sort();
        together.end()
    }

    /// Which pieces of a cut blob are on disk already: offset and length.
    pub(super) async fn pieces(&self, digest: &Digest) -> Result<Vec<(u64, u64)>> {
        let bytes = self.store.document(&format!("pieces/{}", digest.hex())).await?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
    }

    /// Another load may bring other pieces of the same blob meanwhile.
    async fn add_pieces(&self, digest: &Digest, brought: &[(u64, u64)]) -> Result<()> {
        let add = |there: Option<Vec<u8>>| {
            let known = there.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let mut pieces: BTreeSet<(u64, u64)> = known.unwrap_or_default();
            pieces.extend(brought);
            (!pieces.is_empty()).then(|| serde_json::to_vec(&pieces).unwrap_or_default())
        };
        Ok(self.store.revise_document(&format!("pieces/{}", digest.hex()), add).await?)
    }

    async fn forget_pieces(&self, digest: &Digest) -> Result<()> {
        Ok(self.store.set_document(&format!("pieces/{}", digest.hex()), None).await?)
    }
}

/// Where a member stands: in which volume, and where in its list.
#[derive(Clone, Copy)]
struct Spot {
    volume: usize,
    index: usize,
}

impl Spot {
    fn member(self, volumes: &[Volume]) -> Option<&Member> {
        volumes.get(self.volume)?.head.members.get(self.index)
    }

    fn size(self, volumes: &[Volume]) -> u64 {
        self.member(volumes).map_or(0, |member| member.size)
    }
}

/// One thing for a worker to bring.
enum Work {
    Plain(Spot),
    /// Pieces of a blob of `size` bytes to bring, and those that are on disk.
    Cut {
        digest: Digest,
        size: u64,
        pieces: Vec<(usize, Member, Part)>,
        known: Vec<(u64, u64)>,
    },
}

impl Work {
    fn size(&self, volumes: &[Volume]) -> u64 {
        match self {
            Self::Plain(spot) => spot.size(volumes),
            Self::Cut { pieces, .. } => pieces.iter().map(|(_, member, _)| member.size).sum(),
        }
    }
}

/// Brings one blob, or what pieces there are of one. A damaged member is an answer; only our own disk is an error.
fn bring(store: &Store, volumes: &[Volume], work: &Work, progress: &dyn Progress) -> Result<Vec<Brought>> {
    match work {
        Work::Plain(spot) => {
            let Some(member) = spot.member(volumes) else { return Ok(Vec::new()) };
            let Some(What::Blob(digest)) = member.what() else { return Ok(Vec::new()) };
            let mut blob = None;
            let damage = from_a_copy(volumes, spot.volume, member, progress, |volume, member| {
                let mut writer = store.writer(Some(&digest))?;
                let is_right = volume.stream(member, |_, bytes| {
                    progress.advance(bytes.len() as u64);
                    Ok(writer.write(bytes)?)
                })?;
                if is_right {
                    blob = match writer.finish() {
                        Err(store::Error::Mismatch { .. }) => None,
                        finished => Some(finished?),
                    };
                }
                Ok(blob.is_some())
            })?;
            Ok(blob.map(Brought::Blob).into_iter().chain(damage.into_iter().map(Brought::Damage)).collect())
        }
        Work::Cut { digest, size, pieces, known } => {
            let mut patchwork = store.patchwork(digest, *size)?;
            let (mut brought, mut fresh) = (Vec::new(), Vec::new());
            for (number, member, part) in pieces {
                let damage = from_a_copy(volumes, *number, member, progress, |volume, member| {
                    volume.stream(member, |at, bytes| {
                        progress.advance(bytes.len() as u64);
                        Ok(patchwork.write_at(part.at + at, bytes)?)
                    })
                })?;
                if damage.is_empty() {
                    fresh.push((part.at, member.size));
                }
                brought.extend(damage.into_iter().map(Brought::Damage));
            }
            if covers(&[known.as_slice(), fresh.as_slice()].concat(), 0, *size) {
                match patchwork.finish() {
                    Ok(blob) => brought.push(Brought::Blob(blob)),
                    Err(store::Error::Mismatch { .. }) => {
                        brought.push(Brought::NoPieces(*digest));
                        brought.push(Brought::Damage(format!("the pieces of {digest} do not make it")));
                    }
                    Err(error) => return Err(error.into()),
                }
            } else {
                patchwork.keep()?;
                brought.push(Brought::Pieces(*digest, fresh));
            }
            Ok(brought)
        }
    }
}

/// Takes a member from the first volume that has it undamaged: somebody may have brought two copies of one. Answers
/// where it is damaged, if it is in all of them; an error is of our own disk, not of a medium.
fn from_a_copy(
    volumes: &[Volume],
    number: usize,
    member: &Member,
    progress: &dyn Progress,
    mut take: impl FnMut(&Volume, &Member) -> Result<bool>,
) -> Result<Vec<String>> {
    let mut damage = Vec::new();
    for volume in volumes.iter().skip(number) {
        let Some(copy) = volume.member(&member.name) else { continue };
        match take(volume, copy) {
            Ok(true) => {
                for damage in damage {
                    progress.warn(&format!("{damage}; {} has it right", volume.path.display()));
                }
                return Ok(Vec::new());
            }
            Ok(false) => damage.push(volume.damage(copy)),
            Err(error @ Error::Store(_)) => return Err(error),
            Err(error) => damage.push(format!("{}: {error}", volume.damage(copy))),
        }
    }
    Ok(damage)
}

/// Whether these ranges (offset, length) cover `length` bytes from `at`.
pub(super) fn covers(ranges: &[(u64, u64)], at: u64, length: u64) -> bool {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let end = at.saturating_add(length);
    let mut reached = at;
    for (from, length) in sorted {
        if from <= reached {
            reached = reached.max(from.saturating_add(length));
        }
    }
    reached >= end
}
