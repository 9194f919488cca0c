//! Pack: from a store to volumes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read as _, Seek as _, SeekFrom, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};

use artifact::{Digest, Hasher, Kind, Manifest, Progress, Repository, Selection, Wanted};
use store::{Check, Store, Sum};

use crate::document::{Assumed, MEMBERS, Member, SIGNATURE, TreeHead};
use crate::plan::{self, Cargo, Item, LaidVolume, Layout, Source};
use crate::receipt::{self, Inventory, Since};
use crate::tree::{Tree, TreeManifest};
use crate::volume::CHUNK;
use crate::{
    Archive, Error, Exported, Plan, Result, SecretKey, Volume, WantList, beside, document, key, parity, tar,
    volumes_below, words,
};

/// The name of the archive of images that may lie beside the volumes.
pub(crate) const SEED: &str = "naru-seed.tar";
/// vfat's own number (statfs(2), `MSDOS_SUPER_MAGIC`); its files end one byte before 4 GiB.
const VFAT: i64 = 0x4d44;
const VFAT_LIMIT: u64 = (4 << 30) - 512;
/// Images may need each other's manifests so deep.
const DEPTH: usize = 32;

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
    let missing: Vec<&Path> =
        out.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    std::fs::create_dir_all(&out).map_err(Error::io(&out))?;
    for made in missing {
        sync_folder(made.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
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
        None => Leave::These(receipt::in_all(store, since).await?),
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
    let (packed, plan) = written?;
    let before = match leave {
        Leave::These(inventory) => Some(inventory),
        Leave::Nothing | Leave::AllBut(_) => None,
    };
    receipt::remember(store, &packed.id, &plan, before).await?;
    Ok(packed)
}

/// What need not be carried.
enum Leave {
    Nothing,
    /// What the sites have.
    These(Inventory),
    /// What a site did not ask for.
    AllBut(WantList),
}

impl Leave {
    fn out(&self, digest: &Digest) -> bool {
        match self {
            Self::Nothing => false,
            Self::These(inventory) => inventory.has(digest),
            Self::AllBut(want) => !want.things.contains_key(digest),
        }
    }
}

/// Everything that a selection needs, whole.
struct Gathered {
    trees: Vec<Tree>,
    tree_heads: Vec<TreeHead>,
    documents: Vec<Item>,
    blobs: Vec<Item>,
    assumes: Vec<Assumed>,
}

async fn gather(store: &Store, selection: &Selection, leave: &Leave) -> Result<Gathered> {
    let wanted = match (leave, selection) {
        (Leave::AllBut(want), _) => {
            let names = want.names();
            let mut all = everything(store).await?;
            all.retain(|wanted| names.contains(&*shown(wanted)));
            all
        }
        (_, Selection::These(wanted)) => wanted.clone(),
        (_, Selection::All) => everything(store).await?,
    };
    let mut gathering = Gathering {
        store,
        leave,
        assumes: BTreeMap::new(),
        missing: Vec::new(),
        trees: BTreeMap::new(),
        blobs: Vec::new(),
        seen: HashSet::new(),
        manifests: HashMap::new(),
    };
    for wanted in &wanted {
        gathering.want(wanted).await?;
    }
    let Gathering { mut missing, trees, blobs, manifests, assumes, .. } = gathering;
    if let Leave::AllBut(want) = leave {
        let carried: HashSet<Digest> = blobs.iter().map(|item| item.member.sha256).collect();
        let unmet =
            want.things.iter().filter(|(digest, _)| !carried.contains(digest) && !manifests.contains_key(digest));
        missing.extend(unmet.map(|(digest, wanting)| match wanting.names.first() {
            Some(name) => format!("{digest}, wanted for {name}, is no longer part of it here, or not here"),
            None => format!("{digest} is part of nothing that the list names"),
        }));
    }
    if !missing.is_empty() {
        return Err(Error::NotThere { missing });
    }
    let trees: Vec<Tree> = trees.into_values().collect();
    let document = |kind: &str, digest: &Digest, bytes: bytes::Bytes| {
        let name = format!("{kind}/{}/{}", digest.algorithm().as_str(), digest.hex());
        let member = Member { name, size: bytes.len() as u64, offset: 0, sha256: Digest::of(&bytes), part: None };
        Item { member, source: Source::Bytes(bytes) }
    };
    let mut documents = Vec::new();
    let mut tree_heads = Vec::new();
    for tree in &trees {
        let bytes: bytes::Bytes = tree.to_bytes().into();
        let head = tree.head(&bytes);
        documents.push(document("trees", &head.digest, bytes));
        tree_heads.push(head);
    }
    let mut sorted: Vec<_> = manifests.into_iter().collect();
    sorted.sort_by_key(|(digest, _)| *digest);
    documents.extend(sorted.into_iter().map(|(digest, bytes)| document("manifests", &digest, bytes)));
    Ok(Gathered { trees, tree_heads, documents, blobs, assumes: assumes.into_values().collect() })
}

/// Every entry of the store.
async fn everything(store: &Store) -> Result<Vec<Wanted>> {
    let (mut wanted, mut after) = (Vec::new(), None);
    loop {
        let page = store.repositories(None, after.as_ref(), 1000).await?;
        let Some(last) = page.last() else { return Ok(wanted) };
        after = Some(last.clone());
        for repository in page {
            let mut name = String::new();
            loop {
                let entries = store.entries(&repository, &name, 1000).await?;
                let Some(last) = entries.last() else { break };
                name.clone_from(&last.name);
                wanted.extend(entries.into_iter().map(|entry| Wanted {
                    repository: repository.clone(),
                    name: entry.name,
                    digest: entry.digest,
                    manifests: None,
                }));
            }
        }
    }
}

/// A wished-for entry as people write it.
fn shown(Wanted { repository, name, .. }: &Wanted) -> String {
    match repository.kind {
        Kind::Image if name.contains(':') => format!("{repository}@{name}"),
        Kind::Image => format!("{repository}:{name}"),
        _ => format!("{repository}/{name}"),
    }
}

struct Gathering<'a> {
    store: &'a Store,
    leave: &'a Leave,
    assumes: BTreeMap<Digest, Assumed>,
    missing: Vec<String>,
    trees: BTreeMap<Repository, Tree>,
    blobs: Vec<Item>,
    seen: HashSet<Digest>,
    manifests: HashMap<Digest, bytes::Bytes>,
}

