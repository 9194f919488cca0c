//! `naru.lock` as a file: a line that proves it untouched, and YAML in one stable order.

use std::io::Write as _;
use std::path::Path;

use artifact::Digest;
use serde::ser::SerializeSeq as _;
use serde::{Deserialize, Serialize, Serializer};
use serde_saphyr::{FlowMap, FlowSeq};

use super::Lock;
use crate::error::{Error, Result};
use crate::yaml;

/// The version of the format that is written here.
const VERSION: u64 = 1;
const HEADER: &str = "\
# What the packing list beside this file means, exactly. `naru lock` writes it: commit it, and leave it as it is.
";
const CHECKSUM: &str = "checksum: ";

#[derive(Deserialize)]
struct Head {
    version: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    #[serde(rename = "version")]
    _version: u64,
    #[serde(rename = "checksum")]
    _checksum: String,
    lock: Lock,
}

#[derive(Serialize)]
struct Written<'a> {
    version: u64,
    lock: &'a Lock,
}

impl Lock {
    /// Reads a lock.
    ///
    /// # Errors
    /// When there is none, a newer Naru wrote it, or somebody edited it.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(path, &yaml::read_text(path, yaml::LOCK_LIMIT)?)
    }

    /// Reads the text of a lock whose file is `path`.
    ///
    /// # Errors
    /// As [`Lock::read`].
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        // The version first: a newer format may prove itself in another way.
        let Head { version } = yaml::parse(path, text)?;
        if version > VERSION {
            return Err(Error::NewerLock { path: path.to_owned(), found: version, known: VERSION });
        }
        let edited = || Error::EditedLock { path: path.to_owned() };
        // Git may have changed the line ends; that is no edit.
        let text = text.replace("\r\n", "\n");
        let (before, rest) = text.split_once(CHECKSUM).ok_or_else(edited)?;
        let (sum, after) = rest.split_once('\n').ok_or_else(edited)?;
        if before != HEADER || sum != Digest::of(after.as_bytes()).to_string() {
            return Err(edited());
        }
        let read: Read = yaml::parse(path, &text)?;
        let whole =
            |manifests: &[super::LockedManifest], digest| manifests.first().is_some_and(|one| one.digest == digest);
        // What the list pins must be what is locked: whoever computes the sum anew can write what they like.
        let is_pinned =
            |image: &super::LockedImage| image.reference.digest().is_none_or(|pinned| *pinned == image.digest);
        if !read.lock.images.iter().all(|image| whole(&image.manifests, image.digest) && is_pinned(image)) {
            return Err(edited());
        }
        Ok(read.lock)
    }

    /// The text of this lock.
    ///
    /// # Errors
    /// When something in it cannot be written as YAML.
    pub fn print(&self, path: &Path) -> Result<String> {
        let body = yaml::print(path, &Written { version: VERSION, lock: self })?;
        Ok(format!("{HEADER}{CHECKSUM}{}\n{body}", Digest::of(body.as_bytes())))
    }

    /// Writes it, all or nothing; a file that is the same already is left alone.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = self.print(path)?;
        if text.len() as u64 > yaml::LOCK_LIMIT {
            return Err(Error::TooLarge { path: path.to_owned(), limit: yaml::LOCK_LIMIT });
        }
        if std::fs::read(path).is_ok_and(|there| there == text.as_bytes()) {
            return Ok(());
        }
        let partial = path.with_extension("lock.partial");
        let written = std::fs::File::create(&partial)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&partial, path))
            .and_then(|()| {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                std::fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
            });
        written.map_err(|source| {
            let _ = std::fs::remove_file(&partial);
            Error::Io { path: path.to_owned(), source }
        })
    }
}

/// One item a line, so that a diff shows which blob changed.
pub(super) fn lines<T: Serialize, S: Serializer>(items: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    let mut sequence = serializer.serialize_seq(Some(items.len()))?;
    for item in items {
        sequence.serialize_element(&FlowMap(item))?;
    }
    sequence.end()
}

/// A short list on one line.
pub(super) fn one_line<T: Serialize, S: Serializer>(items: &T, serializer: S) -> Result<S::Ok, S::Error> {
    FlowSeq(items).serialize(serializer)
}

/// Seconds since 1970, for people.
pub(super) mod time {
    use jiff::Timestamp;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub(in super::super) fn serialize<S: Serializer>(seconds: &i64, serializer: S) -> Result<S::Ok, S::Error> {
        let time = Timestamp::from_second(*seconds).unwrap_or_default();
        serializer.collect_str(&time)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
        let time: Timestamp = String::deserialize(deserializer)?.parse().map_err(D::Error::custom)?;
        Ok(time.as_second())
    }
}
