//! What lies in an archive or in a layout's folder, by name, wherever its bytes are.
//!
//! Of an archive that is a plain file only the headers are read, and a member is a range of it: nothing is copied. What
//! comes out of a decompressor passes once, so each member that may be a blob goes into the store as it comes, hashed,
//! and named by nobody; what no image turns out to need is removed again. Small members stay in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Cursor;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use artifact::{Digest, MANIFEST_LIMIT};
use bytes::Bytes;
use store::{NewBlob, Store};

use super::archive::{Refused, Tape, Walk, What};
use super::stream::{Look, look};
use crate::volume::CHUNK;
use crate::{Error, Result};

/// How much of a member is looked at.
const BEGINNING: usize = 512;
/// Members that one file may have, nested ones and folders' files counted.
const MEMBERS: usize = 100_000;
/// Members of a stream up to this size stay in memory,
const SMALL: u64 = 64 << 10;
/// and up to a manifest's when they look like JSON, as long as there is room for them.
const MEMORY: u64 = 64 << 20;

/// Where a member's bytes are.
#[derive(Debug)]
enum Place {
    /// In a file, from a byte.
    File(Arc<File>, u64),
    /// In memory.
    Here(Bytes),
    /// In the store, named by nobody, hashed.
    Candidate(Digest),
}

/// A member.
#[derive(Debug)]
pub(super) struct Held {
    place: Place,
    pub(super) size: u64,
}

impl Held {
    /// Its digest, where it is known already.
    pub(super) fn digest(&self) -> Option<Digest> {
        match &self.place {
            Place::Candidate(digest) => Some(*digest),
            Place::Here(bytes) => Some(Digest::of(bytes)),
            Place::File(..) => None,
        }
    }
}

/// The members of one archive or folder.
pub(super) struct Contents {
    /// For messages.
    pub(super) path: PathBuf,
    files: BTreeMap<String, Held>,
    links: BTreeMap<String, String>,
    /// Members whose bytes are not what their name says.
    damaged: BTreeSet<String>,
    candidates: HashMap<Digest, NewBlob>,
}

