//! Pack: from a store to volumes.

mod select;
mod write;

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use artifact::{Digest, Hasher, Progress, Selection};
use store::{Check, Store, Sum};

use self::select::{Gathered, Leave, gather};
use self::write::{Sums, hash_piece, write_volume};
use crate::plan::{self, Cargo, Layout, Source};
use crate::receipt::{self, Inventory, Since};
use crate::volume::CHUNK;
use crate::{Archive, Error, Exported, Result, SecretKey, Volume, WantList, beside, key, parity, volumes_below, words};

/// The name of the archive of images that may lie beside the volumes.
pub(crate) const SEED: &str = "naru-seed.tar";
/// vfat's own number (statfs(2), `MSDOS_SUPER_MAGIC`); its files end one byte before 4 GiB.
const VFAT: i64 = 0x4d44;
const VFAT_LIMIT: u64 = (4 << 30) - 512;

/// How a bundle is to be packed.
#[derive(Debug, Default)]
pub struct PackOptions {
    /// The folder to write into; made when it is not there.
    pub out: PathBuf,
    /// Bytes that a volume may have; `None`: one volume.
    pub volume_size: Option<u64>,
    /// Write only these volumes, counted from 1.
    pub only: Option<RangeInclusive<usize>>,
    /// Write as many as there is room for, and say which are left for the next medium.
    pub in_turn: bool,
    /// What the volumes' names end in; `.tar`.
    pub suffix: String,
    /// The key to sign with; `None`: the store's own.
    pub sign: Option<SecretKey>,
    /// The program to lay beside the volumes.
    pub binary: Option<PathBuf>,
    /// Parity files to lay beside the volumes: so many lost volumes can be brought back.
    pub parity: usize,
    /// Images to lay beside the volumes as one archive, for nodes that have a runtime and no server yet.
    pub seed: Vec<Exported>,
    /// Leave out what all of these have.
    pub since: Vec<Since>,
    /// Carry nothing but what this lists; the selection is then what needs it.
    pub want: Option<WantList>,
}

/// A volume that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedVolume {
    /// Where it is.
    pub path: PathBuf,
    /// Its bytes.
    pub size: u64,
    /// Of the whole file.
    pub sha256: Digest,
    /// Whether it lay there already, from an earlier run.
    pub kept: bool,
}

/// A bundle that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The bundle's id.
    pub id: Digest,
    /// The same as eight words.
    pub words: String,
    /// The fingerprint of the key that signed it.
    pub fingerprint: String,
    /// The public key, for the other side to trust.
    pub public_key: String,
    /// How many volumes it has in all.
    pub of: usize,
    /// Things that are left out because they are there already, and their bytes.
    pub assumed: (u64, u64),
    /// Those that were written or kept by this run.
    pub volumes: Vec<PackedVolume>,
    /// The first and the last volume for which there was no room here.
    pub rest: Option<(usize, usize)>,
    /// The parity files.
    pub parity: Vec<PackedVolume>,
    /// The archive of images beside them.
    pub seed: Option<PackedVolume>,
}

/// Packs what is selected.
///
/// # Errors
/// [`Error::NotThere`] with everything that the store lacks, before a byte is written; [`Error::NoSpace`] likewise.
pub async fn pack(
    store: &Store,
    selection: &Selection,
    options: PackOptions,
    progress: Arc<dyn Progress>,
) -> Result<Packed> {
    if let Some(size) = options.volume_size.filter(|size| *size < plan::LEAST) {
        return Err(Error::VolumeSize { size, why: "the least is 10 MiB".to_owned() });
    }
    let out = options.out.clone();
    // One folder is made and none above it: where that one is not there, no medium is mounted.
    match std::fs::create_dir(&out) {
        Ok(()) => sync_folder(out.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new(".")))?,
        Err(error) if error.kind() == ErrorKind::AlreadyExists && !out.is_file() => {}
        Err(error) => return Err(Error::io(&out)(error)),
    }
    let mut options = options;
    let is_vfat = rustix::fs::statfs(&out).is_ok_and(|status| status.f_type == VFAT);
    if is_vfat && options.volume_size.is_none_or(|size| size > VFAT_LIMIT) {
        progress.say(&format!("{} is a FAT file system: volumes end before 4 GiB", out.display()));
        options.volume_size = Some(VFAT_LIMIT);
    }
    let key = match options.sign.take() {
        Some(key) => key,
        None => key::of_store(store).await?,
    };
    let since = std::mem::take(&mut options.since);
    let leave = match options.want.take() {
        Some(want) => Leave::AllBut(want),
        None if since.is_empty() => Leave::Nothing,
        None => Leave::These(receipt::in_all(store, since, progress.as_ref()).await?),
    };
    let seed = match options.seed.as_slice() {
        [] => None,
        images => Some(Archive::plan(store, images, None).await?),
    };
    let gathered = gather(store, selection, &leave).await?;
    let bytes: u64 = gathered.blobs.iter().map(|item| item.member.size).sum();
    progress.say(&format!("{} blobs and {} documents, {bytes} bytes", gathered.blobs.len(), gathered.documents.len()));
    let (own, progress_too) = (store.clone(), Arc::clone(&progress));
    let written = tokio::task::spawn_blocking(move || {
        write(&own, gathered, seed.as_ref(), &options, &key, progress_too.as_ref())
    })
    .await?;
    let (packed, left) = written?;
    let before = match leave {
        Leave::These(inventory) => Some(inventory),
        Leave::Nothing | Leave::AllBut(_) => None,
    };
    receipt::remember(store, &packed.id, left, before).await?;
    Ok(packed)
}

