//! `/`: what is here and how to use it, as one plain page without scripts.

use std::fmt::Write as _;

use artifact::{Kind, Repository};
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Response};

use crate::body::Body;
use crate::refusal::Refusal;
use crate::registry::Call;
use crate::registry::lists::readable;
use crate::router::parameter;

/// Lines that the page shows at most.
const MOST: usize = 1000;

/// Lines of what a search found.
const FOUND: u32 = 200;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}\
    code,pre{font-family:ui-monospace,monospace;font-size:13px}pre{background:#f4f4f4;padding:.6em;overflow:auto}\
    td{padding:.1em 1em .1em 0;vertical-align:top}.n{text-align:right}";

/// A whole document around `content`.
pub(crate) fn html(title: &str, content: &str) -> Response<Body> {
    let text = format!(
        "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{}</title><style>{STYLE}</style>\n{content}</html>\n",
        escape(title)
    );
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(
        HeaderName::from_static("content-security-policy"),
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"),
    );
    response
}

/// Text between tags or in an attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// A path as a URL has it: everything but unreserved characters and slashes percent-encoded.
pub(crate) fn url_path(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => text.push(char::from(byte)),
            other => {
                let _ = write!(text, "%{other:02X}");
            }
        }
    }
    text
}

/// The page, or what a search found (`?q=`).
pub(crate) async fn home(call: &Call<'_>) -> Result<Response<Body>, Refusal> {
    call.may_look("*")?;
    let query = parameter(call.query, "q").unwrap_or_default();
    let mut text = format!(
        "<h1>Naru</h1>\n<form><input name=q size=40 value=\"{}\" placeholder=\"search names\"> <button>Search</button></form>\n",
        escape(&query)
    );
    if query.is_empty() {
        overview(call, &mut text).await?;
    } else {
        found(call, &query, &mut text).await?;
    }
    Ok(html("Naru", &text))
}

async fn found(call: &Call<'_>, query: &str, text: &mut String) -> Result<(), Refusal> {
    // Of what may not all be read, more is looked at than shown.
    let sees_all = call.caller.may_read_everything(&call.site.settings());
    let mut hits = call.site.stock().search(query, if sees_all { FOUND } else { 50 * FOUND }).await?;
    hits.retain(|hit| call.may_read(&hit.repository));
    hits.truncate(FOUND as usize);
    let _ = writeln!(text, "<h2>{} found</h2>\n<table>", hits.len());
    for hit in hits {
        let name = match hit.repository.kind {
            Kind::File => {
                let path = url_path(&format!("{}/{}", hit.repository.host, hit.entry.name));
                format!("<a href=\"/files/{path}\">{}/{}</a>", escape(&hit.repository.host), escape(&hit.entry.name))
            }
            Kind::Image => format!("<code>{}</code>", escape(&reference(&hit.repository, &hit.entry.name))),
            _ => format!("{} {}", escape(&hit.repository.to_string()), escape(&hit.entry.name)),
        };
        let _ = writeln!(
            text,
            "<tr><td>{}</td><td>{name}</td><td><code>{}</code></td></tr>",
            hit.repository.kind, hit.entry.digest
        );
    }
    text.push_str("</table>\n");
    Ok(())
}

fn reference(repository: &Repository, name: &str) -> String {
    let between = if name.contains(':') { '@' } else { ':' };
    format!("{repository}{between}{name}")
}

async fn overview(call: &Call<'_>, text: &mut String) -> Result<(), Refusal> {
    let site = call.site;
    let sees_all = call.caller.may_read_everything(&site.settings());
    if sees_all {
        let usage = site.stock().usage().await?;
        let _ = writeln!(
            text,
            "<p>{} repositories, {} entries, {} blobs, {} bytes.</p>",
            usage.repositories, usage.entries, usage.blobs, usage.bytes
        );
    }
    let url = escape(&base_url(call));
    let host = url.split_once("//").map_or(url.as_str(), |(_, host)| host);
    let _ = writeln!(
        text,
        "<h2>How to use it</h2>\n<pre>curl -O {url}/ca.crt\nnaru setup containerd --server {url}\n\
         naru setup docker --server {url}\nnaru setup podman --server {url}\n\
         skopeo list-tags docker://{host}/docker.io/library/NAME\ncurl {url}/files/</pre>\n\
         <p>The text of each: <a href=/setup/containerd>containerd</a>, <a href=/setup/docker>docker</a>, \
         <a href=/setup/podman>podman</a>. The site's CA has the fingerprint <code>{}</code>.</p>",
        escape(&site.certificates.fingerprint())
    );
    let asked: Vec<String> = site.settings().upstreams.shown().map(|host| escape(&host)).collect();
    if sees_all && !asked.is_empty() {
        let _ =
            writeln!(text, "<p>What is not here is fetched from <code>{}</code>.</p>", asked.join("</code>, <code>"));
    }
    let ambiguities = if sees_all { site.ambiguities() } else { Vec::new() };
    if !ambiguities.is_empty() {
        text.push_str("<h2>Names that could mean several things</h2>\n<table>\n");
        for met in ambiguities {
            let chosen = met.chosen.map_or("nothing was served".to_owned(), |chosen| format!("{chosen} was served"));
            let candidates = met.candidates.join(", ");
            let _ = writeln!(
                text,
                "<tr><td><code>{}</code></td><td>{}</td><td>{}</td></tr>",
                escape(&met.name),
                escape(&candidates),
                escape(&chosen)
            );
        }
        text.push_str("</table>\n");
    }
    text.push_str("<h2>Images</h2>\n<table>\n");
    let (names, more) = readable(call, "", MOST).await?;
    for name in names {
        let _ = writeln!(text, "<tr><td><code>{}</code></td></tr>", escape(&name));
    }
    text.push_str("</table>\n<h2>Files</h2>\n<table>\n");
    for host in site.known().await?.files.iter().filter(|host| call.may_read(&Repository::files(host.as_str()))) {
        let path = url_path(host).replace("%3A", ":");
        let _ = writeln!(text, "<tr><td><a href=\"/files/{path}/\">{}</a></td></tr>", escape(host));
    }
    text.push_str("</table>\n");
    if more {
        let _ = writeln!(text, "<p>And more: <a href=/v2/_catalog>all of them</a>.</p>");
    }
    Ok(())
}

/// The server's address as this client reached it. On the port that is plain alone, it is the other one's.
pub(crate) fn base_url(call: &Call<'_>) -> String {
    let host = call.headers.get(http::header::HOST).and_then(|value| value.to_str().ok());
    let host = host.filter(|host| artifact::normalise_host(host).is_some());
    let host = host.map_or_else(|| call.peer.local.to_string(), str::to_owned);
    let plain = call.site.addresses.plain.map(|plain| plain.port());
    if plain == Some(call.peer.local.port()) {
        let main = call.site.addresses.main.port();
        let name =
            host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(&*host, |(name, _)| name);
        return format!("https://{name}:{main}");
    }
    format!("https://{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_name_is_markup() {
        assert_eq!(escape("<a href=\"x\" b='&'>"), "&lt;a href=&quot;x&quot; b=&#39;&amp;&#39;&gt;");
        assert_eq!(url_path("a b/c\"<한"), "a%20b/c%22%3C%ED%95%9C");
    }
}
