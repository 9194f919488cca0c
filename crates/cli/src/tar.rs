//! Tar archives of a few known, short names: Naru's own image. Nothing is read here, and nothing foreign is written.

use std::io::{self, Write};

const BLOCK: u64 = 512;

/// Writes ustar members (POSIX.1-1988). No clock: every member is of 1970.
pub(crate) struct Writer<W: Write> {
    out: W,
}

/// A member's place and rights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member<'a> {
    /// At most 99 bytes; a folder's ends in `/`.
    pub(crate) name: &'a str,
    pub(crate) mode: u32,
    /// Owner and group.
    pub(crate) owner: u32,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out }
    }

    pub(crate) fn folder(&mut self, member: Member<'_>) -> io::Result<()> {
        self.out.write_all(&header(member, 0, b'5')?)
    }

    pub(crate) fn file(&mut self, member: Member<'_>, bytes: &[u8]) -> io::Result<()> {
        self.stream(member, bytes.len() as u64, bytes)
    }

    /// A file of a size that was measured before.
    pub(crate) fn stream(&mut self, member: Member<'_>, size: u64, from: impl io::Read) -> io::Result<()> {
        self.out.write_all(&header(member, size, b'0')?)?;
        let copied = io::copy(&mut io::Read::take(from, size), &mut self.out)?;
        if copied != size {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{} became shorter", member.name)));
        }
        self.pad(size.next_multiple_of(BLOCK) - size)
    }

    /// Two empty blocks end an archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.pad(2 * BLOCK)?;
        Ok(self.out)
    }

    fn pad(&mut self, bytes: u64) -> io::Result<()> {
        io::copy(&mut io::Read::take(io::repeat(0), bytes), &mut self.out).map(drop)
    }
}

fn header(member: Member<'_>, size: u64, kind: u8) -> io::Result<[u8; 512]> {
    let mut header = [0; 512];
    let mut field = |at: usize, width: usize, text: &str| match header.get_mut(at..at + text.len()) {
        Some(place) if text.len() <= width => {
            place.copy_from_slice(text.as_bytes());
            Ok(())
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{text}` does not fit into a tar header"))),
    };
    field(0, 99, member.name)?;
    field(100, 7, &format!("{:07o}", member.mode))?;
    field(108, 7, &format!("{:07o}", member.owner))?;
    field(116, 7, &format!("{:07o}", member.owner))?;
    field(124, 11, &format!("{size:011o}"))?;
    field(136, 11, "00000000000")?;
    // The checksum is summed with its own field full of spaces.
    field(148, 8, "        ")?;
    field(156, 1, if kind == b'5' { "5" } else { "0" })?;
    field(257, 8, "ustar\x0000")?;
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    if let Some(place) = header.get_mut(148..156) {
        place.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_tar_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        let mut writer = Writer::new(std::fs::File::create(&path).unwrap());
        writer.folder(Member { name: "d/", mode: 0o755, owner: 7 }).unwrap();
        writer.file(Member { name: "d/f", mode: 0o644, owner: 0 }, b"hello").unwrap();
        writer.finish().unwrap();
        let run = |arguments: &[&str]| {
            let output = std::process::Command::new("tar").args(arguments).arg(&path).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let list = run(&["--utc", "--numeric-owner", "-tvf"]);
        assert!(list.contains("drwxr-xr-x 7/7") && list.contains("-rw-r--r-- 0/0"), "{list}");
        assert_eq!(run(&["-xO", "d/f", "-f"]), "hello");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut writer = Writer::new(Vec::new());
        assert!(writer.file(Member { name: &"a".repeat(100), mode: 0, owner: 0 }, b"").is_err());
        assert!(writer.stream(Member { name: "a", mode: 0, owner: 0 }, 3, &b"ab"[..]).is_err());
    }
}
