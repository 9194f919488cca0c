//! One wish of a packing list, known to make sense.

use std::fmt;
use std::path::PathBuf;

use artifact::{
    Digest, InvalidPlatform, InvalidReference, Platform, Reference, Repository, Trust, normalise_host, valid_path,
};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;
use url::Url;

use super::Wrong;
use super::document::{File, Image};

/// The host under which this machine's own files are served: `/files/local/…`.
pub const LOCAL: &str = "local";

/// Which platforms of an image are carried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<String>", try_from = "Vec<String>")]
pub enum Platforms {
    /// Every one that it has.
    All,
    /// Those that serve one of these.
    These(Vec<Platform>),
}

impl Platforms {
    pub(super) fn read(texts: &Spanned<Vec<Spanned<String>>>) -> Result<Self, Wrong> {
        for text in &texts.value {
            Self::try_from(vec![text.value.clone()]).map_err(|why| Wrong::new(text, why))?;
        }
        let all: Vec<_> = texts.value.iter().map(|text| text.value.clone()).collect();
        Self::try_from(all).map_err(|why| Wrong::new(texts, why))
    }

    /// Whether a child for this platform is carried.
    pub fn choose(&self, platform: &Platform) -> bool {
        match self {
            Self::All => true,
            Self::These(wanted) => wanted.iter().any(|wanted| platform.serves(wanted)),
        }
    }
}

impl TryFrom<Vec<String>> for Platforms {
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Self, String> {
        if texts.iter().any(|text| text == "all") {
            return match texts.len() {
                1 => Ok(Self::All),
                _ => Err("`all` stands alone".to_owned()),
            };
        }
        let mut platforms = texts
            .iter()
            .map(|text| text.parse().map_err(|error: InvalidPlatform| error.to_string()))
            .collect::<Result<Vec<Platform>, _>>()?;
        if platforms.is_empty() {
            return Err("no platform is named; leave `platforms` out, or name one".to_owned());
        }
        platforms.sort();
        platforms.dedup();
        Ok(Self::These(platforms))
    }
}

impl From<Platforms> for Vec<String> {
    fn from(platforms: Platforms) -> Self {
        match platforms {
            Platforms::All => vec!["all".to_owned()],
            Platforms::These(platforms) => platforms.iter().map(ToString::to_string).collect(),
        }
    }
}

impl fmt::Display for Platforms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Vec::from(self.clone()).join(", "))
    }
}

/// An image that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageWish {
    /// What was written, normalised.
    pub reference: Reference,
    /// Its platforms, or the file's.
    pub platforms: Platforms,
    /// Whether what refers to it comes along.
    pub referrers: bool,
}

impl ImageWish {
    pub(super) fn read(raw: &Spanned<Image>, default: &Platforms) -> Result<Self, Wrong> {
        let reference =
            raw.value.0.image.parse().map_err(|error: InvalidReference| Wrong::new(raw, error.to_string()))?;
        let platforms = match &raw.value.0.platforms {
            Some(platforms) => Platforms::read(platforms)?,
            None => default.clone(),
        };
        Ok(Self { reference, platforms, referrers: raw.value.0.referrers.unwrap_or(true) })
    }
}

/// How a file's bytes are proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// The list pins them.
    Sha256(Digest),
    /// A document of the upstream names them.
    Document(Url),
    /// The first download is believed.
    FirstUse,
}

impl Check {
    /// What it makes the entry's trust.
    pub fn trust(&self) -> Trust {
        match self {
            Self::Sha256(_) => Trust::Digest,
            Self::Document(_) => Trust::Checksum,
            Self::FirstUse => Trust::FirstUse,
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(digest) => write!(f, "sha256 {}", digest.hex()),
            Self::Document(url) => write!(f, "checksum_url {url}"),
            Self::FirstUse => f.write_str("no sha256"),
        }
    }
}

/// A file of a web server that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileWish {
    /// Where it comes from.
    pub url: Url,
    /// The host under which it is served: the URL's, normalised.
    pub host: String,
    /// The path under which it is served.
    pub path: String,
    /// How it is proven.
    pub check: Check,
}

impl FileWish {
    /// Where it will be.
    pub fn repository(&self) -> Repository {
        Repository::files(&self.host)
    }
}

/// A file or folder of this machine that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalWish {
    /// As it was written, seen from the packing list's folder.
    pub path: PathBuf,
}

