//! Receipts: what a sealed store has, said in sixteen bytes a thing, so that the other side sends only the rest.
//!
//! ```text
//! naru receipt 1
//! {"store":"RWQ…","generation":17,"at":1790000000,"bundle":"sha256:ab…","count":2}
//! …                 the first sixteen bytes of each sha256, sorted, without anything between them
//! …                 the four lines of a minisign signature of all that stands before it
//! ```
//!
//! The store that wrote one keeps it: what its newest receipt lists is not to be collected for ninety days, or until
//! the next. The collecting side keeps those it was given, and what each bundle that it packed leaves a site with
//! ([`Since`]); so either can be named by words later, and where nothing may come out of the sealed side but a voice,
//! the newest bundle that arrived whole is said instead.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use artifact::{Algorithm, Digest, Progress};
use serde::{Deserialize, Serialize};
use store::Store;

use crate::document::{Assumed, DOCUMENT_LIMIT, Member, PLAN, What};
use crate::verify::documents;
use crate::{Error, PublicKey, Result, SecretKey, Signature, Volume, key, volumes_below, words};

/// What every receipt begins with.
const MAGIC: &[u8] = b"naru receipt 1\n";
/// The line after it may have so many bytes.
const HEAD_LIMIT: usize = 4096;
/// A signature has four lines of at most so many bytes in all.
const SIGNATURE_LIMIT: usize = 1024;
/// Where a store keeps the newest receipt that it wrote.
const IN_FORCE: &str = "receipt/in-force";
/// Where a store keeps the receipts of others, by their ids.
const KNOWN: &str = "receipt/known/";
/// Where a store keeps the newest generation that each site has told of, by the site's key.
const SITE: &str = "receipt/site/";
/// Where a store keeps what a bundle that it packed leaves a site with, by the bundle's id.
const PACKED: &str = "packed/";
/// Generations that are looked through for the newest bundle.
const GENERATIONS: u32 = 1000;

/// A set of things: the first sixteen bytes of each sha256, sorted. What goes by another algorithm is in none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory(Vec<[u8; 16]>);

impl FromIterator<Digest> for Inventory {
    fn from_iter<I: IntoIterator<Item = Digest>>(digests: I) -> Self {
        Self::sorted(digests.into_iter().filter_map(|digest| prefix(&digest)).collect())
    }
}

fn prefix(digest: &Digest) -> Option<[u8; 16]> {
    (digest.algorithm() == Algorithm::Sha256).then(|| digest.as_bytes().first_chunk().copied()).flatten()
}

impl Inventory {
    fn sorted(mut prefixes: Vec<[u8; 16]>) -> Self {
        prefixes.sort_unstable();
        prefixes.dedup();
        Self(prefixes)
    }

    /// Whether this thing is in it.
    pub fn has(&self, digest: &Digest) -> bool {
        prefix(digest).is_some_and(|prefix| self.0.binary_search(&prefix).is_ok())
    }

    /// How many things are in it.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is in both.
    fn and(mut self, other: &Self) -> Self {
        self.0.retain(|prefix| other.0.binary_search(prefix).is_ok());
        self
    }

    /// What is in either.
    fn or(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        Self::sorted(self.0)
    }

    /// Reads the bytes of one; `None`: they are not whole, or not in order.
    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let (prefixes, rest) = bytes.as_chunks::<16>();
        let is_sorted = prefixes.is_sorted_by(|one, other| one < other);
        (rest.is_empty() && is_sorted).then(|| Self(prefixes.to_vec()))
    }
}

/// The line of a receipt that tells whose it is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    /// The store's public key: what tells one store from another, and what signs.
    store: String,
    generation: i64,
    at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bundle: Option<Digest>,
    count: u64,
}

/// What a store says that it has.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// The sha256 of all that is signed.
    pub id: Digest,
    /// The key of the store that wrote it.
    pub store: PublicKey,
    /// The store's generation then.
    pub generation: i64,
    /// When it was written, in seconds since 1970.
    pub at: i64,
    /// The newest bundle that the store had loaded whole.
    pub bundle: Option<Digest>,
    /// What it lists.
    pub inventory: Inventory,
}

