//! The little that must be read of a manifest or an index. The bytes themselves are kept verbatim beside it, and
//! never written again from what was read.
//!
//! `oci-spec`'s types were tried first and fell short: they insist on a config and on layers, which artifact
//! manifests in the wild (zero layers, no config, ORAS's own shape) do not have.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{Digest, Platform, media_type};

/// A manifest may have so many bytes (OCI distribution spec, "Pushing Manifests": at least 4 MiB).
pub const MANIFEST_LIMIT: usize = 4 * 1024 * 1024;

/// An OCI content descriptor, with what Naru reads of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type of what it points at.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Where else it may be had: foreign layers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Of a child of an index.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "one")]
    pub platform: Option<RawPlatform>,
    /// Of an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Free text by key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<serde_json::Map<String, serde_json::Value>>,
}

/// A platform as a document has it, which may be any text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawPlatform {
    /// `os`.
    #[serde(default)]
    pub os: String,
    /// `architecture`.
    #[serde(default)]
    pub architecture: String,
    /// `variant`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Descriptor {
    /// The platform it says it is for, in the form users ask for it.
    pub fn platform(&self) -> Option<Platform> {
        self.platform.as_ref().map(|raw| Platform {
            os: raw.os.clone(),
            architecture: raw.architecture.clone(),
            variant: raw.variant.clone().filter(|variant| !variant.is_empty()),
        })
    }

    /// The platform it is for, unless it is buildkit's `unknown/unknown`, or says nothing.
    pub fn known_platform(&self) -> Option<Platform> {
        self.platform().filter(|platform| platform.os != "unknown" && !platform.os.is_empty())
    }

    /// Whether its bytes may be absent on purpose: a foreign or non-distributable layer.
    pub fn is_foreign(&self) -> bool {
        media_type::is_foreign_layer(&self.media_type)
    }

    /// Whether it is a buildkit attestation: a child for the platform `unknown/unknown` that describes another child.
    pub fn describes(&self) -> Option<Digest> {
        self.annotations.as_ref()?.get("vnd.docker.reference.digest")?.as_str()?.parse().ok()
    }
}

/// What a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// It points at manifests.
    Index,
    /// It points at a config and layers, or at an artifact's blobs.
    Manifest,
}

/// A manifest or index, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The media type under which it is stored and answered.
    pub media_type: String,
    /// Index or manifest.
    pub shape: Shape,
    /// Children that are manifests themselves, in order (an index's).
    pub manifests: Vec<Descriptor>,
    /// The config, where there is one.
    pub config: Option<Descriptor>,
    /// Layers, or an artifact's blobs, in order; of an index, what it lists and is no manifest.
    pub layers: Vec<Descriptor>,
    /// What it refers to: it is a referrer of that.
    pub subject: Option<Descriptor>,
    /// `artifactType`, or the config's media type where that stands for it (distribution spec, "Listing Referrers").
    pub artifact_type: Option<String>,
    /// Its annotations.
    pub annotations: Option<serde_json::Map<String, serde_json::Value>>,
}

/// Why bytes are not a manifest that Naru carries.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidManifest {
    /// Over [`MANIFEST_LIMIT`].
    #[error("the manifest has {0} bytes; more than 4 MiB is refused")]
    TooLarge(usize),
    /// Not JSON of the right shape.
    #[error("not a manifest: {0}")]
    Malformed(String),
    /// Docker schema 1.
    #[error(
        "the manifest is of Docker schema 1, which containerd 2 and today's registries refuse; \
         pull it with an old docker and push it again, or ask its publisher for a current image"
    )]
    Schema1,
    /// The document says one media type and the transport another.
    #[error("the manifest says it is `{inside}`, but came as `{outside}`")]
    MediaTypes {
        /// `mediaType` in the document.
        inside: String,
        /// `Content-Type` or the descriptor's.
        outside: String,
    },
    /// Neither an index nor a manifest.
    #[error("`{0}` is not the media type of a manifest or an index")]
    Unknown(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    #[serde(default, deserialize_with = "one")]
    config: Option<Descriptor>,
    #[serde(default, deserialize_with = "several")]
    layers: Option<Vec<Descriptor>>,
    #[serde(default, deserialize_with = "several")]
    blobs: Option<Vec<Descriptor>>,
    #[serde(default, deserialize_with = "several")]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default, deserialize_with = "one")]
    subject: Option<Descriptor>,
    annotations: Option<serde_json::Map<String, serde_json::Value>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// What only an object can be. Of a list serde would read a struct too, member by member; no client does.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members)).map(Object)
            }
        }

        deserializer.deserialize_map(Members(PhantomData))
    }
}

