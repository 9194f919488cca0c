//! What the process was started with. Only this file reads the environment; everything below gets values.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use upstream::Surroundings;

use crate::failure::Failure;

/// The environment, read once.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Environment {
    store: Option<PathBuf>,
    is_root: bool,
    home: Option<PathBuf>,
    data_home: Option<PathBuf>,
    config_home: Option<PathBuf>,
    runtime: Option<PathBuf>,
    docker_config: Option<PathBuf>,
    registry_auth_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    https_proxy: Option<String>,
    http_proxy: Option<String>,
    no_proxy: Option<String>,
    offline: bool,
}

impl Environment {
    /// This process's.
    pub(crate) fn read() -> Self {
        Self::of(rustix::process::geteuid().is_root(), |name| std::env::var_os(name))
    }

    fn of(is_root: bool, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // The lower-case spelling wins, as curl has it.
        let text = |names: &[&str]| {
            names.iter().find_map(|name| variable(name)?.into_string().ok().filter(|value| !value.is_empty()))
        };
        Self {
            is_root,
            store: path("NARU_STORE"),
            home: path("HOME"),
            data_home: path("XDG_DATA_HOME"),
            config_home: path("XDG_CONFIG_HOME"),
            runtime: path("XDG_RUNTIME_DIR"),
            docker_config: path("DOCKER_CONFIG"),
            registry_auth_file: path("REGISTRY_AUTH_FILE"),
            ca_file: path("SSL_CERT_FILE"),
            https_proxy: text(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
            http_proxy: text(&["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]),
            no_proxy: text(&["no_proxy", "NO_PROXY"]),
            offline: text(&["NARU_OFFLINE"]).is_some_and(|value| value != "0"),
        }
    }

    /// The same, without a connection to any upstream when the command line wants that (`--offline`).
    pub(crate) fn offline(mut self, offline: bool) -> Self {
        self.offline |= offline;
        self
    }

    /// Whether the process may write where root may.
    pub(crate) fn is_root(&self) -> bool {
        self.is_root
    }

    /// The store that `NARU_STORE` names.
    pub(crate) fn named_store(&self) -> Option<PathBuf> {
        self.store.clone()
    }

    /// Where the store is when no flag says: `NARU_STORE`, or `/var/lib/naru` for root, the user's data folder otherwise.
    ///
    /// # Errors
    /// When neither `XDG_DATA_HOME` nor `HOME` tells where that folder is.
    pub(crate) fn default_store(&self) -> Result<PathBuf, Failure> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        if self.is_root {
            return Ok(PathBuf::from("/var/lib/naru"));
        }
        match (&self.data_home, &self.home) {
            // The XDG base directory specification: relative paths are to be ignored.
            (Some(data), _) if data.is_absolute() => Ok(data.join("naru")),
            (_, Some(home)) => Ok(home.join(".local/share/naru")),
            _ => Err(Failure::new("HOME is not set, so there is no default place for the store")
                .hint("say where it is: `--store PATH`, or set NARU_STORE")),
        }
    }

    /// What the upstream client needs to know, credential files in the order in which podman and docker look.
    pub(crate) fn surroundings(&self) -> Surroundings {
        let at = |folder: &Option<PathBuf>, path: &str| folder.as_deref().map(|folder: &Path| folder.join(path));
        let credential_files = [
            self.registry_auth_file.clone(),
            at(&self.runtime, "containers/auth.json"),
            at(&self.config_home, "containers/auth.json").or_else(|| at(&self.home, ".config/containers/auth.json")),
            at(&self.docker_config, "config.json").or_else(|| at(&self.home, ".docker/config.json")),
        ];
        Surroundings {
            credential_files: credential_files.into_iter().flatten().collect(),
            ca_file: self.ca_file.clone(),
            https_proxy: self.https_proxy.clone(),
            http_proxy: self.http_proxy.clone(),
            no_proxy: self.no_proxy.clone(),
            offline: self.offline,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(is_root: bool, variables: &[(&str, &str)]) -> Environment {
        Environment::of(is_root, |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn the_store_has_a_default_place() {
        assert_eq!(environment(true, &[]).default_store().unwrap(), Path::new("/var/lib/naru"));
        let user = environment(false, &[("HOME", "/home/a")]);
        assert_eq!(user.default_store().unwrap(), Path::new("/home/a/.local/share/naru"));
        let data = environment(false, &[("HOME", "/home/a"), ("XDG_DATA_HOME", "/data")]);
        assert_eq!(data.default_store().unwrap(), Path::new("/data/naru"));
        let relative = environment(false, &[("HOME", "/home/a"), ("XDG_DATA_HOME", "data")]);
        assert_eq!(relative.default_store().unwrap(), Path::new("/home/a/.local/share/naru"));
        let named = environment(true, &[("NARU_STORE", "/s")]);
        assert_eq!(named.default_store().unwrap(), Path::new("/s"));
        let error = environment(false, &[("HOME", ""), ("NARU_STORE", "")]).default_store().unwrap_err();
        assert!(error.to_string().contains("HOME"));
    }

    #[test]
    fn credential_files_and_proxies_are_found() {
        let variables = [
            ("HOME", "/h"),
            ("XDG_RUNTIME_DIR", "/run/user/7"),
            ("DOCKER_CONFIG", "/d"),
            ("HTTPS_PROXY", "http://upper"),
            ("https_proxy", "http://lower"),
            ("NARU_OFFLINE", "1"),
        ];
        let surroundings = environment(false, &variables).surroundings();
        let files: Vec<_> = surroundings.credential_files.iter().map(|path| path.display().to_string()).collect();
        assert_eq!(files, ["/run/user/7/containers/auth.json", "/h/.config/containers/auth.json", "/d/config.json"]);
        assert_eq!(surroundings.https_proxy.as_deref(), Some("http://lower"));
        assert!(surroundings.offline);
        assert!(!environment(false, &[("NARU_OFFLINE", "0")]).surroundings().offline);
    }
}
