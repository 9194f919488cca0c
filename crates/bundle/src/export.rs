//! Export: images as one archive that every runtime loads with the digest kept.
//!
//! It is an OCI layout whose index names each image as containerd wants it (`io.containerd.image.name`), with docker's
//! `manifest.json` beside it, both over the same blobs. A bundle is not such an archive: runtimes would take every
//! member of it in.

use std::collections::{BTreeSet, HashSet};
use std::io::{Read as _, Write};

use artifact::{Descriptor, Digest, Hasher, Platform, Progress, media_type};
use bytes::Bytes;
use serde_json::json;
use store::{Blob, Store};

use crate::gather::gather;
use crate::{Error, Result, tar};

const CHUNK: usize = 1 << 20;

/// An image to export: the name it is loaded under, and what that stands for.
#[derive(Clone, Debug)]
pub struct Exported {
    /// `docker.io/library/nginx:1.27`, or `…@sha256:…`.
    pub name: String,
    /// Its digest.
    pub digest: Digest,
}

/// An archive, planned: what it will hold, in order.
#[derive(Debug)]
pub struct Archive {
    store: Store,
    documents: Vec<(String, Bytes)>,
    blobs: Vec<Blob>,
    /// What is left out, as platforms or digests, each in words.
    pub left_out: BTreeSet<String>,
    /// Its bytes.
    pub size: u64,
}

impl Archive {
    /// Plans an archive of these images. With a platform, of an index only that child goes with it.
    ///
    /// # Errors
    /// [`Error::Incomplete`] when something that an image carries is not in the store.
    pub async fn plan(store: &Store, images: &[Exported], platform: Option<&Platform>) -> Result<Self> {
        let here = Platform::here();
        let (mut named, mut docker, mut manifests) = (Vec::new(), Vec::new(), Vec::new());
        let (mut wanted, mut seen, mut left_out) = (Vec::new(), HashSet::new(), BTreeSet::new());
        for Exported { name, digest } in images {
            let gathered = gather(store, digest, platform).await?;
            let Some(top) = gathered.documents.last() else { continue };
            named.push(descriptor(name, &top.stored.media_type, digest, top.stored.bytes.len()));
            let run = gathered.for_platform(platform.unwrap_or(&here));
            if let Some((run, config)) = run.and_then(|run| Some((run, run.manifest.config.as_ref()?))) {
                // What docker cannot run (an artifact, a layer that was left out) it need not hear of.
                let is_image = [media_type::OCI_CONFIG, "application/vnd.docker.container.image.v1+json"];
                let is_whole = run.left_out.is_empty() && is_image.contains(&config.media_type.as_str());
                if is_whole {
                    let layers = run.manifest.layers.iter().map(|layer| place(&layer.digest)).collect::<Vec<_>>();
                    let tags = if name.contains('@') { json!(null) } else { json!([name]) };
                    docker.push(json!({ "Config": place(&config.digest), "Layers": layers, "RepoTags": tags }));
                }
            }
            for document in gathered.documents {
                left_out.extend(document.left_out.iter().map(words_of));
                if seen.insert(document.stored.digest) {
                    manifests.push((place(&document.stored.digest), document.stored.bytes));
                }
            }
            for blob in gathered.blobs {
                if seen.insert(blob.digest) {
                    wanted.push(blob.digest);
                }
            }
        }
        let mut blobs = store.blobs(&wanted).await?;
        if let Some(digest) = wanted.iter().find(|digest| !blobs.iter().any(|blob| blob.digest == **digest)) {
            return Err(Error::Incomplete { digest: *digest, why: "a blob of it is not here".to_owned() });
        }
        blobs.sort_by_key(|blob| wanted.iter().position(|digest| *digest == blob.digest));
        let index = json!({ "manifests": named, "mediaType": media_type::OCI_INDEX, "schemaVersion": 2 });
        let mut documents = vec![
            ("oci-layout".to_owned(), Bytes::from_static(br#"{"imageLayoutVersion":"1.0.0"}"#)),
            ("index.json".to_owned(), Bytes::from(index.to_string())),
        ];
        if !docker.is_empty() {
            documents.push(("manifest.json".to_owned(), Bytes::from(json!(docker).to_string())));
        }
        documents.extend(manifests);
        let mut size = 0;
        for (name, length) in documents
            .iter()
            .map(|(name, bytes)| (name.clone(), bytes.len() as u64))
            .chain(blobs.iter().map(|blob| (place(&blob.digest), blob.size)))
        {
            size += tar::header(&name, length, size).len() as u64;
            size += tar::padded(length);
        }
        Ok(Self { store: store.clone(), documents, blobs, left_out, size: size + tar::END })
    }

    /// Writes it; blocking. Every blob is hashed on the way: what is damaged here does not leave.
    ///
    /// # Errors
    /// [`Error::StoreDamaged`]; when reading or writing fails.
    pub fn write(&self, mut out: impl Write, progress: &dyn Progress) -> Result<()> {
        let path = std::path::Path::new("the archive");
        let mut at = 0;
        let mut put = |out: &mut dyn Write, bytes: &[u8]| {
            at += bytes.len() as u64;
            out.write_all(bytes).map_err(Error::io(path)).map(|()| at)
        };
        let mut reached = 0;
        progress.begin("export", self.size);
        for (name, bytes) in &self.documents {
            put(&mut out, &tar::header(name, bytes.len() as u64, reached))?;
            put(&mut out, bytes)?;
            reached = put(&mut out, &zeros(bytes.len() as u64))?;
        }
        let mut chunk = vec![0; CHUNK];
        for blob in &self.blobs {
            let mut file = self.store.open_blob(blob)?;
            put(&mut out, &tar::header(&place(&blob.digest), blob.size, reached))?;
            let (mut hasher, mut left) = (Hasher::new(blob.digest.algorithm()), blob.size);
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
                let buffer = chunk.get_mut(..most).unwrap_or_default();
                let count = file.read(buffer).map_err(Error::io(path))?;
                let bytes = buffer.get(..count).unwrap_or_default();
                if bytes.is_empty() {
                    return Err(Error::StoreDamaged { digest: blob.digest });
                }
                hasher.update(bytes);
                put(&mut out, bytes)?;
                left -= bytes.len() as u64;
                progress.advance(bytes.len() as u64);
            }
            if hasher.finish() != blob.digest {
                return Err(Error::StoreDamaged { digest: blob.digest });
            }
            reached = put(&mut out, &zeros(blob.size))?;
        }
        put(&mut out, &vec![0; usize::try_from(tar::END).unwrap_or_default()])?;
        out.flush().map_err(Error::io(path))?;
        progress.end();
        Ok(())
    }
}

/// The rest of a member's last block.
fn zeros(size: u64) -> Vec<u8> {
    vec![0; usize::try_from(tar::padded(size) - size).unwrap_or_default()]
}

fn place(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

fn descriptor(name: &str, media_type: &str, digest: &Digest, size: usize) -> serde_json::Value {
    // The tag alone is what the OCI layout's own annotation wants; containerd's has the whole name.
    let short = name.rsplit('/').next().and_then(|last| last.split_once([':', '@'])).map_or(name, |(_, tag)| tag);
    json!({
        "annotations": { "io.containerd.image.name": name, "org.opencontainers.image.ref.name": short },
        "digest": digest, "mediaType": media_type, "size": size,
    })
}

fn words_of(left_out: &Descriptor) -> String {
    match left_out.platform() {
        Some(platform) => format!("{platform} ({})", left_out.digest),
        None => left_out.digest.to_string(),
    }
}
