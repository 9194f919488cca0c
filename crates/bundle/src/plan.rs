//! The layout of a bundle, made before a byte is written: which member lies in which volume, and where.

use artifact::Digest;

use crate::document::{
    ASSUMES, Assumed, CONTENTS, Content, DOCUMENT_LIMIT, FORMAT, HEAD, LIST_LIMIT, MEMBERS, Member, PLAN, Part, Plan,
    SIGNATURE, Share, TreeHead, VolumeHead, What,
};
use crate::lines::{self, Lines, List};
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
    /// `members.jsonl`.
    pub(crate) list: Vec<u8>,
    pub(crate) items: Vec<Item>,
    /// The whole file's bytes.
    pub(crate) size: u64,
}

/// A bundle, laid out.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) id: Digest,
    pub(crate) volumes: Vec<LaidVolume>,
    /// What is left out of it.
    pub(crate) assumes: Vec<Assumed>,
}

/// What a layout is made of.
pub(crate) struct Cargo<'a> {
    pub(crate) trees: Vec<TreeHead>,
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
pub(crate) fn lay(
    mut cargo: Cargo<'_>,
    mut hash: impl FnMut(&store::Blob, u64, u64) -> Result<Digest>,
) -> Result<Layout> {
    let documents: u64 = cargo.documents.iter().map(|item| cost(&item.member)).sum();
    // Documents lie in two volumes.
    let lines = |items: &[Item]| items.iter().map(|item| json_bound(&item.member)).sum::<u64>();
    let mut contents_bound = 2 * lines(&cargo.documents) + lines(&cargo.blobs);
    // Each volume adds at most one piece of the blob that is cut at its end, and one at its beginning.
    let bodies: u64 = cargo.blobs.iter().map(|item| item.member.size).sum();
    let most = cargo.limit.map_or(1, |limit| bodies / (limit / 2) + 2);
    contents_bound += most * 2 * 512;
    let assumes_bound = cargo.assumes.len() as u64 * ASSUMED_BOUND;
    let lists_bound = List::json_bound(contents_bound) + List::json_bound(assumes_bound);
    let plan_bound = HEAD_BOUND + json(&cargo.trees).len() as u64 + lists_bound + most * 64;
    let document =
        |name: &str, size: u64| tar::header_bound(name, size) + tar::padded(size) + json_bound_of(name.len());
    let reserved =
        documents + document(PLAN, plan_bound) + document(CONTENTS, contents_bound) + document(ASSUMES, assumes_bound);
    // There may be a million of them: each is in one place only.
    let blobs = std::mem::take(&mut cargo.blobs);
    let mut volumes = place(&cargo, blobs, reserved)?;
    for item in volumes.iter_mut().flatten() {
        if let (Some(_), Source::Blob(blob, from)) = (&item.member.part, &item.source) {
            item.member.sha256 = hash(blob, *from, item.member.size)?;
        }
    }
    let last = volumes.len() - 1;
    for (number, items) in volumes.iter_mut().enumerate() {
        if number == 0 || number == last {
            items.splice(0..0, cargo.documents.iter().cloned());
        }
    }
    for items in &mut volumes {
        items.sort_by(|one, other| one.member.order().cmp(&other.member.order()));
    }
    let (plan, lists) = plan_of(&volumes, &cargo);
    let id = Digest::of(&plan);
    let own = [(PLAN, plan)].into_iter().chain(lists).map(|(name, bytes)| {
        let (size, sha256) = (bytes.len() as u64, Digest::of(&bytes));
        let member = Member { name: name.to_owned(), size, offset: 0, sha256, part: None };
        Item { member, source: Source::Bytes(bytes.into()) }
    });
    let own: Vec<Item> = own.collect();
    let of = u32::try_from(volumes.len()).unwrap_or(u32::MAX);
    let mut laid = Vec::with_capacity(volumes.len());
    for (number, mut items) in (1_u32..).zip(volumes) {
        if number == 1 || number == of {
            items.splice(0..0, own.iter().cloned());
        }
        laid.push(settle(id, number, of, items, &cargo)?);
    }
    Ok(Layout { id, volumes: laid, assumes: cargo.assumes })
}