impl Contents {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            files: BTreeMap::new(),
            links: BTreeMap::new(),
            damaged: BTreeSet::new(),
            candidates: HashMap::new(),
        }
    }

    /// Of a layout's folder, whose files somebody else has opened.
    pub(super) fn of_folder(path: &Path, files: Vec<(String, File)>) -> Result<Self> {
        let mut contents = Self::new(path);
        for (name, file) in files {
            let size = file.metadata().map_err(Error::io(path))?.len();
            contents.put(&name, Held { place: Place::File(Arc::new(file), 0), size })?;
        }
        Ok(contents)
    }

    /// Of a tar. `members` counts those of a whole file.
    pub(super) fn of_tar(path: &Path, tape: Tape, store: &Store, members: &mut usize) -> Result<Self> {
        let mut contents = Self::new(path);
        let refused = |refused: Refused| match refused {
            Refused::Io(source) => Error::Io { path: path.to_owned(), source },
            Refused::Archive(why) => Error::archive(path, why),
        };
        let (mut walk, mut memory) = (Walk::new(tape), 0);
        while let Some(member) = walk.next().map_err(refused)? {
            *members += 1;
            if *members > MEMBERS {
                return Err(Error::archive(path, format!("it has more than {MEMBERS} members")));
            }
            let name = normal(&member.name);
            let size = match member.what {
                What::Link(target) => {
                    if contents.files.contains_key(&name) || contents.links.insert(name.clone(), target).is_some() {
                        return Err(contents.twice(&name));
                    }
                    continue;
                }
                What::File(size) => size,
            };
            if let Some((file, at)) = walk.place() {
                contents.put(&name, Held { place: Place::File(file, at), size })?;
                continue;
            }
            let mut start = vec![0; usize::try_from(size).unwrap_or(BEGINNING).min(BEGINNING)];
            walk.read(&mut start).map_err(refused)?;
            let is_json = matches!(start.trim_ascii_start().first(), Some(b'{' | b'['));
            let is_short = size <= SMALL || (is_json && size <= MANIFEST_LIMIT as u64);
            if is_short && memory + size <= MEMORY {
                memory += size;
                let begun = start.len();
                start.resize(usize::try_from(size).unwrap_or(begun), 0);
                walk.read(start.get_mut(begun..).unwrap_or_default()).map_err(refused)?;
                contents.put(&name, Held { place: Place::Here(start.into()), size })?;
                continue;
            }
            let named = named(&name);
            // What is neither a blob by its name nor by its bytes is no part of any image. An empty tar is zeros.
            let is_empty = start.iter().all(|byte| *byte == 0);
            if named.is_none() && !is_json && !is_empty && matches!(look(&start), Look::Other(_)) {
                continue;
            }
            let free = store.free_space()?;
            if size > free {
                return Err(Error::NoSpace { path: store.folder().to_owned(), needed: size, free });
            }
            let mut writer = store.writer(named.as_ref())?;
            writer.write(&start)?;
            let mut buffer = vec![0; CHUNK];
            loop {
                let read = walk.read(&mut buffer).map_err(refused)?;
                if read == 0 {
                    break;
                }
                writer.write(buffer.get(..read).unwrap_or_default())?;
            }
            match writer.finish() {
                Ok(blob) => {
                    let digest = *blob.digest();
                    contents.put(&name, Held { place: Place::Candidate(digest), size })?;
                    contents.candidates.entry(digest).or_insert(blob);
                }
                Err(store::Error::Mismatch { .. }) => drop(contents.damaged.insert(name)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(contents)
    }

    fn put(&mut self, name: &str, held: Held) -> Result<()> {
        let name = normal(name);
        if self.links.contains_key(&name) || self.damaged.contains(&name) || self.files.contains_key(&name) {
            return Err(self.twice(&name));
        }
        self.files.insert(name, held);
        Ok(())
    }

    fn twice(&self, name: &str) -> Error {
        Error::archive(&self.path, format!("it has `{}` twice", name.escape_default()))
    }

    /// The names of its files, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Whether it has a file or a link of that name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.files.contains_key(name) || self.links.contains_key(name) || self.damaged.contains(name)
    }

    /// A file, or the one that a link of that name points at. A link to a link is refused.
    pub(super) fn find(&self, name: &str) -> Result<&Held, String> {
        let shown = name.escape_default();
        let real = match self.links.get(name) {
            Some(target) => &aliased(name, target).filter(|real| self.files.contains_key(real)).ok_or_else(|| {
                format!("`{shown}` is a link to `{}`, which is no file of it", target.escape_default())
            })?,
            None => name,
        };
        if self.damaged.contains(real) {
            return Err(format!("`{shown}` is damaged: its bytes are not what its name says"));
        }
        self.files.get(real).ok_or_else(|| format!("it has no `{shown}`"))
    }

    /// A link below `prefix` that points at nothing that is here: docker's own point at the same layer of another image.
    pub(super) fn stray_link(&self, prefix: &str) -> Option<String> {
        self.links.keys().filter(|name| name.starts_with(prefix)).find_map(|name| self.find(name).err())
    }

    /// All of a document's bytes, which may be so many as a manifest's.
    pub(super) fn document(&self, name: &str) -> Result<Bytes, String> {
        let held = self.find(name)?;
        if held.size > MANIFEST_LIMIT as u64 {
            return Err(format!("`{}` has {} bytes; more than 4 MiB is refused", name.escape_default(), held.size));
        }
        if let Place::Here(bytes) = &held.place {
            return Ok(bytes.clone());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(held.size).unwrap_or_default());
        let read = self.stream(held, |chunk| {
            bytes.extend_from_slice(chunk);
            Ok(())
        });
        read.map_err(|error| error.to_string())?;
        Ok(bytes.into())
    }

    /// Streams a member's bytes.
    pub(super) fn stream(&self, held: &Held, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (file, from) = match &held.place {
            Place::Here(bytes) => return take(bytes),
            _ => self.file(held)?,
        };
        let mut buffer = vec![0; CHUNK.min(usize::try_from(held.size.max(1)).unwrap_or(CHUNK))];
        let mut done = 0;
        while done < held.size {
            let length = usize::try_from(held.size - done).unwrap_or(CHUNK).min(CHUNK);
            let chunk = buffer.get_mut(..length).unwrap_or_default();
            file.read_exact_at(chunk, from + done).map_err(Error::io(&self.path))?;
            take(chunk)?;
            done += length as u64;
        }
        Ok(())
    }

    /// The first bytes of a member.
    pub(super) fn beginning(&self, held: &Held) -> Result<Vec<u8>> {
        beginning(self.tape(held)?).map_err(Error::io(&self.path))
    }

    /// A member's bytes, in order.
    pub(super) fn tape(&self, held: &Held) -> Result<Tape> {
        if let Place::Here(bytes) = &held.place {
            return Ok(Tape::Stream(Box::new(Cursor::new(bytes.clone()))));
        }
        let (file, at) = self.file(held)?;
        Ok(Tape::Range { file, at, end: at.saturating_add(held.size) })
    }

    fn file(&self, held: &Held) -> Result<(Arc<File>, u64)> {
        let blob = match &held.place {
            Place::File(file, at) => return Ok((Arc::clone(file), *at)),
            Place::Candidate(digest) => self.candidates.get(digest),
            Place::Here(_) => None,
        };
        let blob = blob.ok_or_else(|| Error::archive(&self.path, "a member's bytes are no more where they were"))?;
        Ok((Arc::new(blob.open()?), 0))
    }

    /// The blob that a stream has left in the store.
    pub(super) fn candidate(&mut self, digest: &Digest) -> Option<NewBlob> {
        self.candidates.remove(digest)
    }

    /// A member that is an archive itself, to be opened after this one has been left.
    pub(super) fn taken(&mut self, name: &str, store: &Store) -> Result<Option<Part>> {
        let Some(held) = self.files.remove(name) else { return Ok(None) };
        let (kept, size) = match held.place {
            Place::File(file, at) => (Kept::File(file, at), held.size),
            Place::Candidate(digest) => match self.candidates.remove(&digest) {
                Some(blob) => (Kept::Blob(blob), held.size),
                // The same archive under two names: once is enough.
                None => return Ok(None),
            },
            Place::Here(bytes) => {
                let mut writer = store.writer(None)?;
                writer.write(&bytes)?;
                (Kept::Blob(writer.finish()?), held.size)
            }
        };
        let path = self.path.join(name.trim_start_matches('/'));
        Ok(Some(Part { path, kept, size }))
    }
}

/// A file, or a part of one, that may be an archive.
pub(super) struct Part {
    /// For messages.
    pub(super) path: PathBuf,
    kept: Kept,
    pub(super) size: u64,
}

enum Kept {
    File(Arc<File>, u64),
    /// Named by nobody: it goes when this does.
    Blob(NewBlob),
}

impl Part {
    /// A whole file.
    pub(super) fn of_file(path: &Path, file: File) -> Result<Self> {
        let size = file.metadata().map_err(Error::io(path))?.len();
        Ok(Self { path: path.to_owned(), kept: Kept::File(Arc::new(file), 0), size })
    }

    /// Its bytes, in order.
    pub(super) fn tape(&self) -> Result<Tape> {
        let (file, at) = match &self.kept {
            Kept::File(file, at) => (Arc::clone(file), *at),
            Kept::Blob(blob) => (Arc::new(blob.open()?), 0),
        };
        Ok(Tape::Range { file, at, end: at.saturating_add(self.size) })
    }
}

/// The first bytes of what is on a tape.
pub(super) fn beginning(mut tape: Tape) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; BEGINNING];
    let filled = tape.fill(&mut bytes)?;
    bytes.truncate(filled);
    Ok(bytes)
}

