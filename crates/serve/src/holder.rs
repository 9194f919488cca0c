//! Who listens on a port, as far as `/proc` tells.

use std::fs;

/// `command (process 123)`, when it can be seen.
pub(crate) fn of_port(port: u16) -> Option<String> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|text| text.lines().filter_map(|line| listening(line, port)).collect::<Vec<_>>())
        .collect();
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let process = process.path();
        let number: u32 = process.file_name()?.to_str()?.parse().ok()?;
        // Another user's descriptors cannot be read; then nobody is named.
        let holds = fs::read_dir(process.join("fd")).ok()?.flatten().any(|descriptor| {
            let target = fs::read_link(descriptor.path()).ok();
            let inode = target.as_deref().and_then(|target| target.to_str()).and_then(|text| {
                text.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')).map(str::to_owned)
            });
            inode.is_some_and(|inode| inodes.contains(&inode))
        });
        let command = fs::read_to_string(process.join("comm")).unwrap_or_default();
        holds.then(|| format!("{} (process {number})", command.trim()))
    })
}

/// The inode of a line of `/proc/net/tcp` that says that this port is listened on.
fn listening(line: &str, port: u16) -> Option<String> {
    let mut columns = line.split_whitespace();
    let local = columns.nth(1)?;
    let state = columns.nth(1)?;
    let inode = columns.nth(5)?;
    let matches = local.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok()) == Some(port);
    (matches && state == "0A" && inode != "0").then(|| inode.to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn we_ourselves() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let by = of_port(port).unwrap();
        assert!(by.ends_with(&format!("(process {})", std::process::id())), "{by}");
        drop(listener);
        assert_eq!(of_port(port), None);
    }
}
