//! The layout of a bundle, made before a byte is written: which member lies in which volume, and where.

use artifact::Digest;

use crate::document::{Assumed, DOCUMENT_LIMIT, FORMAT, HEAD, Member, PLAN, Part, Plan, SIGNATURE, VolumeHead};
use crate::sign::PublicKey;
use crate::{Error, Result, SecretKey, tar, volume_name};

/// The least that `--volume-size` takes, in bytes.
pub(crate) const LEAST: u64 = 10 << 20;
/// A cut blob's pieces have at least so many bytes, but for its last.
const LEAST_PIECE: u64 = 1 << 20;
/// What one thing that is assumed has in the plan's JSON: keys, a digest, a number.
const ASSUMED_BOUND: u64 = 50 + 136 + 20;
/// What a head's JSON has beside its members.
const HEAD_BOUND: u64 = 1024;

/// Where a member's bytes come from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// From memory: a tree, a manifest, the plan.
    Bytes(bytes::Bytes),
    /// From the store, beginning at that byte.
    Blob(store::Blob, u64),
}

/// A member with its source.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) member: Member,
    pub(crate) source: Source,
}

/// A volume, laid out to the byte.
#[derive(Debug)]
pub(crate) struct LaidVolume {
    pub(crate) name: String,
    pub(crate) head: Vec<u8>,
    pub(crate) signature: Vec<u8>,
    pub(crate) items: Vec<Item>,
    /// The whole file's bytes.
    pub(crate) size: u64,
}

/// A bundle, laid out.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) id: Digest,
    pub(crate) plan: Plan,
    pub(crate) volumes: Vec<LaidVolume>,
}

/// What a layout is made of.
pub(crate) struct Cargo<'a> {
    pub(crate) trees: Vec<Digest>,
    /// Trees and manifests: they lie in the first and in the last volume.
    pub(crate) documents: Vec<Item>,
    /// Blobs, in the order in which they are wanted.
    pub(crate) blobs: Vec<Item>,
    /// What is left out, because it is there already.
    pub(crate) assumes: Vec<Assumed>,
    pub(crate) limit: Option<u64>,
    pub(crate) suffix: &'a str,
    pub(crate) key: &'a SecretKey,
}

/// Lays a bundle out. `hash` answers the sha256 of a piece of a blob.
pub(crate) fn lay(cargo: &Cargo<'_>, mut hash: impl FnMut(&store::Blob, u64, u64) -> Result<Digest>) -> Result<Layout> {
    let documents: u64 = cargo.documents.iter().map(|item| cost(&item.member)).sum();
    let mut plan_bound = HEAD_BOUND + cargo.trees.len() as u64 * 80 + cargo.assumes.len() as u64 * ASSUMED_BOUND;
    plan_bound += cargo.documents.iter().chain(&cargo.blobs).map(|item| 2 * json_bound(&item.member)).sum::<u64>();
    // Each volume adds at most one piece of the blob that is cut at its end, and one at its beginning.
    let bodies: u64 = cargo.blobs.iter().map(|item| item.member.size).sum();
    if let Some(limit) = cargo.limit {
        plan_bound += (bodies / (limit / 2) + 2) * 2 * 512;
    }
    let reserved =
        documents + tar::header_bound(PLAN, plan_bound) + tar::padded(plan_bound) + json_bound_of(PLAN.len());
    let placed = place(cargo, reserved)?;
    let mut volumes = Vec::with_capacity(placed.len());
    for items in placed {
        let mut hashed = Vec::with_capacity(items.len());
        for mut item in items {
            if let (Some(_), Source::Blob(blob, from)) = (&item.member.part, &item.source) {
                item.member.sha256 = hash(blob, *from, item.member.size)?;
            }
            hashed.push(item);
        }
        volumes.push(hashed);
    }
    let last = volumes.len() - 1;
    for (number, items) in volumes.iter_mut().enumerate() {
        if number == 0 || number == last {
            items.splice(0..0, cargo.documents.iter().cloned());
        }
    }
    let members = |items: &Vec<Item>| items.iter().map(|item| item.member.clone()).collect::<Vec<_>>();
    let plan = Plan {
        format: FORMAT,
        reader: FORMAT,
        trees: cargo.trees.clone(),
        volumes: volumes.iter().map(members).collect(),
        assumes: cargo.assumes.clone(),
    };
    let bytes: bytes::Bytes = json(&plan).into();
    let id = Digest::of(&bytes);
    let of = u32::try_from(volumes.len()).unwrap_or(u32::MAX);
    let mut laid = Vec::with_capacity(volumes.len());
    for (number, mut items) in volumes.into_iter().enumerate() {
        if number == 0 || number == last {
            let member = Member { name: PLAN.to_owned(), size: bytes.len() as u64, offset: 0, sha256: id, part: None };
            items.insert(0, Item { member, source: Source::Bytes(bytes.clone()) });
        }
        laid.push(settle(id, u32::try_from(number + 1).unwrap_or(u32::MAX), of, items, cargo)?);
    }
    Ok(Layout { id, plan, volumes: laid })
}

