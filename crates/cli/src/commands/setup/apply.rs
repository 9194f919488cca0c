//! A client's files, written and taken back.
//!
//! ```text
//! /etc/containerd/config.toml
//! /etc/containerd/config.toml.before-naru    what was there, as it was
//! /etc/naru/setup-containerd.json            what was written, and what to give back
//! ```
//!
//! Backups and record are on the disk before the first file changes, so that a run which is cut can be undone, or run
//! again. Undo compares first: when one file is neither what was written nor what was before, nothing is touched.

use std::fs::{self, File};
use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use artifact::Digest;
use kinds::client::{Client, Configuration, merge};
use serde::{Deserialize, Serialize};
use serde_json::json;
use similar::TextDiff;

use crate::commands::install::{below, put};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::terminal::Speaker;

/// The largest file of a client that is read.
const LIMIT: u64 = 1 << 20;
/// What a backup's name ends in; no client reads files that end so.
const BACKUP: &str = ".before-naru";

/// The machine whose files are meant: this one, or one that lies below a folder.
#[derive(Debug)]
pub(super) struct Machine {
    root: PathBuf,
}

impl Machine {
    pub(super) fn new(root: Option<&Path>) -> Self {
        Self { root: root.unwrap_or(Path::new("/")).to_owned() }
    }

    /// Whether it is the one that this runs on.
    pub(super) fn is_this(&self) -> bool {
        self.root == Path::new("/")
    }

    /// A path of it, as this process reaches it.
    pub(super) fn at(&self, path: &str) -> PathBuf {
        below(&self.root, Path::new(path))
    }

    /// The same, to be written to: a link on the way may lead out of the machine's folder, and a link in a file's place
    /// belongs to whoever made it.
    fn to_write(&self, path: &str) -> anyhow::Result<PathBuf> {
        let full = self.at(path);
        let mut so_far = self.root.clone();
        for part in Path::new(path).strip_prefix("/").unwrap_or(Path::new(path)).components() {
            so_far.push(part);
            let is_link = so_far.symlink_metadata().is_ok_and(|found| found.is_symlink());
            if is_link && (!self.is_this() || so_far == full) {
                return Err(Failure::new(format!("{} is a link", so_far.display()))
                    .hint("change what it leads to by hand: `naru setup CLIENT` prints what belongs there")
                    .into());
            }
        }
        Ok(full)
    }

    /// A file's bytes; none where there is no file.
    pub(super) fn read(&self, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
        read(&self.at(path))
    }
}

fn read(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    let named = || path.display().to_string();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(named),
    };
    let mut bytes = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut bytes).with_context(named)?;
    if bytes.len() as u64 > LIMIT {
        return Err(Failure::new(format!("{} is larger than 1 MiB", named())).into());
    }
    Ok(Some(bytes))
}

/// What was written for a client.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    files: Vec<Written>,
    /// Folders that were made, in that order.
    folders: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Written {
    path: String,
    /// Of what was written.
    sha256: Digest,
    /// Of what was there; none: nothing was.
    before: Option<Digest>,
    /// Whether its user changed it between two runs: only the user knows what it should go back to.
    #[serde(default)]
    edited: bool,
    /// Of what earlier runs wrote: a later one that was cut short may have left it there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<Digest>,
}

impl Written {
    /// Whether a file's digest is of something that was written here.
    fn wrote(&self, now: Option<Digest>) -> bool {
        now.is_some_and(|now| now == self.sha256 || self.earlier.contains(&now))
    }

    fn backup(&self) -> String {
        format!("{}{BACKUP}", self.path)
    }
}

impl Record {
    fn path(client: Client) -> String {
        format!("/etc/naru/setup-{client}.json")
    }

    fn read(machine: &Machine, client: Client) -> anyhow::Result<Option<Self>> {
        let path = Self::path(client);
        let Some(bytes) = machine.read(&path)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).with_context(|| machine.at(&path).display().to_string())
    }

    fn write(&self, machine: &Machine, client: Client) -> anyhow::Result<()> {
        let path = machine.to_write(&Self::path(client))?;
        let text = serde_json::to_string_pretty(self)? + "\n";
        put(&path, 0o644, &mut text.as_bytes()).with_context(|| path.display().to_string())
    }
}

/// A file that has to change.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) path: String,
    pub(super) old: Option<String>,
    pub(super) new: String,
    mode: u32,
    part: bool,
}

impl Change {
    /// As `diff -u` shows it.
    pub(super) fn diff(&self) -> String {
        let from = if self.old.is_some() { self.path.as_str() } else { "/dev/null" };
        let old = self.old.as_deref().unwrap_or_default();
        TextDiff::from_lines(old, &self.new).unified_diff().header(from, &self.path).to_string()
    }
}

/// What is not yet as `configuration` has it.
pub(super) fn changes(configuration: &Configuration, machine: &Machine) -> anyhow::Result<Vec<Change>> {
    let mut changes = Vec::new();
    for file in &configuration.files {
        let path = machine.to_write(&file.path)?;
        let old = match machine.read(&file.path)? {
            None => None,
            Some(bytes) => Some(String::from_utf8(bytes).with_context(|| path.display().to_string())?),
        };
        let new = merge(file, old.as_deref())?;
        if old.as_ref() != Some(&new) {
            changes.push(Change { path: file.path.clone(), old, new, mode: file.mode, part: file.part });
        }
    }
    Ok(changes)
}

/// Shows what changes.
pub(super) fn show(changes: &[Change], voice: &Speaker) -> anyhow::Result<()> {
    for change in changes {
        let diff = change.diff();
        voice.answer(diff.trim_end(), &json!({ "path": change.path, "diff": diff }))?;
    }
    Ok(())
}