impl Receipt {
    /// Writes the receipt of a store, and keeps it there as the one in force. Answers it and its file's bytes.
    ///
    /// # Errors
    /// When the catalog cannot be read or written, or a receipt of so many things would be too large.
    pub async fn write(store: &Store) -> Result<(Self, Vec<u8>)> {
        let own = key::of_store(store).await?;
        let history = store.history(GENERATIONS).await?;
        let generation = history.first().map_or(0, |newest| newest.number);
        let mut bundle = None;
        for loaded in history.iter().filter(|generation| generation.cause.action == "load") {
            if store.document(&format!("loaded/{}", loaded.cause.subject)).await?.is_some() {
                bundle = Digest::from_hex(&loaded.cause.subject).ok();
                break;
            }
        }
        let mut prefixes = Vec::new();
        store.held(|digest| prefixes.extend(prefix(&digest))).await?;
        let inventory = Inventory::sorted(prefixes);
        let receipt = Self::signed(&own, generation, store.now(), bundle, inventory)?;
        store.set_document(IN_FORCE, Some(&receipt.1)).await?;
        Ok(receipt)
    }

    fn signed(
        key: &SecretKey,
        generation: i64,
        at: i64,
        bundle: Option<Digest>,
        inventory: Inventory,
    ) -> Result<(Self, Vec<u8>)> {
        let head = Head { store: key.public().to_line(), generation, at, bundle, count: inventory.len() as u64 };
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&serde_json::to_vec(&head).unwrap_or_default());
        bytes.push(b'\n');
        bytes.extend_from_slice(inventory.0.as_flattened());
        if bytes.len() as u64 > DOCUMENT_LIMIT {
            let why = format!("{} things are more than one receipt takes", inventory.len());
            return Err(Error::Receipt { path: "the receipt".into(), why });
        }
        let id = Digest::of(&bytes);
        let comment = format!("receipt {} generation {generation}", id.hex());
        bytes.extend_from_slice(key.sign(&bytes, &comment).to_text().as_bytes());
        Ok((Self { id, store: key.public(), generation, at, bundle, inventory }, bytes))
    }

    /// Reads a receipt's file.
    ///
    /// # Errors
    /// [`Error::Receipt`], with what is wrong with it.
    pub fn open(path: &Path) -> Result<Self> {
        let mut bytes = Vec::new();
        let limit = DOCUMENT_LIMIT + (SIGNATURE_LIMIT as u64) + 1;
        File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(Error::io(path))?;
        Self::parse(&bytes, path)
    }

    /// Reads a receipt's bytes; `path` names it in errors.
    ///
    /// # Errors
    /// [`Error::Receipt`].
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let wrong = |why: &str| Error::Receipt { path: path.to_owned(), why: why.to_owned() };
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| wrong("it does not begin as one"))?;
        let end = rest.iter().take(HEAD_LIMIT).position(|byte| *byte == b'\n');
        let (line, rest) = end.and_then(|end| rest.split_at_checked(end)).ok_or_else(|| wrong("its head is cut"))?;
        let head: Head = serde_json::from_slice(line).map_err(|error| wrong(&format!("its head: {error}")))?;
        let length = usize::try_from(head.count).ok().and_then(|count| count.checked_mul(16)?.checked_add(1));
        let parts = length.and_then(|length| rest.split_at_checked(length));
        let (list, signature) = parts.ok_or_else(|| wrong("it is cut"))?;
        let signed = bytes.get(..bytes.len() - signature.len()).unwrap_or_default();
        if signature.len() > SIGNATURE_LIMIT {
            return Err(wrong("more lies behind it than a signature"));
        }
        let text = String::from_utf8_lossy(signature);
        let signature = Signature::parse(&text).map_err(wrong)?;
        if signature.to_text() != text {
            return Err(wrong("it has more in it than a signature"));
        }
        let store = PublicKey::parse(&head.store, "the key in its head").map_err(|error| wrong(&error.to_string()))?;
        store.check(signed, &signature).map_err(wrong)?;
        let inventory = Inventory::of_bytes(list.get(1..).unwrap_or_default());
        let inventory = inventory.ok_or_else(|| wrong("its list is not in order"))?;
        let Head { generation, at, bundle, .. } = head;
        Ok(Self { id: Digest::of(signed), store, generation, at, bundle, inventory })
    }

    /// What can be typed where the file is remembered: the generation and eight words.
    pub fn short(&self) -> String {
        format!("{} {}", self.generation, words(&self.id))
    }
}

