//! A site with an image, and somebody who pulls it the whole time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, ensure};
use journeys::{Folder, Naru, Serving, Trust, Wire, digest_of, wait_until};

/// The tag, and what is in its repository.
pub(crate) const NAME: &str = "app";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub(crate) struct Scene {
    pub(crate) naru: Naru,
    pub(crate) serving: Serving,
    /// The admin's.
    pub(crate) token: String,
    pub(crate) manifest: Vec<u8>,
    witness: Witness,
    failed: Vec<String>,
}

impl Scene {
    /// Serves a new store with this configuration, and an image in it.
    pub(crate) fn set(folder: &Folder, configuration: &str) -> Result<Self> {
        let naru = Naru::new(folder, "naru")?;
        Self::set_at(naru, configuration)
    }

    pub(crate) fn set_at(naru: Naru, configuration: &str) -> Result<Self> {
        std::fs::create_dir_all(naru.store())?;
        std::fs::write(naru.store().join("serve.yaml"), configuration)?;
        let serving = naru.serve(&[])?;
        let token = std::fs::read_to_string(naru.store().join("admin.token"))?.trim().to_owned();
        let layer: Vec<u8> = b"layer ".iter().copied().cycle().take(200_000).collect();
        let manifest = push(serving.address(), &token, NAME, "1", &layer)?;
        let witness = Witness::start(&serving, manifest.clone(), layer)?;
        Ok(Self { naru, serving, token, manifest, witness, failed: Vec::new() })
    }

    pub(crate) fn wire(&self) -> Result<Wire> {
        Wire::plain(self.serving.address())
    }

    /// A line with the admin's credentials.
    pub(crate) fn bearer(&self) -> String {
        format!("Authorization: Bearer {}\r\n", self.token)
    }

    /// Tries one shape. The next one is tried whatever comes of it.
    pub(crate) fn step(&mut self, name: &str, attack: impl FnOnce(&Self) -> Result<()>) {
        let outcome = attack(self).and_then(|()| self.witness.pulls());
        match outcome {
            Ok(()) => eprintln!("ok    {name}"),
            Err(error) => {
                eprintln!("FAIL  {name}: {error:#}");
                self.failed.push(format!("{name}: {error:#}"));
            }
        }
    }

    /// Whether all went well: nobody was kept from pulling, and the store is whole.
    pub(crate) fn end(mut self) -> Result<()> {
        let pulled = self.witness.end()?;
        eprintln!("{pulled} ordinary pulls meanwhile");
        ensure!(self.serving.daemon.ended()?.is_none(), "the server ended: {}", self.serving.daemon.said());
        let said = self.serving.daemon.said();
        ensure!(!said.contains("panicked"), "{said}");
        drop(self.serving);
        self.naru.ok(["fsck"])?;
        ensure!(self.failed.is_empty(), "{}", self.failed.join("\n"));
        Ok(())
    }
}

/// Pushes an image of one layer; its manifest.
pub(crate) fn push(address: &str, token: &str, name: &str, tag: &str, layer: &[u8]) -> Result<Vec<u8>> {
    let mut wire = Wire::plain(address)?;
    let mut send = |method: &str, path: &str, kind: &str, body: &[u8]| -> Result<()> {
        let length = body.len();
        wire.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nContent-Type: {kind}\r\n\
             Content-Length: {length}\r\n\r\n"
        ))?;
        wire.send(body)?;
        let answer = wire.answer()?;
        ensure!(answer.status == 201, "{method} {path}: {}: {}", answer.status, answer.text());
        Ok(())
    };
    for blob in [layer, b"{}"] {
        send(
            "POST",
            &format!("/v2/{name}/blobs/uploads/?digest={}", digest_of(blob)),
            "application/octet-stream",
            blob,
        )?;
    }
    let manifest = manifest(layer);
    send("PUT", &format!("/v2/{name}/manifests/{tag}"), MANIFEST, &manifest)?;
    Ok(manifest)
}

/// The manifest of an image with an empty configuration and this layer.
pub(crate) fn manifest(layer: &[u8]) -> Vec<u8> {
    let value = serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"), "size": 2 },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest_of(layer), "size": layer.len(),
        }],
    });
    value.to_string().into_bytes()
}

/// Somebody who pulls, each time on a new connection, in the clear and by TLS.
struct Witness {
    pulled: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Witness {
    fn start(serving: &Serving, manifest: Vec<u8>, layer: Vec<u8>) -> Result<Self> {
        let (pulled, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (address, trust) = (serving.address().to_owned(), Trust::of(serving, &["http/1.1"])?);
        let (counted, stopped) = (Arc::clone(&pulled), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let paths = [
                (format!("/v2/{NAME}/manifests/1"), &manifest),
                (format!("/v2/{NAME}/blobs/{}", digest_of(&layer)), &layer),
            ];
            while !stopped.load(Ordering::Acquire) {
                for secure in [false, true] {
                    let mut wire = if secure { Wire::secure(&address, &trust)? } else { Wire::plain(&address)? };
                    for (path, expected) in &paths {
                        wire.send(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n"))?;
                        let answer = wire.answer().with_context(|| format!("an ordinary pull of {path}"))?;
                        ensure!(answer.status == 200 && answer.body == **expected, "{path}: {}", answer.status);
                    }
                    counted.fetch_add(1, Ordering::AcqRel);
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            Ok(())
        });
        Ok(Self { pulled, stop, thread: Some(thread) })
    }

    /// Waits for a pull that began after this.
    fn pulls(&self) -> Result<()> {
        let enough = self.pulled.load(Ordering::Acquire) + 2;
        wait_until("an ordinary pull", || {
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            ensure!(!ended, "ordinary pulls have failed before");
            Ok((self.pulled.load(Ordering::Acquire) >= enough).then_some(()))
        })
    }

    fn end(&mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().context("it ends once")?;
        thread.join().map_err(|_| anyhow::anyhow!("the witness panicked"))?.context("an ordinary pull failed")?;
        Ok(self.pulled.load(Ordering::Acquire))
    }
}
