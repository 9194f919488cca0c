//! From a packing list to a store: what the user wants, what exactly that is today, and fetching it.
//!
//!     naru.yaml ── lock ──▶ naru.lock ── pull ──▶ store
//!
//! A [`PackingList`] is what people write.

mod error;
mod yaml;

pub mod list;

pub use error::{Error, Failure, Result};
pub use list::{PackingList, STARTER};