impl Gathering<'_> {
    async fn want(&mut self, wanted: &Wanted) -> Result<()> {
        let Wanted { repository, name, digest, manifests } = wanted;
        let shown = shown(wanted);
        let entry = match self.store.entry(repository, name).await? {
            Some(entry) if entry.digest == *digest => entry,
            Some(entry) => {
                self.missing.push(format!("{shown} is {} here, not {digest}", entry.digest));
                return Ok(());
            }
            None => {
                self.missing.push(format!("{shown} is not here"));
                return Ok(());
            }
        };
        let tree = self.trees.entry(repository.clone()).or_insert_with(|| Tree::new(repository.clone()));
        tree.entries.insert(name.clone(), entry);
        match repository.kind {
            Kind::Image => self.image(repository, digest, manifests.as_deref(), &shown).await,
            _ => self.blob(digest, &shown).await,
        }
    }

    /// Gathers a manifest and what is below it: of the chosen manifests, or of everything that is carried here.
    async fn image(
        &mut self,
        repository: &Repository,
        root: &Digest,
        chosen: Option<&[Digest]>,
        shown: &str,
    ) -> Result<()> {
        let mut open: Vec<(Digest, usize)> = vec![(*root, 0)];
        // In the order in which they were given: another order would be another bundle.
        open.extend(chosen.into_iter().flatten().map(|digest| (*digest, 1)));
        let chosen: Option<HashSet<Digest>> = chosen.map(|digests| digests.iter().copied().collect());
        let mut visited = HashSet::new();
        while let Some((digest, depth)) = open.pop() {
            if depth > DEPTH {
                self.missing.push(format!("{shown} nests deeper than {DEPTH} indexes"));
                continue;
            }
            if !visited.insert(digest) {
                continue;
            }
            let Some(manifest) = self.store.granted_manifest(repository, &digest).await? else {
                self.missing.push(format!("{shown} needs the manifest {digest}"));
                continue;
            };
            let mut check = Check::by_digest(digest);
            check.update(&manifest.bytes);
            if !check.is_right() {
                return Err(Error::StoreDamaged { digest });
            }
            let (mut omitted, mut blobs) = (BTreeSet::new(), Vec::new());
            for link in self.store.links(&digest).await? {
                let is_wanted = link.carried
                    && match (&chosen, link.is_manifest) {
                        (_, false) => true,
                        (Some(chosen), true) => chosen.contains(&link.child),
                        // Links are the store's, grants a repository's: another may carry more platforms of this index.
                        (None, true) => self.store.granted_manifest(repository, &link.child).await?.is_some(),
                    };
                if !is_wanted {
                    omitted.insert(link.child);
                } else if link.is_manifest {
                    open.push((link.child, depth + 1));
                } else {
                    self.blob(&link.child, shown).await?;
                    blobs.push(link.child);
                }
            }
            if chosen.is_none() {
                let referrers = self.store.referrers(repository, &digest).await?;
                open.extend(referrers.into_iter().map(|referrer| (referrer.digest, depth + 1)));
            }
            let size = manifest.bytes.len() as u64;
            let subject = Manifest::parse(&manifest.bytes, &manifest.media_type).ok().and_then(|read| read.subject);
            if self.leave.out(&digest) {
                self.assumes.insert(digest, Assumed { digest, size, manifest: true });
            } else {
                self.manifests.insert(digest, manifest.bytes);
            }
            let tree = self.trees.entry(repository.clone()).or_insert_with(|| Tree::new(repository.clone()));
            // Two entries may want different platforms of one index: what either wants is carried.
            let known = tree.manifests.entry(digest).or_insert_with(|| TreeManifest {
                digest,
                size,
                media_type: manifest.media_type,
                subject: subject.map(|subject| subject.digest),
                omitted: omitted.clone(),
            });
            tree.blobs.extend(blobs);
            known.omitted.retain(|child| omitted.contains(child));
        }
        Ok(())
    }

    async fn blob(&mut self, digest: &Digest, shown: &str) -> Result<()> {
        if !self.seen.insert(*digest) {
            return Ok(());
        }
        let Some(blob) = self.store.blob(digest).await? else {
            self.missing.push(format!("{shown} needs {digest}"));
            return Ok(());
        };
        if self.leave.out(digest) {
            self.assumes.insert(*digest, Assumed { digest: *digest, size: blob.size, manifest: false });
            return Ok(());
        }
        let name = format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex());
        let member = Member { name, size: blob.size, offset: 0, sha256: *digest, part: None };
        self.blobs.push(Item { member, source: Source::Blob(blob, 0) });
        Ok(())
    }
}

