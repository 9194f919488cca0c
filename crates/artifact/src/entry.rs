//! Entries: names in a repository, with what is known of where their bytes came from.

use serde::{Deserialize, Serialize};

use crate::Digest;

/// Why an entry's bytes are believed to be the right ones. Weakest last; reports sort by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trust {
    /// The packing list pins the digest.
    Digest,
    /// A checksum file of the upstream names it.
    Checksum,
    /// The origin answered the tag with this digest.
    Tag,
    /// Made or pushed on this side.
    Local,
    /// A mirror was believed about a tag, because the origin could not be reached (`trust: mirror`).
    Mirror,
    /// Nothing vouched for it when it was first fetched.
    FirstUse,
}

impl Trust {
    /// Every reason, strongest first.
    pub const ALL: [Self; 6] = [Self::Digest, Self::Checksum, Self::Tag, Self::Local, Self::Mirror, Self::FirstUse];

    /// The word in locks and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Digest => "digest",
            Self::Checksum => "checksum",
            Self::Tag => "tag",
            Self::Local => "local",
            Self::Mirror => "mirror",
            Self::FirstUse => "first-use",
        }
    }

    /// Whether a report should put it on top.
    pub fn is_weak(self) -> bool {
        matches!(self, Self::Mirror | Self::FirstUse)
    }
}

/// A name in a repository → a digest. The name is a tag, a path or (an image wanted by digest alone) a digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Tag, path or digest.
    pub name: String,
    /// What it names: a manifest of an image, a blob of everything else.
    pub digest: Digest,
    /// Bytes of what it names (an image: of its manifest alone).
    pub size: u64,
    /// When the upstream was asked, in seconds since 1970. An earlier answer never replaces a later one.
    pub seen: i64,
    /// Where it came from: a URL, or a reference.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub origin: String,
    /// Why it is believed.
    pub trust: Trust,
}

/// What the origin of an entry begins with that a server's proxy gathered.
const GATHERED: &str = "proxy ";

impl Entry {
    /// The origin of an entry that a server's proxy gathered for somebody who asked for `reference`.
    pub fn gathered(reference: &str) -> String {
        format!("{GATHERED}{reference}")
    }

    /// Whether a server's proxy gathered it, and no packing list asked for it.
    pub fn is_gathered(&self) -> bool {
        self.origin.starts_with(GATHERED)
    }
}

/// Whether this may be the path of a file entry: relative, `/`-separated, no empty, `.` or `..` segment, no
/// control characters and no backslash, at most 1 024 bytes.
pub fn valid_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 1024
        && path.split('/').all(|segment| !matches!(segment, "" | "." | ".."))
        && !path.chars().any(|c| c.is_control() || c == '\\')
}

#[cfg(test)]
mod tests {
    use super::valid_path;

    #[test]
    fn paths_stay_inside() {
        for good in ["a", "a/b", "release/v1.2/bin/linux/amd64/kubeadm", "한글.tar", "a..b"] {
            assert!(valid_path(good), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\\b", "a\0b", "a\nb"] {
            assert!(!valid_path(bad), "{bad}");
        }
    }
}
