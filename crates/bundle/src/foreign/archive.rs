//! A tar that somebody else wrote, header by header: POSIX.1-2017 `pax`, GNU's long names, and the oldest format.
//!
//! The library reads the fields of a header. The walking is ours, for it holds a long name of any length in memory, and
//! can be told neither where a member lies nor to stop at a limit.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use ::tar::{EntryType, Header};

use crate::tar::{BLOCK, RECORDS_LIMIT, records};

/// Names end at so many bytes. Those of images have a hundred and some.
const NAME_LIMIT: usize = 512;

/// Where a tar's bytes come from.
pub(super) enum Tape {
    /// A part of a file, read by offset: what is not wanted is not read.
    Range { file: Arc<File>, at: u64, end: u64 },
    /// What a decompressor gives.
    Stream(Box<dyn Read>),
}

impl Read for Tape {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Range { file, at, end } => {
                let left = usize::try_from(end.saturating_sub(*at)).unwrap_or(usize::MAX).min(buffer.len());
                let read = file.read_at(buffer.get_mut(..left).unwrap_or_default(), *at)?;
                *at += read as u64;
                Ok(read)
            }
            Self::Stream(stream) => stream.read(buffer),
        }
    }
}

impl Tape {
    /// Fills the buffer as far as there are bytes.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(buffer.get_mut(filled..).unwrap_or_default()) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        match self {
            Self::Range { at, end, .. } => {
                *at = at.checked_add(bytes).filter(|after| *after <= *end).ok_or(io::ErrorKind::UnexpectedEof)?;
                Ok(())
            }
            Self::Stream(stream) => {
                let skipped = io::copy(&mut stream.take(bytes), &mut io::sink())?;
                if skipped == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
            }
        }
    }
}

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A regular file of so many bytes.
    File(u64),
    /// A symbolic link, and where it points.
    Link(String),
}

/// A member of interest: folders are passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) what: What,
}

/// Walks a tar from its beginning.
pub(super) struct Walk {
    tape: Tape,
    /// Bytes of the current member that were not read, and of its padding.
    rest: u64,
    padding: u64,
}

/// Why a walk ended early.
#[derive(Debug)]
pub(super) enum Refused {
    /// The file could not be read.
    Io(io::Error),
    /// The archive is not what we read, and why.
    Archive(String),
}

impl From<String> for Refused {
    fn from(why: String) -> Self {
        Self::Archive(why)
    }
}

impl From<&str> for Refused {
    fn from(why: &str) -> Self {
        Self::Archive(why.to_owned())
    }
}

impl Walk {
    pub(super) fn new(tape: Tape) -> Self {
        Self { tape, rest: 0, padding: 0 }
    }

