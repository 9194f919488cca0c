//! Tar headers, as little of them as a volume needs (POSIX.1-2017 `pax`, "ustar Interchange Format").
//!
//! Written: regular files, owned by root, of the year 1970. A PAX record stands before a member only where it must: a
//! long name, 8 GiB or more, or a comment that pushes a large member's first byte to a multiple of 4 KiB (reflinks and
//! direct reads want that). Read: the same, and nothing else. Links, folders, devices, GNU's extensions: refused.

pub(crate) const BLOCK: u64 = 512;
/// Members of at least so many bytes begin on a multiple of [`ALIGNMENT`].
const LARGE: u64 = 1 << 20;
const ALIGNMENT: u64 = 4096;
/// The largest size that the octal field of a header holds.
const OCTAL: u64 = 0o77_777_777_777;
/// PAX records of one member may have so many bytes.
pub(crate) const RECORDS_LIMIT: u64 = 64 << 10;

/// `size` rounded up to whole blocks.
pub(crate) fn padded(size: u64) -> u64 {
    size.div_ceil(BLOCK) * BLOCK
}

/// What ends a tar: two blocks of zeros.
pub(crate) const END: u64 = 2 * BLOCK;

/// The header blocks of a member that is written at byte `at`.
pub(crate) fn header(name: &str, size: u64, at: u64) -> Vec<u8> {
    let mut records = Vec::new();
    if name.len() > 100 {
        records.extend_from_slice(&record("path", name));
    }
    if size > OCTAL {
        records.extend_from_slice(&record("size", &size.to_string()));
    }
    let mut bytes = Vec::new();
    let is_aligned = |at: u64| size < LARGE || at.is_multiple_of(ALIGNMENT);
    if !records.is_empty() || !is_aligned(at + BLOCK) {
        let mut length = padded(records.len() as u64);
        // The x header, its records, and the member's own header come before the first byte. What fills up must be at
        // least as long as an empty comment.
        while !is_aligned(at + 2 * BLOCK + length) || length == 0 || (1..16).contains(&(length - records.len() as u64))
        {
            length += BLOCK;
        }
        let fill = usize::try_from(length).unwrap_or_default() - records.len();
        if fill > 0 {
            records.extend_from_slice(&comment(fill));
        }
        bytes.extend_from_slice(&block("pax", records.len() as u64, b'x'));
        bytes.extend_from_slice(&records);
    }
    bytes.extend_from_slice(&block(name, size, b'0'));
    bytes
}

/// A bound on [`header`]'s length, wherever the member comes to lie.
pub(crate) fn header_bound(name: &str, size: u64) -> u64 {
    let records = if name.len() > 100 || size > OCTAL { padded(name.len() as u64 + 64) + BLOCK } else { 0 };
    let alignment = if size >= LARGE { 2 * ALIGNMENT + BLOCK } else { 0 };
    BLOCK + records + alignment
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n").into_bytes()
}

/// A comment record of exactly `length` bytes (16 or more).
fn comment(length: usize) -> Vec<u8> {
    let digits = length.to_string();
    let head = format!("{digits} comment=");
    let fill = length.saturating_sub(head.len() + 1);
    format!("{head}{}\n", " ".repeat(fill)).into_bytes()
}

fn block(name: &str, size: u64, kind: u8) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(field) = block.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    };
    let short = name.as_bytes();
    put(0, short.get(..100).unwrap_or(short));
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", size.min(OCTAL)).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    put(265, b"root");
    put(297, b"root");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let text = format!("{sum:06o}\0 ");
    block[148..156].copy_from_slice(text.as_bytes());
    block
}

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) name: String,
    pub(crate) size: u64,
    /// Where its bytes begin.
    pub(crate) offset: u64,
}

/// Reads the header at byte `at`; `read` fills a buffer from an offset. `None`: the end (a block of zeros).
pub(crate) fn read(
    at: u64,
    mut fill: impl FnMut(u64, &mut [u8]) -> std::io::Result<()>,
) -> std::io::Result<Result<Option<Header>, String>> {
    let mut block = [0; 512];
    fill(at, &mut block)?;
    if block.iter().all(|byte| *byte == 0) {
        return Ok(Ok(None));
    }
    let parsed = match parse(&block) {
        Ok(parsed) => parsed,
        Err(why) => return Ok(Err(why)),
    };
    let mut header = Header { name: parsed.0, size: parsed.1, offset: at + BLOCK };
    if parsed.2 == b'x' {
        if header.size > RECORDS_LIMIT {
            return Ok(Err(format!("its PAX records have {} bytes", header.size)));
        }
        let mut records = vec![0; usize::try_from(header.size).unwrap_or_default()];
        fill(at + BLOCK, &mut records)?;
        let Some((path, size)) = parse_records(&records) else {
            return Ok(Err("its PAX records cannot be read".to_owned()));
        };
        let at = at + BLOCK + padded(header.size);
        fill(at, &mut block)?;
        let (name, plain, kind) = match parse(&block) {
            Ok(parsed) => parsed,
            Err(why) => return Ok(Err(why)),
        };
        if kind == b'x' {
            return Ok(Err("it has two PAX headers for one member".to_owned()));
        }
        header = Header { name: path.unwrap_or(name), size: size.unwrap_or(plain), offset: at + BLOCK };
    }
    Ok(Ok(Some(header)))
}

