//! Numbers of bytes, as people write and read them.

use std::str::FromStr;

/// For people, in binary units: `1.5 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut whole = bytes;
    while whole >= 1024 * 1024 && unit + 1 < UNITS.len() {
        whole /= 1024;
        unit += 1;
    }
    // Tenths, cut and not rounded: 1023.9 stays below the next unit.
    format!("{}.{} {}", whole / 1024, whole % 1024 * 10 / 1024, UNITS.get(unit).unwrap_or(&""))
}

/// The bytes that a volume may have: `10MiB`, `4G`, `700MB`, or a medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VolumeSize(pub(crate) u64);

impl FromStr for VolumeSize {
    /// Clap shows it as it is, and no hint beside it.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            // FAT's files end one sector before 4 GiB.
            "fat32" => return Ok(Self((4 << 30) - 512)),
            // DVD+R has 4 700 372 992 bytes, BD-R 25 025 314 816; their file systems want some.
            "dvd" => return Ok(Self(4_690_000_000)),
            "bd" => return Ok(Self(25_000_000_000)),
            _ => {}
        }
        let invalid = || "write bytes, or as 700MB, 10MiB, 4G, or a medium: fat32, dvd, bd".to_owned();
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let factor = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => return Err(invalid()),
        };
        let number: u64 = number.parse().map_err(|_| invalid())?;
        number.checked_mul(factor).map(Self).ok_or_else(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1024), "1.0 KiB");
        assert_eq!(size(1536 * 1024 * 1024), "1.5 GiB");
        assert_eq!(size(u64::MAX), "15.9 EiB");
    }

    #[test]
    fn sizes_are_read_as_they_are_written() {
        let bytes = |text: &str| text.parse::<VolumeSize>().unwrap().0;
        assert_eq!(bytes("10MiB"), 10 << 20);
        assert_eq!(bytes("4g"), 4 << 30);
        assert_eq!(bytes("700 MB"), 700_000_000);
        assert_eq!(bytes("12345678"), 12_345_678);
        assert!(bytes("fat32") < 4 << 30);
        for bad in ["", "MiB", "-1", "1.5G", "10 MiBs", "99999999999T", "floppy"] {
            assert!(bad.parse::<VolumeSize>().is_err(), "{bad}");
        }
    }
}
