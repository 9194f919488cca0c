//! What is handed out: a store's things, or a bundle's, where its volumes lie. The server asks either in the same words.

use std::path::PathBuf;
use std::sync::Arc;

use artifact::{Digest, Entry, Kind, Repository};
use bundle::{Extent, Shelf};
use store::{Blob, Candidate, Hit, Referrer, Store, StoredManifest, Usage};

use crate::body::OpenBlob;
use crate::refusal::Refusal;

/// A store, or a bundle.
#[derive(Clone, Debug)]
pub(crate) enum Stock {
    Store(Store),
    Shelf(Arc<Shelf>),
}

/// Asks the shelf where waiting for a medium keeps nobody else waiting.
async fn ask<T: Send + 'static>(
    shelf: &Arc<Shelf>,
    question: impl FnOnce(&Shelf) -> bundle::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    let shelf = Arc::clone(shelf);
    Ok(tokio::task::spawn_blocking(move || question(&shelf)).await.map_err(Refusal::inside)??)
}

impl Stock {
    /// Moves when what is here changes; volumes never change.
    pub(crate) fn version(&self) -> u64 {
        match self {
            Self::Store(store) => store.version(),
            Self::Shelf(_) => 1,
        }
    }

    /// Why nothing can be pushed here, where nothing can.
    pub(crate) fn is_fixed(&self) -> Option<&'static str> {
        match self {
            Self::Store(_) => None,
            Self::Shelf(_) => Some(
                "this server hands out a bundle where its volumes lie (naru serve --bundle), and nothing can be pushed \
                 there; load the bundle into a store and serve that",
            ),
        }
    }

    pub(crate) async fn entry(&self, repository: &Repository, name: &str) -> Result<Option<Entry>, Refusal> {
        match self {
            Self::Store(store) => Ok(store.entry(repository, name).await?),
            Self::Shelf(shelf) => {
                let (repository, name) = (repository.clone(), name.to_owned());
                ask(shelf, move |shelf| shelf.entry(&repository, &name)).await
            }
        }
    }

    pub(crate) async fn entries(
        &self,
        repository: &Repository,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Entry>, Refusal> {
        match self {
            Self::Store(store) => Ok(store.entries(repository, after, limit).await?),
            Self::Shelf(shelf) => {
                let (repository, after) = (repository.clone(), after.to_owned());
                ask(shelf, move |shelf| shelf.entries(&repository, &after, limit)).await
            }
        }
    }

    /// Whether there is anything of this repository here.
    pub(crate) async fn shows_anything(&self, repository: &Repository) -> Result<bool, Refusal> {
        match self {
            Self::Store(store) => Ok(store.shows_anything(repository).await?),
            Self::Shelf(_) => Ok(!self.entries(repository, "", 1).await?.is_empty()),
        }
    }

    pub(crate) async fn repository_names(&self, kind: Kind, after: &str, limit: u32) -> Result<Vec<String>, Refusal> {
        match self {
            Self::Store(store) => Ok(store.repository_names(kind, after, limit).await?),
            Self::Shelf(shelf) => Ok(shelf.repository_names(kind, after, limit)),
        }
    }

    pub(crate) async fn hosts(&self, kind: Kind) -> Result<Vec<String>, Refusal> {
        match self {
            Self::Store(store) => Ok(store.hosts(kind).await?),
            Self::Shelf(shelf) => Ok(shelf.hosts(kind)),
        }
    }

    pub(crate) async fn candidates(&self, name: &str, reference: &str) -> Result<Vec<Candidate>, Refusal> {
        match self {
            Self::Store(store) => Ok(store.candidates(name, reference).await?),
            Self::Shelf(shelf) => {
                let (name, reference) = (name.to_owned(), reference.to_owned());
                ask(shelf, move |shelf| shelf.candidates(&name, &reference)).await
            }
        }
    }

    pub(crate) async fn granted_blob(&self, repository: &Repository, digest: &Digest) -> Result<Option<Blob>, Refusal> {
        match self {
            Self::Store(store) => Ok(store.granted_blob(repository, digest).await?),
            Self::Shelf(shelf) => {
                let (repository, digest) = (repository.clone(), *digest);
                let lying = ask(shelf, move |shelf| shelf.granted_blob(&repository, &digest)).await?;
                Ok(lying.map(|lying| Blob { digest, size: lying.size, key: digest.to_string() }))
            }
        }
    }

    /// Says that a push will need it.
    pub(crate) async fn renew(&self, repository: &Repository, digest: &Digest) -> Result<(), Refusal> {
        match self {
            Self::Store(store) => Ok(store.renew_grant(repository, digest).await?),
            Self::Shelf(_) => Ok(()),
        }
    }

    pub(crate) async fn granted_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<StoredManifest>, Refusal> {
        match self {
            Self::Store(store) => Ok(store.granted_manifest(repository, digest).await?),
            Self::Shelf(shelf) => {
                let (repository, digest) = (repository.clone(), *digest);
                ask(shelf, move |shelf| shelf.granted_manifest(&repository, &digest)).await
            }
        }
    }

    pub(crate) async fn referrers(&self, repository: &Repository, subject: &Digest) -> Result<Vec<Referrer>, Refusal> {
        match self {
            Self::Store(store) => Ok(store.referrers(repository, subject).await?),
            Self::Shelf(shelf) => {
                let (repository, subject) = (repository.clone(), *subject);
                ask(shelf, move |shelf| shelf.referrers(&repository, &subject)).await
            }
        }
    }

    /// Some of them, after `after` in the order of digests, of one artifact type where it is told; and whether there are
    /// more.
    pub(crate) async fn referrers_after(
        &self,
        repository: &Repository,
        subject: &Digest,
        artifact_type: Option<&str>,
        after: Option<&Digest>,
    ) -> Result<(Vec<Referrer>, bool), Refusal> {
        match self {
            Self::Store(store) => Ok(store.referrers_after(repository, subject, artifact_type, after).await?),
            Self::Shelf(_) => {
                let mut all = self.referrers(repository, subject).await?;
                all.retain(|referrer| {
                    artifact_type.is_none_or(|wanted| referrer.artifact_type.as_deref() == Some(wanted))
                });
                Ok((all, false))
            }
        }
    }

    /// The manifest of this repository that names something that this repository may not show, and whether that is a
    /// manifest. Whether the store has it for another repository is not looked at: who pushes an index that names it must
    /// not learn that.
    pub(crate) async fn left_out(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<(Digest, bool)>, Refusal> {
        match self {
            Self::Store(store) => {
                for parent in store.parents(digest).await? {
                    if !store.granted_manifest(repository, &parent).await?.is_some_and(|parent| parent.complete) {
                        continue;
                    }
                    let links = store.links(&parent).await?;
                    if let Some(link) = links.into_iter().find(|link| link.child == *digest) {
                        return Ok(Some((parent, link.is_manifest)));
                    }
                }
                Ok(None)
            }
            Self::Shelf(shelf) => {
                let (repository, digest) = (repository.clone(), *digest);
                ask(shelf, move |shelf| shelf.left_out(&repository, &digest)).await
            }
        }
    }

    /// The manifests that point at this digest. A bundle is not asked: it would have to read them all.
    pub(crate) async fn parents(&self, child: &Digest) -> Result<Vec<Digest>, Refusal> {
        match self {
            Self::Store(store) => Ok(store.parents(child).await?),
            Self::Shelf(_) => Ok(Vec::new()),
        }
    }

    pub(crate) async fn search(&self, text: &str, limit: u32) -> Result<Vec<Hit>, Refusal> {
        match self {
            Self::Store(store) => Ok(store.search(text, limit).await?),
            Self::Shelf(shelf) => {
                let text = text.to_owned();
                ask(shelf, move |shelf| shelf.search(&text, limit)).await
            }
        }
    }

    pub(crate) async fn usage(&self) -> Result<Usage, Refusal> {
        match self {
            Self::Store(store) => Ok(store.usage().await?),
            Self::Shelf(shelf) => Ok(shelf.usage()),
        }
    }

    /// Opens a blob that was granted.
    pub(crate) async fn open(&self, blob: &Blob) -> Result<OpenBlob, Refusal> {
        match self {
            Self::Store(store) => {
                let (store, wanted) = (store.clone(), blob.clone());
                let opened = tokio::task::spawn_blocking(move || {
                    let (path, file) = (PathBuf::from(&wanted.key), Arc::new(store.open_blob(&wanted)?));
                    let piece = Extent { path, file, offset: 0, size: wanted.size };
                    Ok::<_, store::Error>(OpenBlob::of_store(wanted.digest, piece))
                });
                Ok(opened.await.map_err(Refusal::inside)??)
            }
            Self::Shelf(shelf) => {
                let digest = blob.digest;
                let lying = ask(shelf, move |shelf| shelf.blob(&digest)).await?;
                let missing = || Refusal::blob_unknown("the bundle", &digest);
                Ok(OpenBlob::on_medium(digest, lying.ok_or_else(missing)?.pieces))
            }
        }
    }
}
