//! An upstream registry: Debian's docker-registry.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::folder::Folder;
use crate::http;
use crate::image::{Blob, Content, Document, Image, digest_of};
use crate::process::{Daemon, find, free_port};

/// What a client that wants the bytes as they are says that it takes.
const EVERY_TYPE: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// One docker-registry on loopback.
#[derive(Debug)]
pub struct Registry {
    address: String,
    port: u16,
    #[expect(dead_code, reason = "it runs until it is dropped")]
    daemon: Daemon,
}

impl Registry {
    /// Starts one that keeps its things in a folder of that name.
    ///
    /// # Errors
    /// With its log, when it does not come up.
    pub fn start(folder: &Folder, name: &str) -> Result<Self> {
        Self::configured(folder, name, "127.0.0.1", "", "", "")
    }

    /// One that takes nothing.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub fn read_only(folder: &Folder, name: &str) -> Result<Self> {
        Self::configured(folder, name, "127.0.0.1", ", maintenance: { readonly: { enabled: true } }", "", "")
    }

    /// One at another address, with more in its section `http`, and with sections of its own after that.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub fn with(folder: &Folder, name: &str, address: &str, http: &str, more: &str) -> Result<Self> {
        Self::configured(folder, name, address, "", http, more)
    }

    fn configured(folder: &Folder, name: &str, address: &str, storage: &str, http: &str, more: &str) -> Result<Self> {
        let port = free_port()?;
        let root = folder.make(name)?;
        let configuration = format!(
            "version: 0.1\nlog: {{ level: warn, accesslog: {{ disabled: true }} }}\n\
             storage: {{ filesystem: {{ rootdirectory: {root} }}, delete: {{ enabled: true }}{storage} }}\n\
             http: {{ addr: '{address}:{port}', relativeurls: true{http} }}\n{more}",
            root = root.display(),
        );
        let configuration = folder.write(format!("{name}.yml"), configuration)?;
        let mut command = Command::new(find("docker-registry").context("docker-registry is not here")?);
        command.arg("serve").arg(configuration);
        let mut daemon = Daemon::start(&mut command, &folder.join(format!("{name}.log")))?;
        // Of one that speaks TLS any answer will do.
        daemon.wait_for("docker-registry", |_| http::get(&format!("http://{address}:{port}/v2/")).ok())?;
        Ok(Self { address: address.to_owned(), port, daemon })
    }

    /// Its address, which is its name as an upstream: `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("{}:{}", self.address, self.port)
    }

    /// Puts an image there, under a tag.
    ///
    /// # Errors
    /// When the registry refuses anything of it.
    pub fn push(&self, repository: &str, tag: &str, image: &Image) -> Result<()> {
        for blob in &image.blobs {
            self.push_blob(repository, blob)?;
        }
        for document in &image.documents {
            let name = if document.digest == image.digest() { tag } else { &document.digest };
            let url = format!("http://{}/v2/{repository}/manifests/{name}", self.host());
            let media_type = format!("Content-Type: {}", document.media_type);
            let answer = http::request(&url, &["--request", "PUT", "--header", &media_type], Some(&document.bytes))?;
            ensure!(answer.status == 201, "{url}: {}: {}", answer.status, answer.text());
        }
        Ok(())
    }

    /// Reads an image as this registry has it, all of it, whatever put it there.
    ///
    /// # Errors
    /// When something of it is missing.
    pub fn read(&self, repository: &str, name: &str) -> Result<Image> {
        let url = format!("http://{}/v2/{repository}/manifests/{name}", self.host());
        let answer = http::request(&url, &["--header", &format!("Accept: {}", EVERY_TYPE.join(", "))], None)?;
        ensure!(answer.status == 200, "{url}: {}: {}", answer.status, answer.text());
        let manifest = serde_json::from_slice::<Value>(&answer.body)?;
        let mut image = Image { documents: Vec::new(), blobs: Vec::new() };
        let digests = |key: &str| {
            let list = manifest[key].as_array().into_iter().flatten();
            list.filter_map(|each| each["digest"].as_str()).map(str::to_owned).collect::<Vec<_>>()
        };
        for child in digests("manifests") {
            let child = self.read(repository, &child)?;
            image.documents.extend(child.documents);
            image.blobs.extend(child.blobs);
        }
        for digest in manifest["config"]["digest"].as_str().map(str::to_owned).into_iter().chain(digests("layers")) {
            let answer = http::get(&format!("http://{}/v2/{repository}/blobs/{digest}", self.host()))?;
            ensure!(answer.status == 200, "{digest}: {}", answer.status);
            image.blobs.push(Blob::new(answer.body));
        }
        let media_type = answer.header("content-type").context("a manifest has a type")?.to_owned();
        image.documents.push(Document { digest: digest_of(&answer.body), media_type, bytes: answer.body });
        Ok(image)
    }

    fn push_blob(&self, repository: &str, blob: &Blob) -> Result<()> {
        let url = format!("http://{}/v2/{repository}/blobs/uploads/", self.host());
        let answer = http::request(&url, &["--request", "POST"], Some(b""))?;
        ensure!(answer.status == 202, "{url}: {}: {}", answer.status, answer.text());
        let place = answer.header("location").context("an upload has a place")?;
        let place = format!("http://{}{place}&digest={}", self.host(), blob.digest);
        let octets = ["--request", "PUT", "--header", "Content-Type: application/octet-stream"];
        let answer = match &blob.content {
            Content::Here(bytes) => http::request(&place, &octets, Some(bytes))?,
            Content::In(path) => {
                let path = path.to_str().context("a path of our own")?;
                let file = [
                    "--upload-file",
                    path,
                    "--header",
                    "Content-Type: application/octet-stream",
                    "--header",
                    "Expect:",
                ];
                http::request(&place, &file, None)?
            }
        };
        ensure!(answer.status == 201, "{}: {}: {}", blob.digest, answer.status, answer.text());
        Ok(())
    }
}
