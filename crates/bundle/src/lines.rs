//! Sorted lists that are searched where they lie: JSON lines on a medium, a page at a time.
//!
//! A list of a million lines has some hundred megabytes; read whole it would take seconds and as much memory. So whoever
//! names a list names the hash of each of its pages ([`List`]). A search reads the dozen pages it needs, and trusts each
//! because its hash is right. A list may lie in two volumes: a page that is damaged in one is read from the other.

use std::fs::File;
use std::marker::PhantomData;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use artifact::Digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Bytes of a page; the last one of a list is shorter.
const PAGE: u64 = 16 << 10;
/// A line may have so many bytes. The longest of ours name what is left out of an index.
const LINE_LIMIT: usize = 4 << 20;

/// What must be known of a list to trust what is read of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// Its bytes.
    pub size: u64,
    /// The sha256 of every 16 KiB of it.
    pub pages: Vec<Digest>,
}

impl List {
    /// Of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let pages = bytes.chunks(usize::try_from(PAGE).unwrap_or(usize::MAX)).map(Digest::of).collect();
        Self { size: bytes.len() as u64, pages }
    }

    /// One whose pages are not known yet, of so many bytes: it takes as much room.
    pub(crate) fn blank(size: u64) -> Self {
        let pages = usize::try_from(size.div_ceil(PAGE)).unwrap_or_default();
        Self { size, pages: vec![Digest::of(b""); pages] }
    }

    /// The bytes that its JSON has at most.
    pub(crate) fn json_bound(size: u64) -> u64 {
        64 + (size.div_ceil(PAGE)) * 76
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.size == 0
    }

    fn is_right(&self) -> bool {
        self.pages.len() as u64 == self.size.div_ceil(PAGE)
    }
}

/// Writes values as lines.
pub(crate) fn to_bytes<T: Serialize>(values: impl IntoIterator<Item = T>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in values {
        // Our values have no map with keys that are not strings: they always serialise.
        if serde_json::to_writer(&mut bytes, &value).is_ok() {
            bytes.push(b'\n');
        }
    }
    bytes
}

/// One place where a list lies.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<File>,
    pub(crate) offset: u64,
}

/// A list with the places where it lies.
#[derive(Clone, Debug)]
pub(crate) struct Lines<'a> {
    name: String,
    list: &'a List,
    places: Vec<Place>,
}

impl<'a> Lines<'a> {
    /// `name` is for messages.
    pub(crate) fn new(name: impl Into<String>, list: &'a List, places: Vec<Place>) -> Self {
        Self { name: name.into(), list, places }
    }

    /// Its lines from the first one that `is_before` is not true of. The list must be sorted so that it is true of the
    /// lines up to some place, and of none after it.
    ///
    /// # Errors
    /// When a page cannot be read anywhere, or a line is not of this type.
    pub(crate) fn after<T: DeserializeOwned>(self, is_before: impl Fn(&T) -> bool) -> Result<Reading<'a, T>> {
        if !self.list.is_right() {
            return Err(self.wrong("its hashes are not as many as its pages"));
        }
        let (mut low, mut high) = (0, self.list.size);
        let mut reading = Reading { lines: self, page: None, at: 0, kind: PhantomData };
        while low < high {
            let start = reading.start_of_line(low + (high - low) / 2, low)?;
            let (line, end) = reading.line(start)?;
            if is_before(&reading.lines.parse(&line)?) {
                low = end;
            } else {
                high = start;
            }
        }
        reading.at = low;
        Ok(reading)
    }

    /// All its lines.
    pub(crate) fn all<T: DeserializeOwned>(self) -> Result<Reading<'a, T>> {
        if !self.list.is_right() {
            return Err(self.wrong("its hashes are not as many as its pages"));
        }
        Ok(Reading { lines: self, page: None, at: 0, kind: PhantomData })
    }

    fn parse<T: DeserializeOwned>(&self, line: &[u8]) -> Result<T> {
        serde_json::from_slice(line).map_err(|error| self.wrong(&format!("a line of it cannot be read: {error}")))
    }

    fn wrong(&self, why: &str) -> Error {
        let path = self.places.first().map(|place| place.path.clone()).unwrap_or_default();
        Error::not_a_volume(&path, format!("its list `{}`: {why}", self.name))
    }

    /// A page, from the first place where it is what its hash says.
    fn page(&self, number: u64) -> Result<Vec<u8>> {
        let expected = usize::try_from(number).ok().and_then(|number| self.list.pages.get(number));
        let at = number * PAGE;
        let length = usize::try_from(self.list.size.saturating_sub(at).min(PAGE)).unwrap_or_default();
        let mut failed = None;
        for place in &self.places {
            let mut bytes = vec![0; length];
            match place.file.read_exact_at(&mut bytes, place.offset.saturating_add(at)) {
                Ok(()) if expected == Some(&Digest::of(&bytes)) => return Ok(bytes),
                Ok(()) => {
                    let damage = format!(
                        "{}: `{}` is damaged in the {length} bytes from byte {}",
                        place.path.display(),
                        self.name,
                        place.offset + at
                    );
                    failed.get_or_insert(Error::Damaged { damage: vec![damage] });
                }
                Err(error) => {
                    failed.get_or_insert(Error::io(&place.path)(error));
                }
            }
        }
        Err(failed.unwrap_or_else(|| self.wrong("it is in none of the volumes that are here")))
    }
}

