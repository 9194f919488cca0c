//! A file that says that it is a volume.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = std::env::temp_dir().join(format!("naru-fuzz-{}", std::process::id()));
    std::fs::write(&path, bytes).expect("a temporary file");
    let _ = bundle::Volume::open(&path);
    std::fs::remove_file(&path).expect("the same file");
});