/// Asks on a terminal; elsewhere `--yes` must have said it.
pub(super) fn confirmed(voice: &Speaker) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(Failure::new("nobody is there to confirm this").hint("add `--yes`").exit(Exit::Usage).into());
    }
    voice.say("write this? [y/N]");
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// Writes them: first backups and the record, then the files.
pub(super) fn apply(client: Client, changes: &[Change], machine: &Machine) -> anyhow::Result<()> {
    let mut record = Record::read(machine, client)?.unwrap_or_default();
    for change in changes {
        let old = change.old.as_ref().map(|text| Digest::of(text.as_bytes()));
        let sha256 = Digest::of(change.new.as_bytes());
        make_folders(Path::new(&change.path), machine, &mut record)?;
        if let Some(known) = record.files.iter_mut().find(|known| known.path == change.path) {
            let is_ours = known.wrote(old) || old == known.before;
            if !is_ours && !change.part {
                return Err(Failure::new(format!("{} was edited since naru wrote it", change.path))
                    .hint("move it away when nobody needs the edit; then run the same again")
                    .into());
            }
            known.edited |= !is_ours;
            if known.sha256 != sha256 && !known.earlier.contains(&known.sha256) {
                known.earlier.push(known.sha256);
            }
            known.sha256 = sha256;
            continue;
        }
        let written = Written { path: change.path.clone(), sha256, before: old, edited: false, earlier: Vec::new() };
        if old.is_some() {
            back_up(&machine.to_write(&change.path)?, &machine.to_write(&written.backup())?)?;
        }
        record.files.push(written);
    }
    make_folders(Path::new(&Record::path(client)), machine, &mut record)?;
    record.write(machine, client)?;
    for change in changes {
        let path = machine.to_write(&change.path)?;
        let named = || path.display().to_string();
        let before = fs::metadata(&path).ok();
        let mode = before.as_ref().map_or(change.mode, |found| found.mode() & 0o7777);
        put(&path, mode, &mut change.new.as_bytes()).with_context(named)?;
        if let Some(before) = before.filter(|before| fs::metadata(&path).is_ok_and(|now| now.uid() != before.uid())) {
            chown(&path, Some(before.uid()), Some(before.gid())).with_context(named)?;
        }
    }
    Ok(())
}

/// Makes the folders above a path, and remembers which.
fn make_folders(path: &Path, machine: &Machine, record: &mut Record) -> anyhow::Result<()> {
    let mut missing: Vec<_> = path.ancestors().skip(1).map(|folder| folder.display().to_string()).collect();
    missing.retain(|folder| !machine.at(folder).exists());
    for folder in missing.into_iter().rev() {
        let full = machine.to_write(&folder)?;
        fs::create_dir(&full).with_context(|| full.display().to_string())?;
        record.folders.push(folder);
    }
    Ok(())
}

/// A copy with the rights and the owner of what it is of. One that another hand left under this name stays.
fn back_up(path: &Path, backup: &Path) -> anyhow::Result<()> {
    let named = || backup.display().to_string();
    if backup.exists() && read(backup)? != read(path)? {
        return Err(Failure::new(format!("{} is there already", named()))
            .hint("it is not of this setup; move it away, then run the same again")
            .into());
    }
    let found = fs::metadata(path).with_context(|| path.display().to_string())?;
    fs::copy(path, backup).with_context(named)?;
    if fs::metadata(backup).with_context(named)?.uid() != found.uid() {
        chown(backup, Some(found.uid()), Some(found.gid())).with_context(named)?;
    }
    File::open(backup).and_then(|file| file.sync_all()).with_context(named)
}

/// Gives back what was there before the first apply; answers what became of each file.
pub(super) fn undo(client: Client, machine: &Machine) -> anyhow::Result<Vec<(&'static str, String)>> {
    let Some(record) = Record::read(machine, client)? else {
        return Err(Failure::new(format!("naru has set up no {client} here"))
            .hint(format!("what it writes it keeps in {}", machine.at(&Record::path(client)).display()))
            .into());
    };
    let digest = |path: &str| anyhow::Ok(machine.read(path)?.map(|bytes| Digest::of(&bytes)));
    for file in &record.files {
        let now = digest(&file.path)?;
        // Of a file that is gone there is nothing to lose.
        if now.is_some() && now != file.before && (file.edited || !file.wrote(now)) {
            let failure = Failure::new(format!("{} was edited since naru wrote it: nothing is undone", file.path));
            return Err(match file.before {
                Some(_) => failure.hint(format!("what was there before is {}", file.backup())),
                None => failure.hint("it was not there before: remove it by hand, then run the same again"),
            }
            .into());
        }
        if file.before.is_some() && now != file.before && digest(&file.backup())? != file.before {
            return Err(Failure::new(format!("{} is not what was backed up: nothing is undone", file.backup()))
                .hint("give the file back by hand")
                .into());
        }
    }
    let mut undone = Vec::new();
    for file in &record.files {
        let (path, backup) = (machine.to_write(&file.path)?, machine.to_write(&file.backup())?);
        let named = || path.display().to_string();
        match file.before {
            Some(before) if digest(&file.path)? != Some(before) => {
                fs::rename(&backup, &path).with_context(named)?;
                undone.push(("restored", file.path.clone()));
            }
            Some(_) => remove(&backup)?,
            None => {
                remove(&path)?;
                undone.push(("removed", file.path.clone()));
            }
        }
    }
    remove(&machine.to_write(&Record::path(client))?)?;
    // The folder of the records is whichever client's was the first.
    let folders = record.folders.iter().rev().map(String::as_str).chain(["/etc/naru"]);
    for folder in folders {
        // One that holds something of others by now stays.
        let _ = fs::remove_dir(machine.to_write(folder)?);
    }
    Ok(undone)
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).with_context(|| path.display().to_string()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
