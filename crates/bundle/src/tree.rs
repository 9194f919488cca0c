//! Trees: what one repository has, as sorted JSON lines.
//!
//! The first line is the repository. Then come its manifests (each with what is left out of it on purpose), the blobs
//! they may be asked for, and its entries, all sorted. What an entry needs follows from the manifests; subjects and blobs
//! are there for who serves a bundle where it lies, and will not read every manifest to answer for one.

use std::collections::{BTreeMap, BTreeSet};

use artifact::{Digest, Entry, Kind, Repository, valid_path, valid_tag};
use serde::{Deserialize, Serialize};

use crate::document::TreeHead;
use crate::lines::{self, List};
use crate::{Error, Result};

/// A repository's part of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) repository: Repository,
    pub(crate) manifests: BTreeMap<Digest, TreeManifest>,
    /// What an image repository may show beside its manifests. Of files, entries say that.
    pub(crate) blobs: BTreeSet<Digest>,
    pub(crate) entries: BTreeMap<String, Entry>,
}

/// A manifest as a tree has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TreeManifest {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) media_type: String,
    /// What it refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<Digest>,
    /// Children and blobs that are left out on purpose.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) omitted: BTreeSet<Digest>,
}

/// A line of a tree; they are sorted by their [`Spot`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Line {
    Repository(Repository),
    Manifest(TreeManifest),
    Blob(Digest),
    Entry(Entry),
}

/// A place among a tree's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Spot<'a> {
    Repository,
    Manifest(Option<&'a Digest>),
    Blob(&'a Digest),
    Entry(&'a str),
}

impl Line {
    pub(crate) fn spot(&self) -> Spot<'_> {
        match self {
            Self::Repository(_) => Spot::Repository,
            Self::Manifest(manifest) => Spot::Manifest(Some(&manifest.digest)),
            Self::Blob(digest) => Spot::Blob(digest),
            Self::Entry(entry) => Spot::Entry(&entry.name),
        }
    }
}

impl Tree {
    pub(crate) fn new(repository: Repository) -> Self {
        Self { repository, manifests: BTreeMap::new(), blobs: BTreeSet::new(), entries: BTreeMap::new() }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let first = [Line::Repository(self.repository.clone())];
        let manifests = self.manifests.values().cloned().map(Line::Manifest);
        let blobs = self.blobs.iter().copied().map(Line::Blob);
        let entries = self.entries.values().cloned().map(Line::Entry);
        lines::to_bytes(first.into_iter().chain(manifests).chain(blobs).chain(entries))
    }

    /// As the plan names it; its bytes are those of [`Tree::to_bytes`].
    pub(crate) fn head(&self, bytes: &[u8]) -> TreeHead {
        TreeHead {
            repository: self.repository.clone(),
            digest: Digest::of(bytes),
            manifests: self.manifests.len() as u64,
            entries: self.entries.len() as u64,
            list: List::of(bytes),
        }
    }

    /// Reads a tree; its digest names it in errors.
    pub(crate) fn parse(bytes: &[u8], digest: &Digest) -> Result<Self> {
        let wrong = |why: String| Error::Tree { digest: *digest, why };
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("it is not text".to_owned()))?;
        let mut lines = text.lines().enumerate().map(|(number, line)| {
            serde_json::from_str::<Line>(line).map_err(|error| wrong(format!("line {}: {error}", number + 1)))
        });
        let repository = match lines.next().transpose()? {
            Some(Line::Repository(repository)) => repository.check().map_err(|error| wrong(error.to_string()))?,
            _ => return Err(wrong("it does not begin with its repository".to_owned())),
        };
        let mut tree = Self::new(repository);
        for line in lines {
            match line? {
                Line::Manifest(manifest) => drop(tree.manifests.insert(manifest.digest, manifest)),
                Line::Blob(digest) => drop(tree.blobs.insert(digest)),
                Line::Entry(entry) if !is_name(tree.repository.kind, &entry.name) => {
                    return Err(wrong(format!("`{}` is no name", entry.name.escape_default())));
                }
                Line::Entry(entry) => drop(tree.entries.insert(entry.name.clone(), entry)),
                Line::Repository(_) => return Err(wrong("it has two repositories".to_owned())),
            }
        }
        Ok(tree)
    }
}

/// What the catalog takes, too.
fn is_name(kind: Kind, name: &str) -> bool {
    match kind {
        Kind::Image => valid_tag(name) || name.parse::<Digest>().is_ok(),
        _ => valid_path(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use artifact::Trust;

    #[test]
    fn reads_what_it_wrote() {
        let mut tree = Tree::new(Repository::image("a.io", "b"));
        let manifest = TreeManifest {
            digest: Digest::of(b"m"),
            size: 1,
            media_type: "x".to_owned(),
            subject: Some(Digest::of(b"s")),
            omitted: BTreeSet::from([Digest::of(b"o")]),
        };
        tree.blobs.insert(Digest::of(b"b"));
        tree.manifests.insert(manifest.digest, manifest);
        let entry = Entry {
            name: "1".to_owned(),
            digest: Digest::of(b"m"),
            size: 1,
            seen: 7,
            origin: "a.io/b:1".to_owned(),
            trust: Trust::Tag,
        };
        tree.entries.insert("1".to_owned(), entry);
        assert_eq!(Tree::parse(&tree.to_bytes(), &Digest::of(b"")).unwrap(), tree);
    }

    #[test]
    fn names_that_no_catalog_takes_are_refused() {
        for name in ["a b", "../1", "\u{1b}[2J", "1\n2", ""] {
            let mut tree = Tree::new(Repository::image("a.io", "b"));
            let digest = Digest::of(b"m");
            let entry =
                Entry { name: name.to_owned(), digest, size: 1, seen: 7, origin: String::new(), trust: Trust::Local };
            tree.entries.insert(name.to_owned(), entry);
            assert!(Tree::parse(&tree.to_bytes(), &digest).is_err(), "{name:?}");
        }
    }

    #[test]
    fn hostile_repositories_are_refused() {
        for repository in [
            r#"{"kind":"image","host":"a.io","name":"../b"}"#,
            r#"{"kind":"file","host":"..","name":""}"#,
            r#"{"kind":"image","host":"a.io/../..","name":"b"}"#,
        ] {
            let text = format!("{{\"repository\":{repository}}}\n");
            assert!(Tree::parse(text.as_bytes(), &Digest::of(b"")).is_err(), "{repository}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[ -~\n]{0,200}") {
            let _ = Tree::parse(text.as_bytes(), &Digest::of(b""));
        }
    }
}
