//! Platforms: `os/architecture[/variant]`, as runtimes write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A platform of a manifest, or one that a user asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    /// `linux`, `windows`, `unknown` (buildkit's attestations) …
    pub os: String,
    /// Go's name of it: `amd64`, `arm64` …
    pub architecture: String,
    /// `v8`, `v7` …
    pub variant: Option<String>,
}

/// What was given is not a platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a platform: expected os/architecture[/variant], as linux/amd64")]
pub struct InvalidPlatform(pub String);

impl Platform {
    /// `linux/` and this machine's architecture, by Go's name.
    pub fn here() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            "x86" => "386",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// Whether a manifest of this platform serves somebody who asks for `wanted`. An absent variant on either side
    /// matches, as arm64 is written with and without `v8`.
    pub fn serves(&self, wanted: &Self) -> bool {
        self.os == wanted.os
            && self.architecture == wanted.architecture
            && (self.variant == wanted.variant || self.variant.is_none() || wanted.variant.is_none())
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if let Some(variant) = &self.variant { write!(f, "/{variant}") } else { Ok(()) }
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let invalid = || InvalidPlatform(text.to_owned());
        let mut parts = text.split('/');
        let mut next = || {
            parts
                .next()
                .filter(|part| {
                    !part.is_empty()
                        && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
                })
                .map(str::to_owned)
        };
        let (os, architecture) = (next().ok_or_else(invalid)?, next().ok_or_else(invalid)?);
        let variant = match text.matches('/').count() {
            1 => None,
            2 => Some(next().ok_or_else(invalid)?),
            _ => return Err(invalid()),
        };
        Ok(Self { os, architecture, variant })
    }
}

impl Serialize for Platform {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Platform {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_match_when_one_side_is_silent() {
        let arm: Platform = "linux/arm64/v8".parse().unwrap();
        assert!(arm.serves(&"linux/arm64".parse().unwrap()));
        assert!(!arm.serves(&"linux/amd64".parse().unwrap()));
        assert!(!"linux/arm/v6".parse::<Platform>().unwrap().serves(&"linux/arm/v7".parse().unwrap()));
        for bad in ["", "linux", "linux/", "/amd64", "linux/amd64/", "linux/a/b/c", "Linux/amd64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
