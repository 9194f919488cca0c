//! Parity: files beside the volumes, any N of which bring back any N volumes that were lost or damaged.
//!
//! ```text
//! naru-parity-01.tar
//! ├── parity.json            whose it is, how it is cut, and every volume's name, size and sha256
//! ├── parity.json.minisig    the signature of that, in minisign's format
//! └── parity/01              as many bytes as the largest volume has, rounded up to 64
//! ```
//!
//! The volumes are read side by side in stripes of `shard` bytes (what is shorter than the largest goes on with zeros),
//! and each stripe gives each parity file as many bytes: a Reed–Solomon code over GF(2^16), Leopard's, which is erasure
//! coding: it must be told what is lost. The signed hashes tell that. Nothing is believed that has another hash than
//! the head says, what was brought back included.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use artifact::{Digest, Hasher, Progress};
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};
use serde::{Deserialize, Serialize};

use crate::document::{DOCUMENT_LIMIT, FORMAT};
use crate::key::Trusted;
use crate::pack::PackedVolume;
use crate::volume::{CHUNK, Volume};
use crate::{Error, PublicKey, Result, SecretKey, Signature, is_named_parity, open_file, tar, volumes_below};

/// The name of a parity file's head.
pub(crate) const HEAD: &str = "parity.json";
/// The name of its signature.
const SIGNATURE: &str = "parity.json.minisig";
/// Bytes of a stripe over all files: memory is about three times that.
const STRIPE: u64 = 32 << 20;
/// What the code wants shards to be a multiple of.
const GRAIN: u64 = 64;
/// Volumes and parity files together, as many as the code has.
const MOST: usize = 65_536;

/// A volume that parity covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Covered {
    /// Its file's name.
    pub name: String,
    /// Its file's bytes.
    pub size: u64,
    /// Of the whole file.
    pub sha256: Digest,
}

/// `parity.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Head {
    format: u32,
    reader: u32,
    bundle: Digest,
    /// Which parity file this is, from 1, and how many there are.
    parity: usize,
    of: usize,
    key: String,
    /// Bytes of a stripe that each file has.
    shard: u64,
    volumes: Vec<Covered>,
    /// Where the parity begins, its bytes and their hash.
    offset: u64,
    size: u64,
    sha256: Digest,
}

/// A parity file whose head is signed. Its bytes are not hashed yet.
#[derive(Debug)]
pub(crate) struct Parity {
    path: PathBuf,
    file: File,
    head: Head,
    pub(crate) key: PublicKey,
}

/// Room that a parity file needs beyond the largest volume, when there are at most so many volumes.
pub(crate) fn overhead(volumes: u64) -> u64 {
    16 * 1024 + volumes * 400
}

fn name_of(number: usize, suffix: &str) -> String {
    format!("naru-parity-{number:02}{suffix}")
}

fn failed(why: impl std::fmt::Display) -> Error {
    Error::Parity { why: why.to_string() }
}

/// Fills a buffer from a file; zeros stand for what lies behind its end.
fn fill(file: &File, path: &Path, at: u64, size: u64, buffer: &mut [u8]) -> Result<()> {
    let there = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX).min(buffer.len());
    let (bytes, zeros) = buffer.split_at_mut_checked(there).ok_or_else(|| failed("a stripe is cut"))?;
    zeros.fill(0);
    file.read_exact_at(bytes, at).map_err(Error::io(path))
}

/// The stripes: where each begins, and how many bytes of each file it has.
fn stripes(shard: u64, size: u64) -> impl Iterator<Item = (u64, usize)> {
    let step = usize::try_from(shard).unwrap_or(usize::MAX);
    (0..size).step_by(step).map(move |at| (at, usize::try_from(shard.min(size - at)).unwrap_or(step)))
}

fn hash(file: &File, path: &Path, from: u64, size: u64, mut read: impl FnMut(u64)) -> Result<Digest> {
    let (mut hasher, mut buffer, mut done) = (Hasher::sha256(), vec![0; CHUNK], 0);
    while done < size {
        let length = usize::try_from(size - done).unwrap_or(CHUNK).min(CHUNK);
        let chunk = buffer.get_mut(..length).unwrap_or_default();
        file.read_exact_at(chunk, from + done).map_err(Error::io(path))?;
        hasher.update(chunk);
        done += length as u64;
        read(length as u64);
    }
    Ok(hasher.finish())
}

