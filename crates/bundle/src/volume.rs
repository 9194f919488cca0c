//! A volume from outside, opened and checked: its head, its signature, and that nothing lies in it but what they name.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use artifact::Hasher;

use crate::document::{DOCUMENT_LIMIT, HEAD, LIST_LIMIT, MEMBERS, Member, SIGNATURE, VolumeHead, order};
use crate::key::Trusted;
use crate::lines::{Lines, Place};
use crate::{Error, PublicKey, Result, Signature, plan, tar};

/// Bytes read at a time.
pub(crate) const CHUNK: usize = 1 << 20;
/// A signature may have so many bytes.
const SIGNATURE_LIMIT: u64 = 64 << 10;

/// A volume whose head is signed by [`Volume::key`] and agrees with the tar around it. Its members are not hashed yet.
#[derive(Debug)]
pub struct Volume {
    /// Where it was found, for messages.
    pub path: PathBuf,
    /// What it says of itself.
    pub head: VolumeHead,
    /// Who signed it. Whether that key is trusted is another question: [`Volume::check_trust`].
    pub key: PublicKey,
    pub(crate) file: Arc<File>,
    /// Where the list of its members begins, and where what it lists may begin.
    list: (u64, u64),
}

impl Volume {
    /// Opens a file and checks everything but its members' bytes.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path, File::open(path).map_err(Error::io(path))?)
    }

    /// The same, of a file that somebody else opened; `path` names it in messages.
    pub fn read(path: &Path, file: File) -> Result<Self> {
        let mut volume = Self::read_head(path, file)?;
        let size = volume.file.metadata().map_err(Error::io(path))?.len();
        let members = volume.lines().all()?.collect::<Result<_>>()?;
        volume.head.members = members;
        volume.head.check(size).map_err(|why| Error::not_a_volume(path, why))?;
        volume.walk(size)?;
        Ok(volume)
    }

    /// Reads its head and checks its signature, and nothing else: what a million members are is found in their list.
    pub(crate) fn read_head(path: &Path, file: File) -> Result<Self> {
        let size = file.metadata().map_err(Error::io(path))?.len();
        let document = |at: u64, name: &str, limit: u64| {
            let header = header(path, &file, at, size)?;
            if header.name != name {
                let found = header.name.escape_default();
                return Err(Error::not_a_volume(path, format!("where `{name}` should be, there is `{found}`")));
            }
            if header.size > limit || header.offset.saturating_add(header.size) > size {
                return Err(Error::not_a_volume(path, format!("its `{name}` would have {} bytes", header.size)));
            }
            Ok(header)
        };
        let bytes_of = |header: &tar::Header| {
            let mut bytes = vec![0_u8; usize::try_from(header.size).unwrap_or_default()];
            file.read_exact_at(&mut bytes, header.offset).map_err(Error::io(path))?;
            let after = header.offset + tar::padded(header.size);
            zeros(path, &file, header.offset + header.size, after.min(size))?;
            Ok::<_, Error>(bytes)
        };
        let end = |header: &tar::Header| header.offset + tar::padded(header.size);
        let first = document(0, HEAD, DOCUMENT_LIMIT)?;
        let head_bytes = bytes_of(&first)?;
        let (head, key) = plan::read_head(&head_bytes, path)?;
        let wrong = |why: &str| Error::Signature { path: path.to_owned(), why: why.to_owned() };
        let second = document(end(&first), SIGNATURE, SIGNATURE_LIMIT).map_err(|error| match error {
            Error::NotAVolume { why, .. } => wrong(&format!("it is missing: {why}")),
            other => other,
        })?;
        let signature = bytes_of(&second)?;
        let text = String::from_utf8_lossy(&signature);
        let signature = Signature::parse(&text).map_err(wrong)?;
        if signature.to_text() != text {
            return Err(wrong("it has more in it than a signature"));
        }
        key.check(&head_bytes, &signature).map_err(wrong)?;
        let third = document(end(&second), MEMBERS, LIST_LIMIT)?;
        if third.size != head.list.size {
            return Err(Error::not_a_volume(path, format!("its `{MEMBERS}` has {} bytes", third.size)));
        }
        let list = (third.offset, end(&third));
        Ok(Self { path: path.to_owned(), head, key, file: Arc::new(file), list })
    }

    /// The list of its members, where it lies.
    pub(crate) fn lines(&self) -> Lines<'_> {
        Lines::new(MEMBERS, &self.head.list, vec![self.place(self.list.0)])
    }

    /// A place in it.
    pub(crate) fn place(&self, offset: u64) -> Place {
        Place { path: self.path.clone(), file: Arc::clone(&self.file), offset }
    }

    /// The tar must be what the head says and nothing more: what is not listed must not cross.
    fn walk(&self, size: u64) -> Result<()> {
        let Self { path, head, file, .. } = self;
        let (list, mut at) = self.list;
        zeros(path, file, list + head.list.size, at)?;
        for member in &head.members {
            let header = header(path, file, at, size)?;
            if header.name != member.name || header.size != member.size || header.offset != member.offset {
                let found = header.name.escape_default();
                return Err(Error::not_a_volume(
                    path,
                    format!("where `{}` should be, there is `{found}`", member.name),
                ));
            }
            at = header.offset + tar::padded(header.size);
            zeros(path, file, header.offset + header.size, at.min(size))?;
        }
        zeros(path, file, at, size)
    }

    /// Refuses a key that is not among `trusted`; with none at all, everybody's bundle is taken.
    pub fn check_trust(&self, trusted: &[Trusted]) -> Result<()> {
        if trusted.is_empty() || trusted.iter().any(|one| one.key == self.key) {
            return Ok(());
        }
        Err(Error::Untrusted { path: self.path.clone(), fingerprint: self.key.fingerprint() })
    }

    /// The member of that name.
    pub(crate) fn member(&self, name: &str) -> Option<&Member> {
        let found = self.head.members.binary_search_by(|member| member.order().cmp(&order(name))).ok()?;
        self.head.members.get(found)
    }

    /// A small member's bytes, checked.
    pub(crate) fn document(&self, member: &Member) -> Result<Vec<u8>> {
        let limit = if member.name.starts_with("trees/") { LIST_LIMIT } else { DOCUMENT_LIMIT };
        if member.size > limit {
            return Err(Error::not_a_volume(&self.path, format!("`{}` has {} bytes", member.name, member.size)));
        }
        let mut bytes = vec![0; usize::try_from(member.size).unwrap_or_default()];
        self.file.read_exact_at(&mut bytes, member.offset).map_err(Error::io(&self.path))?;
        if artifact::Digest::of(&bytes) != member.sha256 {
            return Err(Error::Damaged { damage: vec![self.damage(member)] });
        }
        Ok(bytes)
    }

    /// Streams a member's bytes to `take`, hashing on the way; says whether they are what the head says.
    pub(crate) fn stream(&self, member: &Member, mut take: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<bool> {
        let mut hasher = Hasher::sha256();
        let mut buffer = vec![0; CHUNK.min(usize::try_from(member.size.max(1)).unwrap_or(CHUNK))];
        let mut done = 0;
        while done < member.size {
            let length = usize::try_from(member.size - done).unwrap_or(CHUNK).min(CHUNK);
            let chunk = buffer.get_mut(..length).unwrap_or_default();
            self.file.read_exact_at(chunk, member.offset + done).map_err(Error::io(&self.path))?;
            hasher.update(chunk);
            take(done, chunk)?;
            done += length as u64;
        }
        Ok(hasher.finish() == member.sha256)
    }

    /// A damaged member, in words.
    pub(crate) fn damage(&self, member: &Member) -> String {
        let Self { path, head, .. } = self;
        format!(
            "{}: `{}` ({} bytes from byte {}, volume {} of {}) is damaged",
            path.display(),
            member.name,
            member.size,
            member.offset,
            head.volume,
            head.of
        )
    }
}

