//! Pages for people where bytes were asked for: filtering proxies answer 200 and say in HTML what they think of it.

use http::HeaderMap;
use http::header::CONTENT_TYPE;

/// How much of a page is quoted.
const WORDS: usize = 160;

/// Whether the header says that this is a page.
pub(crate) fn is_declared(headers: &HeaderMap) -> bool {
    content_type(headers).is_some_and(|text| matches!(text, "text/html" | "application/xhtml+xml"))
}

/// Whether the bytes begin as a page does.
pub(crate) fn is_page(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    [b"<!doctype html".as_slice(), b"<html"]
        .iter()
        .any(|start| bytes.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start)))
}

/// `Content-Type` without its parameters.
pub(crate) fn content_type(headers: &HeaderMap) -> Option<&str> {
    Some(headers.get(CONTENT_TYPE)?.to_str().ok()?.split(';').next().unwrap_or_default().trim())
}

/// What a page says: its title, or else its first words. Of other text, its first words.
pub(crate) fn words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lower = text.to_ascii_lowercase();
    // Lower-casing ASCII moves nothing, so offsets in one are offsets in the other.
    let title = lower.find("<title").and_then(|start| {
        let from = start + lower.get(start..)?.find('>')? + 1;
        let to = from + lower.get(from..)?.find("</title")?;
        text.get(from..to)
    });
    let title = title.map(plain).filter(|title| !title.is_empty());
    title.unwrap_or_else(|| plain(&text))
}

/// Text without tags, scripts and control characters, each run of spaces one, cut short.
fn plain(text: &str) -> String {
    let mut words = String::new();
    let (mut rest, mut count) = (text, 0);
    while count < WORDS {
        let Some(next) = rest.chars().next() else { break };
        if next == '<' {
            rest = skip_tag(rest);
            push_space(&mut words);
            continue;
        }
        rest = rest.get(next.len_utf8()..).unwrap_or_default();
        if next.is_whitespace() || next.is_control() {
            push_space(&mut words);
        } else {
            words.push(next);
            count += 1;
        }
    }
    let words = words.trim_end().to_owned();
    if rest.trim().is_empty() { words } else { words + "…" }
}

fn push_space(words: &mut String) {
    if !words.is_empty() && !words.ends_with(' ') {
        words.push(' ');
    }
}

/// What follows a tag; what follows the closing tag of a script or style, which is not for people.
fn skip_tag(text: &str) -> &str {
    for hidden in ["script", "style"] {
        let name = text.get(1..=hidden.len()).unwrap_or_default();
        if name.eq_ignore_ascii_case(hidden) {
            let close = format!("</{hidden}");
            let Some(at) = text.to_ascii_lowercase().find(&close) else { return "" };
            return text.get(at..).and_then(|rest| rest.split_once('>')).map_or("", |(_, rest)| rest);
        }
    }
    text.split_once('>').map_or("", |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_told_from_bytes() {
        assert!(is_page(b"\xef\xbb\xbf\n <!DOCTYPE html><p>"));
        assert!(is_page(b"<HTML lang=ko>"));
        assert!(!is_page(b"{\"schemaVersion\":2}") && !is_page(b"") && !is_page(b"\x1f\x8b"));
    }

    #[test]
    fn quotes_what_people_would_read() {
        assert_eq!(words(b"<html><head><TITLE>\n Access  denied </TITLE></head><body>x"), "Access denied");
        let bare =
            b"<html><script>if (1 < 2) {}</script><style>a{}</style><body><h1>Web filter</h1>Category: containers";
        assert_eq!(words(bare), "Web filter Category: containers");
        assert_eq!(words("차단된 사이트".as_bytes()), "차단된 사이트");
        assert_eq!(words("긴".repeat(500).as_bytes()).chars().count(), WORDS + 1);
        assert_eq!(words(b"<html><script>"), "");
    }

    proptest::proptest! {
        #[test]
        fn any_page(text in "[<>/a-zA-Z가-힣 \u{130}]{0,200}", bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            words(text.as_bytes());
            words(&bytes);
            is_page(&bytes);
        }
    }
}