/// Writes `count` parity files beside all the volumes of a bundle.
pub(crate) fn write(
    out: &Path,
    count: usize,
    bundle: Digest,
    volumes: &[PackedVolume],
    suffix: &str,
    key: &SecretKey,
    progress: &dyn Progress,
) -> Result<Vec<PackedVolume>> {
    if volumes.len() + count > MOST {
        return Err(failed(format!("{} volumes and {count} parity files are more than {MOST}", volumes.len())));
    }
    let covered: Vec<Covered> = volumes
        .iter()
        .map(|volume| Covered {
            name: volume.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            size: volume.size,
            sha256: volume.sha256,
        })
        .collect();
    let size = covered.iter().map(|volume| volume.size).max().unwrap_or_default().next_multiple_of(GRAIN);
    let shard = (STRIPE / (volumes.len() + count) as u64 / GRAIN * GRAIN).min(1 << 20);
    let files = volumes
        .iter()
        .map(|volume| File::open(&volume.path).map_err(Error::io(&volume.path)))
        .collect::<Result<Vec<_>>>()?;
    let mut writing = Vec::with_capacity(count);
    for number in 1..=count {
        let head = Head {
            format: FORMAT,
            reader: FORMAT,
            bundle,
            parity: number,
            of: count,
            key: key.public().to_line(),
            shard,
            volumes: covered.clone(),
            offset: 0,
            size,
            sha256: Digest::sha256([0; 32]),
        };
        writing.push(Writing::begin(out, &name_of(number, suffix), head, key)?);
    }
    progress.begin("parity", size * volumes.len() as u64);
    let mut buffer = vec![0; usize::try_from(shard).unwrap_or_default()];
    for (at, length) in stripes(shard, size) {
        let mut encoder = ReedSolomonEncoder::new(volumes.len(), count, length).map_err(failed)?;
        let chunk = buffer.get_mut(..length).unwrap_or_default();
        for (file, volume) in files.iter().zip(volumes) {
            fill(file, &volume.path, at, volume.size, chunk)?;
            encoder.add_original_shard(&*chunk).map_err(failed)?;
            progress.advance(length as u64);
        }
        let encoded = encoder.encode().map_err(failed)?;
        for (one, bytes) in writing.iter_mut().zip(encoded.recovery_iter()) {
            one.file.write_all_at(bytes, one.head.offset + at).map_err(Error::io(&one.partial))?;
            one.hasher.update(bytes);
        }
    }
    progress.end();
    writing.into_iter().map(|one| one.finish(key)).collect()
}

/// A parity file that is being written; its head comes last, when the hash is known.
struct Writing {
    path: PathBuf,
    partial: PathBuf,
    file: File,
    head: Head,
    hasher: Hasher,
}

impl Writing {
    fn begin(out: &Path, name: &str, mut head: Head, key: &SecretKey) -> Result<Self> {
        let partial = out.join(format!("{name}.partial"));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&partial);
        let file = file.map_err(Error::io(&partial))?;
        // The offset's own digits move it: it is found by trying.
        loop {
            let before = Self::before(&head, key);
            if before.len() as u64 == head.offset {
                return Ok(Self { path: out.join(name), partial, file, head, hasher: Hasher::sha256() });
            }
            head.offset = before.len() as u64;
        }
    }

    /// All that stands before the parity.
    fn before(head: &Head, key: &SecretKey) -> Vec<u8> {
        let comment = format!("bundle {} parity {} of {}", head.bundle.hex(), head.parity, head.of);
        // The last multiple of the block that a head with a shorter offset may fall below.
        let mut document = serde_json::to_vec(head).unwrap_or_default();
        let room = (document.len() + 20).next_multiple_of(512);
        document.resize(room, b' ');
        let signature = key.sign(&document, &comment).to_text().into_bytes();
        let mut bytes = Vec::new();
        for (name, document) in [(HEAD, &document), (SIGNATURE, &signature)] {
            bytes.extend_from_slice(&tar::header(name, document.len() as u64, bytes.len() as u64));
            bytes.extend_from_slice(document);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.extend_from_slice(&tar::header(&format!("parity/{:02}", head.parity), head.size, bytes.len() as u64));
        bytes
    }

    fn finish(mut self, key: &SecretKey) -> Result<PackedVolume> {
        self.head.sha256 = self.hasher.finish();
        let (path, partial, file, head) = (&self.path, &self.partial, &self.file, &self.head);
        let end = head.offset + tar::padded(head.size) + tar::END;
        file.write_all_at(&Self::before(head, key), 0)
            .and_then(|()| file.set_len(end))
            .and_then(|()| file.sync_all())
            .map_err(Error::io(partial))?;
        let sha256 = hash(file, partial, 0, end, |_| ())?;
        std::fs::rename(partial, path).map_err(Error::io(path))?;
        Ok(PackedVolume { path: path.clone(), size: end, sha256, kept: false })
    }
}