/// Any wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// An image.
    Image(ImageWish),
    /// A file of a web server.
    File(FileWish),
    /// A file or folder of this machine.
    Local(LocalWish),
}

impl Wish {
    /// What must be unique in a list: the name that it will have on the other side.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Image(wish) => match wish.reference.tag() {
                Some(tag) => format!("{}:{tag}", wish.reference.repository()),
                None => wish.reference.to_string(),
            },
            Self::File(wish) => format!("{}/{}", wish.host, wish.path),
            Self::Local(wish) => {
                let name = wish.path.file_name().unwrap_or(wish.path.as_os_str());
                format!("{LOCAL}/{}", name.to_string_lossy())
            }
        }
    }

    /// In what two wishes of one name differ.
    pub(super) fn difference(&self, other: &Self) -> String {
        match (self, other) {
            (Self::Image(one), Self::Image(two)) if one.reference != two.reference => {
                format!("{} and {}", one.reference, two.reference)
            }
            (Self::Image(one), Self::Image(two)) if one.platforms != two.platforms => {
                format!("platforms {} and {}", one.platforms, two.platforms)
            }
            (Self::Image(one), Self::Image(two)) => format!("referrers: {} and {}", one.referrers, two.referrers),
            (Self::File(one), Self::File(two)) if one.url != two.url => format!("{} and {}", one.url, two.url),
            (Self::File(one), Self::File(two)) => format!("{} and {}", one.check, two.check),
            (Self::Local(one), Self::Local(two)) => format!("{} and {}", one.path.display(), two.path.display()),
            _ => "they are of two kinds".to_owned(),
        }
    }
}

/// Reads one item of `files:`.
pub(super) fn read_file(raw: &Spanned<File>) -> Result<Wish, Wrong> {
    let wrong = |why: String| Wrong::new(raw, why);
    let file = &raw.value;
    let Some(text) = &file.url else {
        let path = file.path.clone().filter(|path| !path.as_os_str().is_empty());
        let path = path.ok_or_else(|| wrong("a file has a `url`, or a `path` of this machine".to_owned()))?;
        if path.file_name().and_then(|name| name.to_str()).is_none_or(|name| !valid_path(name)) {
            return Err(wrong(format!("`{}` has no name under which it could be served", path.display())));
        }
        if file.sha256.is_some() || file.checksum_url.is_some() {
            return Err(wrong(
                "only a file with a `url` has a sum; those of this machine are taken as they are".to_owned(),
            ));
        }
        return Ok(Wish::Local(LocalWish { path }));
    };
    let url = web_address(text).map_err(wrong)?;
    let host = host_of(&url).ok_or_else(|| wrong(format!("{url} has no host that can be served")))?;
    if host == LOCAL {
        return Err(wrong(format!("the host `{LOCAL}` is naru's own name for files of this machine")));
    }
    let path = match &file.path {
        Some(path) => path.to_str().unwrap_or_default().trim_start_matches('/').to_owned(),
        None if url.query().is_some() => {
            return Err(wrong(format!(
                "{url} has a query, which no path on the other side can have: give it a `path`"
            )));
        }
        None => percent_decode_str(url.path().trim_start_matches('/')).decode_utf8_lossy().into_owned(),
    };
    if !valid_path(&path) {
        return Err(wrong(format!("`{path}` cannot be the path of a file: give it another `path`")));
    }
    let check = match (&file.sha256, &file.checksum_url) {
        (Some(_), Some(_)) => {
            return Err(wrong("`sha256` and `checksum_url` are two answers to one question".to_owned()));
        }
        (Some(sum), None) => {
            let hex = sum.strip_prefix("sha256:").unwrap_or(sum);
            Check::Sha256(
                Digest::from_hex(hex).map_err(|_| wrong(format!("`{sum}` is not a sha256: it has 64 hex digits")))?,
            )
        }
        (None, Some(document)) => Check::Document(web_address(document).map_err(wrong)?),
        (None, None) => Check::FirstUse,
    };
    Ok(Wish::File(FileWish { url, host, path, check }))
}

fn web_address(text: &str) -> Result<Url, String> {
    let mut url: Url = text.parse().map_err(|error| format!("`{text}` is not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("`{text}` is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL with credentials in it: they belong under `upstreams`".to_owned());
    }
    url.set_fragment(None);
    Ok(url)
}

fn host_of(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    normalise_host(&match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}