/// The newest receipt that this store wrote.
pub(crate) async fn newest(store: &Store) -> Result<Option<Receipt>> {
    let bytes = store.document(IN_FORCE).await?;
    bytes.map(|bytes| Receipt::parse(&bytes, Path::new("the store's newest receipt"))).transpose()
}

/// What a site is said to have: in a file, or in words that name what is remembered.
#[derive(Debug)]
pub enum Since {
    /// A receipt, or the first or the last volume of a bundle; its path names it.
    File(PathBuf, File),
    /// `[GENERATION] WORDS…`, or an id in hex.
    Words(String),
}

/// The file below `path` that says what a bundle or a site has: a receipt or a volume itself, of a folder the volume
/// that has the list.
///
/// # Errors
/// When it cannot be read, or is a folder without such a volume.
pub fn lister(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let volumes = volumes_below(&[path.to_owned()])?;
    let has_list = |path: &&PathBuf| Volume::open(path).is_ok_and(|volume| volume.member(PLAN).is_some());
    volumes.iter().find(has_list).cloned().ok_or_else(|| Error::NoVolumes { path: path.to_owned() })
}

/// What all of these have: a difference for several sites leaves out only what none of them lacks. Receipts are
/// remembered, so that their short form will do the next time.
///
/// # Errors
/// [`Error::Receipt`] and [`Error::NotAVolume`] for files that are neither, [`Error::NotRemembered`] for words.
pub async fn in_all(store: &Store, since: Vec<Since>, progress: &dyn Progress) -> Result<Inventory> {
    let mut all: Option<Inventory> = None;
    for one in since {
        let inventory = match one {
            Since::File(path, file) => of_file(store, path, file, progress).await?,
            Since::Words(words) => of_words(store, &words).await?,
        };
        all = Some(match all {
            Some(all) => all.and(&inventory),
            None => inventory,
        });
    }
    Ok(all.unwrap_or_default())
}

async fn of_file(store: &Store, path: PathBuf, mut file: File, progress: &dyn Progress) -> Result<Inventory> {
    let mut beginning = [0; MAGIC.len()];
    let is_receipt = file.read_exact(&mut beginning).is_ok() && beginning == MAGIC;
    if is_receipt {
        let mut bytes = MAGIC.to_vec();
        file.take(DOCUMENT_LIMIT + SIGNATURE_LIMIT as u64).read_to_end(&mut bytes).map_err(Error::io(&path))?;
        let receipt = Receipt::parse(&bytes, &path)?;
        store.set_document(&format!("{KNOWN}{}", receipt.id.hex()), Some(&bytes)).await?;
        say_whose(store, &path, &receipt, progress).await?;
        return Ok(receipt.inventory);
    }
    let named = path.clone();
    let volume = tokio::task::spawn_blocking(move || Volume::read(&named, file)).await??;
    if let Some(bytes) = store.document(&format!("{PACKED}{}", volume.head.bundle.hex())).await? {
        return Inventory::of_bytes(&bytes).ok_or_else(|| Error::NotRemembered { what: volume.head.bundle.hex() });
    }
    let without = Error::not_a_volume(&path, "the list of what its bundle holds is in the first and in the last");
    let plan = documents(&[volume])?.ok_or(without)?.plan;
    Ok(left_by(plan.volumes.iter().flatten(), &plan.assumes))
}

/// Any key signs a receipt: whose it is, is for people to see, and that an older one was taken for the newest.
async fn say_whose(store: &Store, path: &Path, receipt: &Receipt, progress: &dyn Progress) -> Result<()> {
    let (fingerprint, generation) = (receipt.store.fingerprint(), receipt.generation);
    let (path, count) = (path.display(), receipt.inventory.len());
    progress.say(&format!("{path}: the site {fingerprint} at its generation {generation}, {count} things"));
    let document = format!("{SITE}{fingerprint}");
    let newest = store.document(&document).await?.and_then(|bytes| String::from_utf8(bytes).ok()?.parse::<i64>().ok());
    match newest {
        None => progress.warn(&format!(
            "the site {fingerprint} is new here: `naru receipt` printed that there, or this is somebody else's receipt"
        )),
        Some(newest) if newest > generation => progress.warn(&format!(
            "{path} is older than what {fingerprint} has told before (generation {newest}): what the site removed since \
             would be left out; ask it for a new receipt"
        )),
        Some(_) => {}
    }
    let newest = newest.map_or(generation, |newest| newest.max(generation));
    Ok(store.set_document(&document, Some(newest.to_string().as_bytes())).await?)
}

