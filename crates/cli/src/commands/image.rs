//! `naru image`: Naru itself as an image, into the store or as an archive.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use artifact::{Digest, Entry, Repository, Trust, media_type};
use serde_json::json;
use store::{BlobWriter, Cause, Change, NewBlob, Store};

use super::Context;
use crate::exit::Exit;
use crate::image::{Contents, Hashed, documents, write_archive, write_layer};
use crate::output::Output;
use crate::terminal::Speaker;

/// The image's name in a store and in an archive.
pub(crate) const NAME: &str = concat!("naru:", env!("CARGO_PKG_VERSION"));

/// Where distributions keep the CAs that they trust.
const CERTIFICATES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// Where to put it.
#[derive(Debug, clap::Args)]
pub(crate) struct Request {
    /// An archive that containerd, docker, podman and skopeo load, in place of the store
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) async fn run(request: Request, context: &Context, voice: &Speaker) -> anyhow::Result<Exit> {
    let Some(path) = request.output else {
        let store = context.open().await?;
        let made = into_store(&store, voice).await;
        store.close().await;
        let digest = made?;
        voice.answer(&format!("{NAME}  {digest}"), &json!({ "image": NAME, "digest": digest }))?;
        return Ok(Exit::Done);
    };
    let digest = tokio::task::spawn_blocking({
        let path = path.clone();
        move || into_archive(&path)
    })
    .await??;
    let text = format!("{}  {NAME}  {digest}", path.display());
    voice.answer(&text, &json!({ "file": path.to_string_lossy(), "image": NAME, "digest": digest }))?;
    Ok(Exit::Done)
}

/// Makes the image in a store, as the local entry `naru:VERSION`.
async fn into_store(store: &Store, voice: &Speaker) -> anyhow::Result<Digest> {
    let (layer, diff_id) = tokio::task::spawn_blocking({
        let store = store.clone();
        move || -> anyhow::Result<(NewBlob, Digest)> {
            let mut layer = Blob(store.writer(None)?);
            let diff_id = build(&mut layer)?;
            Ok((layer.0.finish()?, diff_id))
        }
    })
    .await??;
    let documents = documents(&diff_id, layer.digest(), layer.size());
    let config = tokio::task::spawn_blocking({
        let (store, config) = (store.clone(), documents.config.clone());
        move || -> anyhow::Result<NewBlob> {
            let mut blob = store.writer(None)?;
            blob.write(&config)?;
            Ok(blob.finish()?)
        }
    })
    .await??;
    let repository = Repository::image("", "naru");
    let digest = Digest::of(&documents.manifest);
    let seen = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
    let entry = Entry {
        name: env!("CARGO_PKG_VERSION").to_owned(),
        digest,
        size: documents.manifest.len() as u64,
        seen,
        origin: String::new(),
        trust: Trust::Local,
    };
    let mut change = Change::because(Cause { action: "image".to_owned(), subject: NAME.to_owned(), by: voice.by() });
    change
        .blob(Some(&repository), layer)
        .blob(Some(&repository), config)
        .manifest(&repository, &digest, documents.manifest, media_type::OCI_MANIFEST, [].into())
        .entry(&repository, entry);
    store.apply(change).await?;
    Ok(digest)
}

/// Makes the image as an archive; a name that ends in a half-written file is never left.
fn into_archive(path: &Path) -> anyhow::Result<Digest> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let named = || path.display().to_string();
    let mut layer = tempfile::NamedTempFile::new_in(folder).with_context(named)?;
    let (diff_id, size, digest) = {
        let mut hashed = Hashed::new(BufWriter::new(layer.as_file_mut()));
        let diff_id = build(&mut hashed)?;
        hashed.flush()?;
        (diff_id, hashed.size, hashed.hasher.finish())
    };
    let documents = documents(&diff_id, &digest, size);
    let archive = Output::begin(path).with_context(named)?;
    write_archive(NAME, &documents, (&digest, layer.path(), size), BufWriter::new(archive.file()))?;
    archive.finish().with_context(named)?;
    Ok(Digest::of(&documents.manifest))
}

fn build(out: impl Write) -> anyhow::Result<Digest> {
    // What runs now, even when its file was replaced by an upgrade.
    let binary = File::open("/proc/self/exe").context("/proc/self/exe")?;
    let size = binary.metadata().context("/proc/self/exe")?.len();
    let certificates = CERTIFICATES.iter().find_map(|path| fs::read(path).ok());
    let contents = Contents { binary: (&binary, size), certificates: certificates.as_deref() };
    // The store's own error has been through `io::Write`; it is taken out again for what it says and hints.
    write_layer(&contents, out).map_err(|error| match error.downcast::<store::Error>() {
        Ok(error) => error.into(),
        Err(error) => error.into(),
    })
}

/// A blob writer as `Write`.
struct Blob(BlobWriter);

impl Write for Blob {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
