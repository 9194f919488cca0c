//! `naru.yaml` as it is written. The doc comments here are its reference (`docs/reference/naru.yaml.md`).

use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};
use serde_saphyr::Spanned;

/// The packing list: what shall be carried across the gap.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Document {
    /// Platforms of every image that does not name its own: a list of `os/architecture[/variant]`, or `[all]`. Absent:
    /// `linux/` and the architecture of the machine on which `naru lock` runs, which it then says.
    pub(super) platforms: Option<Spanned<Vec<Spanned<String>>>>,
    /// Container images and other OCI artifacts: references, or mappings where one needs more.
    pub(super) images: Vec<Spanned<Image>>,
    /// Files from web servers, and files and folders of this machine.
    pub(super) files: Vec<Spanned<File>>,
    /// How upstreams are reached, by host (`docker.io`, `registry.example:5000`): credentials, CA, mirrors.
    pub(super) upstreams: Option<Spanned<upstream::Upstreams>>,
    /// What happens to layers that their licence keeps from being redistributed (Windows base layers): `skip` (the
    /// default; the image is carried without them, and runtimes fetch them elsewhere) or `carry`.
    pub(super) foreign_layers: ForeignLayers,
}

/// What happens to foreign layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ForeignLayers {
    /// They are left out, and said so.
    #[default]
    Skip,
    /// They are fetched from where the manifest says they lie.
    Carry,
}

/// One image: `registry.k8s.io/pause:3.10`, or a mapping.
#[derive(Debug)]
pub(super) struct Image(pub(super) ImageFields);

/// One image, with all that may be said of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImageFields {
    /// The reference: by tag, by digest, or by both (then the digest decides). `nginx` means
    /// `docker.io/library/nginx:latest`, as in docker.
    pub(super) image: String,
    /// Platforms of this image, in the place of the file's.
    #[serde(default)]
    pub(super) platforms: Option<Spanned<Vec<Spanned<String>>>>,
    /// Whether what refers to the image is carried with it: signatures, SBOMs, attestations, by the referrers API, its
    /// fallback tag and cosign's tags. Default: `true`.
    #[serde(default)]
    pub(super) referrers: Option<bool>,
}

/// One file: a `url`, or a `path` of this machine.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    /// Where it comes from: http or https, without credentials (they belong under `upstreams`).
    pub(super) url: Option<String>,
    /// Its sha256 in hex. With it, the bytes are proven whatever way they come.
    pub(super) sha256: Option<String>,
    /// A document of the upstream that names its sha256: a bare sum, or lines as sha256sum writes them.
    pub(super) checksum_url: Option<String>,
    /// With a `url`: the path under which it is served, `/files/HOST/PATH`; absent: the URL's own path. Without one: a
    /// file or folder of this machine, seen from the packing list's folder, that is served under `/files/local/NAME`.
    pub(super) path: Option<PathBuf>,
}

impl<'de> Deserialize<'de> for Image {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        // By hand, since an untagged enum forgets where in the file an unknown key stood.
        impl<'de> Visitor<'de> for Either {
            type Value = Image;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an image reference, or a mapping with the key `image`")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Image, E> {
                if text.is_empty() {
                    return Err(E::custom("an image reference is missing here"));
                }
                Ok(Image(ImageFields { image: text.to_owned(), platforms: None, referrers: None }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Image, A::Error> {
                ImageFields::deserialize(MapAccessDeserializer::new(map)).map(Image)
            }
        }

        deserializer.deserialize_any(Either)
    }
}
