//! `naru.yaml`: read, or refused with a line.
#![no_main]

use std::path::Path;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = collect::PackingList::parse(Path::new("naru.yaml"), text);
});
