//! What a request means, whatever its path, query and Host say.
#![no_main]

use http::Method;

libfuzzer_sys::fuzz_target!(|input: (u8, &str, Option<&str>, Option<&str>)| {
    let (method, path, query, host) = input;
    let method = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE][usize::from(method) % 6].clone();
    serve::means_something(&method, path, query, host);
});