fn one<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::<Object<T>>::deserialize(deserializer).map(|read| read.map(|Object(one)| one))
}

fn several<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<T>>, D::Error> {
    let read = Option::<Vec<Object<T>>>::deserialize(deserializer)?;
    Ok(read.map(|several| several.into_iter().map(|Object(one)| one).collect()))
}

impl Manifest {
    /// Reads a document that came as `content_type` (empty: unknown).
    ///
    /// # Errors
    /// When it is too large, malformed, of schema 1, or of a type that is not a manifest's.
    pub fn parse(bytes: &[u8], content_type: &str) -> Result<Self, InvalidManifest> {
        if bytes.len() > MANIFEST_LIMIT {
            return Err(InvalidManifest::TooLarge(bytes.len()));
        }
        let content_type = content_type.split(';').next().unwrap_or_default().trim();
        let Object::<Raw>(raw) =
            serde_json::from_slice(bytes).map_err(|error| InvalidManifest::Malformed(error.to_string()))?;
        if raw.schema_version == Some(1) || raw.fs_layers.is_some() || media_type::is_schema1(content_type) {
            return Err(InvalidManifest::Schema1);
        }
        let outside = Some(content_type).filter(|text| media_type::is_manifest(text));
        let media_type = match (raw.media_type, outside) {
            (Some(inside), Some(outside)) if inside != outside => {
                return Err(InvalidManifest::MediaTypes { inside, outside: outside.to_owned() });
            }
            (Some(inside), _) if media_type::is_manifest(&inside) => inside,
            (Some(inside), _) => return Err(InvalidManifest::Unknown(inside)),
            (None, Some(outside)) => outside.to_owned(),
            // OCI's `mediaType` is optional; the members tell.
            (None, None) if raw.manifests.is_some() => media_type::OCI_INDEX.to_owned(),
            (None, None) if raw.config.is_some() || raw.layers.is_some() => media_type::OCI_MANIFEST.to_owned(),
            (None, None) => return Err(InvalidManifest::Unknown(content_type.to_owned())),
        };
        let shape = if media_type::is_index(&media_type) { Shape::Index } else { Shape::Manifest };
        // A document with both lists can be read as either by different clients (CVE-2021-41190).
        let ambiguous = match shape {
            Shape::Index => raw.config.is_some() || raw.layers.is_some(),
            Shape::Manifest => raw.manifests.is_some(),
        };
        if ambiguous {
            return Err(InvalidManifest::Malformed("it has the members of an index and of a manifest".to_owned()));
        }
        let config_type = raw.config.as_ref().map(|config| config.media_type.clone()).filter(|text| !text.is_empty());
        // BuildKit keeps its cache as an index of layers (`image-manifest=false`, long its default): blobs like any image's.
        let (listed, manifests) =
            raw.manifests.unwrap_or_default().into_iter().partition(|child| media_type::is_blob(&child.media_type));
        Ok(Self {
            shape,
            manifests,
            layers: raw.layers.or(raw.blobs).unwrap_or(listed),
            subject: raw.subject,
            artifact_type: raw.artifact_type.filter(|text| !text.is_empty()).or(config_type),
            annotations: raw.annotations,
            config: raw.config,
            media_type,
        })
    }

