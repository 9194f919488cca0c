//! A containerd of the journey's own, driven by `ctr` and by CRI as a kubelet drives it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::folder::Folder;
use crate::process::{Daemon, Outcome, find, free_port};

/// How a mirror is reached.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// `127.0.0.1:PORT`.
    pub address: String,
    /// The CA's file; without one it is spoken to in plain HTTP.
    pub ca: Option<PathBuf>,
}

impl Mirror {
    /// `http://…` or `https://…`.
    pub fn url(&self) -> String {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }
}

/// One containerd, its root, state, socket and certs.d below one folder.
#[derive(Debug)]
pub struct Containerd {
    socket: PathBuf,
    certs: PathBuf,
    work: PathBuf,
    daemon: Daemon,
}

/// Copies instead of mounts: it works wherever the folder lies.
const SNAPSHOTTER: &str = "native";

impl Containerd {
    /// Starts one whose every image comes from `mirror`, by `_default/hosts.toml`.
    ///
    /// # Errors
    /// With its log, when it does not come up.
    pub fn start(folder: &Folder, mirror: &Mirror) -> Result<Self> {
        let certs = folder.make("containerd/certs.d")?;
        let url = mirror.url();
        let ca = mirror.ca.as_ref().map(|path| format!("ca = \"{}\"\n", path.display())).unwrap_or_default();
        let hosts =
            format!("server = \"{url}\"\n{ca}\n[host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n  {ca}");
        folder.write("containerd/certs.d/_default/hosts.toml", hosts)?;
        let registry =
            format!("[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"{}\"\n", certs.display());
        let configuration = folder.write("containerd/config.toml", Self::configuration(folder)? + &registry)?;
        Self::with(folder, &configuration, certs)
    }

    /// A `config.toml` that keeps one in its folder, and says nothing of registries.
    ///
    /// # Errors
    /// When there is no folder or no port for it.
    pub fn configuration(folder: &Folder) -> Result<String> {
        let work = folder.make("containerd")?;
        Ok(format!(
            r#"version = 2
root = "{work}/root"
state = "{work}/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "{socket}"
[ttrpc]
  address = "{socket}.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "{stream}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{SNAPSHOTTER}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{work}/cni"
    conf_dir = "{work}/net.d"
"#,
            work = work.display(),
            socket = work.join("s.sock").display(),
            stream = free_port()?,
        ))
    }

    /// Starts one with a configuration that was made of [`Containerd::configuration`]; `ctr` is told of `certs`.
    ///
    /// # Errors
    /// With its log, when it does not come up.
    pub fn with(folder: &Folder, configuration: &Path, certs: PathBuf) -> Result<Self> {
        let work = folder.make("containerd")?;
        let socket = work.join("s.sock");
        let mut command = Command::new(find("containerd").context("containerd is not here")?);
        command.arg("--config").arg(configuration);
        let daemon = Daemon::start(&mut command, &folder.join("containerd.log"))?;
        let mut containerd = Self { socket, certs, work, daemon };
        let (ctr, socket) = (find("ctr").context("ctr is not here")?, containerd.socket.clone());
        containerd.daemon.wait_for("containerd", |_| {
            let version = Command::new(&ctr).arg("-a").arg(&socket).arg("version").output().ok()?;
            version.status.success().then_some(())
        })?;
        Ok(containerd)
    }

