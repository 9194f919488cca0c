//! A digest that is read is written as it was read.
#![no_main]

use artifact::Digest;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string().parse::<Digest>().ok(), Some(digest));
        assert_eq!(digest.as_bytes().len(), digest.algorithm().length());
    }
});
