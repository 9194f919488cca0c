//! Images of an OCI layout (image spec, "Image Layout"), as a folder or as a tar: `docker save` since 25, `podman save
//! --format oci-archive`, `ctr image export`, skopeo, umoci, buildx.
//!
//! `index.json` names what the layout is about. Where an index in it lists platforms that the layout does not hold
//! (`ctr image export` of one platform), those are left out, and its digest stays what it was.

use artifact::{Descriptor, Digest, Manifest, Reference, Shape, media_type};

use super::contents::Contents;
use super::docker::Item;
use super::image::{Blob, Document, Image, Images, platform};

/// The whole name of an image, as containerd and docker write it.
const FULL_NAME: &str = "io.containerd.image.name";
/// A whole name (podman), or a tag alone (skopeo, umoci, docker).
const REFERENCE: &str = "org.opencontainers.image.ref.name";
/// Indexes of indexes; real ones have two levels.
const DEPTH: usize = 8;

/// Whether the `index.json` below `prefix` is a layout's.
pub(super) fn is_layout(contents: &Contents, prefix: &str) -> bool {
    contents.has(&format!("{prefix}oci-layout")) || contents.has(&format!("{prefix}manifest.json"))
}

/// What an index has spoken of, so that docker's list does not bring it again with another digest.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) configs: Vec<Digest>,
    names: Vec<String>,
}

impl Seen {
    /// Whether the index has an image of that name, well or not.
    pub(super) fn has_name(&self, name: &str) -> bool {
        let same = |other: &String| match (name.parse::<Reference>(), other.parse::<Reference>()) {
            (Ok(name), Ok(other)) => name == other,
            _ => name == other,
        };
        self.names.iter().any(same)
    }
}

/// The images that `index.json` lists, and what else it speaks of.
pub(super) fn images(contents: &Contents, prefix: &str, list: &[Item], images: &mut Images) -> Result<Seen, String> {
    let mut seen = Seen::default();
    let bytes = contents.document(&format!("{prefix}index.json"))?;
    let index = Manifest::parse(&bytes, media_type::OCI_INDEX).map_err(|error| format!("its index.json: {error}"))?;
    for descriptor in &index.manifests {
        let (mut names, mut tags) = names(descriptor);
        seen.names.extend(names.iter().cloned());
        // The same image under several names: each has a line in the index.
        if let Some(known) = images.whole.iter_mut().find(|image| image.digest == descriptor.digest) {
            known.names.append(&mut names);
            known.tags.append(&mut tags);
            continue;
        }
        let mut image = Image {
            names,
            tags,
            digest: descriptor.digest,
            documents: Vec::new(),
            blobs: Vec::new(),
            subject: None,
            left_out: Vec::new(),
        };
        let mut reading = Reading { contents, prefix, image: &mut image, configs: &mut seen.configs };
        match reading.document(descriptor, 0) {
            Ok(()) => images.whole.push(image),
            Err(why) => images.refused.push(format!("{}: {why}", image.shown())),
        }
    }
    for image in &mut images.whole {
        if image.names.is_empty() {
            let own = |item: &&Item| {
                item.config_digest().is_some_and(|config| image.blobs.iter().any(|blob| blob.digest == config))
            };
            image.names = list.iter().filter(own).flat_map(Item::names).cloned().collect();
        }
    }
    Ok(seen)
}

fn names(descriptor: &Descriptor) -> (Vec<String>, Vec<String>) {
    let annotation = |key: &str| Some(descriptor.annotations.as_ref()?.get(key)?.as_str()?.to_owned());
    match (annotation(FULL_NAME), annotation(REFERENCE)) {
        (Some(name), _) => (vec![name], Vec::new()),
        (None, Some(name)) if name.contains(['/', ':', '@']) => (vec![name], Vec::new()),
        (None, Some(tag)) => (Vec::new(), vec![tag]),
        (None, None) => (Vec::new(), Vec::new()),
    }
}

struct Reading<'a> {
    contents: &'a Contents,
    prefix: &'a str,
    image: &'a mut Image,
    configs: &'a mut Vec<Digest>,
}

impl Reading<'_> {
    fn place(&self, digest: &Digest) -> String {
        format!("{}blobs/{}/{}", self.prefix, digest.algorithm().as_str(), digest.hex())
    }

    /// Reads a document and everything below it.
    fn document(&mut self, descriptor: &Descriptor, depth: usize) -> Result<(), String> {
        let digest = descriptor.digest;
        if self.image.documents.iter().any(|document| document.digest == digest) {
            return Ok(());
        }
        if depth > DEPTH {
            return Err(format!("its indexes are nested more than {DEPTH} deep"));
        }
        let bytes = self.contents.document(&self.place(&digest))?;
        let mut hasher = artifact::Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        if hasher.finish() != digest {
            return Err(format!("{digest} is damaged: its bytes have another digest"));
        }
        let manifest = Manifest::parse(&bytes, &descriptor.media_type).map_err(|error| format!("{digest}: {error}"))?;
        for blob in manifest.blobs() {
            let member = self.place(&blob.digest);
            // What its licence forbids to carry is not missing.
            if blob.is_foreign() && !self.contents.has(&member) {
                continue;
            }
            let held = self.contents.find(&member)?;
            if held.size != blob.size {
                return Err(format!("{} has {} bytes, not {}", blob.digest, held.size, blob.size));
            }
            self.image.blobs.push(Blob { digest: blob.digest, size: blob.size, member });
        }
        self.configs.extend(manifest.config.as_ref().map(|config| config.digest));
        let mut omitted = Vec::new();
        let mut missing = None;
        for child in &manifest.manifests {
            let (documents, blobs) = (self.image.documents.len(), self.image.blobs.len());
            let why = if self.contents.has(&self.place(&child.digest)) {
                self.document(child, depth + 1).err()
            } else {
                Some(String::new())
            };
            if let Some(why) = why {
                self.image.documents.truncate(documents);
                self.image.blobs.truncate(blobs);
                omitted.push(child.digest);
                let shown = platform(child);
                self.image.left_out.push(if why.is_empty() { shown } else { format!("{shown} ({why})") });
                missing = Some(why).filter(|why| !why.is_empty()).or(missing);
            }
        }
        if manifest.shape == Shape::Index && !omitted.is_empty() && omitted.len() == manifest.manifests.len() {
            return Err(missing.unwrap_or_else(|| "none of its platforms is in it".to_owned()));
        }
        if depth == 0 {
            self.image.subject = manifest.subject.map(|subject| subject.digest);
        }
        self.image.documents.push(Document { digest, bytes, media_type: manifest.media_type, omitted });
        Ok(())
    }
}
