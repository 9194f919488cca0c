//! What scanners found, joined by digest: trivy's JSON (`Results[].Vulnerabilities[]`) and grype's (`matches[]`).

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use artifact::Digest;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How many of each severity; ordered so that the worst is the greatest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Counts {
    /// Critical ones.
    pub critical: usize,
    /// High.
    pub high: usize,
    /// Medium.
    pub medium: usize,
    /// Low, negligible, unknown.
    pub low: usize,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { critical, high, medium, low } = self;
        write!(f, "{critical} critical, {high} high, {medium} medium, {low} low")
    }
}

/// What one document of a scanner says of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// What it calls the image, for messages.
    pub name: String,
    /// The digests it names: of manifests, or of the config.
    digests: BTreeSet<Digest>,
    /// Each finding's name and severity; one is counted once, in however many packages it is.
    severities: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    // trivy
    #[serde(rename = "ArtifactName")]
    artifact_name: String,
    #[serde(rename = "Metadata")]
    metadata: Metadata,
    #[serde(rename = "Results")]
    results: Option<Vec<Scanned>>,
    // grype
    matches: Option<Vec<Match>>,
    source: Source,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Metadata {
    #[serde(rename = "ImageID")]
    image_id: String,
    repo_digests: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Scanned {
    vulnerabilities: Option<Vec<Vulnerability>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Vulnerability {
    #[serde(rename = "VulnerabilityID")]
    id: String,
    #[serde(default)]
    severity: String,
}

#[derive(Deserialize)]
struct Match {
    vulnerability: GrypeVulnerability,
}

#[derive(Deserialize)]
struct GrypeVulnerability {
    id: String,
    #[serde(default)]
    severity: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Source {
    target: serde_json::Value,
}

impl Findings {
    /// Reads a scanner's JSON; `name` is the file's, for errors.
    ///
    /// # Errors
    /// [`Error::Findings`], when it is neither trivy's nor grype's.
    pub fn read(from: impl Read, name: &str) -> Result<Self> {
        let wrong = |why: String| Error::Findings { path: name.into(), why };
        let document: Document = serde_json::from_reader(from).map_err(|error| wrong(error.to_string()))?;
        let mut severities = BTreeMap::new();
        let is_trivy = !document.artifact_name.is_empty();
        match (document.matches, document.results) {
            (Some(matches), _) => {
                severities.extend(matches.into_iter().map(|one| (one.vulnerability.id, one.vulnerability.severity)));
            }
            // trivy leaves its results out where it found nothing to look at.
            (None, results) if is_trivy => {
                let all = results.into_iter().flatten().flat_map(|one| one.vulnerabilities.unwrap_or_default());
                severities.extend(all.map(|one| (one.id, one.severity)));
            }
            _ => return Err(wrong("it is neither trivy's JSON nor grype's".to_owned())),
        }
        let target = &document.source.target;
        let texts = |key: &str| match target.get(key) {
            Some(serde_json::Value::Array(all)) => {
                all.iter().filter_map(|one| one.as_str()).map(str::to_owned).collect()
            }
            Some(serde_json::Value::String(text)) => vec![text.clone()],
            _ => Vec::new(),
        };
        let mut named = document.metadata.repo_digests;
        named.push(document.metadata.image_id);
        named.extend(["imageID", "manifestDigest", "repoDigests"].into_iter().flat_map(texts));
        let digests = named.iter().filter_map(|text| text.rsplit('@').next()?.parse().ok()).collect();
        let what = [document.artifact_name, texts("userInput").concat()].concat();
        Ok(Self { name: if what.is_empty() { name.to_owned() } else { what }, digests, severities })
    }

    /// Whether it is about something that consists of these.
    pub fn is_of(&self, parts: &[Digest]) -> bool {
        parts.iter().any(|digest| self.digests.contains(digest))
    }

    /// Its findings, counted together with others of the same thing: two scanners find the same.
    pub(crate) fn counts<'a>(all: impl Iterator<Item = &'a Self>) -> Counts {
        let together: BTreeMap<_, _> = all.flat_map(|one| &one.severities).collect();
        let mut counts = Counts::default();
        for severity in together.values() {
            *match severity.to_ascii_lowercase().as_str() {
                "critical" => &mut counts.critical,
                "high" => &mut counts.high,
                "medium" => &mut counts.medium,
                _ => &mut counts.low,
            } += 1;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_scanners_are_read_and_one_finding_counts_once() {
        let digest = Digest::of(b"m");
        let trivy = format!(
            r#"{{"SchemaVersion":2,"ArtifactName":"nginx:1","ArtifactType":"container_image","Metadata":{{"ImageID":"{digest}",
            "RepoDigests":["nginx@{}"]}},"Results":[{{"Target":"nginx","Class":"os-pkgs","Vulnerabilities":[
            {{"VulnerabilityID":"CVE-1","Severity":"CRITICAL","PkgName":"a"}},{{"VulnerabilityID":"CVE-1","Severity":"CRITICAL","PkgName":"b"}},
            {{"VulnerabilityID":"CVE-2","Severity":"LOW"}}]}},{{"Target":"lang"}}]}}"#,
            Digest::of(b"index")
        );
        let grype = format!(
            r#"{{"matches":[{{"vulnerability":{{"id":"CVE-1","severity":"Critical"}}}},{{"vulnerability":{{"id":"CVE-3","severity":"High"}}}},
            {{"vulnerability":{{"id":"CVE-4","severity":"Negligible"}}}}],"source":{{"type":"image","target":{{"userInput":"nginx:1",
            "imageID":"sha256:0","manifestDigest":"{digest}","repoDigests":[]}}}}}}"#
        );
        let trivy = Findings::read(trivy.as_bytes(), "t").unwrap();
        let grype = Findings::read(grype.as_bytes(), "g").unwrap();
        let parts = [digest];
        assert!(trivy.is_of(&parts) && grype.is_of(&parts) && trivy.is_of(&[Digest::of(b"index")]));
        assert!(!trivy.is_of(&[]));
        assert_eq!(Findings::counts([&trivy, &grype].into_iter()), Counts { critical: 1, high: 1, medium: 0, low: 2 });
        assert_eq!((trivy.name.as_str(), grype.name.as_str()), ("nginx:1", "nginx:1"));
        for bad in ["", "{}", "[]", r#"{"matches":5}"#, r#"{"ArtifactName":""}"#] {
            assert!(Findings::read(bad.as_bytes(), "x").is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[ -~\n]{0,200}") {
            let _ = Findings::read(text.as_bytes(), "x");
        }
    }
}
