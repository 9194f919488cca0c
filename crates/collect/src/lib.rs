//! From a packing list to a store: what the user wants, what exactly that is today, and fetching it.
//!
//!     naru.yaml ── lock ──▶ naru.lock ── pull ──▶ store
//!
//! A [`PackingList`] is what people write; whatever is wrong in it is shown where it stands. [`lock::lock`] asks the
//! upstreams what it means today, and makes a [`Lock`] of exact digests, which says why each of them is believed.
//! [`pull`] makes a store hold everything in a lock: it asks nobody what anything means, and every byte is proven.

pub mod list;
pub mod lock;
mod pull;

// Where downloads go, and what the other sources of bytes and sums are like.
mod checksum;
mod local;
mod sink;

mod error;
mod together;
mod yaml;

pub use error::{Error, Failure, Result};
pub use list::{PackingList, STARTER};
pub use lock::Lock;
pub use pull::{Pulled, pull};
