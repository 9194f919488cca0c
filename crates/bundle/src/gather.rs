//! What an image is made of, as far as a store carries it: for whoever takes images out of one.

use std::collections::{HashMap, HashSet};

use artifact::{Descriptor, Digest, Manifest, Platform, Shape};
use store::{Store, StoredManifest};

use crate::{Error, Result};

/// Manifests that one image may have below its name. Real ones have some dozens.
const MANIFESTS: usize = 10_000;

/// A manifest or index of the image.
#[derive(Clone, Debug)]
pub struct Document {
    /// As the store has it.
    pub stored: StoredManifest,
    /// Read.
    pub manifest: Manifest,
    /// Its children, config and layers that do not go with it, left out on purpose on the way here or now.
    pub left_out: Vec<Descriptor>,
}

/// An image and all that it carries.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    /// Children first: the last one is what the name stands for.
    pub documents: Vec<Document>,
    /// Configurations and layers, each once.
    pub blobs: Vec<Descriptor>,
}

impl Gathered {
    /// The manifest that somebody on `platform` would run: the one of a single image, or the index's child for it; with
    /// no such child, the first that is an image at all.
    pub fn for_platform(&self, platform: &Platform) -> Option<&Document> {
        let top = self.documents.last()?;
        if top.manifest.shape == Shape::Manifest {
            return Some(top);
        }
        let find = |digest: &Digest| self.documents.iter().find(|document| document.stored.digest == *digest);
        let mut children = Vec::new();
        let mut open = vec![top];
        while let Some(document) = open.pop() {
            for child in &document.manifest.manifests {
                match find(&child.digest) {
                    Some(below) if below.manifest.shape == Shape::Index => open.push(below),
                    Some(below) if child.describes().is_none() => children.push((child.platform(), below)),
                    _ => {}
                }
            }
        }
        let fits = |of: &Option<Platform>| of.as_ref().is_some_and(|of| of.serves(platform));
        children.iter().find(|(of, _)| fits(of)).or(children.first()).map(|(_, document)| *document)
    }
}

/// Gathers what `digest` stands for. With a platform, an index's other children stay where they are; its bytes and its
/// digest remain the same.
///
/// # Errors
/// [`Error::Incomplete`] when something that it carries is not here; when the catalog cannot be read.
pub async fn gather(store: &Store, digest: &Digest, platform: Option<&Platform>) -> Result<Gathered> {
    let mut gathered = Gathered::default();
    let (mut seen, mut blobs, mut read) = (HashSet::new(), HashSet::new(), HashMap::new());
    let mut open = vec![(*digest, false)];
    while let Some((digest, done)) = open.pop() {
        if done {
            gathered.documents.extend(read.remove(&digest));
            continue;
        }
        if !seen.insert(digest) {
            continue;
        }
        if seen.len() > MANIFESTS {
            return Err(Error::Incomplete { digest, why: format!("it has more than {MANIFESTS} manifests below it") });
        }
        let missing = || Error::Incomplete { digest, why: "its manifest is not here".to_owned() };
        let stored = store.manifest(&digest).await?.ok_or_else(missing)?;
        let manifest = Manifest::parse(&stored.bytes, &stored.media_type)
            .map_err(|source| store::Error::Manifest { digest, source })?;
        let links = store.links(&digest).await?;
        let is_carried = |child: &Descriptor| links.iter().any(|link| link.child == child.digest && link.carried);
        let is_wanted = |child: &Descriptor| match (platform, child.platform()) {
            // An attestation goes with the child that it describes.
            (Some(wanted), Some(_)) if child.describes().is_some() => manifest.manifests.iter().any(|other| {
                Some(other.digest) == child.describes() && other.platform().is_some_and(|of| of.serves(wanted))
            }),
            (Some(wanted), Some(of)) => of.serves(wanted),
            _ => true,
        };
        let mut left_out = Vec::new();
        open.push((digest, true));
        for child in &manifest.manifests {
            if is_carried(child) && is_wanted(child) {
                open.push((child.digest, false));
            } else {
                left_out.push(child.clone());
            }
        }
        for blob in manifest.blobs() {
            if !is_carried(blob) {
                left_out.push(blob.clone());
            } else if blobs.insert(blob.digest) {
                gathered.blobs.push(blob.clone());
            }
        }
        read.insert(digest, Document { stored, manifest, left_out });
    }
    if let (Some(wanted), Some(top)) = (platform, gathered.documents.last()) {
        if top.manifest.shape == Shape::Index && gathered.documents.len() == 1 && !top.manifest.manifests.is_empty() {
            let why = format!("nothing of it is here for {wanted}");
            return Err(Error::Incomplete { digest: top.stored.digest, why });
        }
    }
    Ok(gathered)
}
