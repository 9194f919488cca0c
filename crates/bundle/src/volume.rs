//! A volume from outside, opened and checked: its head, its signature, and that nothing lies in it but what they name.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use artifact::Hasher;

use crate::document::{DOCUMENT_LIMIT, HEAD, LIST_LIMIT, MEMBERS, Member, SIGNATURE, VolumeHead, order};
use crate::key::Trusted;
use crate::lines::{Lines, Place};
use crate::parity::{self, Parity};
use crate::{Error, PublicKey, Result, Signature, is_named_volume, open_file, plan, tar};

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
    /// Members that its head lists and that are not in it: somebody took them out on the way.
    pub removed: Vec<Member>,
    /// Headers of the tar that are not as Naru writes them: another program wrote it again on the way.
    pub rewritten: u64,
    /// Who signed it. Whether that key is trusted is another question: [`Volume::check_trust`].
    pub key: PublicKey,
    pub(crate) file: Arc<File>,
    /// Where the list of its members begins, and where what it lists may begin.
    list: (u64, u64),
}

impl Volume {
    /// Opens a file and checks everything but its members' bytes.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path, open_file(path)?)
    }

    /// The same, of a file that somebody else opened; `path` names it in messages.
    pub fn read(path: &Path, file: File) -> Result<Self> {
        Self::read_trusted(path, file, &[])
    }

    /// The same, if one of these keys has signed it ([`Volume::check_trust`]): a stranger's list may be long.
    pub(crate) fn read_trusted(path: &Path, file: File, trusted: &[Trusted]) -> Result<Self> {
        let mut volume = Self::read_head(path, file)?;
        volume.check_trust(trusted)?;
        let size = volume.file.metadata().map_err(Error::io(path))?.len();
        let members = volume.lines().all()?.collect::<Result<_>>()?;
        volume.head.members = members;
        volume.head.check(u64::MAX).map_err(|why| Error::not_a_volume(path, why))?;
        // What is shorter than its list says was cut on the way, unless the tar around it is whole.
        let cut = volume.head.check(size).err();
        match (volume.walk(size), cut) {
            (Err(Error::NotAVolume { .. }), Some(why)) => Err(Error::not_a_volume(path, why)),
            (walked, _) => walked.map(|()| volume),
        }
    }

    /// Reads its head and checks its signature, and nothing else: what a million members are is found in their list.
    pub(crate) fn read_head(path: &Path, file: File) -> Result<Self> {
        let size = file.metadata().map_err(Error::io(path))?.len();
        let document = |at: u64, name: &str, limit: u64| {
            let (header, is_ours) = header(path, &file, at, size)?.ok_or_else(|| ends_early(path))?;
            if header.name != name {
                let found = header.name.escape_default();
                return Err(Error::not_a_volume(path, format!("where `{name}` should be, there is `{found}`")));
            }
            if header.size > limit || header.offset.saturating_add(header.size) > size {
                return Err(Error::not_a_volume(path, format!("its `{name}` would have {} bytes", header.size)));
            }
            Ok((header, is_ours))
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
        let head_bytes = bytes_of(&first.0)?;
        let (head, key) = plan::read_head(&head_bytes, path)?;
        let wrong = |why: &str| Error::Signature { path: path.to_owned(), why: why.to_owned() };
        let second = document(end(&first.0), SIGNATURE, SIGNATURE_LIMIT).map_err(|error| match error {
            Error::NotAVolume { why, .. } => wrong(&format!("it is missing: {why}")),
            other => other,
        })?;
        let signature = bytes_of(&second.0)?;
        let text = String::from_utf8_lossy(&signature);
        let signature = Signature::parse(&text).map_err(wrong)?;
        if signature.to_text() != text {
            return Err(wrong("it has more in it than a signature"));
        }
        key.check(&head_bytes, &signature).map_err(wrong)?;
        let third = document(end(&second.0), MEMBERS, LIST_LIMIT)?;
        if third.0.size != head.list.size {
            return Err(Error::not_a_volume(path, format!("its `{MEMBERS}` has {} bytes", third.0.size)));
        }
        let list = (third.0.offset, end(&third.0));
        let rewritten = [first.1, second.1, third.1].iter().filter(|is_ours| !**is_ours).count() as u64;
        Ok(Self { path: path.to_owned(), head, removed: Vec::new(), rewritten, key, file: Arc::new(file), list })
    }

    /// The list of its members, where it lies.
    pub(crate) fn lines(&self) -> Lines<'_> {
        Lines::new(MEMBERS, &self.head.list, vec![self.place(self.list.0)])
    }

    /// A place in it.
    pub(crate) fn place(&self, offset: u64) -> Place {
        Place { path: self.path.clone(), file: Arc::clone(&self.file), offset }
    }

    /// The tar must be what the list says and nothing more: what is not listed must not cross.
    ///
    /// A gateway's scanner may have taken members out and written the rest again: those that are left stand in their
    /// order, and each is still what its digest says.
    fn walk(&mut self, size: u64) -> Result<()> {
        let (path, file) = (&self.path, &self.file);
        let mut listed = std::mem::take(&mut self.head.members).into_iter();
        let (list, mut at) = self.list;
        zeros(path, file, list + self.head.list.size, at)?;
        while let Some((header, is_ours)) = header(path, file, at, size)? {
            let mut expected = None;
            let mut member = loop {
                match listed.next() {
                    Some(member) if member.name == header.name && member.size == header.size => break member,
                    Some(member) => {
                        expected.get_or_insert_with(|| member.name.clone());
                        self.removed.push(member);
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
            zeros(path, file, header.offset + header.size, at.min(size))?;
            self.rewritten += u64::from(!is_ours);
            member.offset = header.offset;
            self.head.members.push(member);
        }
        self.removed.extend(listed);
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

    /// That another program wrote its tar again, in words.
    pub(crate) fn rewriting(&self) -> Option<String> {
        let Self { path, rewritten, .. } = self;
        (*rewritten > 0).then(|| {
            format!(
                "{}: another program wrote this tar again on the way ({rewritten} of its headers are not Naru's); what \
                 it holds is hashed all the same",
                path.display()
            )
        })
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

/// The header at byte `at` of a volume of `size` bytes, and whether it is as we write it to the byte: nobody signs a
/// header. `None`: the end.
fn header(path: &Path, file: &File, at: u64, size: u64) -> Result<Option<(tar::Header, bool)>> {
    let fill = |at: u64, buffer: &mut [u8]| file.read_exact_at(buffer, at);
    let wrong = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::not_a_volume(path, format!("it is cut at byte {size}")),
        _ => Error::io(path)(error),
    };
    let found = tar::read(at, fill).map_err(wrong)?.map_err(|why| Error::not_a_volume(path, why))?;
    let Some(header) = found else { return Ok(None) };
    let ours = tar::header(&header.name, header.size, at);
    let is_ours = header.offset == at + ours.len() as u64 && {
        let mut found = vec![0; ours.len()];
        fill(at, &mut found).map_err(wrong)?;
        found == ours
    };
    Ok(Some((header, is_ours)))
}

fn ends_early(path: &Path) -> Error {
    Error::not_a_volume(path, "it ends before its head says so")
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

/// Who signed a volume, or the volumes in a folder; `None`: a file that is no volume.
///
/// # Errors
/// When a volume cannot be read, or several keys signed what lies in the folder.
pub fn signer(path: &Path) -> Result<Option<PublicKey>> {
    let (mut found, mut failed): (Option<PublicKey>, _) = (None, None);
    let is_folder = path.is_dir();
    for path in volumes_below(&[path.to_owned()])? {
        match open_file(&path).and_then(|file| Volume::read_head(&path, file)) {
            Ok(volume) if found.is_some_and(|found| found != volume.key) => {
                let why = "another volume beside it is signed by another; name a single volume".to_owned();
                return Err(Error::Key { what: path.display().to_string(), why });
            }
            Ok(volume) => found = Some(volume.key),
            Err(Error::NotAVolume { .. } | Error::NoFile { .. }) if !is_folder => return Ok(None),
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    match (found, failed) {
        (None, Some(error)) => Err(error),
        (found, _) => Ok(found),
    }
}

/// The volumes that these paths mean, each once: files as they are, but for parity, and of folders those files that
/// begin as a volume does, or have a volume's name. Whoever opens one of those says what is wrong with it.
pub fn volumes_below(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut volumes = Vec::new();
    for path in paths {
        if !std::fs::metadata(path).map_err(Error::io(path))?.is_dir() {
            if !open_file(path).is_ok_and(|file| Parity::is_one(&file)) {
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
            let begins = |name: &str| {
                open_file(&entry).is_ok_and(|file| {
                    let first = tar::read(0, |at, buffer| file.read_exact_at(buffer, at));
                    matches!(first, Ok(Ok(Some(header))) if header.name == name)
                })
            };
            if begins(HEAD) || (is_named_volume(&entry) && !begins(parity::HEAD)) {
                volumes.push(entry);
            }
        }
        if volumes.len() == before {
            return Err(Error::NoVolumes { path: path.clone() });
        }
    }
    let mut seen = HashSet::new();
    volumes.retain(|path| seen.insert(std::fs::canonicalize(path).unwrap_or_else(|_| path.clone())));
    Ok(volumes)
}