fn write(
    store: &Store,
    gathered: Gathered,
    seed: Option<&Archive>,
    options: &PackOptions,
    key: &SecretKey,
    progress: &dyn Progress,
) -> Result<(Packed, Plan)> {
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
    let layout = plan::lay(&cargo, |blob, at, size| {
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
    drop(cargo);
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
    beside::write(store, &packed, &layout, &trees, options)?;
    sync_folder(&options.out)?;
    Ok((packed, layout.plan))
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

fn hash_piece(store: &Store, blob: &store::Blob, at: u64, size: u64, mut also: impl FnMut(&[u8])) -> Result<Digest> {
    let mut hasher = Hasher::sha256();
    let mut piece = Piece::open(store, blob, at, size)?;
    let mut buffer = vec![0; CHUNK];
    while let Some(bytes) = piece.read(&mut buffer)? {
        hasher.update(bytes);
        also(bytes);
    }
    Ok(hasher.finish())
}

/// A range of a blob, read from its beginning to its end.
struct Piece<'a> {
    blob: &'a store::Blob,
    file: File,
    rest: u64,
}

impl<'a> Piece<'a> {
    fn open(store: &Store, blob: &'a store::Blob, at: u64, size: u64) -> Result<Self> {
        let mut file = store.open_blob(blob)?;
        let _ = rustix::fs::fadvise(&file, at, std::num::NonZeroU64::new(size), rustix::fs::Advice::Sequential);
        file.seek(SeekFrom::Start(at)).map_err(Error::io(Path::new(&blob.key)))?;
        Ok(Self { blob, file, rest: size })
    }

    /// The next bytes, as many as the buffer takes; `None` at the end.
    fn read<'b>(&mut self, buffer: &'b mut [u8]) -> Result<Option<&'b [u8]>> {
        if self.rest == 0 {
            return Ok(None);
        }
        let length = usize::try_from(self.rest).unwrap_or(usize::MAX).min(buffer.len());
        let room = buffer.get_mut(..length).unwrap_or_default();
        let read = self.file.read(room).map_err(Error::io(Path::new(&self.blob.key)))?;
        if read == 0 {
            return Err(Error::StoreDamaged { digest: self.blob.digest });
        }
        self.rest -= read as u64;
        Ok(buffer.get(..read))
    }
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

/// What the pieces of blobs summed to when they were hashed, by where they begin.
type Sums = HashMap<(Digest, u64), u64>;

/// Writes a volume, head first, in one pass; under another name until it is whole and durable.
fn write_volume(
    store: &Store,
    volume: &LaidVolume,
    sums: &Sums,
    out: &Path,
    progress: &dyn Progress,
) -> Result<PackedVolume> {
    let path = out.join(&volume.name);
    if let Some(sha256) = kept(&path, volume)? {
        progress.advance(volume.size);
        return Ok(PackedVolume { path, size: volume.size, sha256, kept: true });
    }
    let partial = out.join(format!("{}.partial", volume.name));
    let file =
        OpenOptions::new().write(true).create(true).truncate(true).open(&partial).map_err(Error::io(&partial))?;
    // Room is taken at once where the file system can: writing is quicker, and what lies on the disk less in pieces.
    let _ = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, volume.size);
    // Three threads: one reads and writes, one hashes what was written, and one has the disk begin early, so that the
    // last sync finds little left to do.
    let written = std::thread::scope(|scope| {
        let (full, filled) = sync_channel::<(Vec<u8>, usize)>(AHEAD);
        let (empty, free) = channel();
        let hashing = scope.spawn(move || {
            let mut hasher = Hasher::sha256();
            for (buffer, length) in filled {
                hasher.update(buffer.get(..length).unwrap_or_default());
                let _ = empty.send(buffer);
            }
            hasher.finish()
        });
        let (due, syncs) = sync_channel::<()>(1);
        let disk = &file;
        let syncing = scope.spawn(move || {
            // The kernel tells a failed write once: whoever hears it must pass it on.
            let mut all = Ok(());
            for () in syncs {
                all = all.and(disk.sync_data());
            }
            all
        });
        let mut writing = Writing { file: &file, path: &partial, full, free, due, at: 0, progress };
        let outcome = fill(store, volume, sums, &mut writing);
        drop(writing);
        let digest = hashing.join().map_err(|_| Error::io(&partial)(std::io::Error::other("hashing ended early")));
        let synced = syncing.join().unwrap_or_else(|_| Err(std::io::Error::other("syncing ended early")));
        outcome.and(synced.map_err(Error::io(&partial))).and(digest)
    });
    let sha256 = match written.and_then(|digest| file.sync_all().map_err(Error::io(&partial)).map(|()| digest)) {
        Ok(digest) => digest,
        Err(error) => {
            let _ = std::fs::remove_file(&partial);
            return Err(error);
        }
    };
    std::fs::rename(&partial, &path).map_err(Error::io(&path))?;
    Ok(PackedVolume { path, size: volume.size, sha256, kept: false })
}