    /// Blobs that it needs: config and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.config.iter().chain(&self.layers)
    }

    /// The children of an index that are for the chosen platforms, with what describes those, in its order.
    pub fn chosen(&self, choose: impl Fn(&Platform) -> bool) -> Vec<&Descriptor> {
        let is_chosen = |child: &&Descriptor| match (child.platform(), child.known_platform()) {
            // A child that does not say for what it is may be for anybody; one for `unknown` describes another.
            (None, _) => true,
            (Some(_), None) => false,
            (_, Some(platform)) => choose(&platform),
        };
        let chosen: HashSet<Digest> = self.manifests.iter().filter(is_chosen).map(|child| child.digest).collect();
        let is_carried = |child: &&Descriptor| {
            chosen.contains(&child.digest) || child.describes().is_some_and(|subject| chosen.contains(&subject))
        };
        self.manifests.iter().filter(is_carried).collect()
    }

    /// Everything it points at, children and blobs; the subject is not one of them.
    pub fn links(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifests.iter().chain(self.blobs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> String {
        Digest::of(&[n]).to_string()
    }

    #[test]
    fn reads_what_registries_hold() {
        let image = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"c","digest":"{}","size":2}},"layers":[]}}"#,
            media_type::OCI_MANIFEST,
            digest(1)
        );
        let read = Manifest::parse(image.as_bytes(), media_type::OCI_MANIFEST).unwrap();
        assert_eq!(read.artifact_type.as_deref(), Some("c"));
        assert_eq!(read.links().count(), 1);
        // No mediaType inside, nothing said outside.
        let bare = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{}","size":9}}]}}"#, digest(2));
        assert_eq!(Manifest::parse(bare.as_bytes(), "").unwrap().media_type, media_type::OCI_INDEX);
        // No config, no layers: an artifact.
        let artifact =
            format!(r#"{{"schemaVersion":2,"mediaType":"{}","artifactType":"x"}}"#, media_type::OCI_MANIFEST);
        assert_eq!(Manifest::parse(artifact.as_bytes(), "").unwrap().links().count(), 0);
    }

    #[test]
    fn a_cache_is_an_index_of_blobs() {
        let cache = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{{"mediaType":"{}","digest":"{}","size":1}},
            {{"mediaType":"application/vnd.buildkit.cacheconfig.v0","digest":"{}","size":2}},
            {{"mediaType":"{}","digest":"{}","size":3}}]}}"#,
            media_type::OCI_INDEX,
            media_type::OCI_LAYER_GZIP,
            digest(1),
            digest(2),
            media_type::OCI_MANIFEST,
            digest(3)
        );
        let read = Manifest::parse(cache.as_bytes(), "").unwrap();
        assert_eq!(read.shape, Shape::Index);
        assert_eq!((read.manifests.len(), read.blobs().count()), (1, 2));
    }

    /// As serde reads a struct, unless it is told not to.
    #[test]
    fn a_list_is_no_object() {
        let (index, image) = (media_type::OCI_INDEX, media_type::OCI_MANIFEST);
        let (name, blob) = (digest(1), format!(r#"{{"digest":"{}","size":2}}"#, digest(1)));
        let listed = format!(r#"["",{name:?},2,[],null,null,null]"#);
        let whole = |member: &str, what: &str| {
            let kind = if member == "manifests" { index } else { image };
            Manifest::parse(format!(r#"{{"schemaVersion":2,{member:?}:{what}}}"#).as_bytes(), kind)
        };
        for member in ["layers", "blobs", "manifests"] {
            assert!(whole(member, &format!("[{blob}]")).is_ok(), "{member}");
            assert!(matches!(whole(member, &format!("[{listed}]")), Err(InvalidManifest::Malformed(_))), "{member}");
        }
        for member in ["config", "subject"] {
            assert!(whole(member, &blob).is_ok() && whole(member, "null").is_ok(), "{member}");
            assert!(matches!(whole(member, &listed), Err(InvalidManifest::Malformed(_))), "{member}");
        }
        let with_platform =
            |platform: &str| whole("manifests", &format!(r#"[{{"digest":{name:?},"size":2,"platform":{platform}}}]"#));
        assert!(with_platform(r#"{"os":"linux","architecture":"arm64"}"#).is_ok() && with_platform("null").is_ok());
        assert!(with_platform(r#"["linux","arm64",null]"#).is_err());
        let document = format!("[2,{image:?},null,{blob},[],null,null,null,null,null]");
        let error = Manifest::parse(document.as_bytes(), image).unwrap_err();
        assert!(matches!(&error, InvalidManifest::Malformed(why) if why.contains("an object")), "{error}");
    }

    #[test]
    fn refuses_by_name() {
        let parse = |text: &str, kind: &str| Manifest::parse(text.as_bytes(), kind).unwrap_err();
        assert_eq!(parse(r#"{"schemaVersion":1,"fsLayers":[]}"#, ""), InvalidManifest::Schema1);
        assert!(matches!(parse("<html>", ""), InvalidManifest::Malformed(_)));
        assert!(matches!(
            parse(&format!(r#"{{"mediaType":"{}"}}"#, media_type::OCI_INDEX), media_type::OCI_MANIFEST),
            InvalidManifest::MediaTypes { .. }
        ));
        assert!(matches!(parse(r#"{"manifests":[],"layers":[]}"#, ""), InvalidManifest::Malformed(_)));
        assert!(matches!(
            Manifest::parse(&vec![b' '; MANIFEST_LIMIT + 1], "").unwrap_err(),
            InvalidManifest::TooLarge(_)
        ));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = Manifest::parse(&bytes, "");
        }
    }
}
