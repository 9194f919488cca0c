//! The readable list, for whoever must approve the medium.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use artifact::{Digest, Entry, Kind, Manifest, Trust};
use serde::Serialize;

use crate::document::What;
use crate::tree::Tree;
use crate::verify::{Documents, documents, manifest_bytes, same_bundle, shown};
use crate::volume::{Volume, volumes_below};
use crate::{Error, Result, words};

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One page that needs nothing else.
    Html,
    /// Comma-separated values (RFC 4180), with a line of headings.
    Csv,
    /// A JSON document.
    Json,
}

/// One thing that is carried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Image or file.
    pub kind: Kind,
    /// Its name, as people write it.
    pub name: String,
    /// Tag or file name: the version, as far as names tell.
    pub version: String,
    /// Where it came from.
    pub origin: String,
    /// Bytes, of everything that belongs to it.
    pub size: u64,
    /// Its digest.
    pub digest: Digest,
    /// Why it is believed.
    pub trust: Trust,
    /// When its upstream was asked, in seconds since 1970.
    pub seen: i64,
    /// The volumes that hold it.
    pub volumes: Vec<u32>,
}

/// Rows of a tree; `size` and `volumes` of each digest are looked up.
pub(crate) fn rows(
    trees: &[Tree],
    plan: &BTreeMap<Digest, (u64, BTreeSet<u32>)>,
    bytes_of: impl Fn(&Digest) -> Option<bytes::Bytes>,
) -> Vec<Row> {
    let mut rows = Vec::new();
    for tree in trees {
        let mut children: HashMap<Digest, Vec<Digest>> = HashMap::new();
        for (digest, known) in &tree.manifests {
            if let Some(read) = bytes_of(digest).and_then(|bytes| Manifest::parse(&bytes, &known.media_type).ok()) {
                let below = read.links().map(|link| link.digest).filter(|child| !known.omitted.contains(child));
                children.insert(*digest, below.collect());
            }
        }
        for entry in tree.entries.values() {
            let (mut size, mut volumes) = (0, BTreeSet::new());
            let (mut open, mut seen) = (vec![entry.digest], HashSet::new());
            while let Some(digest) = open.pop() {
                if seen.insert(digest) {
                    if let Some((bytes, lies_in)) = plan.get(&digest) {
                        size += bytes;
                        volumes.extend(lies_in);
                    }
                    open.extend(children.get(&digest).into_iter().flatten());
                }
            }
            rows.push(row(tree, entry, size, volumes.into_iter().collect()));
        }
    }
    // What deserves a look first comes first.
    rows.sort_by(|one, other| {
        (std::cmp::Reverse(one.trust.is_weak()), one.kind, &one.name).cmp(&(
            std::cmp::Reverse(other.trust.is_weak()),
            other.kind,
            &other.name,
        ))
    });
    rows
}

fn row(tree: &Tree, entry: &Entry, size: u64, volumes: Vec<u32>) -> Row {
    let version = match tree.repository.kind {
        Kind::Image => entry.name.clone(),
        _ => entry.name.rsplit('/').next().unwrap_or_default().to_owned(),
    };
    Row {
        kind: tree.repository.kind,
        name: shown(&tree.repository, &entry.name),
        version,
        origin: entry.origin.clone(),
        size,
        digest: entry.digest,
        trust: entry.trust,
        seen: entry.seen,
        volumes,
    }
}

/// Reports a bundle from its volumes; one that has the list (the first or the last) is enough.
pub fn report_of_bundle(paths: &[PathBuf], format: Format) -> Result<String> {
    let paths = volumes_below(paths)?;
    let volumes = paths.iter().map(|path| Volume::open(path)).collect::<Result<Vec<_>>>()?;
    let Some(first) = volumes.first() else { return Err(Error::NoVolumes { path: PathBuf::from("what was given") }) };
    volumes.iter().try_for_each(|volume| same_bundle(first, volume))?;
    let missing =
        || Error::not_a_volume(&first.path, "the list of what the bundle holds is in its first and its last volume");
    let Documents { plan, trees } = documents(&volumes)?.ok_or_else(missing)?;
    let mut places: BTreeMap<Digest, (u64, BTreeSet<u32>)> = BTreeMap::new();
    for (number, members) in (1_u32..).zip(&plan.volumes) {
        for member in members {
            let (digest, size) = match (member.what(), &member.part) {
                (Some(What::Blob(digest) | What::Manifest(digest)), _) => (digest, member.size),
                (Some(What::Part(digest)), Some(part)) => (digest, part.size),
                _ => continue,
            };
            places.entry(digest).or_insert_with(|| (size, BTreeSet::new())).1.insert(number);
        }
    }
    let rows = rows(&trees, &places, |digest| manifest_bytes(&volumes, digest).map(Into::into));
    let id = first.head.bundle;
    Ok(report_of_rows(&rows, Some((&id, &first.key.fingerprint())), format))
}