/// Buffers that may wait for the hash.
const AHEAD: usize = 8;
/// The disk is set to work each time so many bytes are written.
const EAGER: u64 = 128 << 20;

struct Writing<'a> {
    file: &'a File,
    path: &'a Path,
    /// To the hash, and back from it.
    full: SyncSender<(Vec<u8>, usize)>,
    free: Receiver<Vec<u8>>,
    due: SyncSender<()>,
    at: u64,
    progress: &'a dyn Progress,
}

impl Writing<'_> {
    /// Writes the first `length` bytes of a buffer.
    fn put(&mut self, buffer: Vec<u8>, length: usize) -> Result<()> {
        self.file.write_all(buffer.get(..length).unwrap_or_default()).map_err(Error::io(self.path))?;
        // It ends only after this side has.
        let _ = self.full.send((buffer, length));
        let before = self.at / EAGER;
        self.at += length as u64;
        if self.at / EAGER > before {
            let _ = self.due.try_send(());
        }
        self.progress.advance(length as u64);
        Ok(())
    }

    fn put_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let mut buffer = self.free.try_recv().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(bytes);
        self.put(buffer, bytes.len())
    }

    fn pad(&mut self) -> Result<()> {
        let length = usize::try_from(tar::padded(self.at) - self.at).unwrap_or_default();
        self.put_bytes([0; 512].get(..length).unwrap_or_default())
    }

    fn document(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.put_bytes(&tar::header(name, bytes.len() as u64, self.at))?;
        self.put_bytes(bytes)?;
        self.pad()
    }

    fn piece(&mut self, mut piece: Piece<'_>, mut check: Check) -> Result<()> {
        loop {
            let mut buffer = self.free.try_recv().unwrap_or_default();
            buffer.resize(CHUNK, 0);
            let Some(bytes) = piece.read(&mut buffer)? else { break };
            check.update(bytes);
            let length = bytes.len();
            self.put(buffer, length)?;
        }
        if !check.is_right() {
            return Err(Error::StoreDamaged { digest: piece.blob.digest });
        }
        self.pad()
    }
}