fn write(
    store: &Store,
    gathered: Gathered,
    seed: Option<&Archive>,
    options: &PackOptions,
    key: &SecretKey,
    progress: &dyn Progress,
) -> Result<(Packed, Inventory)> {
    let Gathered { trees, tree_heads, documents, mut blobs, assumes } = gathered;
    let assumed = (assumes.len() as u64, assumes.iter().map(|assumed| assumed.size).sum());
    for item in &mut blobs {
        // A blob that goes by its sha512 still needs a sha256 for the head.
        if let (Source::Blob(blob, _), artifact::Algorithm::Sha512) = (&item.source, item.member.sha256.algorithm()) {
            let mut check = blob.check();
            item.member.sha256 = hash_piece(store, blob, 0, blob.size, |bytes| check.update(bytes))?;
            if !check.is_right() {
                return Err(Error::StoreDamaged { digest: blob.digest });
            }
        }
    }
    let mut limit = options.volume_size;
    if let Some(limit) = limit.as_mut().filter(|_| options.parity > 0) {
        // A parity file is larger than the largest volume, and must fit as well.
        let bytes: u64 = blobs.iter().map(|item| item.member.size).sum();
        let size = *limit;
        *limit = limit.saturating_sub(parity::overhead(bytes / (*limit / 2).max(1) + 3));
        if *limit < plan::LEAST / 2 {
            let why = "parity would have more volumes to list than fits; take larger volumes".to_owned();
            return Err(Error::VolumeSize { size, why });
        }
    }
    let cargo = Cargo { trees: tree_heads, documents, blobs, assumes, limit, suffix: &options.suffix, key };
    // The pieces of a blob are hashed in their order, and together they must be the blob: `verify` sees them one by one.
    // Each is read once more when it is written, and must still be what it was.
    let mut whole: HashMap<Digest, Check> = HashMap::new();
    let mut sums: Sums = HashMap::new();
    let layout = plan::lay(cargo, |blob, at, size| {
        let together = whole.entry(blob.digest).or_insert_with(|| blob.check());
        let mut sum = Sum::default();
        let piece = hash_piece(store, blob, at, size, |bytes| {
            together.update(bytes);
            sum.update(bytes);
        })?;
        sums.insert((blob.digest, at), sum.finish());
        let is_last = at + size == blob.size;
        if is_last && !whole.remove(&blob.digest).is_some_and(Check::is_right) {
            return Err(Error::StoreDamaged { digest: blob.digest });
        }
        Ok(piece)
    })?;
    refuse_others(&layout, &options.out)?;
    let mut numbers: Vec<usize> = (1..=layout.volumes.len())
        .filter(|number| options.only.as_ref().is_none_or(|only| only.contains(number)))
        .collect();
    if let (Some(only), true) = (&options.only, numbers.is_empty()) {
        return Err(Error::NoSuchVolume { first: *only.start(), of: layout.volumes.len() });
    }
    let fitting = room_for(&layout, &numbers, seed.map_or(0, |seed| seed.size), options)?;
    let rest = numbers.get(fitting).copied().zip(numbers.last().copied());
    numbers.truncate(fitting);
    let total = numbers.iter().filter_map(|number| layout.volumes.get(number - 1)).map(|volume| volume.size).sum();
    progress.begin("pack", total);
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(numbers.len().max(1));
    let results: Vec<Result<Vec<PackedVolume>>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut written = Vec::new();
                    while let Some(number) = numbers.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Some(volume) = layout.volumes.get(number - 1) {
                            written.push(write_volume(store, volume, &sums, &options.out, progress)?);
                        }
                    }
                    Ok(written)
                })
            })
            .collect();
        let gone = || Error::Io { path: options.out.clone(), source: std::io::Error::other("a writer ended early") };
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err(gone()))).collect()
    });
    progress.end();
    let mut volumes = Vec::new();
    for written in results {
        volumes.extend(written?);
    }
    volumes.sort_by(|one, other| one.path.cmp(&other.path));
    let packed = Packed {
        id: layout.id,
        words: words(&layout.id),
        fingerprint: key.public().fingerprint(),
        public_key: key.public().to_line(),
        of: layout.volumes.len(),
        assumed,
        rest,
        volumes,
        parity: Vec::new(),
        seed: None,
    };
    let seed = seed.map(|seed| write_seed(seed, options, progress)).transpose()?;
    let packed = Packed { parity: cover(&packed, options, key, progress)?, seed, ..packed };
    let members = layout.volumes.iter().flat_map(|volume| volume.items.iter().map(|item| &item.member));
    let left = receipt::left_by(members, &layout.assumes);
    beside::write(store, &packed, layout, trees, options)?;
    sync_folder(&options.out)?;
    Ok((packed, left))
}

