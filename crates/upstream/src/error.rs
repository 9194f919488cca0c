//! What can go wrong outside.

/// An answer of an upstream.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with the URL or host it went wrong with (credentials taken out).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The upstream has no such thing.
    #[error("{url}: not found")]
    NotFound {
        /// What was asked for.
        url: String,
    },
}