/// Lines, from one on.
#[derive(Debug)]
pub(crate) struct Reading<'a, T> {
    lines: Lines<'a>,
    /// The page that was read last.
    page: Option<(u64, Vec<u8>)>,
    at: u64,
    kind: PhantomData<T>,
}

impl<T> Reading<'_, T> {
    /// The rest of the page that has byte `at`, and where in it that byte is.
    fn at(&mut self, at: u64) -> Result<(&[u8], usize)> {
        let number = at / PAGE;
        let page = match self.page.take() {
            Some((held, page)) if held == number => page,
            _ => self.lines.page(number)?,
        };
        let (_, page) = self.page.insert((number, page));
        Ok((page, usize::try_from(at % PAGE).unwrap_or_default()))
    }

    /// Where the line that has byte `at` begins; a line is known to begin at `low`.
    fn start_of_line(&mut self, mut at: u64, low: u64) -> Result<u64> {
        let mut walked = 0;
        while at > low {
            let base = (at - 1) / PAGE * PAGE;
            let end = usize::try_from(at - base).unwrap_or_default();
            let (page, _) = self.at(at - 1)?;
            if let Some(found) = page.get(..end).unwrap_or_default().iter().rposition(|byte| *byte == b'\n') {
                return Ok((base + found as u64 + 1).max(low));
            }
            walked += end;
            if walked > LINE_LIMIT {
                return Err(self.lines.wrong("a line of it is too long"));
            }
            at = base;
        }
        Ok(low)
    }

    /// The line that begins at `start`, without its end, and where the next one begins.
    fn line(&mut self, start: u64) -> Result<(Vec<u8>, u64)> {
        let (mut line, mut at, size) = (Vec::new(), start, self.lines.list.size);
        while at < size {
            let (page, from) = self.at(at)?;
            let rest = page.get(from..).unwrap_or_default();
            if let Some(found) = rest.iter().position(|byte| *byte == b'\n') {
                line.extend_from_slice(rest.get(..found).unwrap_or_default());
                return Ok((line, at + found as u64 + 1));
            }
            line.extend_from_slice(rest);
            at += rest.len() as u64;
            if line.len() > LINE_LIMIT {
                return Err(self.lines.wrong("a line of it is too long"));
            }
        }
        Err(self.lines.wrong("its last line does not end"))
    }
}

impl<T: DeserializeOwned> Iterator for Reading<'_, T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        if self.at >= self.lines.list.size {
            return None;
        }
        Some(
            self.line(self.at)
                .and_then(|(line, next)| {
                    self.at = next;
                    self.lines.parse(&line)
                })
                .inspect_err(|_| self.at = u64::MAX),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn lay(bytes: &[u8], before: usize) -> Place {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![b'x'; before]).unwrap();
        file.write_all(bytes).unwrap();
        Place { path: "list".into(), file: Arc::new(file), offset: before as u64 }
    }

    #[test]
    fn every_line_is_found_whatever_its_length() {
        // Lines of 1 byte to some pages, so that they begin and end everywhere in a page.
        let values: Vec<String> = (0..3000_usize)
            .map(|n| format!("{n:05}{}", "y".repeat(if n % 700 == 3 { 40_000 } else { n % 97 })))
            .collect();
        let bytes = to_bytes(&values);
        let list = List::of(&bytes);
        let lines = Lines::new("values", &list, vec![lay(&bytes, 777)]);
        for (n, value) in values.iter().enumerate() {
            let mut found = lines.clone().after(|one: &String| one < value).unwrap();
            assert_eq!(found.next().unwrap().unwrap(), *value);
            assert_eq!(found.next().transpose().unwrap().as_ref(), values.get(n + 1));
        }
        assert!(lines.clone().after(|_: &String| true).unwrap().next().is_none());
        assert_eq!(lines.all::<String>().unwrap().count(), values.len());
        let none = List::of(b"");
        assert!(Lines::new("none", &none, vec![]).all::<String>().unwrap().next().is_none());
    }

    #[test]
    fn a_damaged_page_is_read_elsewhere_or_named() {
        let bytes = to_bytes((0..9000).map(|n| format!("{n:05}")));
        let list = List::of(&bytes);
        let mut hurt = bytes.clone();
        hurt[20_000] ^= 1;
        let both = Lines::new("values", &list, vec![lay(&hurt, 0), lay(&bytes, 512)]);
        assert!(both.all::<String>().unwrap().all(|line| line.is_ok()));
        let one = Lines::new("values", &list, vec![lay(&hurt, 0)]);
        let error = one.all::<String>().unwrap().find_map(std::result::Result::err).unwrap();
        assert!(error.to_string().contains("from byte 16384"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400), size in 0..40_000_u64) {
            let list = List { size, ..List::of(&bytes) };
            let lines = Lines::new("hostile", &list, vec![lay(&bytes, 0)]);
            if let Ok(found) = lines.after(|line: &u32| *line < 7) {
                found.take(1000).for_each(drop);
            }
        }
    }
}
