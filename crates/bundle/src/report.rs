//! The readable list, for whoever must approve the medium: what, from where, why it is believed, who signed it, under
//! which licence, in which volume, and what scanners found.

mod findings;
mod signature;
mod spdx;

pub use findings::{Counts, Findings};
pub use signature::CosignKey;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::{self, Write};
use std::path::PathBuf;

use artifact::{Digest, Entry, Kind, MANIFEST_LIMIT, Manifest, Trust};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

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
    /// SPDX 2.3, as JSON.
    Spdx,
}

/// What a report joins to what is carried.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    /// Keys by which upstreams' publishers may have signed.
    pub keys: Vec<CosignKey>,
    /// What scanners found.
    pub findings: Vec<Findings>,
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
    /// What it says of its licence; none: unknown.
    pub licence: Option<String>,
    /// Its publisher's signature, in words.
    pub signature: String,
    /// Why it is carried, in words.
    pub why: String,
    /// Whether it is a program that no package manager looks after; none where nobody looked.
    pub executable: Option<bool>,
    /// What scanners found; none where none looked at it.
    pub findings: Option<Counts>,
    /// The digests of its manifests and configs: what scanners may call it by.
    #[serde(skip)]
    pub parts: Vec<Digest>,
}

/// Where a report reads what is carried: a medium, or a store.
pub(crate) trait Contents {
    /// A manifest's bytes.
    fn manifest(&self, digest: &Digest) -> Option<Bytes>;
    /// The first bytes of a blob, so many at most.
    fn blob(&self, digest: &Digest, most: usize) -> Option<Vec<u8>>;
}

/// How many bytes each thing has, and the volumes that hold some of it; one may be named for each piece.
pub(crate) type Places = BTreeMap<Digest, (u64, Vec<u32>)>;

/// Rows of trees; `size` and `volumes` of each digest are looked up.
pub(crate) fn rows(trees: &[Tree], plan: &Places, contents: &dyn Contents, beside: &Beside) -> Vec<Row> {
    let mut rows = Vec::new();
    for tree in trees {
        let manifests = manifests(tree, contents);
        let signatures = signatures(tree, &manifests);
        for entry in tree.entries.values() {
            let (mut size, mut volumes) = (0, BTreeSet::new());
            let (mut open, mut seen) = (vec![entry.digest], HashSet::new());
            let (mut parts, mut configs) = (BTreeSet::from([entry.digest]), Vec::new());
            let mut labels = None;
            while let Some(digest) = open.pop() {
                if !seen.insert(digest) {
                    continue;
                }
                if let Some((bytes, lies_in)) = plan.get(&digest) {
                    size += bytes;
                    volumes.extend(lies_in);
                }
                if let Some(manifest) = manifests.get(&digest) {
                    let omitted = tree.manifests.get(&digest).map(|known| &known.omitted);
                    let carried = |child: &Digest| omitted.is_none_or(|omitted| !omitted.contains(child));
                    open.extend(manifest.links().map(|link| link.digest).filter(carried));
                    parts.insert(digest);
                    configs.extend(manifest.config.iter().map(|config| config.digest));
                    labels = labels.or_else(|| annotation(manifest.annotations.as_ref()?));
                }
            }
            let is_image = tree.repository.kind == Kind::Image;
            let mut row = row(tree, entry, size, volumes.into_iter().collect());
            row.licence =
                labels.or_else(|| configs.iter().find_map(|config| label(&contents.blob(config, MANIFEST_LIMIT)?)));
            if is_image {
                let subjects: Vec<_> = parts.iter().copied().collect();
                row.signature = signature::standing(&signatures, &subjects, &beside.keys, contents);
            } else {
                row.executable = contents.blob(&entry.digest, 4).map(|bytes| is_program(&bytes));
            }
            parts.extend(configs);
            row.parts = parts.into_iter().collect();
            rows.push(row);
        }
    }
    arrange(&mut rows, &beside.findings);
    rows
}

