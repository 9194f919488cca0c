//! Whose name to give: the `upstreams:` section, then docker's and podman's own files and their helpers
//! (containers-auth.json(5), docker's "Credential helpers").

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use artifact::normalise_host;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderValue;
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::{Mutex, OnceCell};

use crate::{Error, Result, Upstream};

/// A credential file may have so many bytes; docker's own are a few kilobytes.
const FILE_LIMIT: u64 = 1024 * 1024;

/// A helper may ask its user something, but not for ever.
const HELPER_TIMEOUT: Duration = Duration::from_mins(2);

/// Who we are at one upstream.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    /// User and password.
    Password {
        /// User name.
        username: String,
        /// Password.
        password: String,
    },
    /// An OAuth 2 refresh token, which docker calls identity token.
    Identity(String),
}

/// The credential files, read when first needed: most upstreams never ask.
pub(crate) struct Credentials {
    paths: Vec<PathBuf>,
    files: OnceCell<Vec<File>>,
    /// What helpers said, by program and address: each may open a window or talk to a cloud.
    asked: Mutex<HashMap<(String, String), Option<Credential>>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: BTreeMap<String, Login>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Login {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// Where a file has a host's credential.
enum Place {
    Here(Credential),
    Helper(String),
    Nowhere,
}

impl Credentials {
    pub(crate) fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, files: OnceCell::new(), asked: Mutex::default() }
    }

    /// The credential of a host's repository in the files: the first file that has one decides.
    pub(crate) async fn of(&self, host: &str, name: &str) -> Result<Option<Credential>> {
        let files = self.files.get_or_try_init(|| async { self.paths.iter().filter_map(|path| read(path)).collect() });
        for file in files.await? {
            match file.place(host, name) {
                Place::Here(credential) => return Ok(Some(credential)),
                Place::Helper(helper) => {
                    // Docker Hub's own key, which is what `docker login` hands to helpers.
                    let address = if host == "docker.io" { "https://index.docker.io/v1/" } else { host };
                    let mut asked = self.asked.lock().await;
                    let key = (helper, address.to_owned());
                    let found = if let Some(known) = asked.get(&key) {
                        known.clone()
                    } else {
                        let program = format!("docker-credential-{}", key.0);
                        let found = ask_helper(Path::new(&program), address).await?;
                        asked.insert(key, found.clone());
                        found
                    };
                    if found.is_some() {
                        return Ok(found);
                    }
                }
                Place::Nowhere => {}
            }
        }
        Ok(None)
    }
}

/// The credential of the `upstreams:` section.
pub(crate) fn configured(host: &str, upstream: &Upstream) -> Result<Option<Credential>> {
    let Some(username) = upstream.username.clone() else { return Ok(None) };
    let password = match (&upstream.password, &upstream.password_file) {
        (Some(password), _) => password.clone(),
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file).map_err(|error| Error::Config {
                what: format!("upstreams.{host}.password_file: {}", file.display()),
                why: error.to_string(),
            })?;
            text.lines().next().unwrap_or_default().to_owned()
        }
        (None, None) => String::new(),
    };
    Ok(Some(Credential::Password { username, password }))
}

impl Credential {
    /// As a Basic header (RFC 7617), where it is one.
    pub(crate) fn basic(&self) -> Option<HeaderValue> {
        match self {
            Self::Password { username, password } => Some(basic(username, password)),
            Self::Identity(_) => None,
        }
    }
}

/// User and password as a Basic header (RFC 7617).
pub(crate) fn basic(username: &str, password: &str) -> HeaderValue {
    let text = format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{password}")));
    // Base64 has no character that a header refuses.
    let mut value = HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("Basic"));
    value.set_sensitive(true);
    value
}

impl File {
    fn place(&self, host: &str, name: &str) -> Place {
        let helper = self.cred_helpers.iter().find(|(key, _)| key_of(key) == host);
        if let Some((_, helper)) = helper.filter(|(_, helper)| is_helper(helper)) {
            return Place::Helper(helper.clone());
        }
        // podman's keys may name a repository or a part of the path to it: the most specific first.
        let mut scope = format!("{host}/{name}");
        let found = loop {
            let login =
                self.auths.iter().filter(|(key, _)| key_of(key) == scope).find_map(|(_, login)| login.credential());
            if login.is_some() {
                break login;
            }
            let Some((shorter, _)) = scope.rsplit_once('/') else { break None };
            scope = shorter.to_owned();
        };
        match (found, &self.creds_store) {
            (Some(credential), _) => Place::Here(credential),
            (None, Some(store)) if is_helper(store) => Place::Helper(store.clone()),
            (None, _) => Place::Nowhere,
        }
    }
}

impl Login {
    fn credential(&self) -> Option<Credential> {
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.is_empty()) {
            return Some(Credential::Identity(token.clone()));
        }
        if let (Some(username), Some(password)) = (&self.username, &self.password) {
            return Some(Credential::Password { username: username.clone(), password: password.clone() });
        }
        let decoded = BASE64_STANDARD.decode(self.auth.as_ref()?.trim()).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (username, password) = text.split_once(':')?;
        // docker pads old entries with NULs.
        let password = password.trim_end_matches('\0').to_owned();
        Some(Credential::Password { username: username.to_owned(), password })
    }
}

/// A key of `auths` or `credHelpers` in its one spelling: `https://index.docker.io/v1/` is `docker.io`.
fn key_of(key: &str) -> String {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key).trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    let (host, path) = key.split_once('/').map_or((key, None), |(host, path)| (host, Some(path)));
    let host = normalise_host(host).unwrap_or_else(|| host.to_owned());
    path.map_or_else(|| host.clone(), |path| format!("{host}/{path}"))
}