impl Parity {
    /// Whether a file begins as a parity file does.
    pub(crate) fn is_one(file: &File) -> bool {
        let first = tar::read(0, |at, buffer| file.read_exact_at(buffer, at));
        matches!(first, Ok(Ok(Some(header))) if header.name == HEAD)
    }

    /// Reads its head, and believes what it signs.
    pub(crate) fn read(path: &Path, file: File) -> Result<Self> {
        let wrong = |why: &str| Error::not_a_volume(path, format!("as a parity file: {why}"));
        let end = file.metadata().map_err(Error::io(path))?.len();
        let next = |at: u64, name: &str| match tar::read(at, |at, buffer| file.read_exact_at(buffer, at)) {
            Ok(Ok(Some(header))) if header.name == name && header.offset.saturating_add(header.size) <= end => {
                Ok(header)
            }
            Ok(Err(why)) => Err(wrong(&why)),
            Ok(_) => Err(wrong(&format!("`{name}` is not where it should be"))),
            Err(error) => Err(Error::io(path)(error)),
        };
        let document = |at: u64, name: &str| {
            let header = next(at, name)?;
            if header.size > DOCUMENT_LIMIT {
                return Err(wrong(&format!("`{name}` has {} bytes", header.size)));
            }
            let mut bytes = vec![0; usize::try_from(header.size).unwrap_or_default()];
            file.read_exact_at(&mut bytes, header.offset).map_err(Error::io(path))?;
            Ok((bytes, header.offset + tar::padded(header.size)))
        };
        let (bytes, at) = document(0, HEAD)?;
        let head: Head = serde_json::from_slice(&bytes).map_err(|error| wrong(&error.to_string()))?;
        if head.reader > FORMAT {
            return Err(Error::Newer { path: path.to_owned(), needed: head.reader, known: FORMAT });
        }
        let unsigned = |why: &str| Error::Signature { path: path.to_owned(), why: why.to_owned() };
        let (signature, at) = document(at, SIGNATURE)?;
        let signature = Signature::parse(&String::from_utf8_lossy(&signature)).map_err(unsigned)?;
        let key = PublicKey::parse(&head.key, "the key in its head").map_err(|error| unsigned(&error.to_string()))?;
        key.check(&bytes, &signature).map_err(unsigned)?;
        let data = next(at, &format!("parity/{:02}", head.parity))?;
        // What is signed may still be nonsense: it decides what is written, and how much memory is taken.
        let largest = head.volumes.iter().map(|volume| volume.size).max().unwrap_or_default();
        let is_right = (data.offset, data.size) == (head.offset, head.size)
            && Some(head.size) == largest.checked_next_multiple_of(GRAIN)
            && (1..=head.of).contains(&head.parity)
            && head.volumes.len().saturating_add(head.of) <= MOST
            && head.shard > 0
            && head.shard.is_multiple_of(GRAIN)
            && head.shard.saturating_mul((head.volumes.len() + head.of) as u64) <= STRIPE
            && head.volumes.iter().all(|volume| is_plain(&volume.name));
        if !is_right {
            return Err(wrong("its head makes no sense"));
        }
        Ok(Self { path: path.to_owned(), file, head, key })
    }

    /// Those of one bundle among these paths, and in the folders among them, as far as they can be read and a trusted
    /// key has signed them. Of which bundle, where nobody says: of the first that needs no volume any more, or the first.
    pub(crate) fn open_below(
        paths: &[PathBuf],
        bundle: Option<Digest>,
        trusted: &[Trusted],
        mut covers_nothing: impl FnMut(Error),
    ) -> Result<Vec<Self>> {
        let mut bundles: BTreeMap<Digest, Vec<Self>> = BTreeMap::new();
        for path in parities_below(paths)? {
            let read = open_file(&path).and_then(|file| Self::read(&path, file));
            match read.and_then(|parity| parity.check_trust(trusted).map(|()| parity)) {
                Ok(parity) => bundles.entry(parity.bundle()).or_default().push(parity),
                Err(error) => covers_nothing(error),
            }
        }
        let is_enough = |parities: &Vec<Self>| parities.first().is_some_and(|one| one.volumes() <= parities.len());
        let alone = || bundles.iter().find(|(_, parities)| is_enough(parities)).or(bundles.iter().next());
        let bundle = bundle.or_else(|| alone().map(|(bundle, _)| *bundle));
        Ok(bundle.and_then(|bundle| bundles.remove(&bundle)).unwrap_or_default())
    }

