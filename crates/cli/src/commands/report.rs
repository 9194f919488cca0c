//! `naru report`: what is on the medium, or will be, for whoever must approve it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use artifact::{Kind, Repository};
use bundle::{Format, Row};
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
    /// html, csv or json
    #[arg(long, default_value = "csv", value_parser = format)]
    format: Format,
}

fn format(text: &str) -> Result<Format, Failure> {
    match text {
        "html" => Ok(Format::Html),
        "csv" => Ok(Format::Csv),
        "json" => Ok(Format::Json),
        _ => Err(Failure::new(format!("`{text}` is none of html, csv, json")).exit(Exit::Usage)),
    }
}

pub(crate) async fn run(request: Request, context: &Context, voice: &Speaker) -> anyhow::Result<Exit> {
    let Request { paths, format } = request;
    let list = path_beside(&context.list);
    let text = match paths.as_slice() {
        [] => of_lock(&list, format)?,
        [path] if path.extension().is_some_and(|ending| ending == "lock") => of_lock(path, format)?,
        _ => tokio::task::spawn_blocking(move || bundle::report_of_bundle(&paths, format)).await??,
    };
    let value = match format {
        Format::Json => serde_json::from_str(&text).context("the report")?,
        _ => json!({ "report": text }),
    };
    voice.answer(text.trim_end(), &value)?;
    Ok(Exit::Done)
}

fn of_lock(path: &Path, format: Format) -> anyhow::Result<String> {
    let lock = Lock::read(path)?;
    let mut rows = rows(&lock);
    // Those first that somebody should look at.
    rows.sort_by(|one, two| (two.trust.is_weak(), &one.name).cmp(&(one.trust.is_weak(), &two.name)));
    Ok(bundle::report_of_rows(&rows, None, format))
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
    });
    images.chain(files).chain(local).collect()
}