/// A helper's name becomes a program's: no path may hide in it.
fn is_helper(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn read(path: &Path) -> Option<Result<File>> {
    let unusable = |why: String| Error::Config { what: path.display().to_string(), why };
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > FILE_LIMIT => {
            return Some(Err(unusable("too large to be a credential file".to_owned())));
        }
        Ok(_) => {}
        Err(_) => return None,
    }
    Some(match std::fs::read(path) {
        // docker writes an empty file now and then.
        Ok(bytes) if bytes.trim_ascii().is_empty() => Ok(File::default()),
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map_err(|error| unusable(format!("not a credential file: {error}")))
        }
        Err(error) => Err(unusable(error.to_string())),
    })
}

/// Asks a credential helper (docker's protocol: the address on stdin, JSON on stdout). `None`: it has none.
async fn ask_helper(program: &Path, address: &str) -> Result<Option<Credential>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Said {
        #[serde(default)]
        username: String,
        #[serde(default)]
        secret: String,
    }
    let failed = |why: String| Error::Config { what: format!("credential helper {}", program.display()), why };
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input may still answer.
        let _ = stdin.write_all(address.as_bytes()).await;
    }
    let output = tokio::time::timeout(HELPER_TIMEOUT, child.wait_with_output())
        .await
        .map_err(|_| failed("no answer in time".to_owned()))?
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(if output.stdout.is_empty() { &output.stderr } else { &output.stdout })
            .into_owned();
        // The sentence is part of the protocol (docker/docker-credential-helpers, `credentials/error.go`).
        return if said.contains("credentials not found") {
            Ok(None)
        } else {
            Err(failed(said.trim().chars().take(200).collect()))
        };
    }
    let said: Said = serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))?;
    Ok(match (said.username.as_str(), said.secret) {
        (_, secret) if secret.is_empty() => None,
        ("<token>", secret) => Some(Credential::Identity(secret)),
        (username, password) => Some(Credential::Password { username: username.to_owned(), password }),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn password(username: &str) -> Credential {
        Credential::Password { username: username.to_owned(), password: "secret".to_owned() }
    }

    fn entry(username: &str) -> String {
        format!(r#"{{"auth":"{}"}}"#, BASE64_STANDARD.encode(format!("{username}:secret")))
    }

    async fn of(files: &[&str], host: &str, name: &str) -> Option<Credential> {
        let folder = tempfile::tempdir().unwrap();
        let mut paths = vec![folder.path().join("absent")];
        for (at, text) in files.iter().enumerate() {
            paths.push(folder.path().join(at.to_string()));
            std::fs::write(paths.last().unwrap(), text).unwrap();
        }
        Credentials::new(paths).of(host, name).await.unwrap()
    }

    #[tokio::test]
    async fn keys_as_docker_and_podman_write_them() {
        let file = format!(
            r#"{{"auths":{{"https://index.docker.io/v1/":{},"quay.io/org/repo":{},"quay.io/org":{},"quay.io":{},"local:5000":{}}}}}"#,
            entry("hub"),
            entry("repo"),
            entry("org"),
            entry("quay"),
            r#"{"identitytoken":"t"}"#
        );
        for (host, name, username) in [
            ("docker.io", "library/nginx", "hub"),
            ("quay.io", "org/repo", "repo"),
            ("quay.io", "org/repo/deeper", "repo"),
            ("quay.io", "org/repository", "org"),
            ("quay.io", "other/repo", "quay"),
        ] {
            assert!(of(&[&file], host, name).await == Some(password(username)), "{host}/{name}");
        }
        assert!(of(&[&file], "local:5000", "a").await == Some(Credential::Identity("t".to_owned())));
        assert!(of(&[&file], "evil-quay.io", "a").await.is_none());
        assert!(of(&["", &file], "quay.io", "a").await == Some(password("quay")), "the second file");
    }

    #[tokio::test]
    async fn a_broken_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, "{").unwrap();
        let error = Credentials::new(vec![path.clone()]).of("a.example", "b").await.err().unwrap().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }

    #[test]
    fn helpers_are_chosen_per_host() {
        let text =
            r#"{"auths":{"a.example":{}},"credsStore":"store","credHelpers":{"b.example":"one","c.example":"../x"}}"#;
        let file: File = serde_json::from_str(text).unwrap();
        assert!(matches!(file.place("a.example", "x"), Place::Helper(name) if name == "store"));
        assert!(matches!(file.place("b.example", "x"), Place::Helper(name) if name == "one"));
        assert!(matches!(file.place("c.example", "x"), Place::Helper(name) if name == "store"));
    }

    #[tokio::test]
    async fn helpers_are_asked() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("docker-credential-test");
        let script = r#"#!/bin/sh
read -r address
case "$1 $address" in
"get a.example") echo '{"ServerURL":"a.example","Username":"u","Secret":"secret"}' ;;
"get b.example") echo '{"Username":"<token>","Secret":"t"}' ;;
"get c.example") echo 'credentials not found in native keychain'; exit 1 ;;
*) echo 'the keychain is locked' >&2; exit 1 ;;
esac
"#;
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(ask_helper(&program, "a.example").await.unwrap() == Some(password("u")));
        assert!(ask_helper(&program, "b.example").await.unwrap() == Some(Credential::Identity("t".to_owned())));
        assert!(ask_helper(&program, "c.example").await.unwrap().is_none());
        let error = ask_helper(&program, "d.example").await.err().unwrap().to_string();
        assert!(error.contains("keychain is locked") && error.contains("docker-credential-test"), "{error}");
        assert!(ask_helper(&folder.path().join("absent"), "a.example").await.is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_key(text in ".{0,80}") {
            key_of(&text);
        }
    }
}
