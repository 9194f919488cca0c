//! Where a thing may be had: the origin, and its mirrors before it.

use artifact::{Repository, valid_name};
use url::Url;

use crate::auth::Access;
use crate::config::MirrorTrust;
use crate::error::{Error, Result};
use crate::transport::host_of;
use crate::{Upstream, transport::Transport};

/// One place to ask for a repository or a file.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    base: Url,
    /// The mirror's own path before the repository's name, with its `/`; mostly empty.
    prefix: String,
    /// The origin's scheme is ours to find out; a mirror's was written down.
    pub(crate) probe: bool,
    /// A mirror whose word about tags counts when the origin cannot be reached.
    pub(crate) is_trusted: bool,
    /// Whether something is to be put there.
    pushes: bool,
}

impl Endpoint {
    fn mirror(address: &Url, is_trusted: bool) -> Self {
        let path = address.path().trim_matches('/');
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        Self { base: address.clone(), prefix, probe: false, is_trusted, pushes: false }
    }

    /// `/v2/NAME/WHAT/REFERENCE` here.
    pub(crate) fn registry(&self, name: &str, what: &str, reference: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("/v2/{}{name}/{what}/{reference}", self.registry_prefix()));
        url
    }

    /// A file of the origin, here.
    fn file(&self, url: &Url) -> Url {
        let mut here = self.base.clone();
        here.set_path(&format!("/{}{}", self.prefix, url.path().trim_start_matches('/')));
        here.set_query(url.query());
        here
    }

    pub(crate) fn access(&self, name: Option<&str>) -> Access {
        let name = name.map(|name| format!("{}{name}", self.registry_prefix()));
        Access { host: host_of(&self.base), name, pushes: self.pushes }
    }

    /// Some write a mirror as containerd's `override_path` wants it, with the API's root.
    fn registry_prefix(&self) -> &str {
        self.prefix.strip_prefix("v2/").unwrap_or(&self.prefix)
    }
}

/// Where an image repository may be asked for.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// First one first.
    pub(crate) mirrors: Vec<Endpoint>,
    pub(crate) origin: Endpoint,
}

/// The places of an image repository.
pub(crate) fn of_repository(transport: &Transport, repository: &Repository) -> Result<Places> {
    let unusable = |why: &str| Error::Config { what: repository.to_string(), why: why.to_owned() };
    if repository.is_local() {
        return Err(unusable("it is a local repository, which has no upstream"));
    }
    if !valid_name(&repository.name) {
        return Err(unusable("not the name of a repository"));
    }
    // The one host whose API is at another name.
    let dialled = if repository.host == "docker.io" { "registry-1.docker.io" } else { &repository.host };
    let base = Url::parse(&format!("https://{dialled}/")).map_err(|error| unusable(&error.to_string()))?;
    let origin = Endpoint { base, prefix: String::new(), probe: true, is_trusted: false, pushes: false };
    Ok(Places { mirrors: mirrors(transport.upstream(&repository.host)), origin })
}

/// Where things are put: the registry itself, and none of its mirrors.
pub(crate) fn to_push(transport: &Transport, repository: &Repository) -> Result<Endpoint> {
    Ok(Endpoint { pushes: true, ..of_repository(transport, repository)?.origin })
}

/// The URLs of a file, the origin's last.
pub(crate) fn of_file(transport: &Transport, url: &Url) -> Vec<Url> {
    let mirrors = mirrors(transport.upstream(&host_of(url)));
    mirrors.iter().map(|mirror| mirror.file(url)).chain([url.clone()]).collect()
}

fn mirrors(upstream: Option<&Upstream>) -> Vec<Endpoint> {
    let mirrors = upstream.map(|upstream| upstream.mirrors.as_slice()).unwrap_or_default();
    mirrors
        .iter()
        .filter_map(|mirror| Some(Endpoint::mirror(&mirror.address().ok()?, mirror.trust == Some(MirrorTrust::Mirror))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_shapes() {
        let endpoint = |url: &str| Endpoint::mirror(&Url::parse(url).unwrap(), false);
        for (mirror, url) in [
            ("https://mirror.example", "https://mirror.example/v2/library/nginx/manifests/1"),
            ("https://m.example:8443/docker.io/", "https://m.example:8443/v2/docker.io/library/nginx/manifests/1"),
            ("https://m.example/v2/hub", "https://m.example/v2/hub/library/nginx/manifests/1"),
        ] {
            assert_eq!(endpoint(mirror).registry("library/nginx", "manifests", "1").as_str(), url);
        }
        let access = endpoint("https://m.example/docker.io").access(Some("library/nginx"));
        assert_eq!((access.host.as_str(), access.name.as_deref()), ("m.example", Some("docker.io/library/nginx")));
        let file = Url::parse("https://dl.example/release/v1/kubectl?x=1").unwrap();
        for (mirror, url) in [
            ("https://mirror.example", "https://mirror.example/release/v1/kubectl?x=1"),
            ("https://files.m.example/dl.example", "https://files.m.example/dl.example/release/v1/kubectl?x=1"),
        ] {
            assert_eq!(endpoint(mirror).file(&file).as_str(), url);
        }
    }
}
