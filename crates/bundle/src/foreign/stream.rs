//! What a file is by its first bytes, and compressed ones opened: the one place where anything foreign is unpacked.

use std::io;

use super::archive::{Tape, first_name};
use crate::document::HEAD;
use crate::parity;

/// The largest dictionary of `xz -9` is 64 MiB; what asks for more memory than this is refused.
const XZ_MEMORY: u64 = 80 << 20;
/// How far back a zstd stream may look, as a power of two: 128 MiB, which `zstd -22` wants. `--long=31` is refused.
const ZSTD_WINDOW: u32 = 27;
/// Bytes given to a decompressor at a time.
const CHUNK: usize = 256 << 10;

/// How bytes are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Zstd,
    Xz,
}

/// What bytes are, by their beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// A volume of a bundle.
    Volume,
    /// Any other tar.
    Tar,
    /// Something compressed.
    Compressed(Compression),
    /// Nothing that can be loaded; what it is, in words.
    Other(&'static str),
}

/// What bytes that begin like this are.
pub(super) fn look(beginning: &[u8]) -> Look {
    let text = beginning.trim_ascii_start().to_ascii_lowercase();
    match beginning {
        [] => Look::Other("an empty file"),
        [0x1f, 0x8b, ..] => Look::Compressed(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Look::Compressed(Compression::Zstd),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Look::Compressed(Compression::Xz),
        [b'B', b'Z', b'h', ..] => Look::Other("compressed by bzip2, which naru does not read"),
        [b'P', b'K', 3, 4, ..] => Look::Other("a zip archive"),
        [0x7f, b'E', b'L', b'F', ..] => Look::Other("a program"),
        _ if text.starts_with(b"<!doctype html") || text.starts_with(b"<html") => {
            Look::Other("an HTML page, which something on the way has sent in place of the file")
        }
        _ => match first_name(beginning) {
            // Parity travels with the volumes.
            Some(name) if name == HEAD || name == parity::HEAD => Look::Volume,
            Some(_) => Look::Tar,
            None => Look::Other("neither an archive nor a volume"),
        },
    }
}

/// What is compressed, unpacked. Streams that follow each other (`pigz`, `cat`) are one.
pub(super) fn open(tape: Tape, compression: Compression) -> io::Result<Tape> {
    let buffered = io::BufReader::with_capacity(CHUNK, tape);
    Ok(Tape::Stream(match compression {
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered)?;
            decoder.window_log_max(ZSTD_WINDOW)?;
            Box::new(decoder)
        }
        Compression::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(buffered, stream))
        }
    }))
}
