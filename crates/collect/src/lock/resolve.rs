//! Asking the upstreams what a packing list means today.

use std::collections::{BTreeMap, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use artifact::{Digest, Progress, Reference, Repository, Trust};
use futures_util::FutureExt as _;
use upstream::Client;
use url::Url;

use super::walk::Walk;
use super::{Attached, Lock, LockedBlob, LockedFile, LockedImage, LockedLocal, LockedManifest};
use crate::checksum;
use crate::error::{Error, Failure, Result};
use crate::list::{Check, FileWish, ForeignLayers, ImageWish, LocalWish, PackingList, Platforms};
use crate::local;
use crate::sink::Hashing;
use crate::together::together;

/// So many wishes are resolved at a time; the client bounds what one host gets.
const AT_A_TIME: usize = 8;
/// So deep may referrers refer to referrers.
const DEPTH: usize = 4;
/// Tags that cosign, and registries without the referrers API, make of a digest. The bare one is that API's fallback.
const SUFFIXES: [&str; 4] = ["", ".sig", ".att", ".sbom"];

/// Resolves `list` at `now` (seconds since 1970).
///
/// What `previous` has for an unchanged wish is kept, without asking anybody, unless `update` names it: by reference,
/// repository, URL or path, or all with `*`. The files of this machine are always looked at.
///
/// # Errors
/// [`Error::UnknownUpdate`] when `update` names nothing, and [`Error::Failed`] with everything that could not be
/// resolved.
pub async fn lock<'a>(
    list: &'a PackingList,
    previous: Option<&Lock>,
    update: &[String],
    client: &Client,
    now: i64,
    progress: &dyn Progress,
) -> Result<Lock> {
    for name in update {
        let known = list.images.iter().any(|wish| image_is(&wish.reference, name))
            || list.files.iter().any(|wish| file_is(wish, name));
        if !known && name != "*" {
            return Err(Error::UnknownUpdate { name: name.clone() });
        }
    }
    if list.platforms_assumed && !list.images.is_empty() {
        let here = artifact::Platform::here();
        progress.say(&format!("platforms: {here}, which is this machine's, since the packing list names none"));
    }
    let locking = Locking { client, now, progress, foreign_layers: list.foreign_layers, folder: list.folder() };
    let total = list.images.len() + list.files.len() + list.local.len();
    let mut failures = Vec::new();

    let locking = &locking;
    let resolve_image = |wish: &'a ImageWish| async move {
        let before = previous.and_then(|lock| lock.images.iter().find(|image| image.reference == wish.reference));
        let kept = before.filter(|_| !update.iter().any(|name| image_is(&wish.reference, name)));
        let same_layers = previous.is_some_and(|lock| lock.foreign_layers == list.foreign_layers);
        let locked = match kept {
            Some(kept) if same_layers && kept.platforms == wish.platforms && kept.referrers == wish.referrers => {
                Ok(kept.clone())
            }
            _ => locking.image(wish, kept, before).await,
        };
        locked.map_err(|error| Failure { name: wish.reference.to_string(), error })
    };
    let images = list.images.iter().map(|wish| resolve_image(wish).boxed()).collect();
    let images = gather(together(AT_A_TIME, images).await, &mut failures);

    let resolve_file = |wish: &'a FileWish| async move {
        let is_same = |file: &&LockedFile| file.url == wish.url && file.path == wish.path && file.check() == wish.check;
        let kept = previous.and_then(|lock| lock.files.iter().find(is_same));
        match kept.filter(|_| !update.iter().any(|name| file_is(wish, name))) {
            Some(kept) => Ok(kept.clone()),
            None => locking.file(wish).await.map_err(|error| Failure { name: wish.url.to_string(), error }),
        }
    };
    let files = list.files.iter().map(|wish| resolve_file(wish).boxed()).collect();
    let files = gather(together(AT_A_TIME, files).await, &mut failures);

    let mut local = Vec::new();
    for wish in &list.local {
        match locking.local(wish, previous).await {
            Ok(found) => local.extend(found),
            Err(error) => failures.push(Failure { name: wish.path.display().to_string(), error }),
        }
    }
    if !failures.is_empty() {
        return Err(Error::Failed { action: "lock", total, failures });
    }
    let mut lock = Lock { foreign_layers: list.foreign_layers, images, files, local };
    lock.sort();
    Ok(lock)
}

