//! Errors as the user sees them: one line that names the thing, and a hint.

use std::error::Error;
use std::fmt;
use std::io;

use crate::exit::Exit;

/// What the command line itself finds wrong.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    exit: Exit,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, exit: Exit::Failed }
    }

    /// What the user can do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// How the process shall end.
    pub(crate) fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {}

/// An error made ready to be printed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// The chain of causes as one line.
    pub(crate) line: String,
    /// What the user can do.
    pub(crate) hint: Option<String>,
    /// How the process ends.
    pub(crate) exit: Exit,
}

impl Report {
    /// `None`: whoever read our output has gone, and wants to hear nothing.
    pub(crate) fn of(error: &anyhow::Error) -> Option<Self> {
        if error.is::<crate::terminal::ReaderGone>() {
            return None;
        }
        let hint = error.chain().find_map(hint);
        let exit = error.chain().find_map(exit).unwrap_or(Exit::Failed);
        Some(Self { line: line(error), hint, exit })
    }
}

impl Report {
    /// What the parser of the command line says, taken apart: the error, and its tip or where to read on.
    pub(crate) fn of_usage(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        let first = text.trim().lines().take_while(|line| !line.trim().is_empty()).map(str::trim);
        let line = first.collect::<Vec<_>>().join(" ");
        let line = line.strip_prefix("error: ").unwrap_or(&line).to_owned();
        let tip = text.lines().find_map(|line| line.trim().strip_prefix("tip: "));
        let hint =
            Some(tip.unwrap_or("`naru --help` lists the commands, `naru COMMAND --help` what one takes").to_owned());
        Self { line, hint, exit: Exit::Usage }
    }
}

/// The causes in one line. Some errors have their cause's text in their own already.
fn line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let text = text.trim();
        if line.is_empty() {
            text.clone_into(&mut line);
        } else if !text.is_empty() && !line.contains(text) {
            line.push_str(": ");
            line.push_str(text);
        }
    }
    plain(&line)
}

/// Without what would move a terminal's cursor or colour it: names from outside are in it.
fn plain(line: &str) -> String {
    let shown = |letter: char| match letter {
        letter if letter.is_control() && !['\n', '\t'].contains(&letter) => letter.escape_default().to_string(),
        letter => letter.to_string(),
    };
    line.chars().map(shown).collect()
}

fn hint(cause: &(dyn Error + 'static)) -> Option<String> {
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return failure.hint.clone();
    }
    if let Some(error) = cause.downcast_ref::<store::Error>() {
        return error.hint();
    }
    if let Some(error) = cause.downcast_ref::<collect::Error>() {
        return error.hint();
    }
    if let Some(error) = cause.downcast_ref::<upstream::Error>() {
        return error.hint();
    }
    if let Some(error) = cause.downcast_ref::<bundle::Error>() {
        return error.hint();
    }
    if let Some(error) = cause.downcast_ref::<serve::Error>() {
        return error.hint();
    }
    if let Some(error) = cause.downcast_ref::<kinds::Error>() {
        return error.hint();
    }
    let error = cause.downcast_ref::<io::Error>()?;
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Some("run it as a user who may, or give a path of your own (`--store PATH`)".to_owned())
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("free some space; then run the same again".to_owned())
        }
        _ => None,
    }
}

fn exit(cause: &(dyn Error + 'static)) -> Option<Exit> {
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some(failure.exit);
    }
    if let Some(error) = cause.downcast_ref::<store::Error>() {
        return match error {
            store::Error::Held { .. } => Some(Exit::Held),
            _ => None,
        };
    }
    if let Some(error) = cause.downcast_ref::<collect::Error>() {
        return match error {
            collect::Error::Document { .. }
            | collect::Error::NotAFile { .. }
            | collect::Error::Disagree { .. }
            | collect::Error::EditedLock { .. }
            | collect::Error::NewerLock { .. }
            | collect::Error::UnknownUpdate { .. }
            | collect::Error::TooLarge { .. } => Some(Exit::Usage),
            collect::Error::Failed { action: "pull", .. } => Some(Exit::Incomplete),
            _ => None,
        };
    }
    if let Some(error) = cause.downcast_ref::<serve::Error>() {
        return match error {
            serve::Error::AccountName(_)
            | serve::Error::Password(_)
            | serve::Error::Htpasswd { .. }
            | serve::Error::Fingerprint => Some(Exit::Usage),
            _ => None,
        };
    }
    if let Some(error) = cause.downcast_ref::<bundle::Error>() {
        return match error {
            bundle::Error::Signature { .. } | bundle::Error::Untrusted { .. } | bundle::Error::Unsigned { .. } => {
                Some(Exit::Untrusted)
            }
            bundle::Error::Damaged { .. } => Some(Exit::Incomplete),
            bundle::Error::VolumeSize { .. }
            | bundle::Error::As { .. }
            | bundle::Error::Receipt { .. }
            | bundle::Error::NotRemembered { .. }
            | bundle::Error::WantList { .. } => Some(Exit::Usage),
            _ => None,
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let source = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = anyhow::Error::new(store::Error::Io { path: PathBuf::from("/s"), source }).context("pull");
        let report = Report::of(&error).unwrap();
        assert_eq!(report.line, "pull: /s: permission denied");
        assert!(report.hint.is_some());
        assert_eq!(report.exit, Exit::Failed);
    }

    #[test]
    fn a_name_from_outside_moves_no_cursor() {
        let report = Report::of(&anyhow::anyhow!("a\u{1b}[2Jb: \u{d}no such file\nline 2")).unwrap();
        assert_eq!(report.line, "a\\u{1b}[2Jb: \\rno such file\nline 2");
    }

    #[test]
    fn who_holds_the_store_is_said() {
        let held = store::Error::Held { path: PathBuf::from("/s"), holder: "process 7 (naru serve)".to_owned() };
        let report = Report::of(&anyhow::Error::new(held)).unwrap();
        assert_eq!(report.exit, Exit::Held);
        assert_eq!(report.line, "the store /s is held by process 7 (naru serve)");
    }

    #[test]
    fn a_reader_who_went_hears_nothing() {
        let gone: Result<(), _> = Err(crate::terminal::ReaderGone);
        assert_eq!(Report::of(&gone.context("ls").unwrap_err()), None);
    }
}
