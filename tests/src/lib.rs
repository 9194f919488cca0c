//! What the journeys stand on: real servers as upstreams, real clients, and the built binary between them.
//!
//! A [`journey`] runs in a folder and in namespaces of its own: its network has loopback and nothing else, so that no
//! port clashes and nothing can leave; its mounts and its processes end with it. In there run the upstreams
//! ([`Registry`], [`Nginx`], and [`Faulty`], which spoils what passes through it), [`Naru`], and the clients
//! ([`Containerd`], [`Dockerd`], [`Podman`]), each with its own root, state, socket and configuration.
//! What is carried is [`image`]s of real content; [`http`] is curl, and a [`Wire`] takes any
//! bytes, sent at any pace.

// This crate is test code: what fails here shall fail loudly.
#![allow(clippy::print_stderr, clippy::panic, clippy::unwrap_used, clippy::expect_used)]

mod containerd;
mod dockerd;
mod faulty;
mod folder;
pub mod http;
pub mod image;
mod journey;
mod naru;
mod nginx;
mod podman;
mod process;
mod random;
mod registry;
mod replay;
mod userland;
mod wire;

pub use containerd::{Containerd, Mirror};
pub use dockerd::Dockerd;
pub use faulty::{Fault, Faulty, Gate, Request};
pub use folder::Folder;
pub use image::{Image, digest_of};
pub use journey::{Need, journey};
pub use naru::{Naru, Serving, binary};
pub use nginx::Nginx;
pub use podman::Podman;
pub use process::{Daemon, Outcome, find, free_port, run, wait_until};
pub use random::Random;
pub use registry::Registry;
pub use replay::{Disk, Recording};
pub use userland::{Machine, Userland};
pub use wire::{Trust, Wire};