/// The plan, `bundle.json`, and its lists: `bundle.jsonl`, and for a difference `assumes.jsonl`.
fn plan_of(volumes: &[Vec<Item>], cargo: &Cargo<'_>) -> (Vec<u8>, Vec<(&'static str, Vec<u8>)>) {
    let share = |items: &Vec<Item>| {
        let is_blob = |item: &&Item| matches!(item.member.what(), Some(What::Blob(_) | What::Part(_)));
        let sizes = items.iter().filter(is_blob).map(|item| item.member.size);
        Share { blobs: sizes.clone().count() as u64, bytes: sizes.sum() }
    };
    let numbered = (1_u32..).zip(volumes);
    let mut contents: Vec<(u32, &Member)> =
        numbered.flat_map(|(volume, items)| items.iter().map(move |item| (volume, &item.member))).collect();
    contents.sort_by(|(one_volume, one), (other_volume, other)| {
        one.order().cmp(&other.order()).then(one_volume.cmp(other_volume))
    });
    let contents = contents.into_iter().map(|(volume, member)| Content { volume, member: member.clone() });
    let (contents, assumptions) = (lines::to_bytes(contents), lines::to_bytes(&cargo.assumes));
    let plan = Plan {
        format: FORMAT,
        reader: FORMAT,
        trees: cargo.trees.clone(),
        shares: volumes.iter().map(share).collect(),
        contents: List::of(&contents),
        assumptions: List::of(&assumptions),
        // What the lists say is not written here.
        volumes: Vec::new(),
        assumes: Vec::new(),
    };
    let mut lists = vec![(CONTENTS, contents)];
    if !assumptions.is_empty() {
        lists.push((ASSUMES, assumptions));
    }
    (json(&plan), lists)
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
        list: List::default(),
        members: Vec::new(),
    };
    for item in items.iter().filter(|item| matches!(item.source, Source::Bytes(_))) {
        let Member { name, size, .. } = &item.member;
        let limit = if name.starts_with("trees/") || [CONTENTS, ASSUMES].contains(&name.as_str()) {
            LIST_LIMIT
        } else {
            DOCUMENT_LIMIT
        };
        if *size > limit {
            let why = format!("its `{name}` would have {size} bytes, and may have {limit}; pack less at a time");
            return Err(Error::VolumeSize { size: cargo.limit.unwrap_or(u64::MAX), why });
        }
    }
    let comment = format!("bundle {} volume {number} of {of}", id.hex());
    let signature_size = cargo.key.sign(b"", &comment).to_text().len() as u64;
    // Members lie after their list, whose length depends on the digits of where they lie. A longer list moves them
    // further back and never forward, so this comes to rest after a few rounds.
    let (mut list, mut at) = (Vec::new(), 0);
    let mut settled = false;
    while !settled {
        head.list = List::blank(list.len() as u64);
        at = 0;
        for (name, size) in
            [(HEAD, json(&head).len() as u64), (SIGNATURE, signature_size), (MEMBERS, list.len() as u64)]
        {
            at += tar::header(name, size, at).len() as u64 + tar::padded(size);
        }
        for item in &mut items {
            at += tar::header(&item.member.name, item.member.size, at).len() as u64;
            item.member.offset = at;
            at += tar::padded(item.member.size);
        }
        let before = list.len();
        list = lines::to_bytes(items.iter().map(|item| &item.member));
        settled = list.len() == before;
    }
    head.list = List::of(&list);
    let size = at + tar::END;
    if let Some(limit) = cargo.limit.filter(|limit| size > *limit) {
        let why = format!("volume {number} would have {size} bytes");
        return Err(Error::VolumeSize { size: limit, why });
    }
    let bytes = json(&head);
    let signature = cargo.key.sign(&bytes, &comment).to_text().into_bytes();
    Ok(LaidVolume { name: volume_name(number as usize, cargo.suffix), head: bytes, signature, list, items, size })
}

