//! Want-lists: what a site needs of a bundle and has not, on a few lines that people can read and type.
//!
//! ```text
//! # naru want-list 1
//! # bundle ab12…
//! # three lines on what to do with it
//! sha256:…    1234    blob    docker.io/library/nginx:1.27
//! ```
//!
//! Digest, bytes, what it is and some of what needs it, with tabs between them. It is not signed: it asks, and what is
//! sent for it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use artifact::Digest;
use serde::{Deserialize, Serialize};

use crate::beside::write_beside;
use crate::document::{Assumed, DOCUMENT_LIMIT};
use crate::pack::sync_folder;
use crate::{Error, Result};

const FIRST: &str = "# naru want-list 1";
/// Names of what needs a thing: one is enough to find it, a few tell people what it is about.
const NAMES: usize = 3;

/// What a site lacks of one bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantList {
    /// The bundle's id.
    pub bundle: Digest,
    /// What is lacking, each with names of entries that need it.
    pub things: BTreeMap<Digest, Wanting>,
}

/// A thing that is lacking.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanting {
    /// Its bytes.
    pub size: u64,
    /// Whether it is a manifest; else a blob.
    pub manifest: bool,
    /// Some of what needs it, as people write it.
    pub names: Vec<String>,
}

impl WantList {
    pub(crate) fn new(bundle: Digest) -> Self {
        Self { bundle, things: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, thing: &Assumed, needed_by: Option<&BTreeSet<String>>) {
        let names = needed_by.into_iter().flatten().take(NAMES).cloned().collect();
        self.things.insert(thing.digest, Wanting { size: thing.size, manifest: thing.manifest, names });
    }

    /// The bytes of all of it.
    pub fn bytes(&self) -> u64 {
        self.things.values().map(|wanting| wanting.size).sum()
    }

    /// The names in it.
    pub fn names(&self) -> BTreeSet<&str> {
        self.things.values().flat_map(|wanting| &wanting.names).map(String::as_str).collect()
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "{FIRST}\n# bundle {}\n# This site lacks what is listed here. On the collecting side:\n#   naru pull --want \
             THIS-FILE\n#   naru pack --want THIS-FILE -o OUT\n",
            self.bundle.hex()
        );
        for (digest, Wanting { size, manifest, names }) in &self.things {
            let kind = if *manifest { "manifest" } else { "blob" };
            let _ = write!(text, "{digest}\t{size}\t{kind}");
            for name in names {
                let _ = write!(text, "\t{name}");
            }
            text.push('\n');
        }
        text
    }

    /// Writes it where its reader will look for it, durably, whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let folder = path.parent().unwrap_or(path);
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        write_beside(path, |file| file.write_all(self.to_text().as_bytes()))?;
        sync_folder(folder)
    }

    /// Reads a want-list.
    ///
    /// # Errors
    /// [`Error::WantList`], with the line.
    pub fn read(path: &Path) -> Result<Self> {
        let size = std::fs::metadata(path).map_err(Error::io(path))?.len();
        if size > DOCUMENT_LIMIT {
            return Err(Error::WantList { path: path.to_owned(), why: format!("it has {size} bytes") });
        }
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        Self::parse(&String::from_utf8_lossy(&bytes)).map_err(|why| Error::WantList { path: path.to_owned(), why })
    }

    /// Reads its text. It may have been typed: spaces at the end, empty lines and `\r` do no harm.
    fn parse(text: &str) -> std::result::Result<Self, String> {
        let mut lines = text.lines().map(str::trim_end).enumerate();
        if lines.next().is_none_or(|(_, line)| line != FIRST) {
            return Err(format!("its first line is not `{FIRST}`"));
        }
        let bundle = lines.next().and_then(|(_, line)| Digest::from_hex(line.strip_prefix("# bundle ")?).ok());
        let mut list = Self::new(bundle.ok_or("its second line does not name a bundle")?);
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let wrong = |what: &str| format!("line {}: {what}", number + 1);
            let mut fields = line.split('\t');
            let digest = fields.next().and_then(|field| field.trim().parse().ok()).ok_or_else(|| wrong("no digest"))?;
            let size = fields.next().and_then(|field| field.trim().parse().ok()).ok_or_else(|| wrong("no size"))?;
            let manifest = match fields.next() {
                Some("manifest") => true,
                Some("blob") => false,
                _ => return Err(wrong("neither `blob` nor `manifest`")),
            };
            list.things.insert(digest, Wanting { size, manifest, names: fields.map(str::to_owned).collect() });
        }
        if list.things.is_empty() {
            return Err("it lists nothing".to_owned());
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_wrote() {
        let mut list = WantList::new(Digest::of(b"bundle"));
        let names = BTreeSet::from(["a.io/b:1".to_owned(), "dl.k8s.io/a file".to_owned()]);
        list.add(&Assumed { digest: Digest::of(b"a"), size: 7, manifest: false }, Some(&names));
        list.add(&Assumed { digest: Digest::of(b"b"), size: 8, manifest: true }, None);
        assert_eq!(WantList::parse(&list.to_text()).unwrap(), list);
        assert_eq!(WantList::parse(&list.to_text().replace('\n', " \r\n")).unwrap(), list);
        assert_eq!(WantList::parse("x"), Err(format!("its first line is not `{FIRST}`")));
        let text = list.to_text().replace("\t7\t", "\tseven\t");
        assert!(WantList::parse(&text).unwrap_err().starts_with("line "), "the line is named");
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[ -~\t\n]{0,300}") {
            let _ = WantList::parse(&text);
            let _ = WantList::parse(&format!("{FIRST}\n# bundle {}\n{text}", Digest::of(b"").hex()));
        }
    }
}