/// Writes rows as a report. A bundle's has its id and the fingerprint of its key.
pub fn report_of_rows(rows: &[Row], bundle: Option<(&Digest, &str)>, format: Format) -> String {
    match format {
        Format::Csv => csv(rows),
        Format::Html => html(rows, bundle),
        Format::Json => {
            let bundle = bundle.map(
                |(id, fingerprint)| serde_json::json!({"id": id.hex(), "words": words(id), "signed_by": fingerprint}),
            );
            let document = serde_json::json!({"bundle": bundle, "things": rows});
            serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
        }
    }
}

const HEADINGS: [&str; 9] = ["kind", "name", "version", "origin", "bytes", "digest", "trust", "seen", "volumes"];

fn cells(row: &Row) -> [String; 9] {
    let volumes: Vec<String> = row.volumes.iter().map(ToString::to_string).collect();
    let seen = jiff::Timestamp::from_second(row.seen).map_or_else(|_| String::new(), |time| time.to_string());
    [
        row.kind.to_string(),
        row.name.clone(),
        row.version.clone(),
        row.origin.clone(),
        row.size.to_string(),
        row.digest.to_string(),
        row.trust.as_str().to_owned(),
        seen,
        volumes.join(" "),
    ]
}

fn csv(rows: &[Row]) -> String {
    let field = |text: &str| {
        // A leading sign makes a spreadsheet take text for a formula; a quote before it does not.
        let text =
            if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() };
        if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
    };
    let mut out = HEADINGS.join(",") + "\r\n";
    for row in rows {
        let line: Vec<String> = cells(row).iter().map(|cell| field(cell)).collect();
        out += &(line.join(",") + "\r\n");
    }
    out
}

fn html(rows: &[Row], bundle: Option<(&Digest, &str)>) -> String {
    let total: u64 = rows.iter().map(|row| row.size).sum();
    let weak = rows.iter().filter(|row| row.trust.is_weak()).count();
    let mut out = String::from(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>Contents of a Naru bundle</title>\n<style>\
         body{font:14px/1.5 system-ui,sans-serif;margin:2rem}table{border-collapse:collapse;width:100%}\
         th,td{border-bottom:1px solid #ccc;padding:.3rem .5rem;text-align:left;vertical-align:top;overflow-wrap:anywhere}\
         .weak{background:#fff3cd}.number{text-align:right}code{font-size:12px}</style>\n<h1>Contents · 내용물</h1>\n",
    );
    if let Some((id, fingerprint)) = bundle {
        let _ = writeln!(
            out,
            "<p>Bundle · 번들 <b>{}</b><br><code>{}</code><br>Signed by key · 서명 키 <code>{}</code></p>",
            words(id),
            id.hex(),
            escape(fingerprint)
        );
    }
    let _ = writeln!(
        out,
        "<p>{} things, {total} bytes (what several share is counted for each). {weak} of them nobody vouched for: they \
         stand first, marked <b>first-use</b> or <b>mirror</b>.</p>",
        rows.len()
    );
    out += "<table><tr>";
    for heading in [
        "Kind · 종류",
        "Name · 이름",
        "Version · 버전",
        "Origin · 출처",
        "Bytes · 크기",
        "Digest · 다이제스트",
        "Trust · 신뢰 근거",
        "Seen · 확인 시각",
        "Volumes · 볼륨",
    ] {
        let _ = write!(out, "<th>{heading}</th>");
    }
    out += "</tr>\n";
    for row in rows {
        let class = if row.trust.is_weak() { " class=\"weak\"" } else { "" };
        let _ = write!(out, "<tr{class}>");
        for cell in cells(row) {
            let _ = write!(out, "<td>{}</td>", escape(&cell));
        }
        out += "</tr>\n";
    }
    out + "</table></html>\n"
}

/// Names are hostile: nothing of them may become markup.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}
