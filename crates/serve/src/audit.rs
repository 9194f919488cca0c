//! The audit: a line of JSON for each change and each refusal, who and where from. Never a secret.
//!
//! ```text
//! STORE/audit/
//! ├── audit.jsonl      what happened last
//! ├── audit.jsonl.1    what happened before, 10 MiB each
//! └── audit.jsonl.9    the oldest that is kept
//! ```
//!
//! Pulls are not in it: the access log has them. Nor is it in it that a client without credentials is challenged before
//! it reads: so the protocol begins. Of refusals, a hundred a minute are written and the rest is counted: nobody shall
//! push what was done out of the files by asking often for what he may not.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::auth::give_to_owner;

/// A file that has more is put aside.
const LIMIT: u64 = 10 * 1024 * 1024;
/// Files that are kept beside the one that is written.
const KEPT: u32 = 9;
/// Refusals that are written one by one, in so long.
const REFUSALS: u32 = 100;
const SPAN: Duration = Duration::from_mins(1);

/// Something that happened.
#[derive(Debug, Default, Serialize)]
pub struct Event<'a> {
    /// Who: `admin`, `token NAME`, `user NAME`, `anonymous`; of a command, the user that ran it.
    pub by: String,
    /// The address that it came from; none of a command on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What was done, or tried: `push`, `delete`, `read`, `load`, `token add`.
    pub action: &'a str,
    /// What with: a name, a bundle.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub subject: &'a str,
    /// In which repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Of which digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// `done`, `denied`; of a command also `incomplete`, `failed` or `interrupted`.
    pub outcome: &'a str,
}

#[derive(Serialize)]
struct Line<'a> {
    /// RFC 3339, in UTC.
    time: String,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

/// Where it is written.
#[derive(Debug)]
pub struct Audit {
    to: Mutex<To>,
    refusals: Mutex<Refusals>,
}

/// How many there were since.
#[derive(Debug)]
struct Refusals {
    since: Instant,
    count: u32,
}

impl Refusals {
    /// Whether one at `now` is written, and how many before it were not.
    fn count(&mut self, now: Instant) -> (bool, u32) {
        let mut left_out = 0;
        if now.saturating_duration_since(self.since) >= SPAN {
            left_out = self.count.saturating_sub(REFUSALS);
            *self = Self { since: now, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        (self.count <= REFUSALS, left_out)
    }
}

#[derive(Debug)]
enum To {
    Nowhere,
    Output,
    File { path: PathBuf, file: Option<(File, u64)> },
}

impl Audit {
    /// `place` as `serve.yaml` has it: a file, `-`, `off` or `false`; or else in the store's `folder`. Nothing is made before
    /// something happens.
    pub fn new(folder: &Path, place: Option<&Path>) -> Self {
        let to = match place {
            // In YAML people write either, and mean the same.
            Some(path) if path == Path::new("off") || path == Path::new("false") => To::Nowhere,
            Some(path) if path == Path::new("-") => To::Output,
            Some(path) => To::File { path: path.to_owned(), file: None },
            None => To::File { path: folder.join("audit/audit.jsonl"), file: None },
        };
        Self { to: Mutex::new(to), refusals: Mutex::new(Refusals { since: Instant::now(), count: 0 }) }
    }

    /// Writes it down. What cannot be written is said in the log, and keeps nobody from anything.
    pub fn record(&self, event: &Event<'_>) {
        if event.outcome == "denied" {
            let counted = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).count(Instant::now());
            let (is_written, left_out) = counted;
            if left_out > 0 {
                let subject = format!("{left_out} more refusals before this one");
                let by = "unknown".to_owned();
                self.write(&Event { by, action: "left out", subject: &subject, outcome: "denied", ..Event::default() });
            }
            if !is_written {
                return;
            }
        }
        self.write(event);
    }

    fn write(&self, event: &Event<'_>) {
        let line = Line { time: jiff::Timestamp::now().to_string(), event };
        let Ok(mut text) = serde_json::to_vec(&line) else { return };
        text.push(b'\n');
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match &mut *to {
            To::Nowhere => Ok(()),
            To::Output => io::stdout().lock().write_all(&text),
            To::File { path, file } => append(path, file, &text).inspect_err(|_| *file = None),
        };
        if let Err(error) = written {
            tracing::error!("the audit cannot be written: {error}: {}", String::from_utf8_lossy(&text).trim_end());
        }
    }
}

fn append(path: &Path, file: &mut Option<(File, u64)>, text: &[u8]) -> io::Result<()> {
    let is_full = file.as_ref().is_some_and(|(_, size)| *size > 0 && size + text.len() as u64 > LIMIT);
    if is_full {
        *file = None;
        put_aside(path);
    }
    if file.is_none() {
        *file = Some(open(path)?);
    }
    let Some((open, size)) = file else { return Ok(()) };
    open.write_all(text)?;
    *size += text.len() as u64;
    Ok(())
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.exists() {
        fs::create_dir_all(folder)?;
        if let Some(above) = folder.parent() {
            give_to_owner(above, folder)?;
        }
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    // A device has an owner of its own.
    if file.metadata()?.is_file() {
        give_to_owner(folder, path)?;
    }
    let size = file.metadata()?.len();
    Ok((file, size))
}

/// What was the newest becomes the first of those that are kept. What cannot be moved is written on.
fn put_aside(path: &Path) {
    let kept = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    for number in (1..KEPT).rev() {
        let _ = fs::rename(kept(number), kept(number + 1));
    }
    let _ = fs::rename(path, kept(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(subject: &str) -> Event<'_> {
        Event { by: "admin".to_owned(), action: "push", subject, outcome: "done", ..Event::default() }
    }

    #[test]
    fn what_is_full_is_put_aside_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::new(folder.path(), None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing has happened");
        audit.record(&event("first"));
        let path = folder.path().join("audit/audit.jsonl");
        let long = "x".repeat(usize::try_from(LIMIT).unwrap());
        for _ in 0..12 {
            audit.record(&event(&long));
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1 + KEPT as usize);
        audit.record(&event("last"));
        let text = fs::read_to_string(&path).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!((&line["by"], &line["subject"]), (&"admin".into(), &"last".into()));
        // Another process goes on where this one ended.
        Audit::new(folder.path(), None).record(&event("later"));
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
    }

    #[test]
    fn refusals_do_not_push_out_what_was_done() {
        let began = Instant::now();
        let mut refusals = Refusals { since: began, count: 0 };
        let written = (0..1000).filter(|_| refusals.count(began).0).count();
        assert_eq!(written, REFUSALS as usize);
        assert_eq!(refusals.count(began + SPAN), (true, 1000 - REFUSALS));
        assert_eq!(refusals.count(began + SPAN), (true, 0));
    }

    #[test]
    fn where_it_goes_is_said() {
        let folder = tempfile::tempdir().unwrap();
        Audit::new(folder.path(), Some(Path::new("off"))).record(&event("x"));
        let other = folder.path().join("other.jsonl");
        Audit::new(folder.path(), Some(&other)).record(&event("x"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(other).unwrap().lines().count(), 1);
    }
}
