//! `/setup/CLIENT`: the files that make a client pull from this server, by the address that it was reached at.

use artifact::{Reference, Repository};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use kinds::client::{Address, Client, Site, Version, configure};

use crate::body::Body;
use crate::page::base_url;
use crate::refusal::Refusal;
use crate::registry::Call;
use crate::router::parameter;

/// Where runtimes look for their sandbox image.
const PAUSE: (&str, &str) = ("registry.k8s.io", "pause");

/// A client's configuration as text; `?version=` for one version's.
pub(crate) async fn answer(call: &Call<'_>, client: &str) -> Result<Response<Body>, Refusal> {
    let unknown = |error: kinds::Error| Refusal::not_found(error.to_string());
    let client: Client = client.parse().map_err(unknown)?;
    let version = parameter(call.query, "version").map(|text| text.parse::<Version>()).transpose().map_err(unknown)?;
    let address: Address = base_url(call).parse().map_err(unknown)?;
    let mut site = Site::new(address);
    if let Some(pem) = call.site.certificates.authority_pem() {
        site = site.ca(&pem);
    }
    for host in &call.site.known().await?.images {
        site = site.host(host).map_err(unknown)?;
    }
    if let Some(pause) = pause(call).await? {
        site = site.pause(pause);
    }
    let mut response = Response::new(Body::from(configure(client, &site, version).to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

/// The newest pause image that is here.
async fn pause(call: &Call<'_>) -> Result<Option<Reference>, Refusal> {
    let (host, name) = PAUSE;
    let repository = Repository::image(host, name);
    if !call.may_read(&repository) {
        return Ok(None);
    }
    let entries = call.site.stock().entries(&repository, "", 1000).await?;
    let number = |tag: &str| tag.split('.').map(|part| part.parse::<u32>().ok()).collect::<Option<Vec<_>>>();
    let newest = entries.into_iter().filter_map(|entry| Some((number(&entry.name)?, entry.name))).max();
    Ok(newest.and_then(|(_, tag)| format!("{host}/{name}:{tag}").parse().ok()))
}