/// Which blob goes into which volume; `reserved` bytes stay free in the first and in the last.
fn place(cargo: &Cargo<'_>, blobs: Vec<Item>, reserved: u64) -> Result<Vec<Vec<Item>>> {
    let Some(limit) = cargo.limit else { return Ok(vec![blobs]) };
    let headers = tar::header_bound(HEAD, limit) + tar::header_bound(SIGNATURE, 0) + tar::header_bound(MEMBERS, limit);
    let fixed = headers + HEAD_BOUND + 1024 + tar::END + 2 * 512;
    let room = limit.saturating_sub(fixed);
    if reserved.saturating_add(LEAST_PIECE) > room {
        let why = format!("the bundle's own lists and manifests have {reserved} bytes, and must fit into one volume");
        return Err(Error::VolumeSize { size: limit, why });
    }
    let mut volumes: Vec<(u64, Vec<Item>)> = vec![(room - reserved, Vec::new())];
    let mut full = 0;
    for item in blobs {
        let needed = cost(&item.member);
        if needed <= room {
            let fitting = volumes.iter().skip(full).position(|(free, _)| *free >= needed);
            let number = fitting.map_or(volumes.len(), |position| position + full);
            if number == volumes.len() {
                volumes.push((room, Vec::new()));
            }
            if let Some((free, items)) = volumes.get_mut(number) {
                *free -= needed;
                items.push(item);
            }
            while volumes.get(full).is_some_and(|(free, _)| *free < 4096) {
                full += 1;
            }
        } else {
            cut(&item, room, &mut volumes);
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
        let overhead = tar::header_bound(&name(at), blob.size) + json_bound_of(name(at).len()) + PIECE_BOUND + 512;
        let usable = volumes.last().map_or(0, |(free, _)| free.saturating_sub(overhead));
        if usable < LEAST_PIECE {
            volumes.push((room, Vec::new()));
            continue;
        }
        let size = (blob.size - at).min(usable / LEAST_PIECE * LEAST_PIECE);
        let part = Part { of: blob.digest, at, size: blob.size };
        let member = Member { name: name(at), size, offset: 0, sha256: blob.digest, part: Some(Box::new(part)) };
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

/// The bytes of its line in a list, at most.
fn json_bound(member: &Member) -> u64 {
    // A piece's line says which blob it is of, too.
    json_bound_of(member.name.len()) + if member.part.is_some() { PIECE_BOUND } else { 0 }
}

/// What a piece's line has more than others: keys, a digest of any kind, two numbers.
const PIECE_BOUND: u64 = 32 + 135 + 2 * 20;

fn json_bound_of(name: usize) -> u64 {
    // Keys and punctuation, a sha256, three numbers; and its part of the hashes of the list's pages.
    let line = name as u64 + 64 + 71 + 3 * 20;
    line + line / 128
}

fn json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    // Our documents have string keys only: they always serialise.
    serde_json::to_vec(value).unwrap_or_default()
}

/// Reads a plan from outside; what its list says is not read yet.
pub(crate) fn read(bytes: &[u8], path: &std::path::Path) -> Result<Plan> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::not_a_volume(path, format!("its plan cannot be read: {error}")))
}

/// Reads what a plan's lists say.
pub(crate) fn read_lists(
    plan: &mut Plan,
    contents: Lines<'_>,
    assumptions: Lines<'_>,
    path: &std::path::Path,
) -> Result<()> {
    let mut volumes = vec![Vec::new(); plan.shares.len()];
    for content in contents.all::<Content>()? {
        let Content { volume, member } = content?;
        let wrong = || Error::not_a_volume(path, "its plan names what is no member, or no volume");
        let members = usize::try_from(volume).ok().and_then(|volume| volumes.get_mut(volume.checked_sub(1)?));
        members.filter(|_| member.what().is_some()).ok_or_else(wrong)?.push(member);
    }
    plan.volumes = volumes;
    plan.assumes = assumptions.all()?.collect::<Result<_>>()?;
    Ok(())
}

/// Reads a head from outside, and the key that it says signed it.
pub(crate) fn read_head(bytes: &[u8], path: &std::path::Path) -> Result<(VolumeHead, PublicKey)> {
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
    if head.volume == 0 || head.volume > head.of {
        let why = format!("it says to be volume {} of {}", head.volume, head.of);
        return Err(Error::not_a_volume(path, why));
    }
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
            let cargo = || Cargo { trees: vec![], documents: documents.clone(), blobs: blobs.clone(), assumes: vec![], limit,
                suffix: ".tar", key: &key };
            let layout = lay(cargo(), |blob, at, _| Ok(Digest::of(format!("{} {at}", blob.digest).as_bytes()))).unwrap();
            let mut whole = std::collections::HashMap::<Digest, u64>::new();
            for (number, volume) in layout.volumes.iter().enumerate() {
                assert!(limit.is_none_or(|limit| volume.size <= limit), "{} > {limit:?}", volume.size);
                let (mut head, _) = read_head(&volume.head, std::path::Path::new("v")).unwrap();
                assert_eq!(head.list, List::of(&volume.list));
                head.members = volume.list.split_inclusive(|byte| *byte == b'\n')
                    .map(|line| serde_json::from_slice(line).unwrap()).collect();
                head.check(volume.size).unwrap();
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
            let again = lay(cargo(), |blob, at, _| Ok(Digest::of(format!("{} {at}", blob.digest).as_bytes()))).unwrap();
            assert_eq!(again.id, layout.id);
        }
    }
}