/// Joins findings, and puts first what deserves a look first: what scanners found worst, then what nobody vouched for.
pub fn arrange(rows: &mut [Row], findings: &[Findings]) {
    for row in rows.iter_mut() {
        let mut ours = findings.iter().filter(|one| one.is_of(&row.parts)).peekable();
        row.findings = ours.peek().is_some().then(|| Findings::counts(ours));
    }
    rows.sort_by(|one, other| {
        let first = |row: &Row| std::cmp::Reverse((row.findings.unwrap_or_default(), row.trust.is_weak()));
        (first(one), one.kind, &one.name).cmp(&(first(other), other.kind, &other.name))
    });
}

/// A tree's manifests, read.
fn manifests(tree: &Tree, contents: &dyn Contents) -> HashMap<Digest, Manifest> {
    let read = tree.manifests.iter().filter_map(|(digest, known)| {
        Some((*digest, Manifest::parse(&contents.manifest(digest)?, &known.media_type).ok()?))
    });
    read.collect()
}

/// Signatures that a tree has, each with the digest it is of: by cosign's tag, or as referrers.
fn signatures<'a>(tree: &Tree, manifests: &'a HashMap<Digest, Manifest>) -> Vec<(Digest, &'a Manifest)> {
    let tags = tree.entries.values().filter_map(|entry| match signature::tag(&entry.name) {
        Some((of, "sig")) => Some((of, manifests.get(&entry.digest)?)),
        _ => None,
    });
    let referrers =
        manifests.values().filter(|manifest| signature::is_signature(manifest) || signature::has_claims(manifest));
    tags.chain(referrers.filter_map(|manifest| Some((manifest.subject.as_ref()?.digest, manifest)))).collect()
}

/// The licences that an image names (image-spec, "Pre-Defined Annotation Keys"): free text, made one line.
const LICENCES: &str = "org.opencontainers.image.licenses";

fn annotation(annotations: &serde_json::Map<String, serde_json::Value>) -> Option<String> {
    let text = annotations.get(LICENCES)?.as_str()?;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    Some(line.chars().take(200).collect::<String>()).filter(|text| !text.is_empty())
}

/// The same, of a config's labels.
fn label(config: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Config {
        config: Option<Labels>,
    }
    #[derive(Deserialize)]
    struct Labels {
        #[serde(rename = "Labels")]
        labels: Option<serde_json::Map<String, serde_json::Value>>,
    }
    annotation(&serde_json::from_slice::<Config>(config).ok()?.config?.labels?)
}

/// ELF, a script, a program of Windows or of macOS.
fn is_program(beginning: &[u8]) -> bool {
    let marks: [&[u8]; 5] = [b"\x7fELF", b"#!", b"MZ", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe"];
    marks.iter().any(|mark| beginning.starts_with(mark))
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
        licence: None,
        signature: String::new(),
        why: why(&entry.name),
        executable: None,
        findings: None,
        parts: Vec::new(),
    }
}

/// Why an entry of that name is carried.
pub fn why(name: &str) -> String {
    match signature::tag(name) {
        Some((of, kind)) => {
            let what = match kind {
                "sig" => "signature",
                "att" => "attestation",
                "sbom" => "bill of materials",
                _ => "list of what refers to it",
            };
            format!("{what} of {of}")
        }
        None => "wished".to_owned(),
    }
}

/// Volumes as a place to read from.
struct Media<'a> {
    volumes: &'a [Volume],
    /// Where each blob begins that is here whole, or its first piece.
    places: HashMap<Digest, (&'a Volume, u64, u64)>,
}

impl<'a> Media<'a> {
    fn new(volumes: &'a [Volume]) -> Self {
        let mut places = HashMap::new();
        for volume in volumes {
            for member in &volume.head.members {
                match (member.what(), &member.part) {
                    (Some(What::Blob(digest)), _) => places.insert(digest, (volume, member.offset, member.size)),
                    (Some(What::Part(digest)), Some(part)) if part.at == 0 => {
                        places.insert(digest, (volume, member.offset, member.size))
                    }
                    _ => None,
                };
            }
        }
        Self { volumes, places }
    }
}