    /// The next file or link; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Member>, Refused> {
        let (mut long_name, mut long_link, mut pax) = (None, None, Pax::default());
        loop {
            self.tape.skip(self.rest).and_then(|()| self.tape.skip(self.padding)).map_err(cut)?;
            (self.rest, self.padding) = (0, 0);
            let mut block = [0; 512];
            match self.tape.fill(&mut block).map_err(cut)? {
                // Some writers leave the two empty blocks out.
                0 => return Ok(None),
                512 => {}
                _ => return Err("it is cut within a header".into()),
            }
            if block.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            let header = header(&block).ok_or("a header's checksum is wrong")?;
            let own = |name: &[u8]| {
                if name.len() > NAME_LIMIT {
                    let length = name.len();
                    return Err(format!("a name in it has {length} bytes; more than {NAME_LIMIT} are refused"));
                }
                String::from_utf8(name.to_vec()).map_err(|_| "a name in it is not UTF-8".to_owned())
            };
            let size = header.entry_size().map_err(|_| "a member's size cannot be read")?;
            let kind = header.entry_type();
            match kind {
                EntryType::GNULongName => long_name = Some(own(trimmed(&self.extension(size)?))?),
                EntryType::GNULongLink => long_link = Some(own(trimmed(&self.extension(size)?))?),
                EntryType::XHeader => pax = Pax::parse(&self.extension(size)?)?,
                EntryType::XGlobalHeader => drop(self.extension(size)?),
                _ => {
                    let name = match pax.path.take().or(long_name.take().map(String::into_bytes)) {
                        Some(name) => own(&name)?,
                        None => own(&header.path_bytes())?,
                    };
                    let size = pax.size.unwrap_or(size);
                    let refused = |what: &str| Err(format!("`{}` in it is {what}", name.escape_default()).into());
                    let what = match kind {
                        // The oldest tars tell a folder by its name alone.
                        EntryType::Regular if name.ends_with('/') => None,
                        EntryType::Regular | EntryType::Continuous => Some(What::File(size)),
                        EntryType::Directory => None,
                        EntryType::Symlink => {
                            let target = match pax.link.take().or(long_link.take().map(String::into_bytes)) {
                                Some(target) => own(&target)?,
                                None => own(&header.link_name_bytes().unwrap_or_default())?,
                            };
                            Some(What::Link(target))
                        }
                        EntryType::Link => return refused("a hard link"),
                        EntryType::GNUSparse => return refused("a sparse file"),
                        EntryType::Char | EntryType::Block => return refused("a device"),
                        EntryType::Fifo => return refused("a pipe"),
                        _ => return refused("of a type that nobody knows"),
                    };
                    if let Some(What::File(size)) = what {
                        self.hold(size)?;
                    }
                    (long_name, long_link, pax) = (None, None, Pax::default());
                    if let Some(what) = what {
                        return Ok(Some(Member { name, what }));
                    }
                }
            }
        }
    }

    /// Reads from the current member.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Refused> {
        let left = usize::try_from(self.rest).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.tape.fill(buffer.get_mut(..left).unwrap_or_default()).map_err(cut)?;
        if read < left {
            return Err(cut(io::ErrorKind::UnexpectedEof.into()));
        }
        self.rest -= read as u64;
        Ok(read)
    }

    /// Where the current member's next byte lies, of a file.
    pub(super) fn place(&self) -> Option<(Arc<File>, u64)> {
        match &self.tape {
            Tape::Range { file, at, .. } => Some((Arc::clone(file), *at)),
            Tape::Stream(_) => None,
        }
    }

    fn hold(&mut self, size: u64) -> Result<(), Refused> {
        let padded = size.checked_next_multiple_of(BLOCK).filter(|padded| i64::try_from(*padded).is_ok());
        let padded = padded.ok_or_else(|| format!("a member would have {size} bytes"))?;
        (self.rest, self.padding) = (size, padded - size);
        if let Tape::Range { at, end, .. } = &self.tape {
            if at.saturating_add(size) > *end {
                return Err(cut(io::ErrorKind::UnexpectedEof.into()));
            }
            // The last member's padding may be missing, as the end may.
            self.padding = self.padding.min(end - at - size);
        }
        Ok(())
    }

    /// The bytes of what stands before a member to say more of it.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Refused> {
        if size > RECORDS_LIMIT {
            return Err(format!("what is said before a member has {size} bytes").into());
        }
        self.hold(size)?;
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        self.read(&mut bytes)?;
        Ok(bytes)
    }
}

/// What PAX records say of the member that follows.
#[derive(Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Pax {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut pax = Self::default();
        for (key, value) in records(bytes).ok_or("its PAX records cannot be read")? {
            match key {
                b"path" => pax.path = Some(value.to_vec()),
                b"linkpath" => pax.link = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    pax.size = Some(size.ok_or("a size in its PAX records cannot be read")?);
                }
                _ if key.starts_with(b"GNU.sparse.") => return Err("it has sparse files in it".to_owned()),
                _ => {}
            }
        }
        Ok(pax)
    }
}

/// The header in a block, if it is one: its checksum tells.
fn header(block: &[u8; 512]) -> Option<&Header> {
    let header = Header::from_byte_slice(block);
    let sum: u32 =
        block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    (header.cksum().ok()? == sum).then_some(header)
}

/// Whether a tar begins like this; and the name of its first member.
pub(super) fn first_name(beginning: &[u8]) -> Option<String> {
    let block: &[u8; 512] = beginning.get(..512)?.try_into().ok()?;
    Some(String::from_utf8_lossy(&header(block)?.path_bytes()).into_owned())
}

fn trimmed(name: &[u8]) -> &[u8] {
    name.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn cut(error: io::Error) -> Refused {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it is cut short".into(),
        _ => Refused::Io(error),
    }
}
