//! An archive that somebody else has made, compressed or not.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bundle::walk_archive(bytes));
