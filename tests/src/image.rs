//! Images of real content: a busybox that runs, in every shape that the journeys carry.

use std::fs::File;
use std::io::{BufWriter, Read, Write as _};
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::folder::Folder;
use crate::process::{find, run};
use crate::random::Random;

/// The two families of media types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `application/vnd.oci.image.…`
    Oci,
    /// `application/vnd.docker.distribution.…`, schema 2.
    Docker,
}

impl Family {
    fn manifest(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    fn index(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.index.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.config.v1+json",
            Self::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    fn layer(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Docker => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        }
    }
}

/// Where a blob's bytes are.
#[derive(Clone, Debug)]
pub enum Content {
    /// In memory.
    Here(Vec<u8>),
    /// In a file, for they are many.
    In(PathBuf),
}

/// A blob.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Its digest.
    pub digest: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its bytes.
    pub content: Content,
}

impl Blob {
    /// Bytes in memory.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self { digest: digest_of(&bytes), size: bytes.len() as u64, content: Content::Here(bytes) }
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of_file(path: PathBuf) -> Result<Self> {
        let mut hasher = Sha256::new();
        let mut file = File::open(&path)?;
        let mut buffer = vec![0; 1 << 20];
        let mut size = 0;
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            size += count as u64;
        }
        let digest = format!("sha256:{}", hexadecimal(&hasher.finalize()));
        Ok(Self { digest, size, content: Content::In(path) })
    }
}

/// A layer: the blob, and what it is called unpacked.
#[derive(Clone, Debug)]
pub struct Layer {
    blob: Blob,
    diff: String,
    compressed: bool,
}

/// A manifest or index, byte for byte.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its digest.
    pub digest: String,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Document {
    fn new(media_type: &str, value: &Value) -> Self {
        // Spread over lines: whoever serialises it again changes its digest.
        let bytes = serde_json::to_vec_pretty(value).expect("JSON of our own");
        Self { digest: digest_of(&bytes), media_type: media_type.to_owned(), bytes }
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

/// An image: its documents, children first and the one that a tag names last, and their blobs.
#[derive(Clone, Debug)]
pub struct Image {
    /// Manifests and indexes.
    pub documents: Vec<Document>,
    /// Configurations and layers.
    pub blobs: Vec<Blob>,
}

impl Image {
    /// The document that a tag names.
    pub fn top(&self) -> &Document {
        self.documents.last().expect("an image has a document")
    }

    /// Its digest.
    pub fn digest(&self) -> &str {
        &self.top().digest
    }

    /// An image for one platform (`linux/arm64`).
    pub fn single(family: Family, platform: &str, layers: &[Layer]) -> Self {
        let (system, architecture) = platform.split_once('/').unwrap_or(("linux", platform));
        let config = Blob::new(
            json!({
                "architecture": architecture, "os": system, "created": "2020-01-01T00:00:00Z",
                "config": { "Cmd": ["/bin/cat", "/etc/marker"], "Env": ["PATH=/bin"],
                    "Labels": { "org.opencontainers.image.licenses": "GPL-2.0-only" } },
                "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| &layer.diff).collect::<Vec<_>>() },
                "history": layers.iter().map(|_| json!({ "created_by": "journeys" })).collect::<Vec<_>>(),
            })
            .to_string(),
        );
        let of_layer = |layer: &Layer| {
            let media_type = if layer.compressed { family.layer() } else { "application/vnd.oci.image.layer.v1.tar" };
            json!({ "mediaType": media_type, "digest": layer.blob.digest, "size": layer.blob.size })
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": family.manifest(),
            "config": { "mediaType": family.config(), "digest": config.digest, "size": config.size },
            "layers": layers.iter().map(of_layer).collect::<Vec<_>>(),
        });
        let blobs = [config].into_iter().chain(layers.iter().map(|layer| layer.blob.clone())).collect();
        Self { documents: vec![Document::new(family.manifest(), &manifest)], blobs }
    }

    /// An index over images, each with its platform.
    pub fn index(family: Family, children: &[(&str, &Self)]) -> Self {
        let entries = children.iter().map(|(platform, child)| {
            let (system, architecture) = platform.split_once('/').unwrap_or(("linux", platform));
            let mut entry = child.top().descriptor();
            entry["platform"] = json!({ "os": system, "architecture": architecture });
            entry
        });
        let index = json!({
            "schemaVersion": 2, "mediaType": family.index(), "manifests": entries.collect::<Vec<_>>(),
        });
        let mut all = Self { documents: Vec::new(), blobs: Vec::new() };
        for (_, child) in children {
            all.documents.extend(child.documents.iter().cloned());
            all.blobs.extend(child.blobs.iter().cloned());
        }
        all.documents.push(Document::new(family.index(), &index));
        all
    }

    /// An artifact without layers; with a subject, it refers to that.
    pub fn artifact(artifact_type: &str, subject: Option<&Self>) -> Self {
        let config = Blob::new("{}");
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": Family::Oci.manifest(), "artifactType": artifact_type,
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config.digest, "size": config.size },
            "layers": [], "annotations": { "made.by": "journeys" },
        });
        if let Some(subject) = subject {
            manifest["subject"] = subject.top().descriptor();
        }
        Self { documents: vec![Document::new(Family::Oci.manifest(), &manifest)], blobs: vec![config] }
    }

    /// What cosign writes under `sha256-….sig`: an image whose layer is the signed statement.
    pub fn signature(of: &Self) -> Self {
        Self::signed(of, |_| "MEUCIQD0ZXN0".to_owned())
    }

    /// The same, with what `sign` makes of the statement, in base64.
    pub fn signed(of: &Self, sign: impl FnOnce(&[u8]) -> String) -> Self {
        let text =
            json!({ "critical": { "image": { "docker-manifest-digest": of.digest() }, "type": "cosign container image signature" } })
                .to_string();
        let signature = sign(text.as_bytes());
        let statement = Blob::new(text);
        let config = Blob::new(
            json!({ "architecture": "", "os": "", "rootfs": { "type": "layers", "diff_ids": [statement.digest] } })
                .to_string(),
        );
        let manifest = json!({
            "schemaVersion": 2, "mediaType": Family::Oci.manifest(),
            "config": { "mediaType": Family::Oci.config(), "digest": config.digest, "size": config.size },
            "layers": [{
                "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
                "digest": statement.digest, "size": statement.size,
                "annotations": { "dev.cosignproject.cosign/signature": signature },
            }],
        });
        Self { documents: vec![Document::new(Family::Oci.manifest(), &manifest)], blobs: vec![config, statement] }
    }

    /// The index that a registry without the referrers API is given under the fallback tag.
    pub fn fallback(referrers: &[&Self]) -> Self {
        let entries = referrers.iter().map(|referrer| {
            let mut entry = referrer.top().descriptor();
            let manifest = serde_json::from_slice::<Value>(&referrer.top().bytes).expect("JSON of our own");
            entry["artifactType"] = manifest["artifactType"].clone();
            entry
        });
        let index = json!({
            "schemaVersion": 2, "mediaType": Family::Oci.index(), "manifests": entries.collect::<Vec<_>>(),
        });
        Self { documents: vec![Document::new(Family::Oci.index(), &index)], blobs: Vec::new() }
    }

    /// `sha256-<hex>`, the beginning of every tag that belongs to this image.
    pub fn tag_for_referrers(&self) -> String {
        self.digest().replace(':', "-")
    }
}

