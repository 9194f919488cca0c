//! A site in a temporary folder, and what it holds.

use std::collections::HashSet;
use std::sync::Arc;

use artifact::{Digest, Entry, Repository, Trust, media_type};
use bytes::Bytes;
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::json;
use serve::{Config, Server};
use store::{Change, Store};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A server that runs until it is dropped.
pub(crate) struct Site {
    pub(crate) store: Store,
    pub(crate) server: Arc<Server>,
    pub(crate) client: Client,
    pub(crate) url: String,
    pub(crate) folder: TempDir,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<serve::Result<()>>>,
}

/// A small image: config, one layer, and the manifest.
pub(crate) struct Image {
    pub(crate) digest: Digest,
    pub(crate) layer: Digest,
    pub(crate) layer_bytes: Bytes,
    pub(crate) bytes: Bytes,
}

pub(crate) fn on_loopback() -> Config {
    Config { listen: "127.0.0.1:0".parse().unwrap(), ..Config::default() }
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self::with(on_loopback()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let server = Arc::new(Server::bind(store.clone(), config).await.unwrap());
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn({
            let server = Arc::clone(&server);
            async move {
                server
                    .run(async {
                        let _ = stopped.await;
                    })
                    .await
            }
        });
        let client = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let url = format!("http://{}", server.address());
        Self { store, server, client, url, folder, stop: Some(stop), running: Some(running) }
    }

    pub(crate) async fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(running) = self.running.take() {
            running.await.unwrap().unwrap();
        }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    /// With the admin token.
    pub(crate) fn admin(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path).basic_auth("admin", self.server.admin_token())
    }

    pub(crate) async fn blob(&self, repository: &Repository, bytes: &[u8]) -> Digest {
        let mut writer = self.store.writer(None).unwrap();
        writer.write(bytes).unwrap();
        let blob = writer.finish().unwrap();
        let digest = *blob.digest();
        let mut change = Change::new();
        change.blob(Some(repository), blob);
        self.store.apply(change).await.unwrap();
        digest
    }

    /// An image whose layer is `text`, under `tag`.
    pub(crate) async fn image(&self, host: &str, name: &str, tag: &str, text: &str) -> Image {
        let repository = Repository::image(host, name);
        let config_bytes = format!("{{\"of\":{text:?}}}");
        let config = self.blob(&repository, config_bytes.as_bytes()).await;
        let layer_bytes = Bytes::from(text.to_owned());
        let layer = self.blob(&repository, &layer_bytes).await;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": { "mediaType": media_type::OCI_CONFIG, "digest": config, "size": config_bytes.len() },
            "layers": [{ "mediaType": media_type::OCI_LAYER_GZIP, "digest": layer, "size": text.len() }],
        });
        let bytes = Bytes::from(manifest.to_string());
        let digest = self.manifest(&repository, bytes.clone(), Some(tag), HashSet::new()).await;
        Image { digest, layer, layer_bytes, bytes }
    }

    /// Stores a manifest as it is, under `tag` where one is given.
    pub(crate) async fn manifest(
        &self,
        repository: &Repository,
        bytes: Bytes,
        tag: Option<&str>,
        omitted: HashSet<Digest>,
    ) -> Digest {
        let digest = Digest::of(&bytes);
        let size = bytes.len() as u64;
        let mut change = Change::new();
        change.manifest(repository, &digest, bytes, "", omitted);
        if let Some(tag) = tag {
            change.entry(repository, entry(tag, digest, size));
        }
        self.store.apply(change).await.unwrap();
        digest
    }

    pub(crate) async fn file(&self, host: &str, path: &str, bytes: &[u8]) -> Digest {
        let repository = Repository::files(host);
        let digest = self.blob(&repository, bytes).await;
        let mut change = Change::new();
        change.entry(&repository, entry(path, digest, bytes.len() as u64));
        self.store.apply(change).await.unwrap();
        digest
    }
}

pub(crate) fn entry(name: &str, digest: Digest, size: u64) -> Entry {
    Entry { name: name.to_owned(), digest, size, seen: 1_700_000_000, origin: String::new(), trust: Trust::Tag }
}

/// A header's text; empty when there is none.
pub(crate) fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// The code and message of a refusal.
pub(crate) async fn refusal(response: Response) -> (u16, String, String) {
    let status = response.status().as_u16();
    let body: serde_json::Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    let error = &body["errors"][0];
    (status, error["code"].as_str().unwrap().to_owned(), error["message"].as_str().unwrap().to_owned())
}
