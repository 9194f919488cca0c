//! How it is handed out: one port, on which a store answers containerd, docker, podman, skopeo and curl by every
//! upstream's own name.
//!
//! A connection begins in `listener`, which tells TLS from plain HTTP. Each request makes one pass: `auth` tells who,
//! `router` what is asked (seven spellings, one meaning), `resolve` which repository is meant, and `registry`, `files`
//! or `page` answers; what is not here `proxy` may fetch. What was asked in the same words before, and is still true, is answered by `site` from memory.
//!
//! Only this crate knows HTTP's statuses; a `refusal` is the one way to say no.

#![warn(missing_docs)]

// How a server is described, begins and ends.
mod collection;
mod config;
mod error;
mod server;

// What its requests share.
mod access;
mod audit;
mod metrics;
mod site;
mod stock;

// Connections.
mod holder;
mod listener;
mod room;
mod tls;

// Who may come in, as commands say it.
pub mod accounts;

// One pass of a request.
mod auth;
mod dispatch;
mod resolve;
mod router;

// What it brings, and what it is answered with.
mod arriving;
mod body;
mod content;
mod files;
mod page;
mod proxy;
mod range;
mod refusal;
mod registry;
mod sendfile;
mod setup;

pub use audit::{Audit, Event};
pub use auth::renew_admin_token;
pub use collection::{Collecting, Collection, Retention, Span};
pub use config::{Anonymous, Config, Patience};
pub use error::{Error, Result};
pub use server::{Server, raise_descriptors};
pub use tls::keys::{self, SiteKeys};

/// Whether a request means anything: the router, for `fuzz/`.
#[cfg(fuzzing)]
pub fn means_something(method: &http::Method, path: &str, query: Option<&str>, host: Option<&str>) -> bool {
    router::parse(method, path, query, host).is_ok()
}

/// Reads what came with `Authorization`, for `fuzz/`.
#[cfg(fuzzing)]
pub fn reads_credentials(value: &str) {
    auth::tried(value);
}
