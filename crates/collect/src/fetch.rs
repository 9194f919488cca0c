//! A blob from an upstream into a store: continued where an earlier run stopped, and begun again where that was wrong.

use artifact::{Descriptor, Digest, Progress, Repository};
use store::{NewBlob, Store};
use upstream::{Client, Sink as _};
use url::Url;

use crate::error::{Error, Result};
use crate::sink::Storing;

/// Where a blob may be had.
pub(crate) enum Source<'a> {
    /// In a repository, by its descriptor.
    Registry(&'a Repository, Box<Descriptor>),
    /// At an address, so many bytes.
    Web(&'a Url, Option<u64>),
}

/// Fetches a blob; nobody has named it then.
pub(crate) async fn blob(
    client: &Client,
    store: &Store,
    digest: &Digest,
    source: &Source<'_>,
    progress: &dyn Progress,
) -> Result<NewBlob> {
    let mut resumed = true;
    loop {
        let mut sink = Storing::open(store, digest, progress).await?;
        resumed &= sink.len() > 0;
        let transferred = match source {
            Source::Web(url, size) => client.pinned_file(url, *size, digest, &mut sink).await.map(drop),
            Source::Registry(repository, blob) => client.blob(repository, blob, &mut sink).await,
        };
        if let Err(error) = transferred {
            // When it was the store that would take no more, it says so here.
            sink.stop().await?;
            return Err(match (error, source) {
                (upstream::Error::TooLarge { limit, .. }, Source::Web(..)) => Error::Larger { size: limit },
                (error, _) => error.into(),
            });
        }
        match (sink.finish().await, source) {
            // The half that lay here may be what is wrong; it is gone now.
            (Err(Error::Store(store::Error::Mismatch { .. })), _) if resumed => resumed = false,
            (Err(Error::Store(store::Error::Mismatch { expected, found })), Source::Web(url, _)) => {
                return Err(Error::WrongFile { name: url.to_string(), expected, found });
            }
            (finished, _) => return finished,
        }
    }
}
