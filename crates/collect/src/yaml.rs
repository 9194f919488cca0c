//! YAML in and out, at one place: the library has had two majors in a year.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_saphyr::budget::BudgetBreach;

use crate::error::{Error, Result};

/// A packing list may have so many bytes.
pub(crate) const LIST_LIMIT: u64 = 16 * 1024 * 1024;
/// A lock may have so many bytes: that is some 300 000 blobs.
pub(crate) const LOCK_LIMIT: u64 = 64 * 1024 * 1024;

/// Reads a text file of at most `limit` bytes.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String> {
    // Looked at before it is opened: to open a pipe waits for whoever writes into it.
    if !std::fs::metadata(path).map_err(Error::io(path))?.is_file() {
        return Err(Error::NotAFile { path: path.to_owned(), why: "this is no file" });
    }
    let file = std::fs::File::open(path).map_err(Error::io(path))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    if bytes.len() as u64 > limit {
        return Err(Error::TooLarge { path: path.to_owned(), limit });
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let text = String::from_utf8_lossy(good);
        let column = text.rsplit('\n').next().unwrap_or_default().chars().count() as u64 + 1;
        let line = text.matches('\n').count() as u64 + 1;
        Error::at(path, &text, line, column, "this is not UTF-8: save it as such".to_owned(), None)
    })
}

/// Reads a document; what is wrong with it is shown with its line, column and surroundings.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    // The library's own defaults reject long comments and lists of some ten thousand images.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_buffered_comment_events: 100_000,
            max_events: 8_000_000,
            max_nodes: 4_000_000,
            max_total_scalar_bytes: 64 * 1024 * 1024,
            max_depth: 32,
            max_documents: 1,
            max_aliases: 1_000,
            max_anchors: 1_000,
        },
        strict_booleans: true,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let location = error.location();
        let (line, column) = location.map_or((0, 0), |at| (at.line(), at.column()));
        let (why, meant) = match error.without_snippet() {
            serde_saphyr::Error::SerdeUnknownField { field, expected, .. } => (
                format!("unknown key `{}`; the keys here are {}", clean(field, 64), expected.join(", ")),
                closest(field, expected),
            ),
            serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
                (format!("the key `{}` stands here a second time", clean(key, 64)), None)
            }
            serde_saphyr::Error::Unexpected { expected: "sequence start", .. } => {
                ("a list is expected here, as `[a, b]` or `- a`".to_owned(), None)
            }
            serde_saphyr::Error::Unexpected { expected: "mapping start", .. } => {
                ("a mapping is expected here, as `key: value`; a file is `url: https://…`".to_owned(), None)
            }
            serde_saphyr::Error::Budget { breach: BudgetBreach::Documents { .. }, .. } => {
                ("a second document begins with `---`: one file holds one packing list or lock".to_owned(), None)
            }
            other => {
                let said = other.to_string();
                (said.strip_suffix(&format!(" at line {line}, column {column}")).unwrap_or(&said).to_owned(), None)
            }
        };
        Error::at(path, text, line, column, why, meant)
    })
}

/// The line where something is wrong, the one before it, and a mark below the column.
pub(crate) fn snippet(text: &str, line: u64, column: u64) -> String {
    let (Ok(line), Ok(column)) = (usize::try_from(line), usize::try_from(column)) else { return String::new() };
    if line == 0 {
        return String::new();
    }
    let width = line.to_string().len();
    let mut shown = String::new();
    for (number, content) in text.lines().enumerate().skip(line.saturating_sub(2)).take(2.min(line)) {
        let content = match content.split_once(':') {
            // What stands in a terminal's scrollback, or in a CI's log, is known.
            Some((key, _)) if key.trim() == "password" => format!("{key}: …"),
            _ => without_credentials(&clean(content, 120)),
        };
        let _ = write!(shown, "\n{:width$} | {content}", number + 1);
    }
    if column <= 120 {
        let _ = write!(shown, "\n{:width$} | {:>column$}", "", "^");
    }
    shown
}

/// `https://me:secret@host/…` with what stands before the `@` taken out.
fn without_credentials(line: &str) -> String {
    let Some((before, rest)) = line.split_once("://") else { return line.to_owned() };
    let host = rest.split(['/', ' ']).next().unwrap_or_default();
    match host.rsplit_once('@') {
        Some((credentials, _)) => format!("{before}://…{}", &rest[credentials.len()..]),
        None => line.to_owned(),
    }
}

/// Text of a document, fit for a terminal.
fn clean(text: &str, limit: usize) -> String {
    text.chars().take(limit).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The key that was meant, if one is near enough to have been.
fn closest(field: &str, expected: &[&'static str]) -> Option<&'static str> {
    let field: String = field.chars().take(64).collect();
    expected
        .iter()
        .map(|key| (strsim::damerau_levenshtein(&field.to_ascii_lowercase().replace('-', "_"), key), *key))
        .filter(|(distance, key)| *distance <= (key.len() / 3).max(1))
        .min()
        .map(|(_, key)| key)
}

/// Writes a document.
pub(crate) fn print<T: serde::Serialize>(path: &Path, value: &T) -> Result<String> {
    let options = serde_saphyr::ser_options! {
        indent_step: 2,
        prefer_block_scalars: false,
    };
    serde_saphyr::to_string_with_options(value, options)
        .map_err(|error| Error::Unwritable { path: path.to_owned(), why: error.to_string() })
}
