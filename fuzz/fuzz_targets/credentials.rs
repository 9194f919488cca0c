//! `Authorization`: names, passwords, tokens of `/token`.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| serve::reads_credentials(text));
