//! What the machine's own tools tell: where a package lies, and its sha256. No address of an index stands in this
//! tree; apt's and pip's own configuration has them, which their user trusts already.

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;

/// A tool that asks a dead network gives up late; this does not.
const PATIENCE: Duration = Duration::from_secs(20);

/// A file that a tool names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) url: String,
    pub(super) sha256: String,
}

/// Where apt would download a package from.
///
/// # Errors
/// With one line for the user.
pub(super) async fn apt(package: &str) -> Result<Found, String> {
    let text = output("apt-get", &["--print-uris", "download", package]).await?;
    text.lines().find_map(apt_line).ok_or_else(|| format!("apt-get names no sha256 for {package}"))
}

/// `'URL' NAME SIZE SHA256:HEX`
fn apt_line(line: &str) -> Option<Found> {
    let (url, rest) = line.strip_prefix('\'')?.split_once('\'')?;
    let sha256 = rest.split_whitespace().find_map(|word| word.strip_prefix("SHA256:"))?;
    found(url, sha256)
}

/// Where pip would download a package from.
///
/// # Errors
/// With one line for the user.
pub(super) async fn pip(package: &str) -> Result<Found, String> {
    let arguments = ["install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet", "--report", "-", package];
    let mut why = String::new();
    for program in ["pip3", "pip"] {
        match output(program, &arguments).await {
            Ok(text) => {
                return pip_report(&text).ok_or_else(|| format!("{program} names no sha256 for {package}"));
            }
            Err(error) => why = error,
        }
    }
    Err(why)
}

#[derive(Deserialize)]
struct Report {
    install: Vec<Installed>,
}

#[derive(Deserialize)]
struct Installed {
    download_info: Download,
}

#[derive(Deserialize)]
struct Download {
    url: String,
    archive_info: Option<Archive>,
}

#[derive(Deserialize)]
struct Archive {
    #[serde(default)]
    hash: String,
}

/// pip's installation report, version 1.
fn pip_report(text: &str) -> Option<Found> {
    let report: Report = serde_json::from_str(text).ok()?;
    let download = report.install.into_iter().next()?.download_info;
    found(&download.url, download.archive_info?.hash.strip_prefix("sha256=")?)
}

fn found(url: &str, sha256: &str) -> Option<Found> {
    let is_web = url.starts_with("https://") || url.starts_with("http://");
    let is_sum = artifact::Digest::from_hex(sha256).is_ok();
    // The URL is written into YAML between double quotes.
    let is_plain = !url.contains(['"', '\\', '\n', '\r']);
    (is_web && is_sum && is_plain).then(|| Found { url: url.to_owned(), sha256: sha256.to_ascii_lowercase() })
}

async fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(PATIENCE, command.output()).await {
        Err(_) => Err(format!("{program} gave no answer within {} s", PATIENCE.as_secs())),
        Ok(Err(_)) => Err(format!("there is no {program} here")),
        Ok(Ok(output)) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(Ok(_)) => Err(format!("`{program} {}` failed", arguments.join(" "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &str = "17d9a2f3c05004499d80e180d2440fd716f84c32b65f09d96c9a024af4d1d0e7";

    #[test]
    fn reads_what_apt_prints() {
        let line = format!(
            "'http://d.example/pool/h/hostname_3.23%2bnmu1_amd64.deb' hostname_3.23+nmu1_amd64.deb 10500 SHA256:{SUM}"
        );
        let found = apt_line(&line).unwrap();
        assert_eq!(found.url, "http://d.example/pool/h/hostname_3.23%2bnmu1_amd64.deb");
        assert_eq!(found.sha256, SUM);
        for bad in ["", "'http://a' b 1 MD5Sum:00", "'ftp://a' b 1 SHA256:00", &line.replace("pool", "\"")] {
            assert_eq!(apt_line(bad), None, "{bad}");
        }
    }

    #[test]
    fn reads_what_pip_reports() {
        let report = format!(
            r#"{{"version":"1","install":[{{"download_info":{{"url":"https://f.example/six.whl","archive_info":{{"hash":"sha256={SUM}"}}}}}}]}}"#
        );
        assert_eq!(pip_report(&report).unwrap().url, "https://f.example/six.whl");
        for bad in ["", "{}", r#"{"install":[]}"#, &report.replace("sha256=", "md5="), &report.replace("https", "file")]
        {
            assert_eq!(pip_report(bad), None, "{bad}");
        }
    }
}