impl Contents for Media<'_> {
    fn manifest(&self, digest: &Digest) -> Option<Bytes> {
        manifest_bytes(self.volumes, digest).map(Into::into)
    }

    fn blob(&self, digest: &Digest, most: usize) -> Option<Vec<u8>> {
        let (volume, offset, size) = self.places.get(digest)?;
        let mut bytes = vec![0; usize::try_from(*size).unwrap_or(most).min(most)];
        std::os::unix::fs::FileExt::read_exact_at(&*volume.file, &mut bytes, *offset).ok()?;
        Some(bytes)
    }
}

/// Reports a bundle from its volumes; one that has the list (the first or the last) is enough. Licences and signatures
/// are told from what the volumes at hand hold.
pub fn report_of_bundle(paths: &[PathBuf], format: Format, beside: &Beside) -> Result<(String, Vec<Row>)> {
    let paths = volumes_below(paths)?;
    let (mut volumes, mut failed) = (Vec::new(), None);
    for path in paths {
        match Volume::open(&path) {
            Ok(volume) => volumes.push(volume),
            // What the bundle holds is in the others' list all the same.
            Err(error @ (Error::NotAVolume { .. } | Error::Io { .. } | Error::Damaged { .. })) => {
                failed.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    let Some(first) = volumes.first() else {
        return Err(failed.unwrap_or(Error::NoVolumes { path: PathBuf::from("what was given") }));
    };
    volumes.iter().try_for_each(|volume| same_bundle(first, volume))?;
    let missing =
        || Error::not_a_volume(&first.path, "the list of what the bundle holds is in its first and its last volume");
    let Documents { plan, trees } = documents(&volumes)?.ok_or_else(missing)?;
    let mut places = Places::new();
    for (number, members) in (1_u32..).zip(&plan.volumes) {
        for member in members {
            let (digest, size) = match (member.what(), &member.part) {
                (Some(What::Blob(digest) | What::Manifest(digest)), _) => (digest, member.size),
                (Some(What::Part(digest)), Some(part)) => (digest, part.size),
                _ => continue,
            };
            places.entry(digest).or_insert((size, Vec::new())).1.push(number);
        }
    }
    let rows = rows(&trees, &places, &Media::new(&volumes), beside);
    let id = first.head.bundle;
    Ok((report_of_rows(&rows, Some((&id, &first.key.fingerprint())), format), rows))
}

/// Rows as a report. A bundle's has its id and the fingerprint of its key.
pub fn report_of_rows(rows: &[Row], bundle: Option<(&Digest, &str)>, format: Format) -> String {
    let mut out = Vec::new();
    // Memory takes all that is written to it, and all of it is text.
    let _ = write_rows(rows, bundle, format, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

/// Writes rows as a report, as [`report_of_rows`] has it.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_rows(
    rows: &[Row],
    bundle: Option<(&Digest, &str)>,
    format: Format,
    out: &mut dyn Write,
) -> io::Result<()> {
    match format {
        Format::Csv => csv(rows, out),
        Format::Html => html(rows, bundle, out),
        Format::Spdx => out.write_all(spdx::document(rows, bundle).as_bytes()),
        Format::Json => {
            let bundle = bundle.map(
                |(id, fingerprint)| serde_json::json!({"id": id.hex(), "words": words(id), "signed_by": fingerprint}),
            );
            serde_json::to_writer_pretty(&mut *out, &serde_json::json!({"bundle": bundle, "things": rows}))?;
            writeln!(out)
        }
    }
}

/// Headings, English and Korean.
const HEADINGS: [(&str, &str); 14] = [
    ("kind", "종류"),
    ("name", "이름"),
    ("version", "버전"),
    ("origin", "출처"),
    ("bytes", "크기"),
    ("digest", "다이제스트"),
    ("trust", "신뢰 근거"),
    ("seen", "확인 시각"),
    ("volumes", "볼륨"),
    ("licence", "라이선스"),
    ("signature", "게시자 서명"),
    ("why", "포함 이유"),
    ("executable", "실행 파일"),
    ("findings", "취약점"),
];

fn cells(row: &Row) -> [String; 14] {
    let volumes: Vec<String> = row.volumes.iter().map(ToString::to_string).collect();
    [
        row.kind.to_string(),
        row.name.clone(),
        row.version.clone(),
        row.origin.clone(),
        row.size.to_string(),
        row.digest.to_string(),
        row.trust.as_str().to_owned(),
        time(row.seen),
        volumes.join(" "),
        row.licence.clone().unwrap_or_else(|| "unknown".to_owned()),
        row.signature.clone(),
        row.why.clone(),
        row.executable.map_or("", |is| if is { "yes" } else { "no" }).to_owned(),
        row.findings.map(|counts| counts.to_string()).unwrap_or_default(),
    ]
}

/// A time in UTC; nothing where it is none.
fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| String::new(), |time| time.to_string())
}

fn csv(rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
    let field = |text: &str| {
        // A leading sign makes a spreadsheet take text for a formula; a quote before it does not.
        let text =
            if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() };
        if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
    };
    write!(out, "{}\r\n", HEADINGS.map(|(english, _)| english).join(","))?;
    for row in rows {
        let line: Vec<String> = cells(row).iter().map(|cell| field(cell)).collect();
        write!(out, "{}\r\n", line.join(","))?;
    }
    Ok(())
}

fn html(rows: &[Row], bundle: Option<(&Digest, &str)>, out: &mut dyn Write) -> io::Result<()> {
    let total: u64 = rows.iter().map(|row| row.size).sum();
    let weak = rows.iter().filter(|row| row.trust.is_weak()).count();
    out.write_all(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>Contents of a Naru bundle</title>\n<style>\
         body{font:14px/1.5 system-ui,sans-serif;margin:2rem}table{border-collapse:collapse;width:100%}\
         th,td{border-bottom:1px solid #ccc;padding:.3rem .5rem;text-align:left;vertical-align:top;overflow-wrap:anywhere}\
         .weak{background:#fff3cd}.number{text-align:right}code{font-size:12px}</style>\n<h1>Contents · 내용물</h1>\n"
            .as_bytes(),
    )?;
    if let Some((id, fingerprint)) = bundle {
        writeln!(
            out,
            "<p>Bundle · 번들 <b>{}</b><br><code>{}</code><br>Signed by key · 서명 키 <code>{}</code></p>",
            words(id),
            id.hex(),
            escape(fingerprint)
        )?;
    }
    let programs = rows.iter().filter(|row| row.executable == Some(true)).count();
    let count = rows.len();
    writeln!(
        out,
        "<p>{count} things, {total} bytes (what several share is counted for each). {weak} of them nobody vouched for: \
         they stand first, marked <b>first-use</b> or <b>mirror</b>. {programs} are programs outside of packages and \
         images.</p>\n\
         <p>{count}개, {total}바이트 (여럿이 함께 쓰는 것은 각각 셈). 그중 {weak}개는 아무도 보증하지 않은 것으로, \
         <b>first-use</b> 또는 <b>mirror</b>로 표시되어 맨 앞에 있습니다. {programs}개는 패키지나 이미지에 들어 있지 않은 실행 \
         파일입니다.</p>"
    )?;
    write!(out, "<table><tr>")?;
    for (english, korean) in HEADINGS {
        write!(out, "<th>{english} · {korean}</th>")?;
    }
    writeln!(out, "</tr>")?;
    for row in rows {
        let class = if row.trust.is_weak() { " class=\"weak\"" } else { "" };
        write!(out, "<tr{class}>")?;
        for cell in cells(row) {
            write!(out, "<td>{}</td>", escape(&cell))?;
        }
        writeln!(out, "</tr>")?;
    }
    writeln!(out, "</table></html>")
}

/// Names are hostile: nothing of them may become markup.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}