fn parse(block: &[u8; 512]) -> Result<(String, u64, u8), String> {
    let field = |from: usize, to: usize| block.get(from..to).unwrap_or_default();
    let octal = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).ok()?.trim_matches(['\0', ' ']);
        u64::from_str_radix(text, 8).ok()
    };
    let sum: u64 =
        block.iter().enumerate().map(|(n, byte)| if (148..156).contains(&n) { 32 } else { u64::from(*byte) }).sum();
    if octal(field(148, 156)) != Some(sum) {
        return Err("a header's checksum is wrong".to_owned());
    }
    if field(257, 263) != b"ustar\0" {
        return Err("a header is not of the ustar format".to_owned());
    }
    let name = field(0, 100).split(|byte| *byte == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name).into_owned();
    let kind = block[156];
    let what = match kind {
        b'0' | b'x' => {
            let size = octal(field(124, 136))
                .ok_or_else(|| format!("the size of `{}` cannot be read", name.escape_default()))?;
            return Ok((name, size, kind));
        }
        b'1' => "a hard link",
        b'2' => "a symbolic link",
        b'3' | b'4' => "a device",
        b'5' => "a folder",
        b'6' => "a pipe",
        _ => "something that is no regular file",
    };
    Err(format!("`{}` is {what}", name.escape_default()))
}

/// `path` and `size` of PAX records; `None`: they cannot be read, or there is one that we never write.
fn parse_records(bytes: &[u8]) -> Option<(Option<String>, Option<u64>)> {
    let (mut path, mut size) = (None, None);
    for (key, value) in records(bytes)? {
        let value = std::str::from_utf8(value).ok()?;
        match key {
            // Ours only fill up; what is written there would cross unlisted.
            b"comment" if value.trim_matches(' ').is_empty() => {}
            b"path" if path.is_none() => path = Some(value.to_owned()),
            b"size" if size.is_none() => size = Some(value.parse().ok()?),
            _ => return None,
        }
    }
    Some((path, size))
}

/// The keys and values of PAX records; `None`: they cannot be read.
pub(crate) fn records(mut bytes: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(bytes.get(..space)?).ok()?.parse().ok()?;
        let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
        bytes = bytes.get(length..)?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        records.push((record.get(..equals)?, record.get(equals + 1..)?));
    }
    Some(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_bytes(bytes: &[u8]) -> std::io::Result<Result<Option<Header>, String>> {
        read(0, |at, buffer| {
            let at = usize::try_from(at).unwrap();
            let from = bytes.get(at..at + buffer.len()).ok_or(std::io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(from);
            Ok(())
        })
    }

    #[test]
    fn what_is_written_reads_back_and_lies_where_it_should() {
        for at in (0..16).map(|n| n * BLOCK) {
            for size in [0, 1, LARGE - 1, LARGE, OCTAL, OCTAL + 1] {
                for name in ["a".to_owned(), "b".repeat(100), "c".repeat(101), "d".repeat(500)] {
                    let bytes = header(&name, size, at);
                    assert!(
                        (bytes.len() as u64).is_multiple_of(BLOCK) && bytes.len() as u64 <= header_bound(&name, size)
                    );
                    if size >= LARGE {
                        assert_eq!((at + bytes.len() as u64) % ALIGNMENT, 0);
                    }
                    let read = read_bytes(&bytes).unwrap().unwrap().unwrap();
                    assert_eq!((read.name, read.size, read.offset), (name, size, bytes.len() as u64));
                }
            }
        }
    }

    #[test]
    fn links_and_folders_are_refused_by_name() {
        for (kind, word) in [(b'1', "hard link"), (b'2', "symbolic link"), (b'5', "folder"), (b'L', "no regular file")]
        {
            let refused = read_bytes(&block("evil", 0, kind)).unwrap().unwrap_err();
            assert!(refused.contains("evil") && refused.contains(word), "{refused}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 512..2048), valid: bool) {
            if valid {
                // Past the checksum, into the fields.
                bytes[257..263].copy_from_slice(b"ustar\0");
                let sum: u64 = bytes[..512].iter().enumerate()
                    .map(|(n, byte)| if (148..156).contains(&n) { 32 } else { u64::from(*byte) }).sum();
                bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
            let _ = read_bytes(&bytes);
        }
    }
}
