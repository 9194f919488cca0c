//! From a digest to everything that is carried for it: indexes, the platforms that were chosen, their manifests.

use std::collections::{BTreeSet, HashSet};

use artifact::{Descriptor, Digest, Manifest, Platform, Repository, Shape};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde::Deserialize;

use super::{LockedBlob, LockedManifest};
use crate::error::{Error, Result};
use crate::list::{ForeignLayers, Platforms};
use crate::sink::Memory;

/// So many manifests may belong to one image, referrers included.
const MANIFESTS: usize = 4096;
/// So deep may indexes lie in indexes.
const DEPTH: usize = 8;
/// A configuration may have so many bytes.
const CONFIG: u64 = 8 * 1024 * 1024;

/// Everything that one image needs, as it is found.
pub(super) struct Walk<'a> {
    client: &'a upstream::Client,
    repository: &'a Repository,
    foreign_layers: ForeignLayers,
    /// What was visited: each manifest is carried once, whoever points at it.
    visited: HashSet<Digest>,
    /// The platforms that the indexes have.
    pub(super) platforms: BTreeSet<String>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(client: &'a upstream::Client, repository: &'a Repository, foreign_layers: ForeignLayers) -> Self {
        Self { client, repository, foreign_layers, visited: HashSet::new(), platforms: BTreeSet::new() }
    }

    /// Whether this manifest is carried already.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.visited.contains(digest)
    }

    /// The manifest `root` and those below it that these platforms need: parents before children, and nothing that an
    /// earlier call has found.
    pub(super) async fn from(&mut self, root: &Digest, platforms: &Platforms) -> Result<Vec<LockedManifest>> {
        let (mut found, before) = (Vec::new(), self.visited.clone());
        if let Err(error) = self.visit(*root, None, platforms, 0, &mut found).await {
            // What was visited in vain is not carried.
            self.visited = before;
            return Err(error);
        }
        // Found children first; reversed, no child stands before any of its parents.
        found.reverse();
        Ok(found)
    }

    fn visit<'b>(
        &'b mut self,
        digest: Digest,
        platform: Option<String>,
        platforms: &'b Platforms,
        depth: usize,
        found: &'b mut Vec<LockedManifest>,
    ) -> BoxFuture<'b, Result<()>> {
        async move {
            if !self.visited.insert(digest) {
                return Ok(());
            }
            if depth > DEPTH {
                return Err(Error::TooMany { what: "indexes within indexes", digest, limit: DEPTH });
            }
            if self.visited.len() > MANIFESTS {
                return Err(Error::TooMany { what: "manifests", digest, limit: MANIFESTS });
            }
            let fetched = self.client.manifest(self.repository, &digest).await?;
            let manifest = Manifest::parse(&fetched.bytes, &fetched.media_type)
                .map_err(|source| Error::Manifest { digest, source })?;
            for child in self.chosen(&manifest, platforms) {
                let platform = child.known_platform().map(|platform| platform.to_string());
                let platform = platform.or_else(|| child.platform().map(|_| "unknown/unknown".to_owned()));
                self.visit(child.digest, platform, platforms, depth + 1, found).await?;
            }
            found.push(LockedManifest {
                digest,
                size: fetched.bytes.len() as u64,
                blobs: manifest.blobs().map(|blob| self.blob(blob)).collect(),
                media_type: manifest.media_type,
                platform,
            });
            Ok(())
        }
        .boxed()
    }

    /// The children of an index that are carried, in its order.
    fn chosen<'b>(&mut self, manifest: &'b Manifest, platforms: &Platforms) -> Vec<&'b Descriptor> {
        if manifest.shape == Shape::Manifest {
            return Vec::new();
        }
        let known = manifest.manifests.iter().filter_map(Descriptor::known_platform);
        self.platforms.extend(known.map(|platform| platform.to_string()));
        match platforms {
            Platforms::All => manifest.manifests.iter().collect(),
            Platforms::These(_) => manifest.chosen(|platform| platforms.choose(platform)),
        }
    }

    fn blob(&self, blob: &Descriptor) -> LockedBlob {
        let foreign = blob.is_foreign();
        LockedBlob {
            digest: blob.digest,
            size: blob.size,
            media_type: blob.media_type.clone(),
            urls: if foreign { blob.urls.clone() } else { Vec::new() },
            skipped: foreign && self.foreign_layers == ForeignLayers::Skip,
        }
    }

    /// The platform that the configuration of an image that has no index is for; `None` when it is not an image.
    pub(super) async fn configured(&self, image: &LockedManifest) -> Result<Option<Platform>> {
        #[derive(Deserialize)]
        struct Configuration {
            os: Option<String>,
            architecture: Option<String>,
            variant: Option<String>,
        }
        let is_config = |blob: &&LockedBlob| {
            matches!(
                blob.media_type.as_str(),
                artifact::media_type::OCI_CONFIG | "application/vnd.docker.container.image.v1+json"
            )
        };
        let Some(config) = image.blobs.first().filter(is_config).filter(|blob| blob.size <= CONFIG) else {
            return Ok(None);
        };
        let mut sink = Memory::default();
        self.client.blob(self.repository, &config.descriptor(), &mut sink).await?;
        // Wrong bytes are found out when the blob is pulled; here they only cost a warning.
        let read = serde_json::from_slice::<Configuration>(sink.bytes()).ok();
        Ok(read.and_then(|read| {
            Some(Platform {
                os: read.os?,
                architecture: read.architecture?,
                variant: read.variant.filter(|variant| !variant.is_empty()),
            })
        }))
    }
}
