//! A dockerd of the journey's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::folder::Folder;
use crate::process::{Daemon, Outcome, find};

/// One dockerd, with its root, state and socket below one folder, and without a network of its own.
#[derive(Debug)]
pub struct Dockerd {
    socket: PathBuf,
    configuration: PathBuf,
    #[expect(dead_code, reason = "it runs until it is dropped")]
    daemon: Daemon,
}

impl Dockerd {
    /// Starts one with `registry-mirrors` (docker.io's, which are the only ones it knows).
    ///
    /// # Errors
    /// With its log, when it does not come up.
    pub fn start(folder: &Folder, mirror: &str) -> Result<Self> {
        let file = folder.write("docker/daemon.json", format!("{{ \"registry-mirrors\": [\"{mirror}\"] }}"))?;
        Self::with(folder, &file)
    }

    /// Starts one with this `daemon.json`.
    ///
    /// # Errors
    /// With its log, when it does not come up.
    pub fn with(folder: &Folder, file: &Path) -> Result<Self> {
        let work = folder.make("docker")?;
        let socket = work.join("d.sock");
        let mut command = Command::new(find("dockerd").context("dockerd is not here")?);
        command
            .arg("--config-file")
            .arg(file)
            .args(["--storage-driver", "vfs", "--iptables=false", "--ip6tables=false", "--bridge=none", "--data-root"])
            .arg(work.join("data"))
            .arg("--exec-root")
            .arg(work.join("exec"))
            .arg("--pidfile")
            .arg(work.join("pid"))
            .arg("--host")
            .arg(format!("unix://{}", socket.display()));
        let mut daemon = Daemon::start(&mut command, &folder.join("dockerd.log"))?;
        let answers = socket.clone();
        daemon.wait_for("dockerd", |_| {
            let mut curl = Command::new(find("curl")?);
            curl.args(["--silent", "--fail", "--unix-socket"]).arg(&answers).arg("http://docker/_ping");
            Outcome::of(&mut curl).ok()?.status.success().then_some(())
        })?;
        Ok(Self { socket, configuration: work, daemon })
    }

    /// Runs `docker` against it.
    ///
    /// # Errors
    /// With what it said, when it does not end well.
    pub fn docker(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(find("docker").context("docker is not here")?);
        command
            .arg("--host")
            .arg(format!("unix://{}", self.socket.display()))
            .args(arguments)
            .env("DOCKER_CONFIG", &self.configuration)
            .env("HOME", &self.configuration);
        Outcome::of(&mut command)?.ok(&format!("docker {}", arguments.join(" ")))
    }

    /// Pulls; the image's repository digests then.
    ///
    /// # Errors
    /// With what docker said.
    pub fn pull(&self, image: &str) -> Result<String> {
        self.docker(&["pull", "--quiet", image])?;
        self.docker(&["image", "inspect", "--format", "{{.RepoDigests}}", image])
    }
}
