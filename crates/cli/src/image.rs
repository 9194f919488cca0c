//! Naru itself as an OCI image, made without docker: this binary, the machine's CA bundle, a user and a folder.
//!
//! The same binary and the same CA bundle give the same image: there is no clock in it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use artifact::{Digest, Hasher, Platform, media_type};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::tar::{Member, Writer};

/// Who Naru is in its image: distroless' `nonroot`, so that policies which forbid root let it run.
const USER: u32 = 65_532;
const PASSWD: &str = "root:x:0:0:root:/root:/sbin/nologin\nnaru:x:65532:65532:naru:/var/lib/naru:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnaru:x:65532:\n";

/// What goes into the layer.
pub(crate) struct Contents<'a> {
    /// The binary, open, and its bytes.
    pub(crate) binary: (&'a File, u64),
    /// The CA bundle, when the machine has one.
    pub(crate) certificates: Option<&'a [u8]>,
}

/// Writes the gzipped layer, and answers the digest of the tar inside (the config's `diff_id`).
pub(crate) fn write_layer(contents: &Contents<'_>, out: impl Write) -> io::Result<Digest> {
    let gzip = GzEncoder::new(out, Compression::default());
    let mut tar = Writer::new(Hashed::new(gzip));
    tar.folder(folder("etc/"))?;
    tar.file(file("etc/group"), GROUP.as_bytes())?;
    tar.file(file("etc/passwd"), PASSWD.as_bytes())?;
    tar.folder(folder("etc/ssl/"))?;
    tar.folder(folder("etc/ssl/certs/"))?;
    if let Some(certificates) = contents.certificates {
        tar.file(file("etc/ssl/certs/ca-certificates.crt"), certificates)?;
    }
    let (binary, size) = contents.binary;
    tar.stream(Member { name: "naru", mode: 0o755, owner: 0 }, size, binary)?;
    tar.folder(Member { name: "tmp/", mode: 0o1777, owner: 0 })?;
    tar.folder(folder("var/"))?;
    tar.folder(folder("var/lib/"))?;
    tar.folder(Member { name: "var/lib/naru/", mode: 0o755, owner: USER })?;
    let Hashed { out, hasher, .. } = tar.finish()?;
    out.finish()?;
    Ok(hasher.finish())
}

fn folder(name: &str) -> Member<'_> {
    Member { name, mode: 0o755, owner: 0 }
}

fn file(name: &str) -> Member<'_> {
    Member { name, mode: 0o644, owner: 0 }
}

/// Hashes and counts what passes.
pub(crate) struct Hashed<W> {
    pub(crate) out: W,
    pub(crate) hasher: Hasher,
    pub(crate) size: u64,
}

impl<W: Write> Hashed<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, hasher: Hasher::sha256(), size: 0 }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or(bytes));
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The image's two documents.
pub(crate) struct Documents {
    pub(crate) config: Bytes,
    pub(crate) manifest: Bytes,
}

/// The config and the manifest around a layer.
pub(crate) fn documents(diff_id: &Digest, layer: &Digest, size: u64) -> Documents {
    let platform = Platform::here();
    let config = document(&json!({
        "architecture": platform.architecture,
        "config": {
            "Cmd": ["serve"],
            "Entrypoint": ["/naru"],
            "Env": ["NARU_STORE=/var/lib/naru", "PATH=/", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"],
            "ExposedPorts": { "5000/tcp": {} },
            "Labels": labels(),
            "User": format!("{USER}:{USER}"),
            "Volumes": { "/var/lib/naru": {} },
            "WorkingDir": "/",
        },
        "created": "1970-01-01T00:00:00Z",
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "naru image" }],
        "os": platform.os,
        "rootfs": { "diff_ids": [diff_id], "type": "layers" },
    }));
    let manifest = document(&json!({
        "annotations": labels(),
        "config": {
            "digest": Digest::of(&config), "mediaType": media_type::OCI_CONFIG, "size": config.len(),
        },
        "layers": [{ "digest": layer, "mediaType": media_type::OCI_LAYER_GZIP, "size": size }],
        "mediaType": media_type::OCI_MANIFEST,
        "schemaVersion": 2,
    }));
    Documents { config, manifest }
}

fn labels() -> Value {
    json!({
        "org.opencontainers.image.description": "Carries container images and files across an air gap",
        "org.opencontainers.image.licenses": "Apache-2.0 OR MIT",
        "org.opencontainers.image.title": "naru",
        "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
    })
}

fn document(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

/// The image as an archive that containerd, docker, podman and skopeo load: an OCI layout with containerd's name
/// annotation, and docker's `manifest.json` beside it.
pub(crate) fn write_archive(
    name: &str,
    documents: &Documents,
    layer: (&Digest, &Path, u64),
    out: impl Write,
) -> io::Result<()> {
    let (layer, path, size) = layer;
    let (config, manifest) = (Digest::of(&documents.config), Digest::of(&documents.manifest));
    let index = json!({
        "manifests": [{
            "annotations": { "io.containerd.image.name": name, "org.opencontainers.image.ref.name": name },
            "digest": manifest,
            "mediaType": media_type::OCI_MANIFEST,
            "platform": { "architecture": Platform::here().architecture, "os": Platform::here().os },
            "size": documents.manifest.len(),
        }],
        "mediaType": media_type::OCI_INDEX,
        "schemaVersion": 2,
    });
    let place = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let docker = json!([{ "Config": place(&config), "Layers": [place(layer)], "RepoTags": [name] }]);
    let mut tar = Writer::new(out);
    tar.file(file("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    tar.file(file("index.json"), index.to_string().as_bytes())?;
    tar.file(file("manifest.json"), docker.to_string().as_bytes())?;
    tar.file(file(&place(&config)), &documents.config)?;
    tar.file(file(&place(&manifest)), &documents.manifest)?;
    tar.stream(file(&place(layer)), size, File::open(path)?)?;
    tar.finish()?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(certificates: Option<&[u8]>) -> (Digest, Vec<u8>) {
        let mut binary = tempfile::tempfile().unwrap();
        binary.write_all(b"ELF").unwrap();
        io::Seek::rewind(&mut binary).unwrap();
        let mut out = Vec::new();
        let diff_id = write_layer(&Contents { binary: (&binary, 3), certificates }, &mut out).unwrap();
        (diff_id, out)
    }

    #[test]
    fn the_same_contents_give_the_same_layer() {
        let (first, second) = (layer(Some(b"CA")), layer(Some(b"CA")));
        assert_eq!(first, second);
        assert_ne!(first.0, layer(None).0);
        let mut tar = Vec::new();
        io::Read::read_to_end(&mut flate2::read::GzDecoder::new(first.1.as_slice()), &mut tar).unwrap();
        assert_eq!(first.0, Digest::of(&tar));
    }

    #[test]
    fn the_documents_are_an_image() {
        let (diff_id, bytes) = layer(None);
        let documents = documents(&diff_id, &Digest::of(&bytes), bytes.len() as u64);
        let manifest = artifact::Manifest::parse(&documents.manifest, media_type::OCI_MANIFEST).unwrap();
        let config = manifest.config.unwrap();
        assert_eq!(config.digest, Digest::of(&documents.config));
        assert_eq!(config.size, documents.config.len() as u64);
        assert_eq!(manifest.layers.len(), 1);
    }
}