fn fill(store: &Store, volume: &LaidVolume, sums: &Sums, writing: &mut Writing<'_>) -> Result<()> {
    writing.document(document::HEAD, &volume.head)?;
    writing.document(SIGNATURE, &volume.signature)?;
    writing.document(MEMBERS, &volume.list)?;
    for Item { member, source } in &volume.items {
        match source {
            Source::Bytes(bytes) => writing.document(&member.name, bytes)?,
            Source::Blob(blob, at) => {
                writing.put_bytes(&tar::header(&member.name, member.size, writing.at))?;
                let check = match sums.get(&(blob.digest, *at)) {
                    Some(sum) => Check::by_sum(*sum),
                    None => blob.check(),
                };
                writing.piece(Piece::open(store, blob, *at, member.size)?, check)?;
            }
        }
    }
    writing.put_bytes(&[0; 1024])
}

/// The hash of a volume that an earlier run finished: its size and its head are right, and only whole volumes bear
/// their name.
fn kept(path: &Path, volume: &LaidVolume) -> Result<Option<Digest>> {
    let Ok(mut file) = File::open(path) else { return Ok(None) };
    if file.metadata().map_err(Error::io(path))?.len() != volume.size {
        return Ok(None);
    }
    let mut head = tar::header(document::HEAD, volume.head.len() as u64, 0);
    head.extend_from_slice(&volume.head);
    let mut found = vec![0; head.len()];
    file.read_exact(&mut found).map_err(Error::io(path))?;
    if found != head {
        return Ok(None);
    }
    file.rewind().map_err(Error::io(path))?;
    let mut hasher = Hasher::sha256();
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = file.read(&mut buffer).map_err(Error::io(path))?;
        if read == 0 {
            return Ok(Some(hasher.finish()));
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
    }
}

/// Writes a small file beside the volumes, durably, under its name only when it is whole.
pub(crate) fn write_beside(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    let file = File::create(&partial).map_err(Error::io(&partial))?;
    let mut writer = BufWriter::new(&file);
    writer.write_all(bytes).and_then(|()| writer.flush()).map_err(Error::io(&partial))?;
    file.sync_all().map_err(Error::io(&partial))?;
    std::fs::rename(&partial, path).map_err(Error::io(path))
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
