//! `Range` and `Content-Range`: whatever they say, what is answered lies inside, and a piece has a length.
#![no_main]

#[path = "../../crates/serve/src/range.rs"]
mod range;

use range::Asked;

libfuzzer_sys::fuzz_target!(|input: (u64, &str)| {
    let (size, value) = input;
    if let Asked::Part { start, length } = range::parse(value, size) {
        assert!(length > 0 && start.checked_add(length).is_some_and(|end| end <= size));
    }
    if let Some((start, end)) = range::chunk(value) {
        assert!(start <= end && end < u64::MAX);
    }
});
