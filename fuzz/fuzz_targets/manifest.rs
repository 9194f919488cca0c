//! A manifest as an upstream may send it.
#![no_main]

use artifact::Manifest;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for media_type in ["", "application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.v2+json"] {
        if let Ok(manifest) = Manifest::parse(bytes, media_type) {
            let _ = (manifest.blobs().count(), manifest.links().count());
        }
    }
});
