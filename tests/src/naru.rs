//! The built binary.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::folder::Folder;
use crate::http;
use crate::image::Image;
use crate::process::{Daemon, Outcome};

/// Where the binary is: `NARU_BINARY`, or beside this test in cargo's own folder.
///
/// # Errors
/// When it was not built.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("NARU_BINARY") {
        return Ok(path.into());
    }
    // target/TRIPLE/debug/deps/journey-0123 → target/TRIPLE/debug/naru
    let test = std::env::current_exe()?;
    let path = test.ancestors().nth(2).context("a test lies in cargo's folder")?.join("naru");
    ensure!(path.is_file(), "{} was not built: `make test` and `make journey` do that first", path.display());
    Ok(path)
}

/// One side of the gap: the binary, a store, a packing list's folder.
#[derive(Debug)]
pub struct Naru {
    binary: PathBuf,
    folder: PathBuf,
    store: PathBuf,
}

impl Naru {
    /// A side with a folder of its own.
    ///
    /// # Errors
    /// When the binary was not built.
    pub fn new(folder: &Folder, name: &str) -> Result<Self> {
        let own = folder.make(name)?;
        Ok(Self { binary: binary()?, store: own.join("store"), folder: own })
    }

    /// Its store.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// Its folder: `naru.yaml` and its lock lie there, and commands run there.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes its packing list.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn list(&self, text: &str) -> Result<()> {
        Ok(std::fs::write(self.folder.join("naru.yaml"), text)?)
    }

    /// A command, not yet run: nothing of this machine's environment reaches it.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.folder)
            .env("NARU_STORE", &self.store)
            .env("RUST_BACKTRACE", "1")
            .current_dir(&self.folder);
        command
    }

    /// Runs it, and says how it ended.
    ///
    /// # Errors
    /// When it does not start, or when it panicked, which it never may.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Outcome> {
        let outcome = Outcome::of(&mut self.command(arguments))?;
        ensure!(!outcome.stderr.contains("panicked at"), "naru panicked:\n{}", outcome.stderr);
        Ok(outcome)
    }

    /// Runs it; it must end well.
    ///
    /// # Errors
    /// With all that it said, when it does not.
    pub fn ok<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Outcome> {
        let arguments = arguments.into_iter().collect::<Vec<_>>();
        let line = arguments.iter().map(|word| word.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ");
        let outcome = self.run(arguments)?;
        let Outcome { status, stdout, stderr } = &outcome;
        ensure!(status.success(), "naru {line}: {status}\n{stdout}{stderr}");
        Ok(outcome)
    }

    /// Locks, pulls, and packs into volumes in `bundle`; proves them from there.
    ///
    /// # Errors
    /// With what naru said.
    pub fn pack(&self, bundle: &Path, arguments: &[&str]) -> Result<()> {
        self.ok(["lock"])?;
        self.ok(["pull"])?;
        let out = [OsStr::new("pack"), OsStr::new("-o"), bundle.as_os_str()];
        self.ok(out.into_iter().chain(arguments.iter().map(OsStr::new)))?;
        self.ok([OsStr::new("verify"), bundle.as_os_str()])?;
        Ok(())
    }

    /// Loads a bundle, and finds nothing wrong with the store then.
    ///
    /// # Errors
    /// With what naru said.
    pub fn load(&self, bundle: &Path) -> Result<()> {
        self.ok([OsStr::new("load"), bundle.as_os_str()])?;
        self.ok(["fsck"])?;
        Ok(())
    }

    /// Serves the store on a free port of loopback, until it is dropped.
    ///
    /// # Errors
    /// With what it said, when it does not come up.
    pub fn serve(&self, arguments: &[&str]) -> Result<Serving> {
        self.serve_at("127.0.0.1:0", arguments)
    }

    /// The same, on this address.
    ///
    /// # Errors
    /// With what it said, when it does not come up.
    pub fn serve_at(&self, address: &str, arguments: &[&str]) -> Result<Serving> {
        let mut command = self.command(["serve", "--listen", address]);
        command.args(arguments);
        let log = self.folder.join("serve.log");
        let _ = std::fs::remove_file(&log);
        let mut daemon = Daemon::start(&mut command, &log)?;
        let address = daemon.wait_for("naru serve", |said| {
            let address = address_in(said)?;
            http::get(&format!("http://{address}/readyz")).is_ok_and(|answer| answer.status == 200).then_some(address)
        })?;
        Ok(Serving { daemon, address })
    }
}

/// The first `://127.0.0.1:PORT` that was printed.
fn address_in(said: &str) -> Option<String> {
    let rest = &said[said.find("://127.0.0.1:")? + 3..];
    let port = rest["127.0.0.1:".len()..].chars().take_while(char::is_ascii_digit).collect::<String>();
    // The line may not be whole yet.
    let end = "127.0.0.1:".len() + port.len();
    (!port.is_empty() && rest.len() > end).then(|| rest[..end].to_owned())
}

/// A server that runs.
#[derive(Debug)]
pub struct Serving {
    /// Its process.
    pub daemon: Daemon,
    address: String,
}

impl Serving {
    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A URL of it, plain HTTP.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Compares every manifest and blob of an image with what is served for it, byte for byte.
    ///
    /// # Errors
    /// With the first that differs.
    pub fn holds(&self, repository: &str, image: &Image) -> Result<()> {
        for document in &image.documents {
            let url = self.url(&format!("/v2/{repository}/manifests/{}", document.digest));
            let answer = http::get(&url)?;
            ensure!(answer.status == 200, "{url}: {}: {}", answer.status, answer.text());
            ensure!(answer.body == document.bytes, "{url}: other bytes: {}", answer.text());
            let media_type = answer.header("content-type").unwrap_or_default();
            ensure!(media_type == document.media_type, "{url}: {media_type}, not {}", document.media_type);
            let digest = answer.header("docker-content-digest").unwrap_or_default();
            ensure!(digest == document.digest, "{url}: it says {digest}");
        }
        for blob in &image.blobs {
            let url = self.url(&format!("/v2/{repository}/blobs/{}", blob.digest));
            ensure!(http::hash(&url)? == (blob.digest.clone(), blob.size), "{url}: other bytes");
        }
        Ok(())
    }

    /// The digest that a tag has, by HEAD as containerd asks.
    ///
    /// # Errors
    /// When the answer is not 200.
    pub fn digest_of(&self, repository: &str, tag: &str) -> Result<String> {
        let url = self.url(&format!("/v2/{repository}/manifests/{tag}"));
        let answer = http::head(&url)?;
        ensure!(answer.status == 200, "{url}: {}", answer.status);
        Ok(answer.header("docker-content-digest").context("no digest")?.to_owned())
    }

    /// Its site's CA, written into a file for clients.
    ///
    /// # Errors
    /// When it does not hand it out.
    pub fn ca(&self, folder: &Folder) -> Result<PathBuf> {
        let answer = http::get(&self.url("/ca.crt"))?;
        ensure!(answer.status == 200, "/ca.crt: {}", answer.status);
        folder.write("site-ca.crt", answer.body)
    }
}