    /// Runs `ctr`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn ctr(&self, arguments: &[&str]) -> Result<Outcome> {
        let mut command = Command::new(find("ctr").context("ctr is not here")?);
        command.arg("-a").arg(&self.socket).args(["-n", "journey"]).args(arguments);
        Outcome::of(&mut command)
    }

    /// `ctr images pull --hosts-dir`; the digest that the name has then.
    ///
    /// # Errors
    /// With what `ctr` said.
    pub fn pull(&self, image: &str) -> Result<String> {
        let certs = self.certs.to_str().context("a path of our own")?;
        let pull = ["images", "pull", "--hosts-dir", certs, "--snapshotter", SNAPSHOTTER, image];
        self.ctr(&pull)?.ok(&format!("ctr images pull {image}"))?;
        let filter = format!("name=={image}");
        let listed = self.ctr(&["images", "ls", &filter])?.ok("ctr images ls")?;
        let digest = listed.split_whitespace().find(|word| word.starts_with("sha256:"));
        Ok(digest.with_context(|| format!("no digest in {listed}"))?.to_owned())
    }

    /// `ctr run` of an image that was pulled; what it printed.
    ///
    /// # Errors
    /// With what `ctr` said.
    pub fn run(&self, image: &str, name: &str, command: &[&str]) -> Result<String> {
        let fifo = self.work.join("fifo");
        let fifo = fifo.to_str().context("a path of our own")?;
        let mut arguments = vec!["run", "--rm", "--snapshotter", SNAPSHOTTER, "--fifo-dir", fifo, image, name];
        arguments.extend(command);
        self.ctr(&arguments)?.ok(&format!("ctr run {image}"))
    }

    /// Begins `ctr run` of an image that was pulled, in the journey's own network, and leaves it to itself.
    ///
    /// # Errors
    /// When it does not start.
    pub fn begin(&self, image: &str, name: &str, command: &[&str], log: &Path) -> Result<Daemon> {
        let mut ctr = Command::new(find("ctr").context("ctr is not here")?);
        ctr.arg("-a").arg(&self.socket).args([
            "-n",
            "journey",
            "run",
            "--rm",
            "--net-host",
            "--snapshotter",
            SNAPSHOTTER,
        ]);
        ctr.arg("--fifo-dir").arg(self.work.join("fifo")).args([image, name]).args(command);
        Daemon::start(&mut ctr, log)
    }

    /// Pulls as a kubelet does, through CRI's `PullImage`; the image's repository digests then.
    ///
    /// # Errors
    /// With the gRPC status, when it is not 0.
    pub fn cri_pull(&self, image: &str) -> Result<Vec<String>> {
        // PullImageRequest { image: ImageSpec { image } }, and ImageStatusRequest is the same.
        let message = field(1, &field(1, image.as_bytes()));
        self.call("PullImage", &message)?;
        let status = self.call("ImageStatus", &message)?;
        Ok(repository_digests(&status))
    }

    /// One unary call: gRPC is a POST over h2 with five bytes before the message, which curl can send.
    fn call(&self, method: &str, message: &[u8]) -> Result<Vec<u8>> {
        let length = u32::try_from(message.len())?.to_be_bytes();
        let request = self.work.join("request");
        std::fs::write(&request, [&[0], &length[..], message].concat())?;
        let (answer, headers) = (self.work.join("answer"), self.work.join("headers"));
        let _ = std::fs::remove_file(&answer);
        let mut command = Command::new(find("curl").context("curl is not here")?);
        command
            .args(["--silent", "--show-error", "--http2-prior-knowledge", "--unix-socket"])
            .arg(&self.socket)
            .args(["--header", "Content-Type: application/grpc", "--header", "TE: trailers", "--data-binary"])
            .arg(format!("@{}", request.display()))
            .arg("--dump-header")
            .arg(&headers)
            .arg("--output")
            .arg(&answer)
            .arg(format!("http://containerd/runtime.v1.ImageService/{method}"));
        Outcome::of(&mut command)?.ok(method)?;
        // Trailers stand behind the headers.
        let headers = std::fs::read_to_string(&headers)?.to_ascii_lowercase();
        ensure!(headers.contains("grpc-status: 0"), "{method}: {headers}");
        let answer = std::fs::read(&answer).unwrap_or_default();
        let Some(message) = answer.get(5..) else { bail!("{method}: an answer without a message: {headers}") };
        Ok(message.to_vec())
    }
}

/// A length-delimited field of a protocol buffer.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap_or(0));
    out.extend_from_slice(bytes);
    out
}

/// The strings `NAME@sha256:…` in an `ImageStatusResponse`: each stands behind a byte that says how long it is.
fn repository_digests(message: &[u8]) -> Vec<String> {
    const MARK: &[u8] = b"@sha256:";
    let marks = (0..message.len()).filter(|&at| message[at..].starts_with(MARK));
    let strings = marks.filter_map(|at| {
        let end = at + MARK.len() + 64;
        let start = (0..=at).rev().find(|&start| start > 0 && usize::from(message[start - 1]) == end - start)?;
        Some(String::from_utf8_lossy(message.get(start..end)?).into_owned())
    });
    strings.collect()
}
