//! Why something could not be had from an upstream, for all who asked for it.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use artifact::{Digest, Repository};
use http::StatusCode;

use super::Policy;
use crate::refusal::Refusal;

/// Why not.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The upstream says that there is no such thing, or none for us.
    NotThere(String),
    /// The upstream wants to be left alone for so long.
    Limited {
        /// Which.
        host: String,
        /// How long yet.
        left: Duration,
    },
    /// The upstream gave no answer that can be used.
    NoAnswer(String),
    /// Something of ours failed.
    Inside(Arc<dyn Error + Send + Sync>),
}

impl Failure {
    pub(crate) fn inside(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Inside(Arc::from(error.into()))
    }

    /// The upstream took too long.
    pub(super) fn late(repository: &Repository) -> Self {
        Self::NoAnswer(format!("the upstream {} did not answer in time", repository.host))
    }

    /// What the policy leaves out.
    pub(super) fn left_out(repository: &Repository, digest: &Digest, policy: &Policy) -> Self {
        let platforms: Vec<String> = policy.platforms.iter().map(ToString::to_string).collect();
        Self::NotThere(format!(
            "{repository} has {digest}, but it is for a platform that this server does not fetch (`platforms` of \
             {} are {}): left out on purpose",
            repository.host,
            platforms.join(", ")
        ))
    }

    pub(super) fn of(repository: &Repository, error: &upstream::Error) -> Self {
        let host = &repository.host;
        match error {
            upstream::Error::NotFound { .. } => Self::NotThere(format!("{host} has no such thing either")),
            // Docker Hub says so of what does not exist.
            upstream::Error::Unauthorized { .. } => {
                Self::NotThere(format!("{host} does not give it to this server: it may not exist, or needs an account"))
            }
            // Its text may name addresses that are nobody's business; the log has it.
            _ => Self::NoAnswer(format!("the upstream {host} could not be asked; the server's log says why")),
        }
    }

    /// What a client is told who asked for something that is `unknown` here.
    pub(crate) fn refusal(self, mut unknown: Refusal) -> Refusal {
        match self {
            Self::NotThere(why) => {
                unknown.message = format!("{}: {why}", unknown.message);
                unknown
            }
            Self::Limited { left, .. } => {
                let mut limited = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", self.to_string());
                limited.wait = left.as_secs() + 1;
                limited.about(unknown.detail)
            }
            Self::NoAnswer(why) => Refusal::new(StatusCode::BAD_GATEWAY, "UNKNOWN", why).about(unknown.detail),
            Self::Inside(error) => Refusal::inside(error.to_string()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotThere(why) | Self::NoAnswer(why) => f.write_str(why),
            Self::Limited { host, left } => {
                write!(f, "the upstream {host} limits requests, and is asked again in {} s", left.as_secs() + 1)
            }
            Self::Inside(error) => error.fmt(f),
        }
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        Self::inside(error)
    }
}
