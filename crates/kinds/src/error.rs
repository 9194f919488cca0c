//! What can be wrong with what a kind is given.

/// An answer of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong, with the thing itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A client that Naru writes no configuration for.
    #[error("`{0}` is not a client that naru can set up")]
    Client(String),
    /// A version that does not begin with a number.
    #[error("`{0}` is not a version")]
    Version(String),
    /// A server's address that a client's configuration cannot hold.
    #[error("`{url}` is not the address of a server: {why}")]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A host of an upstream that is none.
    #[error("`{0}` is not the host of an upstream")]
    Host(String),
    /// A client's file that cannot be read, so that nothing can be added to it.
    #[error("{path}: {why}")]
    File {
        /// Where it lies on the client.
        path: String,
        /// What is wrong with it, with the place.
        why: String,
    },
}

impl Error {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Client(_) => "the clients are containerd, docker and podman".to_owned(),
            Self::Version(_) => "write it as the client prints it, as 1.7.24 or 29.0".to_owned(),
            Self::Address { .. } => "write scheme, host and port, as https://10.0.0.5:5000".to_owned(),
            Self::Host(_) => "write it as images do, as registry.k8s.io or registry.example:5000".to_owned(),
            Self::File { .. } => "the client cannot read it either; mend it, then run the same again".to_owned(),
        })
    }
}