/// The same application for two platforms, whose `/etc/marker` says `marker`.
///
/// # Errors
/// As [`busybox`].
pub fn application(folder: &Folder, marker: &str) -> Result<Image> {
    let layer = busybox(folder, marker)?;
    let amd64 = Image::single(Family::Oci, "linux/amd64", std::slice::from_ref(&layer));
    let arm64 = Image::single(Family::Oci, "linux/arm64", &[layer]);
    Ok(Image::index(Family::Oci, &[("linux/amd64", &amd64), ("linux/arm64", &arm64)]))
}

/// A layer with busybox, its links, and `/etc/marker` that says `marker`.
///
/// # Errors
/// When busybox, tar or gzip is missing.
pub fn busybox(folder: &Folder, marker: &str) -> Result<Layer> {
    let name = format!("layer-{}", hexadecimal(&Sha256::digest(marker))[..12].to_owned());
    let root = folder.make(format!("{name}/root"))?;
    std::fs::create_dir_all(root.join("bin"))?;
    std::fs::create_dir_all(root.join("etc"))?;
    std::fs::copy(find("busybox").context("busybox is not here")?, root.join("bin/busybox"))?;
    for link in ["sh", "cat", "ls"] {
        let _ = symlink("busybox", root.join("bin").join(link));
    }
    std::fs::write(root.join("etc/marker"), format!("{marker}\n"))?;
    let tar = folder.join(format!("{name}/layer.tar"));
    run(
        "tar",
        [
            "--sort=name".as_ref(),
            "--mtime=@0".as_ref(),
            "--owner=0".as_ref(),
            "--group=0".as_ref(),
            "--numeric-owner".as_ref(),
            "-C".as_ref(),
            root.as_os_str(),
            "-cf".as_ref(),
            tar.as_os_str(),
            ".".as_ref(),
        ],
    )?;
    let diff = Blob::of_file(tar.clone())?.digest;
    run("gzip", ["-n".as_ref(), "-1".as_ref(), "-f".as_ref(), tar.as_os_str()])?;
    let blob = Blob::new(std::fs::read(folder.join(format!("{name}/layer.tar.gz")))?);
    Ok(Layer { blob, diff, compressed: true })
}

/// A layer of so many bytes, which nothing makes smaller: a tar of one file.
///
/// # Errors
/// When there is no room.
pub fn large(folder: &Folder, size: u64, seed: u64) -> Result<Layer> {
    let root = folder.make(format!("large-{seed}"))?;
    let mut file = BufWriter::with_capacity(1 << 20, File::create(root.join("data"))?);
    std::io::copy(&mut Random::new(seed).take(size), &mut file)?;
    file.flush()?;
    let tar = folder.join(format!("large-{seed}.tar"));
    run(
        "tar",
        [
            "--mtime=@0".as_ref(),
            "--owner=0".as_ref(),
            "--group=0".as_ref(),
            "-C".as_ref(),
            root.as_os_str(),
            "-cf".as_ref(),
            tar.as_os_str(),
            "--remove-files".as_ref(),
            "data".as_ref(),
        ],
    )?;
    let blob = Blob::of_file(tar)?;
    Ok(Layer { diff: blob.digest.clone(), blob, compressed: false })
}

/// `sha256:…` of bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hexadecimal(&Sha256::digest(bytes)))
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
