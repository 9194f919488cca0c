//! What can keep a server from starting or running. What goes wrong with one request is a
//! [`Refusal`](crate::refusal::Refusal) instead.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use store::AccountKind;

/// An answer of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with the thing it went wrong with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address is taken.
    #[error("{address} is in use{}", by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default())]
    InUse {
        /// Where the server was to listen.
        address: SocketAddr,
        /// Who listens there, as far as `/proc` tells: command and process.
        by: Option<String>,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where the server was to listen.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// A value of the configuration cannot be meant.
    #[error("`{key}: {value}` in the server's configuration: {why}")]
    Config {
        /// Its key.
        key: &'static str,
        /// What stands there.
        value: String,
        /// Why not.
        why: &'static str,
    },
    /// A certificate or its key cannot be used.
    #[error("{path}: {why}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The site's CA in the catalog cannot be used, or a certificate cannot be made with it.
    #[error("the site's CA: {0}")]
    Authority(#[from] rcgen::Error),
    /// The CA cannot be exchanged now.
    #[error("{0}")]
    Rotation(&'static str),
    /// Another site's keys were to be taken.
    #[error("this store has a CA of its own already, with the SHA-256 fingerprint {fingerprint}")]
    OtherAuthority {
        /// Of the one that is here.
        fingerprint: String,
    },
    /// The TLS library refused.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// No account can be called so.
    #[error("`{0}` is not a name that an account can have")]
    AccountName(String),
    /// There is an account of that name.
    #[error("there is a {kind} called {name} already")]
    AccountExists {
        /// Token or user.
        kind: AccountKind,
        /// Its name.
        name: String,
    },
    /// There is no account of that name.
    #[error("there is no {kind} called {name}")]
    NoAccount {
        /// Token or user.
        kind: AccountKind,
        /// The name.
        name: String,
    },
    /// A password cannot be one.
    #[error("the password {0}")]
    Password(&'static str),
    /// A line of a file of htpasswd cannot be taken.
    #[error("line {line}: {why}")]
    Htpasswd {
        /// Its number, from 1.
        line: usize,
        /// Why not.
        why: String,
    },
    /// Neither a certificate nor the SHA-256 of one.
    #[error("neither a PEM certificate nor the SHA-256 of one")]
    Fingerprint,
    /// Somebody else shows that certificate.
    #[error("{kind} {name} has that certificate already")]
    CertificateTaken {
        /// Token or user.
        kind: AccountKind,
        /// Whose it is.
        name: String,
    },
    /// The system's source of randomness failed.
    #[error("the system gives no random bytes")]
    Random,
    /// The section `upstreams` cannot be used.
    #[error("the server's configuration: {0}")]
    Upstream(#[from] upstream::Error),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::InUse { .. } => {
                "end that process, or choose another address with --listen (port 0 takes a free one)".to_owned()
            }
            Self::Listen { source, address } if source.kind() == io::ErrorKind::PermissionDenied => {
                format!(
                    "ports below 1024 need root or CAP_NET_BIND_SERVICE; {} does not",
                    SocketAddr::new(address.ip(), 5000)
                )
            }
            Self::Listen { .. } => "name an address of this machine, as 0.0.0.0:5000, with --listen".to_owned(),
            Self::Certificate { .. } => {
                "give a PEM chain with --cert and its unencrypted PEM key with --key, or neither: naru makes its own; \
                 `client_ca` is a PEM file of the CAs that sign clients' certificates"
                    .to_owned()
            }
            Self::Config { .. } => "docs/reference/serve.md describes every key".to_owned(),
            Self::Authority(_) => {
                "the document `site/ca` in the catalog is damaged; restore it from a backup".to_owned()
            }
            Self::Rotation(_) => "`naru key ls` shows which CA there is, and the next one".to_owned(),
            Self::OtherAuthority { .. } => {
                "clients that know it would be lost; give it up with --force when there are none".to_owned()
            }
            Self::AccountName(_) => "take 1 to 64 letters, digits, and . _ - @".to_owned(),
            Self::AccountExists { kind, name } => {
                format!("`naru {kind} rm {name}` ends it; or choose another name")
            }
            Self::NoAccount { kind, .. } => format!("`naru {kind} ls` lists those there are"),
            Self::CertificateTaken { kind, name } => {
                format!("a certificate says who it is: give each person one of their own, or `naru {kind} rm {name}`")
            }
            Self::Fingerprint => {
                "`openssl x509 -noout -fingerprint -sha256 -in FILE` prints it, or name the file".to_owned()
            }
            Self::Htpasswd { .. } => {
                "nothing was taken over; bcrypt is (`htpasswd -B`): leave that line out, and give its user a password here \
                 with `naru user add`"
                    .to_owned()
            }
            Self::Store(error) => return error.hint(),
            Self::Upstream(error) => return error.hint(),
            _ => return None,
        })
    }
}
