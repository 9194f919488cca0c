//! What can go wrong with a bundle.

use std::io;
use std::path::{Path, PathBuf};

use artifact::Digest;

/// An answer of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with the thing it went wrong with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What should be a scanner's findings cannot be read as such.
    #[error("{path}: {why}")]
    Findings {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A volume is not what a volume is.
    #[error("{path}: not a volume of a bundle: {why}")]
    NotAVolume {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A volume of a format that is newer than this binary.
    #[error("{path} needs a reader of bundle format {needed}; this naru reads up to {known}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// What it needs.
        needed: u32,
        /// What this binary reads.
        known: u32,
    },
    /// The signature is missing, or not that of the document.
    #[error("{path}: its signature is not right: {why}")]
    Signature {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Signed by a key that is not trusted here.
    #[error("{path} is signed by key {fingerprint}, which this store does not trust")]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// The key's fingerprint.
        fingerprint: String,
    },
    /// Volumes of more than one bundle where one was meant.
    #[error("{path} is of bundle {found}, and {first} of bundle {expected}")]
    OtherBundle {
        /// The odd one.
        path: PathBuf,
        /// Its bundle's id.
        found: String,
        /// The first volume.
        first: PathBuf,
        /// Its bundle's id.
        expected: String,
    },
    /// No volume was found.
    #[error("{path}: there is no volume of a bundle")]
    NoVolumes {
        /// Where they were looked for.
        path: PathBuf,
    },
    /// A folder has nothing in it that can be loaded.
    #[error("{path}: there is neither a volume of a bundle nor an archive of images")]
    NothingToLoad {
        /// The folder.
        path: PathBuf,
    },
    /// A file is nothing that can be loaded.
    #[error("{path} is {what}")]
    Strange {
        /// The file.
        path: PathBuf,
        /// What it is, as far as its bytes tell.
        what: String,
    },
    /// What should be a file is something else, of which no part can be read by itself.
    #[error("{path} is {what}, and must be a file")]
    NoFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// An archive that somebody else has made cannot be read.
    #[error("{path}: {why}")]
    Archive {
        /// The archive; of one within another, both.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// An archive that nobody has signed, where keys are trusted.
    #[error("{path} is signed by nobody, and this store takes what its trusted keys have signed")]
    Unsigned {
        /// The archive.
        path: PathBuf,
    },
    /// No image of an archive has a name.
    #[error("{path}: its image {image} has no name")]
    Nameless {
        /// The archive.
        path: PathBuf,
        /// The image, by its tag or its digest.
        image: String,
    },
    /// One name was given for several images.
    #[error("{path}: --as names one image, and there are {images}")]
    As {
        /// The archive.
        path: PathBuf,
        /// How many there are.
        images: u64,
    },
    /// Members that are damaged or missing; everything else was done.
    #[error("{}", list(.damage))]
    Damaged {
        /// Each of them, in words.
        damage: Vec<String>,
    },
    /// The selection names something that the store has not, or not whole.
    #[error("the store does not hold {} of what shall be packed: {}", .missing.len(), .missing.join("; "))]
    NotThere {
        /// Each of them, in words.
        missing: Vec<String>,
    },
    /// Another bundle lies where this one should be written.
    #[error("{path} holds volumes of another bundle")]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// The size of a volume is too small.
    #[error("volumes of {size} bytes are too small: {why}")]
    VolumeSize {
        /// What was asked for.
        size: u64,
        /// Why it does not do.
        why: String,
    },
    /// A volume was asked for that the bundle has not.
    #[error("there is no volume {first}: the bundle has {of}")]
    NoSuchVolume {
        /// The first that was asked for.
        first: usize,
        /// How many there are.
        of: usize,
    },
    /// The disk lacks room.
    #[error("{path} has {free} bytes free; {needed} are needed")]
    NoSpace {
        /// Where.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// A file is no receipt, or not whole.
    #[error("{path}: not a receipt: {why}")]
    Receipt {
        /// The file, or the words that named it.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Words name neither a receipt nor a bundle that is known here.
    #[error("`{what}` names no receipt and no bundle that this store remembers")]
    NotRemembered {
        /// The words.
        what: String,
    },
    /// A want-list cannot be read.
    #[error("{path}: not a want-list: {why}")]
    WantList {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Parity cannot be made, or cannot bring back what is lost.
    #[error("parity: {why}")]
    Parity {
        /// Why.
        why: String,
    },
    /// A key's text cannot be read.
    #[error("{what} is not a key: {why}")]
    Key {
        /// The file or the text.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A store's blob is not what its name says.
    #[error("the store's copy of {digest} is damaged")]
    StoreDamaged {
        /// The blob.
        digest: Digest,
    },
    /// An image that is wanted whole is not.
    #[error("{digest} cannot be taken out: {why}")]
    Incomplete {
        /// The manifest or the blob.
        digest: Digest,
        /// What is the matter.
        why: String,
    },
    /// A tree of the bundle does not read.
    #[error("the bundle's tree {digest} cannot be read: {why}")]
    Tree {
        /// Its digest.
        digest: Digest,
        /// What is wrong with it.
        why: String,
    },
    /// Bytes lie in a volume that is not here.
    #[error("{digest} needs {}, which is not here", .names.join(" and "))]
    Elsewhere {
        /// What was asked for.
        digest: Digest,
        /// The volumes' numbers.
        volumes: Vec<u32>,
        /// Their names.
        names: Vec<String>,
    },
    /// A thread of ours ended without an answer.
    #[error("a worker ended early: {0}")]
    Worker(#[from] tokio::task::JoinError),
}

fn list(damage: &[String]) -> String {
    match damage {
        [one] => one.clone(),
        many => format!("{} members are damaged or missing: {}", many.len(), many.join("; ")),
    }
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn archive(path: &Path, why: impl Into<String>) -> Self {
        Self::Archive { path: path.to_owned(), why: why.into() }
    }

    pub(crate) fn not_a_volume(path: &Path, why: impl Into<String>) -> Self {
        Self::NotAVolume { path: path.to_owned(), why: why.into() }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Store(error) => return error.hint(),
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull => {
                    "make room there, or write smaller volumes to several media (--volume-size)".to_owned()
                }
                io::ErrorKind::PermissionDenied => {
                    "run as a user that may, or copy the file to where you may".to_owned()
                }
                io::ErrorKind::ReadOnlyFilesystem => "mount it writable, or name another folder".to_owned(),
                io::ErrorKind::FileTooLarge => {
                    "that file system takes no files of this size; use --volume-size fat32".to_owned()
                }
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                    "a file lies there where a folder is wanted: name another".to_owned()
                }
                io::ErrorKind::NotFound => "check the path; is the medium mounted?".to_owned(),
                _ => "the medium may be damaged; try another copy".to_owned(),
            },
            Self::NotAVolume { .. } => {
                "name the volumes that `naru pack` wrote, or the folder they lie in; a cut copy must be copied again"
                    .to_owned()
            }
            Self::Newer { .. } => "use the naru that lies beside the volumes".to_owned(),
            Self::Signature { .. } => {
                "the file was changed after it was packed, or damaged; get it again from where it was packed".to_owned()
            }
            Self::Untrusted { .. } => {
                "compare that fingerprint with the one `naru pack` printed, then `naru key trust` the key".to_owned()
            }
            Self::OtherBundle { .. } => "load one bundle at a time".to_owned(),
            Self::NoVolumes { .. } => "volumes are named naru-0001.tar and so on; is the medium mounted?".to_owned(),
            Self::NothingToLoad { .. } | Self::Strange { .. } => {
                "what can be loaded: volumes of a bundle; what `docker save`, `podman save` and `ctr image export` write; \
                 OCI layouts; all of those compressed by gzip, zstd or xz; and folders of them"
                    .to_owned()
            }
            Self::NoFile { .. } => {
                "its parts are read in any order: write what comes through a pipe, or from `<(...)`, into a file first"
                    .to_owned()
            }
            Self::Archive { .. } => "get the archive again from where it was made; nothing of a damaged one is taken over".to_owned(),
            Self::Unsigned { .. } => {
                "if you know where it comes from, load it with --unsigned; better: pack it into a bundle on the other side".to_owned()
            }
            Self::Nameless { .. } => "give it one: `--as image:HOST/NAME:TAG`, or `--as image:HOST/NAME` for the tags it has".to_owned(),
            Self::As { .. } => "leave out the tag: `--as image:NAME` moves every image there under its own".to_owned(),
            Self::Damaged { .. } => {
                "get another copy of the volumes named, and run the command again with only those".to_owned()
            }
            Self::NotThere { .. } => "run `naru pull` first".to_owned(),
            Self::Occupied { .. } => "name an empty folder, or remove the old volumes".to_owned(),
            Self::VolumeSize { .. } => "use a larger --volume-size; 10MiB is the least".to_owned(),
            Self::NoSuchVolume { .. } => {
                "volumes are counted from 1; with what it was packed with, `naru pack --only` writes them again".to_owned()
            }
            Self::NoSpace { .. } => {
                "make room there; a store can lie elsewhere (--store), and a bundle on several media (--volume-size, --only)"
                    .to_owned()
            }
            Self::Receipt { .. } => "get it again from the store that wrote it: `naru receipt -o FILE`".to_owned(),
            Self::NotRemembered { .. } => {
                "write all eight words; a store remembers the bundles that it packed and the receipts it was given as files"
                    .to_owned()
            }
            Self::WantList { .. } => "get it again from the store that wrote it: `naru load` names the file".to_owned(),
            Self::Parity { .. } => {
                "bring all volumes and parity files that there are into one folder; `naru pack --only N` writes a volume again"
                    .to_owned()
            }
            Self::Key { .. } => "a key is what `naru key new` wrote, or minisign (without a password)".to_owned(),
            Self::Findings { .. } => "write it with `trivy image --format json` or `grype --output json`".to_owned(),
            Self::StoreDamaged { .. } => {
                "`naru fsck` sets it aside; then `naru pull`, or a load of what brought it, brings it again".to_owned()
            }
            Self::Incomplete { .. } => "`naru show` tells what of it is here; load or pull the rest first".to_owned(),
            Self::Tree { .. } => "the bundle was made by a faulty or hostile program; do not load it".to_owned(),
            Self::Elsewhere { .. } => "bring that volume, and begin again".to_owned(),
            Self::Worker(_) => return None,
        })
    }
}
