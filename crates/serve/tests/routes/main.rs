//! A real server on loopback over a real store, asked by a real client: one module a route.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod accounts;
mod blobs;
mod captures;
mod certificates;
mod files;
mod grants;
mod listener;
mod lists;
mod manifests;
mod names;
mod own;
mod rules;
mod support;
mod uploads;
mod who;
