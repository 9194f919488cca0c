//! Versions of clients, as the clients print them.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// The first three numbers of a version: `v1.6.20~ds1` is 1.6.20. What was not written counts as the newest of its
/// line: `1.6` is later than 1.6.17.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    numbers: [u32; 3],
}

impl Version {
    /// A version from its numbers.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { numbers: [major, minor, patch] }
    }
}

impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || Error::Version(text.chars().take(80).collect());
        let digits = text.trim().trim_start_matches('v');
        let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
        let mut numbers = [u32::MAX; 3];
        let written = digits.get(..end).unwrap_or_default().trim_end_matches('.');
        if written.is_empty() {
            return Err(invalid());
        }
        for (number, part) in numbers.iter_mut().zip(written.split('.')) {
            *number = part.parse().map_err(|_| invalid())?;
        }
        Ok(Self { numbers })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let written: Vec<_> =
            self.numbers.iter().take_while(|number| **number != u32::MAX).map(ToString::to_string).collect();
        f.write_str(&written.join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_clients_print() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert_eq!(version("v1.6.20~ds1"), Version::new(1, 6, 20));
        assert_eq!(version("2.3.4"), Version::new(2, 3, 4));
        assert_eq!(version("29.0.0-rc.1").to_string(), "29.0.0");
        assert!(version("1.6") > version("1.6.17"));
        assert!(version("1.5") < version("1.6.0"));
        for bad in ["", "v", "latest", ".", "99999999999", "1..2"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in ".{0,40}") {
            let _ = text.parse::<Version>();
        }
    }
}
