//! Images of a docker archive (moby's image spec, "Combined Image JSON + Filesystem Changeset Format"): `docker save`
//! before 25, `podman save`, `skopeo copy docker-archive:`, kaniko, jib, bazel.
//!
//! ```text
//! manifest.json         [{"Config": "HEX.json", "RepoTags": ["app:1"], "Layers": ["HEX/layer.tar", …]}, …]
//! HEX.json              the image's config
//! HEX/layer.tar         a layer, not compressed as a rule; or a link to another image's, `../HEX/layer.tar`
//! ```
//!
//! It has no manifest, so one is made: of the same archive always the same. Layers stay as they are, and each is what the
//! config says it is when unpacked.

use std::io::Read as _;

use artifact::{Digest, Hasher, media_type};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::archive::Tape;
use super::contents::{Contents, Held};
use super::image::{Blob, Document, Image};
use super::stream::{Compression, Look, look, open};
use crate::volume::CHUNK;
use crate::{Error, Result};

/// One image of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

impl Item {
    /// Its names.
    pub(super) fn names(&self) -> &[String] {
        self.repo_tags.as_deref().unwrap_or_default()
    }

    /// Its config's digest, as far as the config's name tells it.
    pub(super) fn config_digest(&self) -> Option<Digest> {
        let name = self.config.rsplit('/').next()?;
        format!("sha256:{}", name.strip_suffix(".json").unwrap_or(name)).parse().ok()
    }

    /// How to speak of it.
    pub(super) fn shown(&self) -> String {
        self.names().first().unwrap_or(&self.config).clone()
    }
}

/// Whether the `manifest.json` below `prefix` is docker's list.
pub(super) fn is_list(contents: &Contents, prefix: &str) -> bool {
    let start = contents.find(&format!("{prefix}manifest.json")).ok().map(|held| contents.beginning(held));
    matches!(start, Some(Ok(start)) if start.trim_ascii_start().first() == Some(&b'['))
}

/// What docker's list below `prefix` says; without one, nothing.
pub(super) fn list(contents: &Contents, prefix: &str) -> Result<Vec<Item>, String> {
    let name = format!("{prefix}manifest.json");
    if !contents.has(&name) || !is_list(contents, prefix) {
        return Ok(Vec::new());
    }
    serde_json::from_slice(&contents.document(&name)?).map_err(|error| format!("its manifest.json: {error}"))
}

/// What Naru reads of a config.
#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

/// The image of one line of the list.
pub(super) fn image(contents: &Contents, prefix: &str, item: &Item) -> Result<Image, String> {
    let config_name = format!("{prefix}{}", item.config);
    let config = contents.document(&config_name)?;
    let digest = Digest::of(&config);
    let said: Config =
        serde_json::from_slice(&config).map_err(|error| format!("its config `{}`: {error}", item.config))?;
    let layers = item.layers.as_deref().unwrap_or_default();
    if layers.len() != said.rootfs.diff_ids.len() {
        let (has, should) = (layers.len(), said.rootfs.diff_ids.len());
        return Err(format!("it has {has} layers, and its config speaks of {should}"));
    }
    let mut blobs = vec![Blob { digest, size: config.len() as u64, member: config_name }];
    let mut descriptors = Vec::with_capacity(layers.len());
    for (layer, diff_id) in layers.iter().zip(&said.rootfs.diff_ids) {
        let member = format!("{prefix}{layer}");
        let held = contents.find(&member)?;
        let (digest, media_type) = digest_of(contents, held, diff_id).map_err(|why| format!("`{layer}`: {why}"))?;
        descriptors.push(json!({ "digest": digest, "mediaType": media_type, "size": held.size }));
        blobs.push(Blob { digest, size: held.size, member });
    }
    let manifest = json!({
        "config": { "digest": digest, "mediaType": media_type::OCI_CONFIG, "size": config.len() },
        "layers": descriptors,
        "mediaType": media_type::OCI_MANIFEST,
        "schemaVersion": 2,
    });
    let bytes = Bytes::from(manifest.to_string());
    let document = Document {
        digest: Digest::of(&bytes),
        bytes,
        media_type: media_type::OCI_MANIFEST.to_owned(),
        omitted: Vec::new(),
    };
    Ok(Image {
        names: item.names().to_vec(),
        tags: Vec::new(),
        digest: document.digest,
        documents: vec![document],
        blobs,
        subject: None,
        left_out: Vec::new(),
    })
}

/// The digest under which a layer is kept, and its media type. A plain one is its `diff_id`, which is proven when its
/// bytes are read; a compressed one is read for it now.
fn digest_of(contents: &Contents, held: &Held, diff_id: &Digest) -> Result<(Digest, &'static str), String> {
    let start = contents.beginning(held).map_err(|error| error.to_string())?;
    let (compression, media_type) = match look(&start) {
        Look::Compressed(Compression::Gzip) => (Compression::Gzip, media_type::OCI_LAYER_GZIP),
        Look::Compressed(Compression::Zstd) => (Compression::Zstd, media_type::OCI_LAYER_ZSTD),
        Look::Compressed(Compression::Xz) => return Err("a layer cannot be compressed by xz".to_owned()),
        _ => match held.digest() {
            Some(found) if found != *diff_id => return Err(disagree(diff_id, &found)),
            _ => return Ok((*diff_id, media_type::OCI_LAYER)),
        },
    };
    let mut packed = Hasher::sha256();
    let hashed = contents.stream(held, |chunk| {
        packed.update(chunk);
        Ok(())
    });
    hashed.map_err(|error| error.to_string())?;
    let unpacked = unpacked(contents, held, compression).map_err(|error| error.to_string())?;
    if unpacked != *diff_id {
        return Err(disagree(diff_id, &unpacked));
    }
    Ok((packed.finish(), media_type))
}

fn disagree(diff_id: &Digest, found: &Digest) -> String {
    format!("it is not the layer that the image's config speaks of: {found}, not {diff_id}")
}

fn unpacked(contents: &Contents, held: &Held, compression: Compression) -> Result<Digest> {
    let wrong = Error::io(&contents.path);
    let hash = |tape: Tape| {
        let mut reader = open(tape, compression)?;
        let (mut hasher, mut buffer) = (Hasher::sha256(), vec![0; CHUNK]);
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(hasher.finish()),
                read => hasher.update(buffer.get(..read).unwrap_or_default()),
            }
        }
    };
    hash(contents.tape(held)?).map_err(wrong)
}