    /// Who signed it.
    pub(crate) fn key(&self) -> &PublicKey {
        &self.key
    }

    /// As [`crate::Volume::check_trust`].
    pub(crate) fn check_trust(&self, trusted: &[Trusted]) -> Result<()> {
        if trusted.is_empty() || trusted.iter().any(|one| one.key == self.key) {
            return Ok(());
        }
        Err(Error::Untrusted { path: self.path.clone(), fingerprint: self.key.fingerprint() })
    }

    /// The bundle that it is of.
    pub(crate) fn bundle(&self) -> Digest {
        self.head.bundle
    }

    /// How many volumes it covers.
    pub(crate) fn volumes(&self) -> usize {
        self.head.volumes.len()
    }

    /// How many parity files there are.
    pub(crate) fn of(&self) -> usize {
        self.head.of
    }

    /// That parity files lie there, and not enough of them to do without volumes.
    pub(crate) fn alone(&self, files: usize) -> Error {
        let (of, volumes) = (self.of(), self.volumes());
        failed(format!("{files} of {of} parity files lie there, and none of the {volumes} volumes that they cover"))
    }

    /// Whether its bytes are what its head says.
    pub(crate) fn is_whole(&self, progress: &dyn Progress) -> bool {
        let Head { offset, size, sha256, .. } = &self.head;
        hash(&self.file, &self.path, *offset, *size, |bytes| progress.advance(bytes))
            .is_ok_and(|found| found == *sha256)
    }

    /// Whether both are of one set.
    fn is_beside(&self, other: &Self) -> bool {
        let (one, other) = (&self.head, &other.head);
        (one.bundle, one.shard, one.of, &one.volumes) == (other.bundle, other.shard, other.of, &other.volumes)
    }
}

/// A file's name and nothing else.
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    name.starts_with("naru-") && name.len() <= 100 && name.bytes().all(plain)
}

/// The parity files among these paths, and in the folders among them, by what they are or by their name.
fn parities_below(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let entries = std::fs::read_dir(path).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
            files.extend(entries.map_err(Error::io(path))?.into_iter().map(|entry| entry.path()));
        } else {
            files.push(path.clone());
        }
    }
    let is_whole = |path: &PathBuf| path.is_file() && path.extension().is_none_or(|extension| extension != "partial");
    let is_one = |path: &PathBuf| open_file(path).is_ok_and(|file| Parity::is_one(&file));
    files.retain(|path| is_whole(path) && (is_named_parity(path) || is_one(path)));
    files.sort();
    Ok(files)
}

/// The volumes below these paths; none where there is nothing but parity.
pub(crate) fn volumes_or_parity(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    match volumes_below(paths) {
        Err(Error::NoVolumes { .. }) if !parities_below(paths)?.is_empty() => Ok(Vec::new()),
        other => other,
    }
}

/// Brings back, in the folder `into`, every volume below `paths` that is missing or is not what was packed.
///
/// # Errors
/// [`Error::Parity`] when there is too little left, [`Error::Untrusted`] when others made what is left.
pub fn repair(paths: &[PathBuf], trusted: &[Trusted], into: &Path, progress: &dyn Progress) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut bundle = None;
    for path in volumes_or_parity(paths)? {
        // What cannot be opened is as good as lost.
        let Ok(file) = open_file(&path) else { continue };
        bundle = bundle.or_else(|| Some(Volume::read_head(&path, file.try_clone().ok()?).ok()?.head.bundle));
        files.push((path, file));
    }
    let parities = Parity::open_below(paths, bundle, trusted, |error| {
        progress.warn(&format!("it covers nothing: {error}"));
    })?;
    let files: Vec<(&Path, &File)> = files.iter().map(|(path, file)| (path.as_path(), file)).collect();
    rebuild(&files, &parities, into, progress)
}

/// Those of one set whose bytes are what their heads say, each once.
pub(crate) fn whole<'a>(first: &Parity, parities: &'a [Parity], progress: &dyn Progress) -> Vec<&'a Parity> {
    let mut whole: Vec<&Parity> =
        parities.iter().filter(|one| one.is_beside(first) && one.is_whole(progress)).collect();
    whole.sort_by_key(|one| one.head.parity);
    whole.dedup_by_key(|one| one.head.parity);
    whole
}