/// Gives every member its offset, and makes the head and its signature.
fn settle(id: Digest, number: u32, of: u32, mut items: Vec<Item>, cargo: &Cargo<'_>) -> Result<LaidVolume> {
    let mut head = VolumeHead {
        format: FORMAT,
        reader: FORMAT,
        bundle: id,
        volume: number,
        of,
        key: cargo.key.public().to_line(),
        members: items.iter().map(|item| Member { offset: 10_u64.pow(14), ..item.member.clone() }).collect(),
    };
    // Offsets lie after the head, whose length depends on their digits: it gets room for long ones, and is filled up.
    let room = json(&head).len();
    let largest =
        items.iter().filter(|item| matches!(item.source, Source::Bytes(_))).map(|item| item.member.size).max();
    let largest = largest.unwrap_or_default().max(room as u64);
    if largest > DOCUMENT_LIMIT {
        let why = format!(
            "a list of {largest} bytes would be needed, and none may have over {DOCUMENT_LIMIT}; pack less at a time"
        );
        return Err(Error::VolumeSize { size: cargo.limit.unwrap_or(u64::MAX), why });
    }
    let comment = format!("bundle {} volume {number} of {of}", id.hex());
    let signature_size = cargo.key.sign(b"", &comment).to_text().len() as u64;
    let mut at = tar::header(HEAD, room as u64, 0).len() as u64 + tar::padded(room as u64);
    at += tar::header(SIGNATURE, signature_size, at).len() as u64 + tar::padded(signature_size);
    for (item, member) in items.iter_mut().zip(&mut head.members) {
        at += tar::header(&item.member.name, item.member.size, at).len() as u64;
        (item.member.offset, member.offset) = (at, at);
        at += tar::padded(item.member.size);
    }
    let size = at + tar::END;
    if let Some(limit) = cargo.limit.filter(|limit| size > *limit) {
        let why = format!("volume {number} would have {size} bytes");
        return Err(Error::VolumeSize { size: limit, why });
    }
    let mut bytes = json(&head);
    bytes.resize(room, b' ');
    if let Some(last) = bytes.last_mut().filter(|last| **last == b' ') {
        *last = b'\n';
    }
    let signature = cargo.key.sign(&bytes, &comment).to_text().into_bytes();
    Ok(LaidVolume { name: volume_name(number as usize, cargo.suffix), head: bytes, signature, items, size })
}

/// Which blob goes into which volume; `reserved` bytes stay free in the first and in the last.
fn place(cargo: &Cargo<'_>, reserved: u64) -> Result<Vec<Vec<Item>>> {
    let Some(limit) = cargo.limit else { return Ok(vec![cargo.blobs.clone()]) };
    let fixed = tar::header_bound(HEAD, limit) + HEAD_BOUND + tar::header_bound(SIGNATURE, 0) + 1024 + tar::END + 512;
    let room = limit.saturating_sub(fixed);
    if reserved.saturating_add(LEAST_PIECE) > room {
        let why = format!("the bundle's own lists and manifests have {reserved} bytes, and must fit into one volume");
        return Err(Error::VolumeSize { size: limit, why });
    }
    let mut volumes: Vec<(u64, Vec<Item>)> = vec![(room - reserved, Vec::new())];
    let mut full = 0;
    for item in &cargo.blobs {
        let needed = cost(&item.member);
        if needed <= room {
            let fitting = volumes.iter().skip(full).position(|(free, _)| *free >= needed);
            let number = fitting.map_or(volumes.len(), |position| position + full);
            if number == volumes.len() {
                volumes.push((room, Vec::new()));
            }
            if let Some((free, items)) = volumes.get_mut(number) {
                *free -= needed;
                items.push(item.clone());
            }
            while volumes.get(full).is_some_and(|(free, _)| *free < 4096) {
                full += 1;
            }
        } else {
            cut(item, room, &mut volumes);
        }
    }
    if volumes.len() > 1 && volumes.last().is_some_and(|(free, _)| *free < reserved) {
        volumes.push((room - reserved, Vec::new()));
    }
    Ok(volumes.into_iter().map(|(_, items)| items).collect())
}

/// Cuts a blob that is larger than a volume, beginning in what is left of the last one.
fn cut(item: &Item, room: u64, volumes: &mut Vec<(u64, Vec<Item>)>) {
    let Source::Blob(blob, _) = &item.source else { return };
    let mut at = 0;
    while at < blob.size {
        let name = |at: u64| format!("parts/{}/{}/{at:013}", blob.digest.algorithm().as_str(), blob.digest.hex());
        let overhead = tar::header_bound(&name(at), blob.size) + json_bound_of(name(at).len()) + 512;
        let usable = volumes.last().map_or(0, |(free, _)| free.saturating_sub(overhead));
        if usable < LEAST_PIECE {
            volumes.push((room, Vec::new()));
            continue;
        }
        let size = (blob.size - at).min(usable / LEAST_PIECE * LEAST_PIECE);
        let part = Part { of: blob.digest, at, size: blob.size };
        let member = Member { name: name(at), size, offset: 0, sha256: blob.digest, part: Some(part) };
        let needed = cost(&member);
        if let Some((free, items)) = volumes.last_mut() {
            *free = free.saturating_sub(needed);
            items.push(Item { member, source: Source::Blob(blob.clone(), at) });
        }
        at += size;
    }
}

