//! `Authorization` and short tokens as they are written. Whether what they say is true is found out elsewhere.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

/// What came with `Authorization`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sent<'a> {
    /// A name and a password (RFC 7617), when they can be read.
    Basic(Option<(String, String)>),
    /// A token (RFC 6750).
    Bearer(&'a str),
    /// Something else.
    Unknown,
}

/// Reads the header's value.
pub(super) fn read(value: &str) -> Sent<'_> {
    let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("basic") {
        let decoded = STANDARD.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let split = |text: String| text.split_once(':').map(|(name, word)| (name.to_owned(), word.to_owned()));
        Sent::Basic(decoded.and_then(split))
    } else if scheme.eq_ignore_ascii_case("bearer") {
        Sent::Bearer(rest)
    } else {
        Sent::Unknown
    }
}

/// A token that says who, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// What is signed.
    pub(super) text: String,
    pub(super) signature: Vec<u8>,
    /// `admin`, `anonymous`, `token NAME`, `user NAME`.
    pub(super) who: String,
    /// In seconds since 1970.
    pub(super) until: i64,
}

/// Writes a token: `BASE64(WHO:UNTIL).BASE64(SIGNATURE)`.
pub(super) fn token(text: &str, signature: &[u8]) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(text), URL_SAFE_NO_PAD.encode(signature))
}

/// Takes a token apart.
pub(super) fn claim(token: &str) -> Option<Claim> {
    let (text, signature) = token.split_once('.')?;
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    let (who, until) = text.rsplit_once(':')?;
    let (who, until) = (who.to_owned(), until.parse().ok()?);
    Some(Claim { text, signature, who, until })
}

/// For `fuzz/`: whatever is sent is read, and what is written is read again.
#[cfg(any(test, fuzzing))]
pub(crate) fn tried(value: &str) {
    if let Sent::Bearer(token) = read(value) {
        if let Some(Claim { text, signature, .. }) = claim(token) {
            assert_eq!(claim(&self::token(&text, &signature)).map(|claim| claim.text), Some(text));
        }
    }
    let written = STANDARD.encode(format!("name:{value}"));
    assert_eq!(read(&format!("Basic {written}")), Sent::Basic(Some(("name".to_owned(), value.to_owned()))));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_clients_write_them() {
        let basic = |name: &str, word: &str| Sent::Basic(Some((name.to_owned(), word.to_owned())));
        assert_eq!(read("Basic YTpi"), basic("a", "b"));
        // A password may have colons.
        assert_eq!(read("basic  YTpiOmM= "), basic("a", "b:c"));
        assert_eq!(read("BEARER abc "), Sent::Bearer("abc"));
        for unreadable in ["Basic", "Basic YQ==", "Basic a:b", "Basic gIA="] {
            assert_eq!(read(unreadable), Sent::Basic(None), "{unreadable}");
        }
        assert_eq!(read("Negotiate x"), Sent::Unknown);
        let written = token("token ci:12", b"signed");
        let Claim { who, until, signature, .. } = claim(&written).unwrap();
        assert_eq!((who.as_str(), until, signature.as_slice()), ("token ci", 12, &b"signed"[..]));
        for wrong in ["", ".", "a.b", "YQ.YQ", &token("admin", b""), &token("admin:soon", b"")] {
            assert_eq!(claim(wrong), None, "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "(Basic |Bearer )?[ -~]{0,60}", any in "\\PC{0,60}", claimed in "[a-z ]{0,9}:?[0-9-]{0,20}") {
            tried(&text);
            tried(&any);
            tried(&format!("Bearer {}", token(&claimed, any.as_bytes())));
        }
    }
}