/// Brings back, in the folder `into`, every volume that is not among `files` as it was packed. Answers them.
///
/// # Errors
/// [`Error::Parity`] when more is lost than there is parity for; [`Error::NoSpace`].
pub(crate) fn rebuild(
    files: &[(&Path, &File)],
    parities: &[Parity],
    into: &Path,
    progress: &dyn Progress,
) -> Result<Vec<PathBuf>> {
    let Some(first) = parities.first() else { return Err(failed("there are no parity files")) };
    let Head { volumes, shard, size, .. } = &first.head;
    progress
        .begin("find what is lost", files.iter().map(|(_, file)| file.metadata().map_or(0, |file| file.len())).sum());
    let mut found: Vec<Option<(&Path, &File)>> = vec![None; volumes.len()];
    for (path, file) in files {
        let length = file.metadata().map_err(Error::io(path))?.len();
        // What cannot be read is as good as lost.
        let Ok(digest) = hash(file, path, 0, length, |bytes| progress.advance(bytes)) else { continue };
        if let Some(number) = volumes.iter().position(|volume| volume.sha256 == digest)
            && let Some(place) = found.get_mut(number)
        {
            *place = Some((*path, *file));
        }
    }
    progress.end();
    let lost: Vec<(usize, &Covered)> =
        volumes.iter().enumerate().filter(|(number, _)| found.get(*number).is_none_or(Option::is_none)).collect();
    if lost.is_empty() {
        return Ok(Vec::new());
    }
    let whole = whole(first, parities, progress);
    if whole.len() < lost.len() {
        let names: Vec<&str> = lost.iter().map(|(_, volume)| volume.name.as_str()).collect();
        let why = format!("{} are lost or damaged, and {} parity files are whole", names.join(", "), whole.len());
        return Err(failed(why));
    }
    std::fs::create_dir_all(into).map_err(Error::io(into))?;
    let needed = lost.iter().map(|(_, volume)| volume.size).sum();
    let status = rustix::fs::statvfs(into).map_err(|error| Error::io(into)(error.into()))?;
    let free = status.f_bavail.saturating_mul(status.f_frsize);
    if needed > free {
        return Err(Error::NoSpace { path: into.to_owned(), needed, free });
    }
    let mut rebuilt = Vec::with_capacity(lost.len());
    for (number, volume) in &lost {
        let partial = into.join(format!("{}.partial", volume.name));
        let file = File::create(&partial).map_err(Error::io(&partial))?;
        rebuilt.push((*number, *volume, partial, file, Hasher::sha256()));
    }
    progress.begin("rebuild", size.saturating_mul(volumes.len() as u64));
    let mut buffer = vec![0; usize::try_from(*shard).unwrap_or_default()];
    for (at, length) in stripes(*shard, *size) {
        let mut decoder = ReedSolomonDecoder::new(volumes.len(), first.head.of, length).map_err(failed)?;
        let chunk = buffer.get_mut(..length).unwrap_or_default();
        for (number, place) in found.iter().enumerate() {
            let (Some((path, file)), Some(volume)) = (place, volumes.get(number)) else { continue };
            fill(file, path, at, volume.size, chunk)?;
            decoder.add_original_shard(number, &*chunk).map_err(failed)?;
            progress.advance(length as u64);
        }
        for parity in whole.iter().take(lost.len()) {
            fill(&parity.file, &parity.path, parity.head.offset + at, u64::MAX, chunk)?;
            decoder.add_recovery_shard(parity.head.parity - 1, &*chunk).map_err(failed)?;
            progress.advance(length as u64);
        }
        let decoded = decoder.decode().map_err(failed)?;
        for (number, volume, partial, file, hasher) in &mut rebuilt {
            let bytes = decoded.restored_original(*number).ok_or_else(|| failed("a stripe is not whole"))?;
            let there = usize::try_from(volume.size.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes.len());
            let bytes = bytes.get(..there).unwrap_or_default();
            file.write_all_at(bytes, at).map_err(Error::io(partial))?;
            hasher.update(bytes);
        }
    }
    progress.end();
    let mut paths = Vec::with_capacity(rebuilt.len());
    for (_, volume, partial, file, hasher) in rebuilt {
        if hasher.finish() != volume.sha256 {
            let _ = std::fs::remove_file(&partial);
            return Err(failed(format!("{} does not come back as it was", volume.name)));
        }
        file.sync_all().map_err(Error::io(&partial))?;
        let path = into.join(&volume.name);
        std::fs::rename(&partial, &path).map_err(Error::io(&path))?;
        paths.push(path);
    }
    crate::pack::sync_folder(into)?;
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use artifact::Silent;

    fn volumes(folder: &Path, sizes: &[usize]) -> Vec<PackedVolume> {
        let write = |(number, size): (usize, &usize)| {
            let bytes: Vec<u8> = (0..*size).map(|at| (at * 31 + number * 7 + at / 251).to_le_bytes()[0]).collect();
            let path = folder.join(crate::volume_name(number + 1, ".tar"));
            std::fs::write(&path, &bytes).unwrap();
            PackedVolume { path, size: *size as u64, sha256: Digest::of(&bytes), kept: false }
        };
        sizes.iter().enumerate().map(write).collect()
    }

    /// Rebuilds what is left of these volumes; answers the names that came back.
    fn bring_back(folder: &Path, volumes: &[PackedVolume], parities: &[PackedVolume]) -> Result<Vec<String>> {
        let files: Vec<(PathBuf, File)> =
            volumes.iter().filter_map(|one| Some((one.path.clone(), File::open(&one.path).ok()?))).collect();
        let files: Vec<(&Path, &File)> = files.iter().map(|(path, file)| (path.as_path(), file)).collect();
        let parities = parities.iter().filter_map(|one| Parity::read(&one.path, File::open(&one.path).ok()?).ok());
        let parities: Vec<Parity> = parities.collect();
        let back = rebuild(&files, &parities, &folder.join("back"), &Silent)?;
        Ok(back.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn any_two_of_five_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let key = SecretKey::from_seed(&[5; 32]).unwrap();
        // More than a stripe, none a multiple of anything, one of nothing.
        let made = volumes(folder, &[3_000_001, 5_000_000, 17, 4_999_999, 1]);
        let parities = write(folder, 2, Digest::of(b"b"), &made, ".tar", &key, &Silent).unwrap();
        let again = write(folder, 2, Digest::of(b"b"), &made, ".tar", &key, &Silent).unwrap();
        assert_eq!(parities, again, "there is no clock in it");
        for one in 0..made.len() {
            for other in one + 1..made.len() {
                let kept = [one, other].map(|lost| std::fs::read(&made[lost].path).unwrap());
                std::fs::remove_file(&made[one].path).unwrap();
                // One is gone, one has a bit flipped.
                let mut damaged = kept[1].clone();
                damaged[0] ^= 1;
                std::fs::write(&made[other].path, damaged).unwrap();
                let names = bring_back(folder, &made, &parities).unwrap();
                let expected = [one, other].map(|lost| crate::volume_name(lost + 1, ".tar"));
                assert_eq!(names, expected);
                for (lost, bytes) in [one, other].into_iter().zip(&kept) {
                    let path = folder.join("back").join(crate::volume_name(lost + 1, ".tar"));
                    assert!(std::fs::read(path).unwrap() == *bytes);
                    std::fs::write(&made[lost].path, bytes).unwrap();
                }
            }
        }
        std::fs::remove_file(&made[0].path).unwrap();
        std::fs::remove_file(&made[1].path).unwrap();
        let file = File::options().read(true).write(true).open(&parities[0].path).unwrap();
        file.write_all_at(b"x", 1_000_000).unwrap();
        let refused = bring_back(folder, &made, &parities).unwrap_err().to_string();
        assert!(refused.contains("naru-0001.tar, naru-0002.tar") && refused.contains("1 parity"), "{refused}");
    }

    #[test]
    fn a_head_that_was_changed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let key = SecretKey::from_seed(&[5; 32]).unwrap();
        let made = volumes(folder, &[1000, 2000]);
        let parity = write(folder, 1, Digest::of(b"b"), &made, ".tar", &key, &Silent).unwrap().remove(0);
        let bytes = std::fs::read(&parity.path).unwrap();
        for at in (0..2000).step_by(37) {
            let mut other = bytes.clone();
            other[at] ^= 1;
            std::fs::write(&parity.path, &other).unwrap();
            let read = Parity::read(&parity.path, File::open(&parity.path).unwrap());
            // A header's padding and its checksum's second half are nobody's business.
            assert!(read.is_err() || other[512..] == bytes[512..], "byte {at}");
        }
        std::fs::write(&parity.path, &bytes[..1500]).unwrap();
        Parity::read(&parity.path, File::open(&parity.path).unwrap()).unwrap_err();
    }
}
