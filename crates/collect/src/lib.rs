//! From a packing list to a store: what the user wants, what exactly that is today, and fetching it.
//!
//! ```text
//! naru.yaml ── lock ──▶ naru.lock ── pull ──▶ store
//! ```
//!
//! A [`PackingList`] is what people write; whatever is wrong in it is shown where it stands. [`lock::lock`] asks the
//! upstreams what it means today, and makes a [`Lock`] of exact digests, which says why each of them is believed.
//! [`pull`] makes a store hold everything in a lock: it asks nobody what anything means, and every byte is proven.

pub mod list;
pub mod lock;
mod pull;

// What a store has lost, brought again.
mod heal;

// Where downloads go, and what the other sources of bytes and sums are like.
mod checksum;
mod fetch;
mod local;
mod sink;

mod error;
mod together;
mod yaml;

pub use error::{Error, Failure, Result};
pub use heal::{Healed, heal};
pub use list::{PackingList, STARTER};
pub use lock::Lock;
pub use pull::{Pulled, pull};

/// Bytes, for people.
fn readable(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut units = UNITS.iter();
    let (mut whole, mut tenths, mut unit) = (bytes, 0, "bytes");
    while whole >= 1024 {
        let Some(next) = units.next() else { break };
        (tenths, unit) = (whole % 1024 * 10 / 1024, next);
        whole /= 1024;
    }
    if unit == "bytes" { format!("{whole} bytes") } else { format!("{whole}.{tenths} {unit}") }
}
