//! What an operator hands over of others' making: files of htpasswd, certificates, scopes with their patterns.
#![no_main]

use artifact::Pattern;
use serve::accounts::{self, Scope};

libfuzzer_sys::fuzz_target!(|input: (&str, &str)| {
    let (text, name) = input;
    let _ = accounts::read_htpasswd(text);
    let _ = accounts::fingerprint(text);
    if let Ok(scope) = text.parse::<Scope>() {
        assert_eq!(scope.to_string().parse::<Scope>(), Ok(scope));
    }
    if let Ok(pattern) = text.parse::<Pattern>() {
        let _ = pattern.matches(name);
    }
});
