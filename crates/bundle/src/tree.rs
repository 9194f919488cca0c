//! Trees: what one repository has, as sorted JSON lines.
//!
//! The first line is the repository. Then come its manifests (each with what is left out of it on purpose) and its
//! entries, both sorted. What an entry needs follows from the manifests.

use std::collections::{BTreeMap, BTreeSet};

use artifact::{Digest, Entry, Repository};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A repository's part of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) repository: Repository,
    pub(crate) manifests: BTreeMap<Digest, TreeManifest>,
    pub(crate) entries: BTreeMap<String, Entry>,
}

/// A manifest as a tree has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TreeManifest {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) media_type: String,
    /// Children and blobs that are left out on purpose.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) omitted: BTreeSet<Digest>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Line {
    Repository(Repository),
    Manifest(TreeManifest),
    Entry(Entry),
}

impl Tree {
    pub(crate) fn new(repository: Repository) -> Self {
        Self { repository, manifests: BTreeMap::new(), entries: BTreeMap::new() }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let first = [Line::Repository(self.repository.clone())];
        let manifests = self.manifests.values().cloned().map(Line::Manifest);
        let entries = self.entries.values().cloned().map(Line::Entry);
        for line in first.into_iter().chain(manifests).chain(entries) {
            // These types have no map with keys that are not strings: they always serialise.
            if serde_json::to_writer(&mut bytes, &line).is_ok() {
                bytes.push(b'\n');
            }
        }
        bytes
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
                Line::Entry(entry) => drop(tree.entries.insert(entry.name.clone(), entry)),
                Line::Repository(_) => return Err(wrong("it has two repositories".to_owned())),
            }
        }
        Ok(tree)
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
            omitted: BTreeSet::from([Digest::of(b"o")]),
        };
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
