//! HTTP as the journeys speak it: curl, run.

use std::io::{Read, Write as _};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::image::hexadecimal;
use crate::process::find;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn curl() -> Result<Command> {
    let mut command = Command::new(find("curl").context("curl is not here")?);
    // Whatever this machine says of proxies is not for servers on loopback.
    command.args(["--silent", "--show-error", "--noproxy", "*", "--path-as-is"]);
    Ok(command)
}

/// A request with curl's own arguments before the URL.
///
/// # Errors
/// When no whole answer comes.
pub fn request(url: &str, arguments: &[&str], body: Option<&[u8]>) -> Result<Answer> {
    let mut command = curl()?;
    command.arg("--include").args(arguments);
    if body.is_some() {
        command.args(["--data-binary", "@-", "--header", "Expect:"]);
    }
    command.arg(url).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("piped")?;
    let body = body.unwrap_or_default().to_vec();
    let writer = std::thread::spawn(move || {
        // A server may answer before it has read everything.
        let _ = stdin.write_all(&body);
    });
    let output = child.wait_with_output()?;
    let _ = writer.join();
    ensure!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
    parse(&output.stdout).with_context(|| format!("{url}: not an answer"))
}

/// Skips interim answers, then splits head and body.
fn parse(bytes: &[u8]) -> Option<Answer> {
    let (answer, length) = head_of(bytes)?;
    Some(Answer { body: bytes[length..].to_vec(), ..answer })
}

/// An answer without its body, and how many bytes its head and the interim answers before it have; `None` when it is not
/// whole.
pub(crate) fn head_of(bytes: &[u8]) -> Option<(Answer, usize)> {
    let mut begin = 0;
    loop {
        let end = begin + bytes[begin..].windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[begin..end]).into_owned();
        begin = end + 4;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        if status != 100 {
            let headers = lines
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
                .collect();
            return Some((Answer { status, headers, body: Vec::new() }, begin));
        }
    }
}

/// GET.
///
/// # Errors
/// When no whole answer comes.
pub fn get(url: &str) -> Result<Answer> {
    request(url, &[], None)
}

/// HEAD.
///
/// # Errors
/// When no answer comes.
pub fn head(url: &str) -> Result<Answer> {
    request(url, &["--head"], None)
}

/// GET of something large: its sha256 and length, without holding it.
///
/// # Errors
/// When the answer is not 200, or is cut.
pub fn hash(url: &str) -> Result<(String, u64)> {
    let mut child = curl()?.args(["--fail", url]).stdout(Stdio::piped()).spawn()?;
    let mut stdout = child.stdout.take().context("piped")?;
    let (mut hasher, mut length) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = stdout.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        length += count as u64;
    }
    ensure!(child.wait()?.success(), "{url}: curl ended badly after {length} bytes");
    Ok((format!("sha256:{}", hexadecimal(&hasher.finalize())), length))
}