/// The header at byte `at` of a volume of `size` bytes. Nobody signs a header: each of its bytes must be one that we write
/// ourselves.
fn header(path: &Path, file: &File, at: u64, size: u64) -> Result<tar::Header> {
    let fill = |at: u64, buffer: &mut [u8]| file.read_exact_at(buffer, at);
    let wrong = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::not_a_volume(path, format!("it is cut at byte {size}")),
        _ => Error::io(path)(error),
    };
    let found = tar::read(at, fill).map_err(wrong)?.map_err(|why| Error::not_a_volume(path, why))?;
    let header = found.ok_or_else(|| Error::not_a_volume(path, "it ends before its head says so"))?;
    let ours = tar::header(&header.name, header.size, at);
    let mut found = vec![0; ours.len()];
    fill(at, &mut found).map_err(wrong)?;
    if found != ours {
        return Err(Error::not_a_volume(path, format!("the header at byte {at} is not as Naru writes it")));
    }
    Ok(header)
}

/// Refuses anything but zeros from one byte to another.
fn zeros(path: &Path, file: &File, from: u64, to: u64) -> Result<()> {
    let mut rest = vec![0; CHUNK.min(usize::try_from(to.saturating_sub(from)).unwrap_or(CHUNK))];
    let mut at = from;
    while at < to {
        let length = usize::try_from(to - at).unwrap_or(CHUNK).min(CHUNK);
        let chunk = rest.get_mut(..length).unwrap_or_default();
        file.read_exact_at(chunk, at).map_err(Error::io(path))?;
        if chunk.iter().any(|byte| *byte != 0) {
            return Err(Error::not_a_volume(path, format!("something lies at byte {at}, where nothing is listed")));
        }
        at += length as u64;
    }
    Ok(())
}

/// The volumes that these paths mean: files as they are, of folders those files that begin as a volume does.
pub fn volumes_below(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut volumes = Vec::new();
    for path in paths {
        if !std::fs::metadata(path).map_err(Error::io(path))?.is_dir() {
            volumes.push(path.clone());
            continue;
        }
        let before = volumes.len();
        let mut entries: Vec<PathBuf> = std::fs::read_dir(path)
            .map_err(Error::io(path))?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<_>>()
            .map_err(Error::io(path))?;
        entries.sort();
        for entry in entries {
            if entry.extension().is_some_and(|extension| extension == "partial") || !entry.is_file() {
                continue;
            }
            let file = File::open(&entry).map_err(Error::io(&entry))?;
            let first = tar::read(0, |at, buffer| file.read_exact_at(buffer, at));
            if matches!(first, Ok(Ok(Some(header))) if header.name == HEAD) {
                volumes.push(entry);
            }
        }
        if volumes.len() == before {
            return Err(Error::NoVolumes { path: path.clone() });
        }
    }
    Ok(volumes)
}
