//! What can go wrong outside. Every variant names the URL or host it went wrong with, without credentials.

use std::error::Error as StdError;
use std::time::Duration;

use artifact::{Digest, InvalidManifest};
use url::Url;

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
    /// The upstream wants other credentials, or some at all (401, 403).
    #[error("{url}: not authorized{}", after_colon(detail))]
    Unauthorized {
        /// What was asked for.
        url: String,
        /// The host whose credentials would be needed.
        host: String,
        /// What the upstream said about it.
        detail: String,
    },
    /// 429, again and again.
    #[error("{url}: the upstream limits requests{}", retry_after.map(|time| format!(" and asks to wait {} s", time.as_secs())).unwrap_or_default())]
    RateLimited {
        /// What was asked for.
        url: String,
        /// What the upstream asks to wait.
        retry_after: Option<Duration>,
    },
    /// No answer could be had.
    #[error("{url}: {reason}{}", cause(library.as_deref()))]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Its host.
        host: String,
        /// How far it came.
        reason: Unreachable,
        /// The library's own error, whose innermost words are among ours: it is no source, so as not to be told twice.
        library: Option<Box<dyn StdError + Send + Sync>>,
    },
    /// The body ended early, and went on ending early.
    #[error("{url}: the body ended after {received} bytes{}", expected.map(|size| format!(" of {size}")).unwrap_or_default())]
    Cut {
        /// What was asked for.
        url: String,
        /// Bytes that are there.
        received: u64,
        /// Bytes that were expected, where that is known.
        expected: Option<u64>,
    },
    /// The bytes are not the ones asked for.
    #[error("{url}: expected {expected}, but the bytes are {found}")]
    Mismatch {
        /// What was asked for.
        url: String,
        /// The digest that was asked for, or that the server's header names.
        expected: Box<Digest>,
        /// The digest of what came.
        found: Box<Digest>,
    },
    /// A page for people came in place of the thing, as filtering proxies send it.
    #[error("{url}: a web page came instead: \"{words}\"")]
    BlockPage {
        /// What was asked for.
        url: String,
        /// The page's title, or its first words.
        words: String,
    },
    /// More bytes than there may be.
    #[error("{url}: more than {limit} bytes came{}", digest.map(|digest| format!(" for {digest}")).unwrap_or_default())]
    TooLarge {
        /// What was asked for.
        url: String,
        /// The limit, in bytes.
        limit: u64,
        /// The digest that was asked for, where there is one.
        digest: Option<Digest>,
    },
    /// Any other status.
    #[error("{url}: the upstream answered {code}{}", after_colon(body))]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        code: u16,
        /// The first words of its body.
        body: String,
        /// `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// What was to be put there is not taken.
    #[error("{url}: the registry refuses it ({code}){}", after_colon(detail))]
    Refused {
        /// Where it was to be put.
        url: String,
        /// The status.
        code: u16,
        /// What the registry said about it.
        detail: String,
    },
    /// A redirect that is not followed.
    #[error("{url}: a redirect to {to} is not followed: {why}")]
    Redirect {
        /// What was asked for.
        url: String,
        /// Where it points.
        to: String,
        /// Why not.
        why: &'static str,
    },
    /// The answer is not what the protocol says it is.
    #[error("{url}: {why}")]
    Protocol {
        /// What was asked for.
        url: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// The manifest is of a sort that is not carried.
    #[error("{url}: {source}")]
    Manifest {
        /// What was asked for.
        url: String,
        /// Why it is not.
        #[source]
        source: InvalidManifest,
    },
    /// Connections are forbidden.
    #[error("{host}: not asked, because --offline or NARU_OFFLINE forbids connections")]
    Offline {
        /// The host that would have been asked.
        host: String,
    },
    /// The configuration cannot be used.
    #[error("{what}: {why}")]
    Config {
        /// The key or file.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The bytes could not be kept.
    #[error("writing what was downloaded: {0}")]
    Sink(#[from] std::io::Error),
}

/// How far a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unreachable {
    /// The name has no address, for sure.
    #[error("the host's name has no address")]
    UnknownName,
    /// It is not at a public address, and its user did not name it.
    #[error("the host is an address, or has one of this machine or of a private network")]
    Private,
    /// The name could not be looked up.
    #[error("the host's name could not be looked up")]
    Dns,
    /// No connection.
    #[error("no connection")]
    Connect,
    /// The host is there, and nobody listens.
    #[error("nobody listens there")]
    Refused,
    /// The same, where a proxy may stand between: the library does not tell which of the two it was.
    #[error("nobody listens there, or at the proxy on the way")]
    RefusedOrProxy,
    /// The proxy wants a user and a password, or others (407).
    #[error("the proxy wants a user and a password")]
    ProxyAuthorization,
    /// The proxy did not let it through.
    #[error("the proxy does not let it through")]
    Proxy,
    /// The certificate is of an issuer that is not trusted.
    #[error("its certificate is of an unknown issuer")]
    UnknownIssuer,
    /// The certificate is wrong in another way.
    #[error("its certificate is not valid")]
    Certificate,
    /// The handshake failed.
    #[error("TLS failed")]
    Tls,
    /// Nothing came for too long.
    #[error("no answer in time")]
    Timeout,
    /// The connection broke.
    #[error("the connection broke")]
    Broken,
}

impl Error {
    /// Whether trying again later may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::RateLimited { .. } | Self::Cut { .. } => true,
            Self::Status { code, .. } => matches!(code, 408 | 500 | 502 | 503 | 504),
            Self::Unreachable { reason, .. } => !matches!(
                reason,
                Unreachable::UnknownName
                    | Unreachable::Private
                    | Unreachable::UnknownIssuer
                    | Unreachable::Certificate
                    | Unreachable::Tls
                    | Unreachable::ProxyAuthorization
            ),
            _ => false,
        }
    }

    /// Whether somebody did say no to the connection itself: a service that starts anew is back at the next try, and
    /// waiting longer for what is not there only hides the reason.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { reason: Unreachable::Refused | Unreachable::RefusedOrProxy | Unreachable::Proxy, .. }
        )
    }

    /// Whether the upstream itself gave no answer: nothing came, or a gateway answered in its place. A refusal or
    /// "not found" is an answer.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::BlockPage { .. } | Self::Cut { .. } | Self::Redirect { .. } => true,
            Self::Status { code, .. } => *code >= 500 || *code == 408,
            _ => false,
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unauthorized { host, .. } => format!(
                "it may not exist, or needs an account: `docker login {host}` or `podman login {host}`, or set \
                 `upstreams.{host}.username` and `password_file`"
            ),
            Self::RateLimited { .. } => {
                "wait and run it again (it goes on where it stopped), log in for a higher limit, or name a mirror under \
                 `upstreams.HOST.mirrors`"
                    .to_owned()
            }
            Self::Unreachable { host, reason, .. } => match reason {
                Unreachable::UnknownIssuer => format!(
                    "if a proxy or a private CA signs for it, put the CA's PEM file into `upstreams.{host}.ca` or SSL_CERT_FILE"
                ),
                Unreachable::Certificate => {
                    format!("check this machine's clock and the host's name; `upstreams.{host}.insecure: true` skips the check")
                }
                Unreachable::Tls => format!(
                    "if it speaks plain HTTP, set `upstreams.{host}.insecure: true`; behind a proxy, check that it lets \
                     {host} through and answers no page in its place"
                ),
                Unreachable::ProxyAuthorization => {
                    "write them into HTTPS_PROXY: http://USER:PASSWORD@PROXY:PORT".to_owned()
                }
                Unreachable::Proxy => format!(
                    "ask for {host} to be allowed at the proxy that HTTPS_PROXY names, or name a mirror under \
                     `upstreams.{host}.mirrors`"
                ),
                Unreachable::Refused => {
                    "check the host and the port, and that it runs; behind a proxy, set HTTPS_PROXY".to_owned()
                }
                Unreachable::RefusedOrProxy => {
                    "check that the proxy which HTTPS_PROXY or HTTP_PROXY names runs, then the host and the port; NO_PROXY \
                     names hosts that are asked without it"
                        .to_owned()
                }
                Unreachable::Private => format!("if it is meant, name it under `upstreams.{host}`"),
                Unreachable::UnknownName => "check the spelling, /etc/resolv.conf and /etc/hosts; behind a proxy, set HTTPS_PROXY".to_owned(),
                Unreachable::Dns => "check /etc/resolv.conf; behind a proxy, set HTTPS_PROXY".to_owned(),
                _ => "check the network; behind a proxy, set HTTPS_PROXY; run it again to go on where it stopped".to_owned(),
            },
            Self::Cut { .. } => "run it again: it goes on where it stopped".to_owned(),
            Self::Mismatch { .. } => {
                "the upstream or something on the way changed the bytes; nothing of it was kept".to_owned()
            }
            Self::BlockPage { .. } => {
                "a proxy or filter answered in the upstream's place; ask for this host to be allowed, or name a mirror under \
                 `upstreams.HOST.mirrors`"
                    .to_owned()
            }
            Self::Offline { .. } => "run it without --offline and NARU_OFFLINE, where the network is".to_owned(),
            Self::Redirect { .. } => "if the new place is right, name it in the packing list itself".to_owned(),
            Self::NotFound { .. } => "check the spelling; ask the upstream with `curl -I` or `skopeo inspect`".to_owned(),
            Self::TooLarge { .. } | Self::Protocol { .. } | Self::Manifest { .. } => {
                "the upstream serves something that no client would take; ask its owner, or name a mirror under \
                 `upstreams.HOST.mirrors`"
                    .to_owned()
            }
            Self::Status { .. } => {
                "run it again later: it goes on where it stopped; or name a mirror under `upstreams.HOST.mirrors`".to_owned()
            }
            Self::Refused { code: 405, .. } => "the registry takes no pushes: is it a mirror, or read-only?".to_owned(),
            Self::Refused { .. } => {
                "what the registry allows is in its own settings: whether the project exists, names, sizes, immutable tags"
                    .to_owned()
            }
            Self::Config { .. } => {
                "correct it where it is set: under `upstreams:`, whose paths are seen from their file's folder, or in the \
                 environment"
                    .to_owned()
            }
            Self::Sink(_) => return None,
        })
    }

    pub(crate) fn mismatch(url: impl Into<String>, expected: Digest, found: Digest) -> Self {
        Self::Mismatch { url: url.into(), expected: Box::new(expected), found: Box::new(found) }
    }

    /// What the upstream asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// A URL as it may be shown: user, password and query values taken out (presigned URLs carry secrets there).
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Neither can fail for http and https, the only schemes that come here.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
    if url.query().is_some() {
        url.set_query(Some("…"));
        return url.as_str().replace("%E2%80%A6", "…");
    }
    url.into()
}

fn after_colon(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// The innermost cause alone: the libraries in between repeat one another and the URL.
fn cause(source: Option<&(dyn StdError + Send + Sync + 'static)>) -> String {
    let Some(source) = source else { return String::new() };
    let mut innermost: &dyn StdError = source;
    while let Some(next) = innermost.source() {
        innermost = next;
    }
    format!(" ({innermost})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        for (url, text) in [
            ("https://user:secret@h.example/a?X-Amz-Signature=secret#secret", "https://h.example/a?…"),
            ("http://h.example:5000/v2/", "http://h.example:5000/v2/"),
        ] {
            assert_eq!(shown(&Url::parse(url).unwrap()), text);
        }
    }
}
