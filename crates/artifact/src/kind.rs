//! The kinds of thing that Naru carries.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A closed list: every place that treats kinds differently matches all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A container image, or any other OCI artifact.
    Image,
    /// A plain file.
    File,
    /// An RPM repository.
    Rpm,
    /// An APT repository.
    Apt,
    /// A Python package index.
    Pypi,
    /// A Helm chart repository.
    Helm,
    /// A snap.
    Snap,
}

impl Kind {
    /// Every kind, in the order in which lists show them.
    pub const ALL: [Self; 7] = [Self::Image, Self::File, Self::Rpm, Self::Apt, Self::Pypi, Self::Helm, Self::Snap];

    /// The word for it, as in documents and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::File => "file",
            Self::Rpm => "rpm",
            Self::Apt => "apt",
            Self::Pypi => "pypi",
            Self::Helm => "helm",
            Self::Snap => "snap",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not a kind: expected one of image, file, rpm, apt, pypi, helm, snap"))
    }
}