/// What a site has once it has loaded a bundle: what is carried, and what is assumed.
pub(crate) fn left_by<'a>(members: impl Iterator<Item = &'a Member>, assumes: &[Assumed]) -> Inventory {
    members.filter_map(thing).chain(assumes.iter().map(|assumed| assumed.digest)).collect()
}

fn thing(member: &Member) -> Option<Digest> {
    match member.what()? {
        What::Manifest(digest) | What::Blob(digest) | What::Part(digest) => Some(digest),
        What::Plan | What::Contents | What::Assumes | What::Tree(_) => None,
    }
}

/// Remembers what a bundle leaves a site with that had `before`.
pub(crate) async fn remember(store: &Store, id: &Digest, mut left: Inventory, before: Option<Inventory>) -> Result<()> {
    if let Some(before) = before {
        left = left.or(before);
    }
    Ok(store.set_document(&format!("{PACKED}{}", id.hex()), Some(left.0.as_flattened())).await?)
}

async fn of_words(store: &Store, text: &str) -> Result<Inventory> {
    let mut said: Vec<String> = text.split_whitespace().map(str::to_ascii_lowercase).collect();
    let generation = said.first().and_then(|first| first.parse::<i64>().ok()).filter(|_| said.len() > 1);
    if generation.is_some() {
        said.remove(0);
    }
    let said = said.join(" ");
    let is_meant = |hex: &str| hex == said || Digest::from_hex(hex).is_ok_and(|id| words(&id) == said);
    let unknown = || Error::NotRemembered { what: text.to_owned() };
    for (folder, is_receipt) in [(PACKED, false), (KNOWN, true)] {
        for name in store.documents(folder).await? {
            if !is_meant(name.strip_prefix(folder).unwrap_or(&name)) {
                continue;
            }
            let bytes = store.document(&name).await?.unwrap_or_default();
            if !is_receipt {
                return Inventory::of_bytes(&bytes).ok_or_else(unknown);
            }
            let receipt = Receipt::parse(&bytes, Path::new(text))?;
            if generation.is_some_and(|generation| generation != receipt.generation) {
                let why = format!("it is of generation {}", receipt.generation);
                return Err(Error::Receipt { path: text.into(), why });
            }
            return Ok(receipt.inventory);
        }
    }
    Err(unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> (Receipt, Vec<u8>) {
        let key = SecretKey::from_seed(&[3; 32]).unwrap();
        let inventory = [b"a", b"b", b"c"].map(|bytes| Digest::of(bytes)).into_iter().collect();
        Receipt::signed(&key, 17, 1_790_000_000, Some(Digest::of(b"bundle")), inventory).unwrap()
    }

    #[test]
    fn reads_what_it_wrote() {
        let (receipt, bytes) = written();
        let read = Receipt::parse(&bytes, Path::new("r")).unwrap();
        assert_eq!((read.id, read.generation, read.bundle), (receipt.id, 17, Some(Digest::of(b"bundle"))));
        assert_eq!((read.inventory.len(), read.store), (3, receipt.store));
        assert!(read.inventory.has(&Digest::of(b"b")) && !read.inventory.has(&Digest::of(b"d")));
        assert!(read.short().starts_with("17 ") && read.short().split(' ').count() == 9);
    }

    #[test]
    fn not_a_byte_may_differ() {
        let (_, bytes) = written();
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            // The first line of a signature's text is a comment that nobody signs; it must be ours all the same.
            assert!(Receipt::parse(&other, Path::new("r")).is_err(), "byte {at}");
            assert!(Receipt::parse(&bytes[..at], Path::new("r")).is_err(), "cut at {at}");
        }
        assert!(Receipt::parse(&[bytes.as_slice(), b"x"].concat(), Path::new("r")).is_err());
    }

    #[test]
    fn sets_meet_and_join() {
        let of = |names: &[&[u8]]| names.iter().map(|name| Digest::of(name)).collect::<Inventory>();
        assert_eq!(of(&[b"a", b"b"]).and(&of(&[b"b", b"c"])), of(&[b"b"]));
        assert_eq!(of(&[b"a", b"b"]).or(of(&[b"b", b"c"])), of(&[b"c", b"b", b"a"]));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = Receipt::parse(&bytes, Path::new("r"));
            let _ = Receipt::parse(&[MAGIC, &bytes].concat(), Path::new("r"));
        }
    }
}
