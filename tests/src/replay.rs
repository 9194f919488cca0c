//! Power cuts: what a program wrote is recorded call by call, and played again up to any of them, without what was not
//! synced by then.
//!
//! A disk owes us less than a running system shows: bytes are sure after a sync of their file that began later; a name is
//! sure after a sync of the folder that it is in. Three disks are played: one that kept nothing that it did not owe, one
//! that kept every name and only the bytes it owed, and one that kept some of everything.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::process::{Outcome, find};
use crate::random::Random;

/// The calls that change files, or say that they are to stay.
const CALLS: &str = "trace=open,openat,creat,close,lseek,write,pwrite64,writev,pwritev,ftruncate,fallocate,rename,renameat,\
                     renameat2,link,linkat,unlink,unlinkat,rmdir,mkdir,mkdirat,fsync,fdatasync,copy_file_range,sendfile,dup,fcntl";

/// What a call did to the folder that was watched.
#[derive(Clone, Debug)]
enum Event {
    /// Bytes of a file, from an offset.
    Write(usize, u64, Vec<u8>),
    Truncate(usize, u64),
    /// A new file under this name.
    Create(PathBuf, usize),
    Folder(PathBuf),
    Rename(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Remove(PathBuf),
    /// A file is sure, as it was when the call began: so many events before.
    SyncFile(usize, usize),
    /// The names in a folder are sure, likewise.
    SyncFolder(PathBuf, usize),
}

/// How a disk treats what it does not owe.
#[derive(Clone, Copy, Debug)]
pub enum Disk {
    /// It kept nothing of that.
    Strict,
    /// It kept every name, and no bytes.
    Names,
    /// It kept some of it; the seed says which.
    Some(u64),
}

/// What a program did to a folder.
#[derive(Debug)]
pub struct Recording {
    root: PathBuf,
    events: Vec<Event>,
}

impl Recording {
    /// Runs a command to its end and records what it does below `root`, which is not there yet.
    ///
    /// # Errors
    /// When it fails, or does what cannot be recorded.
    pub fn of(command: &Command, root: &Path, log: &Path) -> Result<Self> {
        ensure!(!root.exists(), "{} is there already", root.display());
        let mut strace = Command::new(find("strace").context("strace is not here")?);
        strace.args(["-f", "-qq", "-y", "-xx", "-s", "10000000", "-e", CALLS, "-o"]).arg(log);
        strace.arg(command.get_program()).args(command.get_args()).env_clear();
        strace.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        strace.current_dir(command.get_current_dir().context("commands run in a folder of their own")?);
        Outcome::of(&mut strace)?.ok("what is recorded")?;
        let mut reader = Reader { root, events: Vec::new(), files: HashMap::new(), names: BTreeMap::new(), next: 0 };
        let mut begun: HashMap<&str, (String, usize)> = HashMap::new();
        let text = std::fs::read_to_string(log)?;
        for line in text.lines() {
            let (thread, rest) = line.split_once(' ').context("a line has a thread")?;
            let rest = rest.trim_start();
            let (call, from) = if let Some(start) = rest.strip_suffix(" <unfinished ...>") {
                begun.insert(thread, (start.to_owned(), reader.events.len()));
                continue;
            } else if rest.starts_with("<... ") {
                let (start, from) = begun.remove(thread).context("what goes on was begun")?;
                (start + rest.split_once(" resumed>").context("a call that goes on")?.1, from)
            } else {
                (rest.to_owned(), reader.events.len())
            };
            if !call.starts_with("+++") && !call.starts_with("---") {
                reader.take(&call, from).with_context(|| call.chars().take(300).collect::<String>())?;
            }
        }
        Ok(Self { root: root.to_owned(), events: reader.events })
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Makes in `folder` what a disk has after a power cut behind the first `count` events; the recorded root is its
    /// child of the same name, if it is there at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn play(&self, count: usize, disk: Disk, folder: &Path) -> Result<PathBuf> {
        let mut random = Random::new(if let Disk::Some(seed) = disk { seed } else { 0 });
        let events = self.events.get(..count).context("so many events")?;
        // Up to which event each file, and each folder's names, are sure.
        let (mut bytes, mut names): (HashMap<usize, usize>, HashMap<&Path, usize>) = (HashMap::new(), HashMap::new());
        for event in events {
            match event {
                Event::SyncFile(file, from) => drop(bytes.insert(*file, (*from).max(*bytes.get(file).unwrap_or(&0)))),
                Event::SyncFolder(path, from) => {
                    let sure = names.entry(path).or_default();
                    *sure = (*sure).max(*from);
                }
                _ => {}
            }
        }
        // A journal keeps the order of names: of those that are not owed, it kept the first so many.
        let kept = match disk {
            Disk::Strict => 0,
            Disk::Names => count,
            Disk::Some(_) => usize::try_from(random.below(count as u64 + 1))?,
        };
        let sure = |at: usize, path: &Path| {
            at < kept || path.parent().is_some_and(|parent| names.get(parent).is_some_and(|sure| at < *sure))
        };
        let mut files: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        let mut tree: BTreeMap<PathBuf, Option<usize>> = BTreeMap::new();
        for (at, event) in events.iter().enumerate() {
            match event {
                Event::Write(file, offset, data) => {
                    let owed = at < *bytes.get(file).unwrap_or(&0);
                    let luck = matches!(disk, Disk::Some(_)) && random.below(2) == 0;
                    if owed || luck {
                        // What it does not owe it may have written in part.
                        let length =
                            if owed { data.len() } else { usize::try_from(random.below(data.len() as u64 + 1))? };
                        let content = files.entry(*file).or_default();
                        let start = usize::try_from(*offset)?;
                        if content.len() < start + length {
                            content.resize(start + length, 0);
                        }
                        content[start..start + length].copy_from_slice(&data[..length]);
                    }
                }
                Event::Truncate(file, length) if at < *bytes.get(file).unwrap_or(&0) => {
                    files.entry(*file).or_default().resize(usize::try_from(*length)?, 0);
                }
                Event::Create(path, file) if sure(at, path) => drop(tree.insert(path.clone(), Some(*file))),
                Event::Folder(path) if sure(at, path) => drop(tree.insert(path.clone(), None)),
                Event::Rename(from, to) if sure(at, to) => {
                    // Files only: what was under the old name, sure or not, is under the new one.
                    let file = tree.remove(from).or_else(|| self.file_at(at, from).map(Some));
                    tree.insert(to.clone(), file.flatten());
                }
                Event::Link(from, to) if sure(at, to) => {
                    if let Some(file) = self.file_at(at, from) {
                        tree.insert(to.clone(), Some(file));
                    }
                }
                Event::Remove(path) if sure(at, path) => drop(tree.remove(path)),
                _ => {}
            }
        }
        let above = self.root.parent().context("a root has a parent")?;
        let place = |path: &Path| Ok::<_, anyhow::Error>(folder.join(path.strip_prefix(above)?));
        // A name in a folder that is not there is not there.
        let mut there = BTreeSet::from([above.to_owned()]);
        for (path, file) in &tree {
            if path.parent().is_some_and(|parent| there.contains(parent)) {
                match file {
                    None => {
                        std::fs::create_dir(place(path)?)?;
                        there.insert(path.clone());
                    }
                    Some(file) => std::fs::write(place(path)?, files.get(file).map_or(&[][..], Vec::as_slice))?,
                }
            }
        }
        place(&self.root)
    }

