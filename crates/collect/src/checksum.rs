//! Checksum files: what an upstream says the sha256 of its files are.
//!
//! In use are a bare sum (`kubectl.sha256`), lines of `sha256sum` (`HEX  NAME`, `HEX *NAME`, `\HEX  NAME` where the name
//! is escaped), and BSD's and openssl's `SHA256 (NAME) = HEX`.

use artifact::Digest;

/// A checksum file may have so many bytes; release pages list some hundreds of files.
pub(crate) const LIMIT: usize = 4 * 1024 * 1024;

/// The sum that `text` has for the file `name` (its last segment).
///
/// # Errors
/// Says why there is none: nothing for that name, two that differ, or nothing that is a sha256.
pub(crate) fn find(text: &str, name: &str) -> Result<Digest, String> {
    let mut found: Option<Digest> = None;
    let mut others = Vec::new();
    let mut bare = Vec::new();
    let mut longer = false;
    for line in text.lines() {
        let line = line.trim_start_matches('\u{feff}').trim();
        let Some((sum, of)) = entry(line) else { continue };
        longer |= matches!(sum.len(), 96 | 128);
        let Ok(digest) = Digest::from_hex(sum) else { continue };
        match of {
            None => bare.push(digest),
            Some(of) if of == name || of.rsplit(['/', '\\']).next() == Some(name) => match found {
                Some(before) if before != digest => return Err(format!("it has two sums for {name}")),
                _ => found = Some(digest),
            },
            Some(of) => others.push(of.to_owned()),
        }
    }
    if let Some(digest) = found {
        return Ok(digest);
    }
    match (bare.as_slice(), others.as_slice()) {
        // A bare sum is of whatever its document stands beside.
        ([digest], []) => Ok(*digest),
        ([], []) if longer => Err("it has sums, but no sha256".to_owned()),
        ([], []) => Err("it has no sha256 in it".to_owned()),
        (_, []) => Err("it has several sums without names".to_owned()),
        (_, [other]) => Err(format!("it names {other}, not {name}")),
        (_, [other, ..]) => Err(format!("it names {} files ({other}, …), but not {name}", others.len())),
    }
}

/// The sum of a line, and the name beside it.
fn entry(line: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = line.strip_prefix("SHA256").or_else(|| line.strip_prefix("SHA2-256")) {
        let (name, sum) = rest.trim_start().strip_prefix('(')?.rsplit_once(')')?;
        return Some((sum.trim_start().strip_prefix('=')?.trim(), Some(name)));
    }
    let line = line.strip_prefix('\\').unwrap_or(line);
    match line.split_once([' ', '\t']) {
        Some((sum, name)) if is_hex(sum) => Some((sum, Some(name.trim_start().trim_start_matches('*')))),
        None if is_hex(line) => Some((line, None)),
        _ => None,
    }
}

fn is_hex(text: &str) -> bool {
    text.len() >= 32 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_in_use() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let (a, b) = (one.hex(), two.hex());
        for text in [
            a.clone(),
            format!("{a}\n"),
            format!("{}\r\n", a.to_uppercase()),
            format!("{a}  kubectl\n"),
            format!("{a} *kubectl\n{b} *kubelet\n"),
            format!("{b}  kubelet\n{a}  bin/linux/amd64/kubectl\n"),
            format!("{a}  ./kubectl\n{a}  kubectl\n"),
            format!("\\{a}  a\\kubectl\n"),
            format!("SHA256 (kubectl) = {a}\nSHA256 (x) = {b}\n"),
            format!("SHA256(dir/kubectl)= {a}\n"),
            format!(
                "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{a}  kubectl\n-----BEGIN PGP SIGNATURE-----\n"
            ),
        ] {
            assert_eq!(find(&text, "kubectl"), Ok(one), "{text}");
        }
    }

    #[test]
    fn says_why_there_is_none() {
        let (a, b) = (Digest::of(b"1").hex(), Digest::of(b"2").hex());
        for (text, why) in [
            (String::new(), "no sha256"),
            ("<html>no</html>".to_owned(), "no sha256"),
            (format!("{a}{a}  kubectl"), "sums, but no sha256"),
            (format!("{a}  kubelet"), "names kubelet, not kubectl"),
            (format!("{a}  kubelet\n{b}  kubeadm"), "2 files"),
            (format!("{a}\n{b}"), "several sums without names"),
            (format!("{a}  kubectl\n{b}  kubectl"), "two sums"),
            // A name that only ends like it is another file's.
            (format!("{a}  old-kubectl"), "names old-kubectl"),
        ] {
            let said = find(&text, "kubectl").unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "(SHA256|[0-9a-f]{64}|[ ()=*\\\\\n/a-z한]){0,40}", name in ".{0,8}") {
            let _ = find(&text, &name);
        }

        #[test]
        fn finds_what_sha256sum_writes(names in proptest::collection::btree_set("[a-z][a-z0-9._-]{0,12}", 1..8)) {
            let lines: Vec<_> = names.iter().map(|name| format!("{}  {name}", Digest::of(name.as_bytes()).hex())).collect();
            let text = lines.join("\n");
            for name in &names {
                assert_eq!(find(&text, name), Ok(Digest::of(name.as_bytes())));
            }
        }
    }
}