/// What a member takes of a volume at most, its line in the head included.
fn cost(member: &Member) -> u64 {
    tar::header_bound(&member.name, member.size) + tar::padded(member.size) + json_bound(member)
}

fn json_bound(member: &Member) -> u64 {
    json_bound_of(member.name.len())
}

fn json_bound_of(name: usize) -> u64 {
    // Keys and punctuation, two digests, four numbers of twenty digits.
    name as u64 + 110 + 2 * 136 + 80
}

fn json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    // Our documents have string keys only: they always serialise.
    serde_json::to_vec(value).unwrap_or_default()
}

/// Reads a plan from outside.
pub(crate) fn read(bytes: &[u8], path: &std::path::Path) -> Result<Plan> {
    let plan: Plan = serde_json::from_slice(bytes)
        .map_err(|error| Error::not_a_volume(path, format!("its plan cannot be read: {error}")))?;
    let is_right = plan.volumes.iter().flatten().all(|member| member.what().is_some());
    if is_right { Ok(plan) } else { Err(Error::not_a_volume(path, "its plan names what is no member")) }
}

/// Reads a head from outside, and the key that it says signed it.
pub(crate) fn read_head(bytes: &[u8], path: &std::path::Path, size: u64) -> Result<(VolumeHead, PublicKey)> {
    #[derive(serde::Deserialize)]
    struct Reader {
        reader: u32,
    }
    let unreadable = |error: serde_json::Error| Error::not_a_volume(path, format!("its head cannot be read: {error}"));
    // First only what says whether we may go on: a newer format may have other members.
    let Reader { reader } = serde_json::from_slice(bytes).map_err(unreadable)?;
    if reader > FORMAT {
        return Err(Error::Newer { path: path.to_owned(), needed: reader, known: FORMAT });
    }
    let head: VolumeHead = serde_json::from_slice(bytes).map_err(unreadable)?;
    head.check(size).map_err(|why| Error::not_a_volume(path, why))?;
    let key = PublicKey::parse(&head.key, "the key in its head")
        .map_err(|error| Error::Signature { path: path.to_owned(), why: error.to_string() })?;
    Ok((head, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(n: u64, size: u64) -> Item {
        let digest = Digest::of(&n.to_be_bytes());
        let member =
            Member { name: format!("blobs/sha256/{}", digest.hex()), size, offset: 0, sha256: digest, part: None };
        Item { member, source: Source::Blob(store::Blob { digest, size, key: String::new() }, 0) }
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(64))]
        #[test]
        fn everything_lies_once_and_no_volume_is_too_large(
            sizes in proptest::collection::vec(0_u64..60 << 20, 0..40),
            limit in proptest::option::of(LEAST..40 << 20),
            documents in 0_usize..20,
        ) {
            let key = SecretKey::from_seed(&[1; 32]).unwrap();
            let blobs: Vec<Item> = sizes.iter().enumerate().map(|(n, size)| item(n as u64, *size)).collect();
            let documents: Vec<Item> = (0..documents).map(|n| {
                let bytes = bytes::Bytes::from(vec![b'x'; n * 1000]);
                let digest = Digest::of(&bytes);
                let member = Member { name: format!("manifests/sha256/{}", digest.hex()), size: bytes.len() as u64,
                    offset: 0, sha256: digest, part: None };
                Item { member, source: Source::Bytes(bytes) }
            }).collect();
            let cargo = Cargo { trees: vec![], documents: documents.clone(), blobs, assumes: vec![], limit, suffix: ".tar",
                key: &key };
            let layout = lay(&cargo, |blob, at, _| Ok(Digest::of(format!("{} {at}", blob.digest).as_bytes()))).unwrap();
            let mut whole = std::collections::HashMap::<Digest, u64>::new();
            for (number, volume) in layout.volumes.iter().enumerate() {
                assert!(limit.is_none_or(|limit| volume.size <= limit), "{} > {limit:?}", volume.size);
                let (head, _) = read_head(&volume.head, std::path::Path::new("v"), volume.size).unwrap();
                assert_eq!(head.members.len(), volume.items.len());
                let edge = number == 0 || number + 1 == layout.volumes.len();
                let plans = volume.items.iter().filter(|item| item.member.name == PLAN).count();
                assert_eq!(plans, usize::from(edge));
                for item in &volume.items {
                    if let Source::Blob(blob, _) = &item.source {
                        *whole.entry(blob.digest).or_default() += item.member.size;
                    }
                }
            }
            for (n, size) in sizes.iter().enumerate() {
                assert_eq!(whole.get(&Digest::of(&(n as u64).to_be_bytes())).copied(), Some(*size));
            }
            // No clock, no chance.
            let again = lay(&cargo, |blob, at, _| Ok(Digest::of(format!("{} {at}", blob.digest).as_bytes()))).unwrap();
            assert_eq!(again.id, layout.id);
        }
    }
}
