//! `naru report`: what is on the medium, or will be, for whoever must approve it.

use std::fs::{self, File};
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use artifact::{Kind, Repository};
use bundle::{Beside, CosignKey, Findings, Format, Row};
use collect::list::LOCAL;
use collect::lock::path_beside;
use collect::{Lock, lock::LockedImage};
use serde_json::json;

use super::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::terminal::Speaker;
use crate::thing;

/// Of what, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Request {
    /// Volumes, the folder they lie in, or a lock [default: the packing list's lock]
    #[arg(value_name = "BUNDLE|LOCK")]
    paths: Vec<PathBuf>,
    /// html, csv, json, or spdx (2.3, as JSON)
    #[arg(long, default_value = "csv", value_parser = format)]
    format: Format,
    /// What trivy or grype wrote as JSON; joined by digest, the worst first
    #[arg(long, value_name = "FILE", num_args = 1..)]
    findings: Vec<PathBuf>,
    /// A publisher's public key, as cosign writes it: signatures that are carried are checked with it
    #[arg(long, value_name = "FILE")]
    cosign_key: Vec<PathBuf>,
}

/// The largest document of a scanner that is read.
const LIMIT: u64 = 512 << 20;

fn format(text: &str) -> Result<Format, Failure> {
    match text {
        "html" => Ok(Format::Html),
        "csv" => Ok(Format::Csv),
        "json" => Ok(Format::Json),
        "spdx" => Ok(Format::Spdx),
        _ => Err(Failure::new(format!("`{text}` is none of html, csv, json, spdx")).exit(Exit::Usage)),
    }
}

pub(crate) async fn run(request: Request, context: &Context, voice: &Speaker) -> anyhow::Result<Exit> {
    let Request { paths, format, findings, cosign_key } = request;
    let beside = beside(&findings, &cosign_key)?;
    let list = path_beside(&context.list);
    let (text, rows) = match paths.as_slice() {
        [] => of_lock(&list, format, &beside)?,
        [path] if path.extension().is_some_and(|ending| ending == "lock") => of_lock(path, format, &beside)?,
        [path] if path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml") => {
            return Err(Failure::new(format!("{} is neither a lock nor a volume of a bundle", path.display()))
                .hint(format!(
                    "of a packing list, name the lock, which `naru lock` writes: {}",
                    path_beside(path).display()
                ))
                .exit(Exit::Usage)
                .into());
        }
        _ => {
            let beside = beside.clone();
            tokio::task::spawn_blocking(move || bundle::report_of_bundle(&paths, format, &beside)).await??
        }
    };
    for found in beside.findings.iter().filter(|found| !rows.iter().any(|row| found.is_of(&row.parts))) {
        voice.warn(&format!("the findings for {} are of nothing that is carried: no digest is the same", found.name));
    }
    let value = match format {
        Format::Json | Format::Spdx => serde_json::from_str(&text).context("the report")?,
        _ => json!({ "report": text }),
    };
    voice.answer(text.trim_end(), &value)?;
    Ok(Exit::Done)
}

fn beside(findings: &[PathBuf], keys: &[PathBuf]) -> anyhow::Result<Beside> {
    let named = |path: &Path| path.display().to_string();
    let mut beside = Beside::default();
    for path in findings {
        let file = File::open(path).with_context(|| named(path))?;
        beside.findings.push(Findings::read(BufReader::new(file.take(LIMIT)), &named(path))?);
    }
    for path in keys {
        let text = fs::read_to_string(path).with_context(|| named(path))?;
        beside.keys.push(CosignKey::parse(&text, &named(path))?);
    }
    Ok(beside)
}

/// What a lock has not, licences and signatures, is said to be unknown: it is told from the bytes.
fn of_lock(path: &Path, format: Format, beside: &Beside) -> anyhow::Result<(String, Vec<Row>)> {
    let lock = Lock::read(path)?;
    let mut rows = rows(&lock);
    bundle::arrange(&mut rows, &beside.findings);
    Ok((bundle::report_of_rows(&rows, None, format), rows))
}

fn rows(lock: &Lock) -> Vec<Row> {
    let size = |image: &LockedImage| {
        let manifests = image.all_manifests().map(|manifest| manifest.size);
        manifests.chain(image.blobs().filter(|blob| !blob.skipped).map(|blob| blob.size)).sum()
    };
    let images = lock.images.iter().map(|image| Row {
        kind: Kind::Image,
        name: thing::label(&image.reference.repository(), &image.reference.entry_name()),
        version: image.reference.entry_name(),
        origin: image.reference.to_string(),
        size: size(image),
        digest: image.digest,
        trust: image.trust,
        seen: image.resolved,
        volumes: Vec::new(),
        licence: None,
        signature: "unknown before it is pulled".to_owned(),
        why: bundle::why(&image.reference.entry_name()),
        executable: None,
        findings: None,
        parts: std::iter::once(image.digest)
            .chain(image.all_manifests().map(|manifest| manifest.digest))
            .chain(image.blobs().map(|blob| blob.digest))
            .collect(),
    });
    let file_name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let files = lock.files.iter().map(|file| Row {
        kind: Kind::File,
        name: thing::label(&file.repository(), &file.path),
        version: file_name(&file.path),
        origin: file.url.to_string(),
        size: file.size,
        digest: file.digest,
        trust: file.trust,
        seen: file.resolved,
        volumes: Vec::new(),
        licence: None,
        signature: String::new(),
        why: bundle::why(&file.path),
        executable: None,
        findings: None,
        parts: vec![file.digest],
    });
    let local = lock.local.iter().map(|file| Row {
        kind: Kind::File,
        name: thing::label(&Repository::files(LOCAL), &file.path),
        version: file_name(&file.path),
        origin: file.source.display().to_string(),
        size: file.size,
        digest: file.digest,
        trust: artifact::Trust::Local,
        seen: file.resolved,
        volumes: Vec::new(),
        licence: None,
        signature: String::new(),
        why: bundle::why(&file.path),
        executable: None,
        findings: None,
        parts: vec![file.digest],
    });
    images.chain(files).chain(local).collect()
}
