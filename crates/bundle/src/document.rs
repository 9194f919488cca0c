//! The documents of a bundle: the plan, and each volume's head. They come from outside and are checked as such.

use artifact::{Digest, Repository};
use serde::{Deserialize, Serialize};

use crate::lines::List;

/// The format that this binary writes, and the newest it reads.
pub(crate) const FORMAT: u32 = 1;
/// A head, a plan or a manifest may have so many bytes.
pub(crate) const DOCUMENT_LIMIT: u64 = 64 << 20;
/// A list or a tree may have so many: some millions of lines.
pub(crate) const LIST_LIMIT: u64 = 2 << 30;
/// The name of a volume's head.
pub(crate) const HEAD: &str = "volume.json";
/// The name of its signature.
pub(crate) const SIGNATURE: &str = "volume.json.minisig";
/// The name of the list of a volume's members.
pub(crate) const MEMBERS: &str = "members.jsonl";
/// The name of the plan.
pub(crate) const PLAN: &str = "bundle.json";
/// The name of the list of all volumes' members.
pub(crate) const CONTENTS: &str = "bundle.jsonl";

/// The name of the list of what is assumed to be there already.
pub(crate) const ASSUMES: &str = "assumes.jsonl";

/// A file in a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name: plain lower-case ASCII.
    pub name: String,
    /// Its bytes.
    pub size: u64,
    /// Where its bytes begin in the volume; not in the plan.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub offset: u64,
    /// Of its bytes.
    pub sha256: Digest,
    /// When it is a piece of a blob. Hardly any is, and there may be a million members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Box<Part>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Which piece of which blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The whole blob.
    pub of: Digest,
    /// Where in it this piece begins.
    pub at: u64,
    /// The whole blob's bytes.
    pub size: u64,
}

/// `bundle.json`: the plan of all volumes. Its sha256 is the bundle's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The format it is written in.
    pub format: u32,
    /// The oldest format whose reader can read it.
    pub reader: u32,
    /// The trees, in the order of their repositories.
    pub trees: Vec<TreeHead>,
    /// How many volumes there are, and how much each holds.
    pub shares: Vec<Share>,
    /// `bundle.jsonl`: every member with its volume, sorted as [`Member::order`] has it.
    pub contents: List,
    /// Each volume's members, those of its head and this document left out: what `bundle.jsonl` says.
    #[serde(skip)]
    pub volumes: Vec<Vec<Member>>,
    /// `assumes.jsonl`: what is needed and not carried, by digest. A difference leaves out what its sites have.
    #[serde(rename = "assumes", default, skip_serializing_if = "List::is_empty")]
    pub assumptions: List,
    /// What that list says.
    #[serde(skip)]
    pub assumes: Vec<Assumed>,
}

/// A thing that a difference takes to be there already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assumed {
    /// The thing.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Whether it is a manifest; else a blob.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub manifest: bool,
}

/// A repository's tree, as the plan names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeHead {
    /// Whose it is.
    pub repository: Repository,
    /// The whole tree's sha256.
    pub digest: Digest,
    /// How many manifests it lists.
    pub manifests: u64,
    /// How many entries.
    pub entries: u64,
    /// The tree, page by page.
    pub list: List,
}

/// What one volume holds, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Blobs, and pieces of blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A line of `bundle.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Content {
    /// The volume that has it, from 1.
    pub(crate) volume: u32,
    pub(crate) member: Member,
}

/// `volume.json`: what is in this volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeHead {
    /// The format it is written in.
    pub format: u32,
    /// The oldest format whose reader can read it.
    pub reader: u32,
    /// The bundle's id: the sha256 of its plan.
    pub bundle: Digest,
    /// Which volume this is, from 1.
    pub volume: u32,
    /// How many there are.
    pub of: u32,
    /// The key that signs it, in minisign's form. Whether it is trusted is for the reader to say.
    pub key: String,
    /// `members.jsonl`, the third member: what follows it, sorted as [`Member::order`] has it.
    pub list: List,
    /// What that list says.
    #[serde(skip)]
    pub members: Vec<Member>,
}

/// What a member is, told by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The plan.
    Plan,
    /// The plan's list.
    Contents,
    /// What a difference assumes.
    Assumes,
    /// A repository's tree.
    Tree(Digest),
    /// A manifest.
    Manifest(Digest),
    /// A blob.
    Blob(Digest),
    /// A piece of a blob.
    Part(Digest),
}

