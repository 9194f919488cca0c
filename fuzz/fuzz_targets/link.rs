//! `Link`: where it leads stands in it.
#![no_main]
#![allow(dead_code)]

#[path = "../../crates/upstream/src/link.rs"]
mod link;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Some(next) = link::next(text) {
        assert!(text.contains(&format!("<{next}>")));
    }
});