fn gather<T>(results: Vec<Result<T, Failure>>, failures: &mut Vec<Failure>) -> Vec<T> {
    results.into_iter().filter_map(|result| result.map_err(|failure| failures.push(failure)).ok()).collect()
}

/// Whether `--update NAME` means this image.
fn image_is(reference: &Reference, name: &str) -> bool {
    let repository = reference.repository();
    name == "*"
        || repository.to_string() == name
        || repository.name == name
        || repository.name.rsplit('/').next() == Some(name)
        || name.parse::<Reference>().is_ok_and(|named| named == *reference)
}

/// Whether `--update NAME` means this file.
fn file_is(wish: &FileWish, name: &str) -> bool {
    let at = format!("{}/{}", wish.host, wish.path);
    name == "*"
        || name == wish.url.as_str()
        || name == wish.path
        || name == at
        || wish.path.rsplit('/').next() == Some(name)
}

struct Locking<'a> {
    client: &'a Client,
    now: i64,
    progress: &'a dyn Progress,
    foreign_layers: ForeignLayers,
    folder: &'a Path,
}

impl Locking<'_> {
    /// Resolves an image; its digest is that of `kept` where there is one. `before` is what it was.
    async fn image(
        &self,
        wish: &ImageWish,
        kept: Option<&LockedImage>,
        before: Option<&LockedImage>,
    ) -> Result<LockedImage> {
        let reference = &wish.reference;
        let repository = reference.repository();
        let (digest, trust, resolved, note) = if let Some(kept) = kept {
            (kept.digest, kept.trust, kept.resolved, kept.note.clone())
        } else {
            let resolved = self.client.resolve(reference).await?;
            (resolved.digest, resolved.trust, self.now, self.disagreement(reference).await?)
        };
        if trust.is_weak() {
            self.progress
                .warn(&format!("{reference}: its origin cannot be reached; a mirror's word was taken for the tag"));
        }
        if let Some(note) = &note {
            self.progress.warn(&format!("{reference}: {note}"));
        }
        let mut walk = Walk::new(self.client, &repository, self.foreign_layers);
        let mut manifests = walk.from(&digest, &wish.platforms).await?;
        self.check_platforms(wish, &walk, &mut manifests).await?;
        let mut attached = Vec::new();
        if wish.referrers {
            // What says `unknown` is an attestation itself.
            let is_platform =
                |one: &&LockedManifest| one.platform.as_ref().is_none_or(|text| !text.starts_with("unknown/"));
            for subject in manifests.iter().filter(is_platform).map(|one| one.digest).collect::<Vec<_>>() {
                self.tagged(&repository, subject, &mut walk, &mut attached).await?;
                self.referrers(&repository, subject, &mut walk, &mut attached).await?;
            }
        }
        let image = LockedImage {
            reference: reference.clone(),
            digest,
            trust,
            resolved,
            platforms: wish.platforms.clone(),
            referrers: wish.referrers,
            note,
            manifests,
            attached,
        };
        match before {
            Some(before) if before.digest != digest => {
                self.progress.say(&format!("{reference}: {} -> {digest}", before.digest));
            }
            _ => self.progress.say(&format!("{reference}: {digest}")),
        }
        if image.skipped() > 0 {
            let count = image.skipped();
            self.progress.warn(&format!(
                "{reference}: {count} foreign layers are left out, since their licence forbids to pass them on; \
                 `foreign_layers: carry` takes them along"
            ));
        }
        Ok(image)
    }

    /// What there is to say when the list gives a tag and a digest, and the tag is something else today.
    async fn disagreement(&self, reference: &Reference) -> Result<Option<String>> {
        let (Some(tag), Some(digest)) = (reference.tag(), reference.digest()) else { return Ok(None) };
        let Ok(by_tag) = format!("{}:{tag}", reference.repository()).parse::<Reference>() else { return Ok(None) };
        match self.client.resolve(&by_tag).await {
            Ok(resolved) if resolved.digest == *digest => Ok(None),
            Ok(resolved) => {
                Ok(Some(format!("the tag {tag} is {} at its upstream; the digest was taken", resolved.digest)))
            }
            Err(upstream::Error::NotFound { .. }) => {
                Ok(Some(format!("its upstream has no tag {tag}; the digest was taken")))
            }
            Err(error) => {
                // It comes from a mirror, and who has the tag is away: the digest is what was wished for.
                self.progress.warn(&format!("{reference}: whether its tag is that digest was not seen: {error}"));
                Ok(None)
            }
        }
    }

    /// Refuses an index that lacks a platform, and warns of a single image that is for another.
    async fn check_platforms(&self, wish: &ImageWish, walk: &Walk<'_>, manifests: &mut [LockedManifest]) -> Result<()> {
        let Platforms::These(wanted) = &wish.platforms else { return Ok(()) };
        if !walk.platforms.is_empty() {
            let has: Vec<String> = walk.platforms.iter().cloned().collect();
            let serves = |wanted: &artifact::Platform| {
                has.iter().filter_map(|text| text.parse::<artifact::Platform>().ok()).any(|one| one.serves(wanted))
            };
            return match wanted.iter().find(|wanted| !serves(wanted)) {
                Some(missing) => Err(Error::NoPlatform { wanted: missing.to_string(), has }),
                None => Ok(()),
            };
        }
        let [image] = manifests else { return Ok(()) };
        if let Some(platform) = walk.configured(image).await? {
            if !wanted.iter().any(|wanted| platform.serves(wanted)) {
                let reference = &wish.reference;
                self.progress.warn(&format!("{reference}: it is for {platform} only, not for {}", wish.platforms));
            }
            image.platform = Some(platform.to_string());
        }
        Ok(())
    }

    /// What refers to `subject` by a tag that is made of its digest.
    async fn tagged(
        &self,
        repository: &Repository,
        subject: Digest,
        walk: &mut Walk<'_>,
        attached: &mut Vec<Attached>,
    ) -> Result<()> {
        let tags = SUFFIXES.map(|suffix| format!("{}-{}{suffix}", subject.algorithm().as_str(), subject.hex()));
        let found =
            futures_util::future::try_join_all(tags.iter().map(|tag| self.client.tagged(repository, tag))).await?;
        for (tag, found) in tags.into_iter().zip(found) {
            let Some(found) = found else { continue };
            let Some(manifests) = self.attachment(repository, &found.digest, walk).await? else { continue };
            attached.push(Attached { subject, digest: found.digest, tag: Some(tag), manifests });
        }
        Ok(())
    }

    /// All of something that refers to something else; `None` when a part of it is gone: registries collect garbage, and
    /// leave the lists that name it as they are.
    async fn attachment(
        &self,
        repository: &Repository,
        digest: &Digest,
        walk: &mut Walk<'_>,
    ) -> Result<Option<Vec<LockedManifest>>> {
        match walk.from(digest, &Platforms::All).await {
            Ok(manifests) => Ok(Some(manifests)),
            Err(Error::Upstream(upstream::Error::NotFound { url })) => {
                self.progress.warn(&format!("{repository}: the referrer {digest} is left out: {url} is gone"));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// What refers to `subject` by the referrers API, and what refers to that.
    async fn referrers(
        &self,
        repository: &Repository,
        subject: Digest,
        walk: &mut Walk<'_>,
        attached: &mut Vec<Attached>,
    ) -> Result<()> {
        let mut open = vec![(subject, 1)];
        let mut asked = HashSet::new();
        while let Some((subject, depth)) = open.pop() {
            if !asked.insert(subject) {
                continue;
            }
            for referrer in self.client.referrers(repository, &subject).await? {
                if depth > DEPTH {
                    return Err(Error::TooMany { what: "referrers of referrers", digest: subject, limit: DEPTH });
                }
                // One that the fallback tag's index has brought along may still have referrers of its own.
                if !walk.has(&referrer.digest) {
                    let found = self.attachment(repository, &referrer.digest, walk).await?;
                    let Some(manifests) = found else { continue };
                    attached.push(Attached { subject, digest: referrer.digest, tag: None, manifests });
                }
                open.push((referrer.digest, depth + 1));
            }
        }
        Ok(())
    }

    async fn file(&self, wish: &FileWish) -> Result<LockedFile> {
        let (expected, checksum_url) = match &wish.check {
            Check::Sha256(digest) => (Some(*digest), None),
            Check::Document(document) => (Some(self.sum(document, wish).await?), Some(document.clone())),
            Check::FirstUse => (None, None),
        };
        let head = match expected {
            Some(_) => self.client.head(&wish.url).await?,
            None => upstream::Remote::default(),
        };
        let (digest, size, last_modified) =
            if let (Some(digest), Some(size)) =
                // Some servers say nothing of the length but that it is none.
                (expected, head.size.filter(|size| *size > 0 || expected == Some(Digest::of(b""))))
            {
                (digest, size, head.last_modified)
            } else {
                // Nobody says what it is, or how large: its bytes do.
                self.progress.say(&format!("{}: reading it whole, to learn its size and sha256", wish.url));
                let mut sink = Hashing::default();
                let remote = self.client.file(&wish.url, None, &mut sink).await?;
                let (found, size) = sink.finish();
                if let Some(expected) = expected.filter(|expected| *expected != found) {
                    return Err(Error::WrongFile { name: wish.url.to_string(), expected, found });
                }
                (found, size, remote.last_modified)
            };
        let trust = wish.check.trust();
        if trust == Trust::FirstUse {
            let sum = digest.hex();
            self.progress.warn(&format!("{}: nothing vouches for it; believed as it came: sha256: {sum}", wish.url));
        }
        self.progress.say(&format!("{}: {digest}", wish.url));
        Ok(LockedFile {
            url: wish.url.clone(),
            host: wish.host.clone(),
            path: wish.path.clone(),
            size,
            digest,
            trust,
            checksum_url,
            last_modified,
            resolved: self.now,
        })
    }

    /// The sum that a checksum document has for a file.
    async fn sum(&self, document: &Url, wish: &FileWish) -> Result<Digest> {
        let wrong = |why: String| Error::Checksum { url: document.to_string(), why };
        let bytes = self.client.document(document, checksum::LIMIT).await?;
        let text = std::str::from_utf8(&bytes).map_err(|_| wrong("it is not text".to_owned()))?;
        let name = wish.url.path().rsplit('/').next().unwrap_or_default();
        let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
        checksum::find(text, &name).map_err(wrong)
    }

    async fn local(&self, wish: &LocalWish, previous: Option<&Lock>) -> Result<Vec<LockedLocal>> {
        let (folder, wanted) = (self.folder.to_owned(), wish.clone());
        let looked = tokio::task::spawn_blocking(move || -> Result<(Vec<_>, Vec<PathBuf>)> {
            let (found, skipped) = local::find(&folder, &wanted)?;
            let hashed = found.into_iter().map(|file| local::hash(&folder.join(&file.source)).map(|sum| (file, sum)));
            Ok((hashed.collect::<Result<Vec<_>>>()?, skipped))
        });
        let (found, skipped) = looked.await.map_err(Error::thread)??;
        for path in skipped {
            self.progress.warn(&format!("{}: neither a file nor a folder (a link?): left out", path.display()));
        }
        Ok(found
            .into_iter()
            .map(|(file, (digest, size))| {
                let same = |one: &&LockedLocal| one.path == file.path && one.digest == digest;
                let before = previous.and_then(|lock| lock.local.iter().find(same));
                let resolved = before.map_or(self.now, |before| before.resolved);
                LockedLocal { path: file.path, source: file.source, size, digest, resolved }
            })
            .collect())
    }
}

/// In what the files of this machine differ from what a lock says of them, a line for each: what was changed, added or
/// taken away since. Reads those that have kept their size.
///
/// # Errors
/// When a file or folder cannot be read.
pub async fn changed_here(lock: &Lock, list: &PackingList) -> Result<Vec<String>> {
    let (folder, wishes, locked) = (list.folder().to_owned(), list.local.clone(), lock.local.clone());
    let looked = tokio::task::spawn_blocking(move || {
        let mut differences = Vec::new();
        for wish in &wishes {
            let mut before: BTreeMap<_, _> =
                locked.iter().filter(|file| file.is_of(&wish.path)).map(|file| (&file.source, file)).collect();
            let found = match local::find(&folder, wish) {
                Ok((found, _)) => found,
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(error),
            };
            for file in found {
                let Some(before) = before.remove(&file.source) else {
                    differences.push(format!("not locked: {}", file.source.display()));
                    continue;
                };
                let path = folder.join(&file.source);
                let size = std::fs::metadata(&path).map_err(Error::io(&path))?.len();
                if size != before.size || local::hash(&path)?.0 != before.digest {
                    differences.push(format!("changed since it was locked: {}", file.source.display()));
                }
            }
            differences
                .extend(before.into_keys().map(|source| format!("gone since it was locked: {}", source.display())));
        }
        Ok(differences)
    });
    looked.await.map_err(Error::thread)?
}

impl LockedBlob {
    /// What the registry is asked for.
    pub(crate) fn descriptor(&self) -> artifact::Descriptor {
        artifact::Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest,
            size: self.size,
            urls: self.urls.clone(),
            platform: None,
            artifact_type: None,
            annotations: None,
        }
    }
}
