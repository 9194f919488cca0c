//! The packing list: `naru.yaml`, what the user wants.
//!
//! It is read twice: as the document that people write ([`document`]), and as wishes that are known to make sense.
//! Whatever is wrong is said with the line where it stands.

mod document;
mod wish;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use artifact::Platform;
use serde_saphyr::Spanned;
use upstream::Upstreams;

use crate::error::{Error, Result};
use crate::yaml;
use document::Document;
pub use document::ForeignLayers;
pub use wish::{Check, FileWish, ImageWish, LOCAL, LocalWish, Platforms, Wish};

/// The commented packing list that `naru init` writes.
pub const STARTER: &str = include_str!("list/starter.yaml");

/// A packing list that was read and makes sense.
#[derive(Clone, Debug)]
pub struct PackingList {
    /// Its file. Relative paths in it are seen from this file's folder.
    pub path: PathBuf,
    /// Whether it names no platforms, so that this machine's was taken.
    pub platforms_assumed: bool,
    /// Images, in the list's order; each name once.
    pub images: Vec<ImageWish>,
    /// Files of web servers, in the list's order; each path once.
    pub files: Vec<FileWish>,
    /// Files and folders of this machine.
    pub local: Vec<LocalWish>,
    /// How upstreams are reached.
    pub upstreams: Upstreams,
    /// What happens to foreign layers.
    pub foreign_layers: ForeignLayers,
}

impl PackingList {
    /// Reads `naru.yaml`.
    ///
    /// # Errors
    /// With file, line and column, and the key that was meant where an unknown one is near to it.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(path, &yaml::read_text(path, yaml::LIST_LIMIT)?)
    }

    /// Reads the text of a list whose file is (or would be) `path`.
    ///
    /// # Errors
    /// As [`PackingList::read`].
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        // A list in which everything is commented out is a list of nothing.
        let document = yaml::parse::<Option<Document>>(path, text)?.unwrap_or_default();
        let platforms = match &document.platforms {
            Some(platforms) => Platforms::read(platforms).map_err(|wrong| wrong.at(path, text))?,
            None => Platforms::These(vec![Platform::here()]),
        };
        let mut list = Self {
            path: path.to_owned(),
            platforms_assumed: document.platforms.is_none(),
            images: Vec::new(),
            files: Vec::new(),
            local: Vec::new(),
            upstreams: Upstreams::default(),
            foreign_layers: document.foreign_layers,
        };
        let mut seen = Seen { path, lines: BTreeMap::new() };
        for raw in document.images {
            let line = raw.referenced.line();
            let wish = ImageWish::read(&raw, &platforms).map_err(|wrong| wrong.at(path, text))?;
            if seen.is_new(&Wish::Image(wish.clone()), line)? {
                list.images.push(wish);
            }
        }
        for raw in document.files {
            let line = raw.referenced.line();
            let wish = wish::read_file(&raw).map_err(|wrong| wrong.at(path, text))?;
            if seen.is_new(&wish, line)? {
                match wish {
                    Wish::File(wish) => list.files.push(wish),
                    Wish::Local(wish) => list.local.push(wish),
                    Wish::Image(wish) => list.images.push(wish),
                }
            }
        }
        if let Some(upstreams) = document.upstreams {
            let checked = upstreams.value.clone().checked();
            let checked = checked.map_err(|error| Wrong::new(&upstreams, error.to_string()).at(path, text))?;
            list.upstreams = seen_from(list.folder(), checked);
        }
        Ok(list)
    }

    /// Whether it wishes for nothing at all, as when everything in it is commented out.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty() && self.files.is_empty() && self.local.is_empty()
    }

    /// The folder from which its relative paths are seen.
    pub fn folder(&self) -> &Path {
        folder_of(&self.path)
    }
}

/// The folder of a file; `.` for a bare name.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Files that the list names under `upstreams:` lie beside it; absolute, since the server that holds a store and carries
/// out its commands runs in another folder.
fn seen_from(folder: &Path, mut upstreams: Upstreams) -> Upstreams {
    upstreams.seen_from(&std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()));
    upstreams
}

/// What was wished for so far, by the name it will have.
struct Seen<'a> {
    path: &'a Path,
    lines: BTreeMap<String, (Wish, u64)>,
}

impl Seen<'_> {
    /// Whether this name was not there yet. The same wish twice is one wish; two for one name that differ are an error.
    fn is_new(&mut self, wish: &Wish, line: u64) -> Result<bool> {
        let name = wish.name();
        match self.lines.get(&name) {
            None => {
                self.lines.insert(name, (wish.clone(), line));
                Ok(true)
            }
            Some((first, _)) if first == wish => Ok(false),
            Some((first, first_line)) => Err(Error::Disagree {
                path: self.path.to_owned(),
                first: *first_line,
                second: line,
                difference: first.difference(wish),
                name,
            }),
        }
    }
}

/// A wish that makes no sense, before the file's name is known.
pub(crate) struct Wrong {
    line: u64,
    column: u64,
    why: String,
}

impl Wrong {
    fn new<T>(place: &Spanned<T>, why: String) -> Self {
        Self { line: place.referenced.line(), column: place.referenced.column(), why }
    }

    fn at(self, path: &Path, text: &str) -> Error {
        Error::at(path, text, self.line, self.column, self.why, None)
    }
}

#[cfg(test)]
mod tests;
