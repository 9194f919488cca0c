//! An upstream's list of sums.
#![no_main]
#![allow(dead_code)]

#[path = "../../crates/collect/src/checksum.rs"]
mod checksum;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = checksum::find(text, "kubectl");
});
