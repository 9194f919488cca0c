//! From a packing list to a store: what the user wants, what exactly that is today, and fetching it.
//!
//!     naru.yaml ── lock ──▶ naru.lock ── pull ──▶ store
//!
//! A [`PackingList`] is what people write.

mod checksum;
mod error;
mod local;
mod sink;
mod yaml;

pub mod list;
pub mod lock;
mod pull;

pub use error::{Error, Failure, Result};
pub use list::{PackingList, STARTER};
pub use lock::Lock;
pub use pull::{Pulled, pull};
