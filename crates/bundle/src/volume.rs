//! A volume from outside, opened and checked: its head, its signature, and that nothing lies in it but what they name.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use artifact::Hasher;

use crate::document::{DOCUMENT_LIMIT, HEAD, Member, SIGNATURE, VolumeHead};
use crate::key::Trusted;
use crate::parity::Parity;
use crate::{Error, PublicKey, Result, Signature, plan, tar};

/// Bytes read at a time.
pub(crate) const CHUNK: usize = 1 << 20;

/// A volume whose head is signed by [`Volume::key`] and agrees with the tar around it. Its members are not hashed yet.
#[derive(Debug)]
pub struct Volume {
    /// Where it was found, for messages.
    pub path: PathBuf,
    /// What it says of itself.
    pub head: VolumeHead,
    /// Members that its head lists and that are not in it: somebody took them out on the way.
    pub removed: Vec<Member>,
    /// Who signed it. Whether that key is trusted is another question: [`Volume::check_trust`].
    pub key: PublicKey,
    pub(crate) file: File,
}

impl Volume {
    /// Opens a file and checks everything but its members' bytes.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path, File::open(path).map_err(Error::io(path))?)
    }

    /// The same, of a file that somebody else opened; `path` names it in messages.
    pub fn read(path: &Path, file: File) -> Result<Self> {
        let size = file.metadata().map_err(Error::io(path))?.len();
        let fill = |at: u64, buffer: &mut [u8]| file.read_exact_at(buffer, at);
        let next = |at: u64| match tar::read(at, fill) {
            Ok(Ok(header)) => Ok(header),
            Ok(Err(why)) => Err(Error::not_a_volume(path, why)),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(Error::not_a_volume(path, format!("it is cut at byte {size}")))
            }
            Err(error) => Err(Error::io(path)(error)),
        };
        let header = |at: u64| next(at)?.ok_or_else(|| Error::not_a_volume(path, "it ends before its head says so"));
        let document = |at: u64, name: &str| {
            let header = header(at)?;
            if header.name != name {
                let found = header.name.escape_default();
                return Err(Error::not_a_volume(path, format!("where `{name}` should be, there is `{found}`")));
            }
            if header.size > DOCUMENT_LIMIT || header.offset.saturating_add(header.size) > size {
                return Err(Error::not_a_volume(path, format!("its `{name}` would have {} bytes", header.size)));
            }
            let mut bytes = vec![0; usize::try_from(header.size).unwrap_or_default()];
            file.read_exact_at(&mut bytes, header.offset).map_err(Error::io(path))?;
            Ok((bytes, header.offset + tar::padded(header.size)))
        };
        let (head_bytes, after) = document(0, HEAD)?;
        let (mut head, key) = plan::read_head(&head_bytes, path, u64::MAX)?;
        let wrong = |why: &str| Error::Signature { path: path.to_owned(), why: why.to_owned() };
        let (signature, after) = document(after, SIGNATURE).map_err(|error| match error {
            Error::NotAVolume { why, .. } => wrong(&format!("it is missing: {why}")),
            other => other,
        })?;
        let text = String::from_utf8_lossy(&signature);
        let signature = Signature::parse(&text).map_err(wrong)?;
        if signature.to_text() != text {
            return Err(wrong("it has more in it than a signature"));
        }
        key.check(&head_bytes, &signature).map_err(wrong)?;
        // The tar must be what the head says and nothing more: what is not listed must not cross.
        let zeros = |from: u64, to: u64| {
            let mut rest = vec![0; CHUNK.min(usize::try_from(to.saturating_sub(from)).unwrap_or(CHUNK))];
            let mut at = from;
            while at < to {
                let length = usize::try_from(to - at).unwrap_or(CHUNK).min(CHUNK);
                let chunk = rest.get_mut(..length).unwrap_or_default();
                file.read_exact_at(chunk, at).map_err(Error::io(path))?;
                if chunk.iter().any(|byte| *byte != 0) {
                    return Err(Error::not_a_volume(
                        path,
                        format!("something lies at byte {at}, where nothing is listed"),
                    ));
                }
                at += length as u64;
            }
            Ok(())
        };
        // What is shorter than its head says was cut on the way, unless the tar around it is whole.
        let cut = head.check(size).err();
        let (mut there, mut removed) = (Vec::with_capacity(head.members.len()), Vec::new());
        let mut listed = std::mem::take(&mut head.members).into_iter();
        // A gateway's scanner may have taken members out and written the rest again: those that are left stand in their
        // order, and each is still what its digest says.
        let mut walk = || {
            let mut at = after;
            while let Some(header) = next(at)? {
                let mut expected = None;
                let mut member = loop {
                    match listed.next() {
                        Some(member) if member.name == header.name && member.size == header.size => break member,
                        Some(member) => {
                            expected.get_or_insert_with(|| member.name.clone());
                            removed.push(member);
                        }
                        None => {
                            let why = expected.map_or_else(
                                || format!("something lies at byte {at}, where nothing is listed"),
                                |name| format!("where `{name}` should be, there is `{}`", header.name.escape_default()),
                            );
                            return Err(Error::not_a_volume(path, why));
                        }
                    }
                };
                at = header.offset.saturating_add(tar::padded(header.size));
                if header.offset.saturating_add(header.size) > size {
                    return Err(Error::not_a_volume(path, format!("it is cut in `{}`, at byte {size}", member.name)));
                }
                zeros(header.offset + header.size, at.min(size))?;
                member.offset = header.offset;
                there.push(member);
            }
            zeros(at, size)
        };
        match (walk(), cut) {
            (Ok(()), _) => {}
            (Err(Error::NotAVolume { .. }), Some(why)) => return Err(Error::not_a_volume(path, why)),
            (Err(error), _) => return Err(error),
        }
        removed.extend(listed);
        head.members = there;
        Ok(Self { path: path.to_owned(), head, removed, key, file })
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
        self.head.members.iter().find(|member| member.name == name)
    }

    /// A small member's bytes, checked.
    pub(crate) fn document(&self, member: &Member) -> Result<Vec<u8>> {
        if member.size > DOCUMENT_LIMIT {
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

    /// A member that was taken out, in words.
    pub(crate) fn removal(&self, member: &Member) -> String {
        let Self { path, head, .. } = self;
        format!(
            "{}: `{}` ({} bytes, volume {} of {}) was taken out of it",
            path.display(),
            member.name,
            member.size,
            head.volume,
            head.of
        )
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

/// The volumes that these paths mean: files as they are, but for parity, and of folders those files that begin as a volume does.
pub fn volumes_below(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut volumes = Vec::new();
    for path in paths {
        if !std::fs::metadata(path).map_err(Error::io(path))?.is_dir() {
            if !File::open(path).is_ok_and(|file| Parity::is_one(&file)) {
                volumes.push(path.clone());
            }
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
