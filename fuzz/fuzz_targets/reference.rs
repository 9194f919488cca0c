//! What a user writes for an image: once normalised, it stays so.
#![no_main]

use artifact::Reference;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<Reference>() {
        let written = reference.to_string();
        let again = written.parse::<Reference>();
        assert_eq!(again.ok().as_ref(), Some(&reference), "{written}");
        assert!(!reference.name().split('/').any(|part| part == ".." || part.is_empty()), "{written}");
    }
});
