//! `docs/reference/naru.yaml.md` is made of the doc comments of what reads the packing list. Run with
//! `NARU_WRITE_REFERENCE=1` to write it again.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may")]

use std::fmt::Write as _;
use std::path::Path;

const PREAMBLE: &str = "\
# naru.yaml: the packing list

What shall be carried across the gap. `naru init` writes a commented one; `naru lock` resolves it into `naru.lock`
beside it, which `naru pull` and `naru pack` follow. An unknown key is an error that names its line and the key that was
meant. Relative paths are seen from the packing list's folder.

This file is made from the doc comments of the code that reads the list.
";

/// The fields of a struct with their doc comments, as they stand in its source.
fn fields(source: &str, name: &str) -> Vec<(String, String)> {
    let head = format!("struct {name} {{\n");
    let (_, body) = source.split_once(&head).unwrap_or_else(|| panic!("no struct {name}"));
    let (body, _) = body.split_once("\n}").unwrap();
    let (mut found, mut text) = (Vec::new(), String::new());
    for line in body.lines().map(str::trim) {
        if let Some(words) = line.strip_prefix("///") {
            text.push_str(words);
        } else if let Some((field, _)) = line.split_once(':').filter(|_| line.starts_with("pub")) {
            let field = field.rsplit(' ').next().unwrap();
            found.push((field.to_owned(), std::mem::take(&mut text).trim().to_owned()));
        }
    }
    found
}

#[test]
fn the_reference_is_what_the_code_says() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = std::fs::read_to_string(here.join("src/list/document.rs")).unwrap();
    let upstreams = std::fs::read_to_string(here.join("../upstream/src/config.rs")).unwrap();
    let mut text = PREAMBLE.to_owned();
    for (title, source, name) in [
        ("At the top", &list, "Document"),
        ("An item of `images`", &list, "ImageFields"),
        ("An item of `files`", &list, "File"),
        ("A host under `upstreams`", &upstreams, "Upstream"),
        ("An item of `mirrors`", &upstreams, "Mirror"),
    ] {
        let _ = write!(text, "\n## {title}\n\n| key | what |\n|---|---|\n");
        for (field, words) in fields(source, name) {
            assert!(!words.is_empty(), "{name}.{field} has no words");
            let _ = writeln!(text, "| `{field}` | {} |", words.replace('|', "\\|"));
        }
    }
    let _ = write!(text, "\n## The starter\n\n```yaml\n{}```\n", collect::STARTER);
    let place = here.join("../../docs/reference/naru.yaml.md");
    if std::env::var_os("NARU_WRITE_REFERENCE").is_some() {
        std::fs::write(&place, &text).unwrap();
    }
    let written = std::fs::read_to_string(&place).unwrap_or_default();
    assert!(written == text, "docs/reference/naru.yaml.md is not what the code says: NARU_WRITE_REFERENCE=1 writes it");
}
