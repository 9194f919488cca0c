//! The images of an archive, whoever wrote it.

use artifact::{Digest, Platform};
use bytes::Bytes;

use super::contents::Contents;
use super::{docker, oci};
use crate::{Error, Result};

/// Documents of one archive's images may have so many bytes together.
const DOCUMENTS: usize = 64 << 20;

/// A manifest or an index.
#[derive(Clone, Debug)]
pub(super) struct Document {
    pub(super) digest: Digest,
    pub(super) bytes: Bytes,
    pub(super) media_type: String,
    /// Children that the archive has not.
    pub(super) omitted: Vec<Digest>,
}

/// A config or a layer.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// The member that has its bytes.
    pub(super) member: String,
}

/// An image, whole as far as names and sizes tell.
#[derive(Clone, Debug)]
pub(super) struct Image {
    /// Its names as the archive writes them.
    pub(super) names: Vec<String>,
    /// A tag without the name of a repository, which layouts often have.
    pub(super) tags: Vec<String>,
    pub(super) digest: Digest,
    /// Children first.
    pub(super) documents: Vec<Document>,
    pub(super) blobs: Vec<Blob>,
    /// What it refers to, if it is a signature or the like.
    pub(super) subject: Option<Digest>,
    /// Platforms of an index that the archive has not.
    pub(super) left_out: Vec<String>,
}

impl Image {
    /// Whether it has no name of its own, and belongs to what it refers to.
    pub(super) fn is_referrer(&self) -> bool {
        self.subject.is_some() && self.names.is_empty() && self.tags.is_empty()
    }

    /// How to speak of it.
    pub(super) fn shown(&self) -> String {
        self.names.first().or(self.tags.first()).cloned().unwrap_or_else(|| self.digest.to_string())
    }
}

/// What an archive's images are, and what is wrong with those that cannot be had, each in words.
#[derive(Debug, Default)]
pub(super) struct Images {
    pub(super) whole: Vec<Image>,
    pub(super) refused: Vec<String>,
}

/// Where images lie in an archive: folders that have an `index.json` or docker's `manifest.json`. Those below another
/// are its own affair.
pub(super) fn roots(contents: &Contents) -> Vec<String> {
    let mut roots: Vec<String> = Vec::new();
    for name in contents.names() {
        let prefix = match name.rsplit_once('/') {
            Some((folder, _)) => &name[..=folder.len()],
            None => "",
        };
        let is_root = match name.get(prefix.len()..).unwrap_or_default() {
            "index.json" => oci::is_layout(contents, prefix),
            "manifest.json" => docker::is_list(contents, prefix),
            _ => false,
        };
        if is_root && !roots.iter().any(|root| root == prefix) {
            roots.push(prefix.to_owned());
        }
    }
    let all = roots.clone();
    roots.retain(|root| !all.iter().any(|other| other != root && root.starts_with(other.as_str())));
    roots
}

/// The images below `prefix`. An OCI index tells first, since it keeps their digests; docker's list adds what the index
/// does not know, and names that it does not tell.
pub(super) fn images(contents: &Contents, prefix: &str) -> Result<Images> {
    if let Some(stray) = contents.stray_link(prefix) {
        return Err(Error::archive(&contents.path, stray));
    }
    let mut images = Images::default();
    let wrong = |why: String| Error::archive(&contents.path, why);
    let list = docker::list(contents, prefix).map_err(wrong)?;
    let mut seen = oci::Seen::default();
    if contents.has(&format!("{prefix}index.json")) {
        seen = oci::images(contents, prefix, &list, &mut images).map_err(wrong)?;
    }
    for item in &list {
        if item.config_digest().is_some_and(|digest| seen.configs.contains(&digest))
            || item.names().iter().any(|name| seen.has_name(name))
        {
            continue;
        }
        match docker::image(contents, prefix, item) {
            Ok(image) => images.whole.push(image),
            Err(why) => images.refused.push(format!("{}: {why}", item.shown())),
        }
    }
    let bytes: usize =
        images.whole.iter().flat_map(|image| &image.documents).map(|document| document.bytes.len()).sum();
    if bytes > DOCUMENTS {
        return Err(wrong(format!("its manifests have {bytes} bytes together; more than {DOCUMENTS} are refused")));
    }
    Ok(images)
}

/// A child's platform in words, or its digest.
pub(super) fn platform(descriptor: &artifact::Descriptor) -> String {
    let known = |platform: &Platform| !platform.os.is_empty() && platform.os != "unknown";
    descriptor.platform().filter(known).map_or_else(|| descriptor.digest.to_string(), |platform| platform.to_string())
}
