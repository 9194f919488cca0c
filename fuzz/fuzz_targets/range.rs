//! `Range`: whatever it says, what is answered lies inside.
#![no_main]

#[path = "../../crates/serve/src/range.rs"]
mod range;

use range::Asked;

libfuzzer_sys::fuzz_target!(|input: (u64, &str)| {
    let (size, value) = input;
    if let Asked::Part { start, length } = range::parse(value, size) {
        assert!(length > 0 && start.checked_add(length).is_some_and(|end| end <= size));
    }
});
