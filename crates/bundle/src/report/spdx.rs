//! SPDX 2.3 as JSON (spdx.github.io/spdx-spec/v2.3): a package for each thing. No clock: the document's time is that of
//! the youngest thing in it, so the same bundle has the same bytes.

use artifact::{Digest, Kind};
use serde_json::{Value, json};

use super::{Row, time};
use crate::words;

/// Licences by their SPDX names, as images and charts have them. Others become `LicenseRef-…`, with the text as it was
/// found: a document may name only what is on SPDX's list or what it explains itself.
const KNOWN: [&str; 34] = [
    "0BSD",
    "AGPL-3.0-only",
    "AGPL-3.0-or-later",
    "Apache-2.0",
    "Artistic-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "BUSL-1.1",
    "CC-BY-4.0",
    "CC0-1.0",
    "CDDL-1.0",
    "EPL-2.0",
    "GPL-2.0-only",
    "GPL-2.0-or-later",
    "GPL-3.0-only",
    "GPL-3.0-or-later",
    "ISC",
    "LGPL-2.1-only",
    "LGPL-2.1-or-later",
    "LGPL-3.0-only",
    "LGPL-3.0-or-later",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "OpenSSL",
    "PostgreSQL",
    "PSF-2.0",
    "Python-2.0",
    "SSPL-1.0",
    "Unicode-3.0",
    "Unlicense",
    "UPL-1.0",
    "Zlib",
];

pub(super) fn document(rows: &[Row], bundle: Option<(&Digest, &str)>) -> String {
    let mut extracted: Vec<String> = Vec::new();
    let mut packages = Vec::new();
    let mut relationships = Vec::new();
    for (number, row) in (1..).zip(rows) {
        let id = format!("SPDXRef-Package-{number}");
        relationships.push(json!({
            "spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": id,
        }));
        packages.push(package(row, &id, &licence(row, &mut extracted)));
    }
    // The things themselves name the document where there is no bundle yet.
    let all: Vec<_> = rows.iter().map(|row| format!("{} {}\n", row.digest, row.name)).collect();
    let mark = bundle.map_or_else(|| Digest::of(all.concat().as_bytes()), |(id, _)| *id);
    let name = bundle.map_or_else(|| "naru-lock".to_owned(), |(id, _)| format!("naru-bundle {}", words(id)));
    let licences = (1..).zip(&extracted).map(
        |(number, text)| json!({ "licenseId": format!("LicenseRef-{number}"), "extractedText": text, "name": text }),
    );
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": format!("urn:naru:bundle:{}", mark.hex()),
        "creationInfo": {
            "created": time(rows.iter().map(|row| row.seen).max().unwrap_or_default()),
            "creators": [format!("Tool: naru-{}", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "relationships": relationships,
        "hasExtractedLicensingInfos": licences.collect::<Vec<_>>(),
    });
    serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
}

fn package(row: &Row, id: &str, licence: &str) -> Value {
    let is_url = ["https://", "http://", "ftp://"].iter().any(|scheme| row.origin.starts_with(scheme));
    let mut package = json!({
        "SPDXID": id,
        "name": row.name,
        "downloadLocation": if is_url { row.origin.replace(' ', "%20") } else { "NOASSERTION".to_owned() },
        "filesAnalyzed": false,
        "checksums": [{
            "algorithm": row.digest.algorithm().as_str().to_ascii_uppercase(), "checksumValue": row.digest.hex(),
        }],
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": licence,
        "copyrightText": "NOASSERTION",
        "comment": format!("trust: {}; upstream signature: {}; why: {}", row.trust.as_str(), row.signature, row.why),
    });
    if !row.version.is_empty() {
        package["versionInfo"] = row.version.clone().into();
    }
    if row.kind == Kind::Image {
        package["primaryPackagePurpose"] = "CONTAINER".into();
        if let Some(locator) = locator(row) {
            let reference = json!({
                "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": locator,
            });
            package["externalRefs"] = json!([reference]);
        }
    }
    package
}

/// A package URL (purl-spec, type `oci`).
fn locator(row: &Row) -> Option<String> {
    let reference: artifact::Reference = row.name.parse().ok()?;
    let repository = reference.repository().to_string();
    let last = repository.rsplit('/').next()?.to_ascii_lowercase();
    let tag = reference.tag().map(|tag| format!("&tag={tag}")).unwrap_or_default();
    let digest = row.digest.to_string().replace(':', "%3A");
    Some(format!("pkg:oci/{last}@{digest}?repository_url={}{tag}", repository.replace(':', "%3A")))
}

/// A licence expression that SPDX takes.
fn licence(row: &Row, extracted: &mut Vec<String>) -> String {
    let Some(text) = row.licence.as_deref().map(str::trim).filter(|text| !text.is_empty()) else {
        return "NOASSERTION".to_owned();
    };
    let words: Vec<_> = text.split(' ').collect();
    let is_expression = words.len() % 2 == 1
        && words.iter().enumerate().all(|(place, word)| match place % 2 {
            0 => KNOWN.contains(word),
            _ => ["AND", "OR"].contains(word),
        });
    if is_expression {
        return text.to_owned();
    }
    let place = extracted.iter().position(|known| known == text).unwrap_or_else(|| {
        extracted.push(text.to_owned());
        extracted.len() - 1
    });
    format!("LicenseRef-{}", place + 1)
}