    /// Which file had a name just before an event.
    fn file_at(&self, at: usize, path: &Path) -> Option<usize> {
        let mut names: HashMap<&Path, usize> = HashMap::new();
        for event in self.events.get(..at)? {
            match event {
                Event::Create(path, file) => drop(names.insert(path, *file)),
                Event::Rename(from, to) => {
                    if let Some(file) = names.remove(from.as_path()) {
                        names.insert(to, file);
                    }
                }
                Event::Link(from, to) => {
                    if let Some(file) = names.get(from.as_path()).copied() {
                        names.insert(to, file);
                    }
                }
                Event::Remove(path) => drop(names.remove(path.as_path())),
                _ => {}
            }
        }
        names.get(path).copied()
    }
}

/// Makes events of calls.
struct Reader<'a> {
    root: &'a Path,
    events: Vec<Event>,
    /// Open files by descriptor: which file, and where in it.
    files: HashMap<u64, (usize, u64)>,
    /// What the names are now, as the running system shows them.
    names: BTreeMap<PathBuf, usize>,
    next: usize,
}

impl Reader<'_> {
    /// How many bytes the file has by now.
    fn length(&self, file: usize) -> u64 {
        self.events.iter().fold(0, |length, event| match event {
            Event::Write(written, offset, bytes) if *written == file => length.max(offset + bytes.len() as u64),
            Event::Truncate(cut, to) if *cut == file => *to,
            _ => length,
        })
    }

    fn take(&mut self, call: &str, from: usize) -> Result<()> {
        let (name, rest) = call.split_once('(').context("a call has arguments")?;
        let Some((arguments, result)) = rest.rsplit_once(" = ") else { return Ok(()) };
        if result.starts_with(['-', '?']) {
            return Ok(());
        }
        let arguments = arguments.trim_end().strip_suffix(')').context("arguments end")?;
        let arguments = split(arguments);
        let argument = |index: usize| arguments.get(index).copied().context("an argument is missing");
        let number = || -> Result<u64> { Ok(result.split(['<', ' ']).next().unwrap_or_default().parse()?) };
        match name {
            "open" | "openat" | "creat" => {
                let path = unquote(result.split_once('<').context("a path")?.1.trim_end_matches('>'))?;
                let path = self.watched(&path);
                let descriptor = number()?;
                self.files.remove(&descriptor);
                let Some(path) = path else { return Ok(()) };
                let flags = argument(arguments.len().min(3) - if name == "open" { 2 } else { 1 }).unwrap_or_default();
                let flags = if name == "openat" { argument(2)? } else { flags };
                if flags.contains("O_DIRECTORY") {
                    return Ok(());
                }
                let file = match self.names.get(&path) {
                    Some(file) => *file,
                    None if flags.contains("O_CREAT") => {
                        self.next += 1;
                        self.names.insert(path.clone(), self.next);
                        self.events.push(Event::Create(path, self.next));
                        self.next
                    }
                    // A folder, opened to be synced.
                    None => return Ok(()),
                };
                if flags.contains("O_TRUNC") {
                    self.events.push(Event::Truncate(file, 0));
                }
                // One process writes here: what is appended goes to where the file ended when it was opened.
                let at = if flags.contains("O_APPEND") { self.length(file) } else { 0 };
                self.files.insert(descriptor, (file, at));
            }
            "close" => drop(self.files.remove(&descriptor(argument(0)?)?)),
            "lseek" => {
                let to = number()?;
                if let Some((_, at)) = self.files.get_mut(&descriptor(argument(0)?)?) {
                    *at = to;
                }
            }
            "write" | "writev" | "pwrite64" | "pwritev" => {
                let Some((file, at)) = self.files.get_mut(&descriptor(argument(0)?)?) else { return Ok(()) };
                let mut data = if name.ends_with('v') {
                    let mut data = Vec::new();
                    for piece in argument(1)?.split("iov_base=").skip(1) {
                        data.extend(bytes(piece.split_once(", iov_len").context("a vector")?.0)?);
                    }
                    data
                } else {
                    bytes(argument(1)?)?
                };
                data.truncate(usize::try_from(number()?)?);
                let offset = if name.starts_with('p') { argument(3)?.parse()? } else { *at };
                if !name.starts_with('p') {
                    *at += data.len() as u64;
                }
                let file = *file;
                self.events.push(Event::Write(file, offset, data));
            }
            "ftruncate" => {
                if let Some((file, _)) = self.files.get(&descriptor(argument(0)?)?) {
                    self.events.push(Event::Truncate(*file, argument(1)?.parse()?));
                }
            }
            // Room is kept for bytes that come later; none of it shows.
            "fallocate" => {}
            "rename" | "renameat" | "renameat2" | "link" | "linkat" => {
                let paths = arguments.iter().filter(|argument| argument.starts_with('"'));
                let paths = paths.map(|path| unquote(path)).collect::<Result<Vec<_>>>()?;
                let [from, to] = paths.as_slice() else { bail!("two paths") };
                let (Some(from), Some(to)) = (self.watched(from), self.watched(to)) else { return Ok(()) };
                let file = *self.names.get(&from).context("a file that is known")?;
                if name.starts_with("rename") {
                    self.names.remove(&from);
                    self.events.push(Event::Rename(from, to.clone()));
                } else {
                    self.events.push(Event::Link(from, to.clone()));
                }
                self.names.insert(to, file);
            }
            "unlink" | "unlinkat" | "rmdir" => {
                let path = arguments.iter().find(|argument| argument.starts_with('"')).context("a path")?;
                if let Some(path) = self.watched(&unquote(path)?) {
                    self.names.remove(&path);
                    self.events.push(Event::Remove(path));
                }
            }
            "mkdir" | "mkdirat" => {
                let path = arguments.iter().find(|argument| argument.starts_with('"')).context("a path")?;
                if let Some(path) = self.watched(&unquote(path)?) {
                    self.events.push(Event::Folder(path));
                }
            }
            "fsync" | "fdatasync" => {
                if let Some((file, _)) = self.files.get(&descriptor(argument(0)?)?) {
                    self.events.push(Event::SyncFile(*file, from));
                } else if let Some((_, path)) = argument(0)?.split_once('<') {
                    let path = PathBuf::from(unquote(path.trim_end_matches('>'))?);
                    self.events.push(Event::SyncFolder(path, from));
                }
            }
            "dup" | "fcntl" => {
                if name == "dup" || argument(1)?.starts_with("F_DUPFD") {
                    if let Some(open) = self.files.get(&descriptor(argument(0)?)?).copied() {
                        self.files.insert(number()?, open);
                    }
                }
            }
            "copy_file_range" | "sendfile" => {
                let to = if name == "sendfile" { 0 } else { 2 };
                ensure!(!self.files.contains_key(&descriptor(argument(to)?)?), "bytes that cannot be seen here");
            }
            _ => bail!("a call that nobody asked for"),
        }
        Ok(())
    }

    /// A path below the root, or the root. SQLite's shared memory is none of it: it is made anew at each opening.
    fn watched(&self, path: &str) -> Option<PathBuf> {
        let path = PathBuf::from(path);
        (path.starts_with(self.root) && !path.to_string_lossy().ends_with("-shm")).then_some(path)
    }
}

/// The number of a descriptor: `7</path>`.
fn descriptor(argument: &str) -> Result<u64> {
    Ok(argument.split('<').next().unwrap_or_default().parse()?)
}

/// Splits at the commas that stand outside of strings and brackets.
fn split(arguments: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut quoted) = (Vec::new(), 0, 0, false);
    for (at, byte) in arguments.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => depth += 1,
            b']' | b'}' if !quoted => depth -= 1,
            b',' if !quoted && depth == 0 => {
                parts.push(arguments[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(arguments[start..].trim());
    parts
}

/// What strace printed as `"\x68\x69"`, with its quotes or without.
fn bytes(text: &str) -> Result<Vec<u8>> {
    ensure!(!text.ends_with("..."), "strace shortened it");
    let text = text.trim_matches('"');
    if !text.starts_with("\\x") {
        return Ok(text.as_bytes().to_vec());
    }
    text.split("\\x").skip(1).map(|byte| Ok(u8::from_str_radix(byte, 16)?)).collect()
}

fn unquote(text: &str) -> Result<String> {
    Ok(String::from_utf8(bytes(text)?)?)
}
