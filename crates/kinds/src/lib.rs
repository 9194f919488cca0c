//! What is known of each kind. Bytes in, values and documents out: no database, no network, no clock.
//!
//! [`client`] writes the configuration of the programs that pull.

#![warn(missing_docs)]

pub mod client;
mod error;

pub use error::{Error, Result};
