//! Podman with a root, a state and a registries.conf of its own.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::folder::Folder;
use crate::process::{Outcome, find};

/// Podman; it has no daemon.
#[derive(Debug)]
pub struct Podman {
    work: PathBuf,
    registries: Option<PathBuf>,
}

impl Podman {
    /// One that reads each of `rewrites` (`prefix`, `location`) where it is told to.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn new(folder: &Folder, rewrites: &[(String, String)]) -> Result<Self> {
        let mut configuration = "unqualified-search-registries = []\nshort-name-mode = \"disabled\"\n".to_owned();
        for (prefix, location) in rewrites {
            write!(configuration, "[[registry]]\nprefix = \"{prefix}\"\nlocation = \"{location}\"\ninsecure = true\n")?;
        }
        let file = folder.write("podman/registries.conf", configuration)?;
        Ok(Self { registries: Some(file), ..Self::of_system(folder)? })
    }

    /// One that reads the system's own lists of registries.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn of_system(folder: &Folder) -> Result<Self> {
        folder.write("podman/policy.json", r#"{ "default": [{ "type": "insecureAcceptAnything" }] }"#)?;
        let work = folder.make("podman")?;
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{work}/root\"\nrunroot = \"{work}/run\"\n",
            work = work.display(),
        );
        folder.write("podman/storage.conf", storage)?;
        folder
            .write("podman/containers.conf", "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n")?;
        Ok(Self { work, registries: None })
    }

    /// Runs podman.
    ///
    /// # Errors
    /// With what it said, when it does not end well.
    pub fn podman(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(find("podman").context("podman is not here")?);
        let place = |name: &str| self.work.join(name);
        command
            .arg("--tmpdir")
            .arg(place("tmp"))
            .args(arguments)
            .env("HOME", &self.work)
            .env("XDG_RUNTIME_DIR", &self.work)
            .env("CONTAINERS_CONF", place("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", place("storage.conf"));
        if let Some(registries) = &self.registries {
            command.env("CONTAINERS_REGISTRIES_CONF", registries);
        }
        Outcome::of(&mut command)?.ok(&format!("podman {}", arguments.join(" ")))
    }

    /// Pulls; the digest that the registry answered with.
    ///
    /// # Errors
    /// With what podman said.
    pub fn pull(&self, image: &str) -> Result<String> {
        let policy = self.work.join("policy.json");
        let policy = policy.to_str().context("a path of our own")?;
        self.podman(&["pull", "--quiet", "--signature-policy", policy, image])?;
        let digests = self.podman(&["image", "inspect", "--format", "{{.RepoDigests}}", image])?;
        Ok(digests)
    }
}
