//! `WWW-Authenticate`.
#![no_main]
#![allow(dead_code)]

#[path = "../../crates/upstream/src/auth/challenge.rs"]
mod challenge;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = challenge::choose(text.lines());
});
