//! The configuration of clients: from what a site is to the files that make a program pull from it.
//!
//! A [`Site`] is checked once, so that nothing in it can break out of the documents that are written here. Then
//! [`configure`] answers a client's files, what its user should know about them, and what to run when they are in
//! place; [`merge`] puts what is only a part into the file that is there already. The facts are those of `containerd/docs/hosts.md`, `containers-registries.conf(5)` and dockerd's reference,
//! and of trying the clients themselves.

mod containerd;
mod docker;
mod merge;
mod podman;
mod site;
mod version;

use std::fmt;
use std::str::FromStr;

pub use merge::{check_toml, merge};
pub use podman::spelling;
pub use site::{Address, Site};
pub use version::Version;

use crate::Error;

/// A program that pulls images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// containerd, under Kubernetes or nerdctl.
    Containerd,
    /// dockerd.
    Docker,
    /// podman, buildah, skopeo and CRI-O, which read the same files.
    Podman,
}

impl Client {
    /// Every client, in the order in which lists show them.
    pub const ALL: [Self; 3] = [Self::Containerd, Self::Docker, Self::Podman];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Client {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|client| client.as_str() == text).ok_or_else(|| Error::Client(text.to_owned()))
    }
}

/// A file of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    /// Where it belongs, an absolute path.
    pub path: String,
    /// Its rights, as `0o644`.
    pub mode: u32,
    /// Its text; every line ends.
    pub text: String,
    /// Whether the text belongs into a file that has more in it, and is not the whole of it.
    pub part: bool,
}

impl ConfigFile {
    fn whole(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { path: path.into(), mode: 0o644, text: text.into(), part: false }
    }

    fn part(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { part: true, ..Self::whole(path, text) }
    }
}

/// How a client is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The files.
    pub files: Vec<ConfigFile>,
    /// What its user should know, a sentence or two each.
    pub notes: Vec<String>,
    /// What to run when the files are in place; one line of shell.
    pub then: String,
}

/// Writes a client's configuration. Without a version, what every version in use reads.
pub fn configure(client: Client, site: &Site, version: Option<Version>) -> Configuration {
    match client {
        Client::Containerd => containerd::configure(site, version),
        Client::Docker => docker::configure(site, version),
        Client::Podman => podman::configure(site),
    }
}

impl fmt::Display for Configuration {
    /// As text to read and to cut files out of: each file under a comment with its path, notes as comments.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for file in &self.files {
            let what = if file.part { "add to " } else { "" };
            writeln!(f, "# {what}{} (mode {:04o})\n{}", file.path, file.mode, file.text)?;
        }
        for note in &self.notes {
            writeln!(f, "# {note}")?;
        }
        writeln!(f, "# then: {}", self.then)
    }
}

#[cfg(test)]
mod tests;