impl Member {
    /// By what members are sorted, in a volume and in lists: the documents first, then by name.
    pub fn order(&self) -> (u8, &str) {
        order(&self.name)
    }

    /// What it is; `None`: its name and its digests do not agree, or it is no name of a member.
    pub fn what(&self) -> Option<What> {
        if self.name == PLAN {
            return self.part.is_none().then_some(What::Plan);
        }
        if self.name == CONTENTS {
            return self.part.is_none().then_some(What::Contents);
        }
        if self.name == ASSUMES {
            return self.part.is_none().then_some(What::Assumes);
        }
        let (kind, rest) = self.name.split_once('/')?;
        let (algorithm, rest) = rest.split_once('/')?;
        let (hex, at) = rest.split_once('/').map_or((rest, None), |(hex, at)| (hex, Some(at)));
        let named: Digest = format!("{algorithm}:{hex}").parse().ok()?;
        let what = match (kind, &self.part, at) {
            ("trees", None, None) => What::Tree(named),
            ("manifests", None, None) => What::Manifest(named),
            ("blobs", None, None) => What::Blob(named),
            ("parts", Some(part), Some(at)) => {
                let fits = part.at.checked_add(self.size).is_some_and(|end| end <= part.size);
                let right = part.of == named && at == format!("{:013}", part.at) && self.size > 0 && fits;
                return right.then_some(What::Part(named));
            }
            _ => return None,
        };
        // A sha256 in the name is a promise about the bytes.
        let agrees = named == self.sha256 || named.algorithm() != artifact::Algorithm::Sha256;
        agrees.then_some(what)
    }
}

/// [`Member::order`] of a name.
pub(crate) fn order(name: &str) -> (u8, &str) {
    let rank = match name.split('/').next().unwrap_or_default() {
        PLAN => 0,
        CONTENTS => 1,
        ASSUMES => 2,
        "trees" => 3,
        "manifests" => 4,
        _ => 5,
    };
    (rank, name)
}

impl VolumeHead {
    /// Whether every member's name is one, all are in order, and they follow each other without overlap.
    ///
    /// # Errors
    /// In words.
    pub fn check(&self, file_size: u64) -> Result<(), String> {
        let mut before: Option<&Member> = None;
        let mut free = 0_u64;
        for member in &self.members {
            if member.what().is_none() {
                return Err(format!("`{}` is not the name of a member", member.name.escape_default()));
            }
            match before.map(|before| before.order().cmp(&member.order())) {
                None | Some(std::cmp::Ordering::Less) => before = Some(member),
                Some(std::cmp::Ordering::Equal) => return Err(format!("`{}` is there twice", member.name)),
                Some(std::cmp::Ordering::Greater) => return Err(format!("`{}` is out of order", member.name)),
            }
            let end = member.offset.checked_add(member.size);
            match end {
                Some(end) if member.offset >= free && member.offset % 512 == 0 && end <= file_size => free = end,
                Some(end) if end > file_size => {
                    return Err(format!("it is cut: `{}` ends at byte {end}, the file at {file_size}", member.name));
                }
                _ => return Err(format!("`{}` lies over another member", member.name)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, part: Option<Part>) -> Member {
        let part = part.map(Box::new);
        Member { name: name.to_owned(), size: 3, offset: 512, sha256: Digest::of(b"abc"), part }
    }

    #[test]
    fn names_are_promises() {
        let hex = Digest::of(b"abc").hex();
        assert!(member(&format!("blobs/sha256/{hex}"), None).what().is_some());
        let part = Part { of: Digest::of(b"abc"), at: 5, size: 8 };
        assert!(member(&format!("parts/sha256/{hex}/0000000000005"), Some(part.clone())).what().is_some());
        for (name, part) in [
            ("../etc/passwd".to_owned(), None),
            ("/etc/passwd".to_owned(), None),
            (format!("blobs/sha256/../{hex}"), None),
            (format!("blobs/sha256/{}", Digest::of(b"abd").hex()), None),
            (format!("parts/sha256/{hex}/0000000000006"), Some(part.clone())),
            (format!("parts/sha256/{hex}/0000000000006"), Some(Part { at: 6, ..part })),
            (format!("blobs/sha256/{hex}/x"), None),
            (String::new(), None),
        ] {
            assert!(member(&name, part).what().is_none(), "{name}");
        }
    }
}