/// A member's name as images write it.
fn normal(name: &str) -> String {
    let mut name = name;
    while let Some(rest) = name.strip_prefix("./") {
        name = rest.trim_start_matches('/');
    }
    name.to_owned()
}

/// The digest that a layout's blob has by its name.
fn named(name: &str) -> Option<Digest> {
    let mut parts = name.rsplit('/');
    let (hex, algorithm, folder) = (parts.next()?, parts.next()?, parts.next()?);
    if folder != "blobs" {
        return None;
    }
    format!("{algorithm}:{hex}").parse().ok()
}

/// Where a link points, inside the archive; `None`: outside.
fn aliased(name: &str, target: &str) -> Option<String> {
    if target.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside() {
        assert_eq!(aliased("a/layer.tar", "../b/layer.tar").as_deref(), Some("b/layer.tar"));
        assert_eq!(aliased("a", "./b//c").as_deref(), Some("b/c"));
        for bad in ["/etc/passwd", "../../b", "../../../etc/passwd"] {
            assert_eq!(aliased("a/layer.tar", bad), None, "{bad}");
        }
    }

    #[test]
    fn blobs_are_told_by_their_names() {
        let digest = Digest::of(b"x");
        assert_eq!(named(&format!("app/blobs/sha256/{}", digest.hex())), Some(digest));
        assert_eq!(named(&format!("{}/layer.tar", digest.hex())), None);
        assert_eq!(named("blobs/sha256/.."), None);
        assert_eq!(normal(".//./a/b"), "a/b");
    }
}