/// Lays an archive of images beside the volumes.
fn write_seed(seed: &Archive, options: &PackOptions, progress: &dyn Progress) -> Result<PackedVolume> {
    let path = options.out.join(SEED);
    if options.volume_size.is_some_and(|limit| seed.size > limit) {
        let why = format!("{SEED} would have {} bytes, and a seed is one file: name fewer images", seed.size);
        return Err(Error::VolumeSize { size: options.volume_size.unwrap_or_default(), why });
    }
    let partial = path.with_extension("partial");
    let file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&partial);
    let mut file = file.map_err(Error::io(&partial))?;
    seed.write(std::io::BufWriter::with_capacity(CHUNK, &file), progress)?;
    file.sync_all().and_then(|()| file.rewind()).map_err(Error::io(&partial))?;
    let mut hasher = Hasher::sha256();
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = file.read(&mut buffer).map_err(Error::io(&partial))?;
        if read == 0 {
            break;
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
    }
    std::fs::rename(&partial, &path).map_err(Error::io(&path))?;
    Ok(PackedVolume { path, size: seed.size, sha256: hasher.finish(), kept: false })
}

/// Lays parity beside the volumes.
fn cover(
    packed: &Packed,
    options: &PackOptions,
    key: &SecretKey,
    progress: &dyn Progress,
) -> Result<Vec<PackedVolume>> {
    if options.parity == 0 {
        return Ok(Vec::new());
    }
    if packed.volumes.len() < packed.of {
        let why = format!("it is made of all {} volumes, and {} are written here", packed.of, packed.volumes.len());
        return Err(Error::Parity { why });
    }
    let PackOptions { out, parity, suffix, .. } = options;
    parity::write(out, *parity, packed.id, &packed.volumes, suffix, key, progress)
}

/// Volumes of another bundle must not come to lie among ours. One that cannot be read and has the name of one of ours is
/// written again: it was damaged, or cut.
fn refuse_others(layout: &Layout, out: &Path) -> Result<()> {
    let there = match volumes_below(&[out.to_owned()]) {
        Err(Error::NoVolumes { .. }) => return Ok(()),
        other => other?,
    };
    for path in there {
        let is_ours = match Volume::open(&path) {
            Ok(volume) => volume.head.bundle == layout.id,
            Err(Error::Newer { .. }) => false,
            Err(_) => layout.volumes.iter().any(|volume| path.file_name().is_some_and(|name| *name == *volume.name)),
        };
        if is_ours {
            continue;
        }
        return Err(Error::Occupied { path: out.to_owned() });
    }
    Ok(())
}

/// How many of these volumes there is room for, in their order. All of them, unless they may go to several media.
fn room_for(layout: &Layout, numbers: &[usize], seed: u64, options: &PackOptions) -> Result<usize> {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let status = rustix::fs::statvfs(&options.out).map_err(|error| Error::io(&options.out)(error.into()))?;
    let free = status.f_bavail.saturating_mul(status.f_frsize);
    let mut needed = (1 << 20) + seed.saturating_sub(size(&options.out.join(SEED)));
    needed += options.binary.as_deref().map_or(0, size).saturating_sub(size(&options.out.join("naru")));
    let largest = layout.volumes.iter().map(|volume| volume.size).max().unwrap_or_default();
    needed += options.parity as u64 * (largest + parity::overhead(layout.volumes.len() as u64));
    let mut fitting = 0;
    for volume in numbers.iter().filter_map(|number| layout.volumes.get(number - 1)) {
        needed += volume.size.saturating_sub(size(&options.out.join(&volume.name)));
        fitting += usize::from(needed <= free);
    }
    if needed > free && !options.in_turn {
        return Err(Error::NoSpace { path: options.out.clone(), needed, free });
    }
    Ok(fitting)
}

pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Some file systems cannot (FAT in some kernels, network shares); their files were synced.
        Err(error) if matches!(error.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::Unsupported) => {
            Ok(())
        }
        other => other.map_err(Error::io(folder)),
    }
}
