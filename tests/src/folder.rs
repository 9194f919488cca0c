//! A journey's folder.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// A temporary folder. It goes when the journey ends well, and stays to be read when it does not.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    ours: bool,
}

impl Folder {
    /// Makes one. Its path is short, since the paths of sockets end at 107 bytes.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let short = name.rsplit("::").next().unwrap_or(name);
        let path = tempfile::Builder::new().prefix(&format!("naru-{short:.20}-")).tempdir()?.keep();
        Ok(Self { path, ours: true })
    }

    /// One that another process made, and will take away.
    pub(crate) fn lent(path: PathBuf) -> Self {
        Self { path, ours: false }
    }

    /// One within this one, for a second daemon of the same kind.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn below(&self, name: &str) -> Result<Self> {
        Ok(Self::lent(self.make(name)?))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// A folder in it, made if need be.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make(&self, name: impl AsRef<Path>) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// Writes a file in it, with the folders above.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, content).with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.ours {
            return;
        }
        if std::thread::panicking() {
            eprintln!("kept: {}", self.path.display());
        } else if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("{} stays: {error}", self.path.display());
        }
    }
}
