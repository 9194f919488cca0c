//! `Range: bytes=…` (RFC 9110, section 14), and the `Content-Range` of an upload's pieces.

/// Which bytes of so many are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// All of them: no range, several (which may be answered whole), or one that is not understood.
    Whole,
    /// These.
    Part {
        /// The first one's offset.
        start: u64,
        /// How many; at least one.
        length: u64,
    },
    /// None that there are: 416.
    Beyond,
}

/// Reads the header's value for a thing of `size` bytes.
pub(crate) fn parse(value: &str, size: u64) -> Asked {
    let Some(set) = value.trim().strip_prefix("bytes=") else { return Asked::Whole };
    // Partial zstd:chunked pulls ask for several; containers/image takes the whole then.
    if set.contains(',') {
        return Asked::Whole;
    }
    let Some((first, last)) = set.trim().split_once('-') else { return Asked::Whole };
    let number = |text: &str| match text.trim() {
        "" => Some(None),
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => Some(Some(digits.parse().unwrap_or(u64::MAX))),
        _ => None,
    };
    let (Some(first), Some(last)) = (number(first), number(last)) else { return Asked::Whole };
    match (first, last) {
        (None, None) => Asked::Whole,
        // RFC 9110 leaves it to the server; the distribution spec's own tests want to hear of it.
        (Some(first), Some(last)) if last < first => Asked::Beyond,
        (Some(first), _) if first >= size => Asked::Beyond,
        (Some(first), last) => {
            let last = last.unwrap_or(u64::MAX).min(size - 1);
            Asked::Part { start: first, length: last - first + 1 }
        }
        (None, Some(0)) => Asked::Beyond,
        (None, Some(_)) if size == 0 => Asked::Beyond,
        (None, Some(suffix)) => {
            let length = suffix.min(size);
            Asked::Part { start: size - length, length }
        }
    }
}

/// The first and the last byte of a piece: `0-99`, as the distribution spec has it, or `bytes 0-99/*`, as HTTP has it.
pub(crate) fn chunk(text: &str) -> Option<(u64, u64)> {
    let text = text.strip_prefix("bytes ").unwrap_or(text);
    let (start, end) = text.split('/').next()?.split_once('-')?;
    let (start, end) = (start.trim().parse().ok()?, end.trim().parse::<u64>().ok()?);
    (start <= end && end < u64::MAX).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_rfc_9110_has_it() {
        let part = |start, length| Asked::Part { start, length };
        for (text, expected) in [
            ("bytes=0-", part(0, 10)),
            ("bytes=3-", part(3, 7)),
            ("bytes=3-3", part(3, 1)),
            ("bytes=3-99", part(3, 7)),
            ("bytes=-4", part(6, 4)),
            ("bytes=-99", part(0, 10)),
            ("bytes=9-9", part(9, 1)),
            ("bytes=10-", Asked::Beyond),
            ("bytes=-0", Asked::Beyond),
            ("bytes=99999999999999999999999-", Asked::Beyond),
            ("bytes=4-3", Asked::Beyond),
            ("bytes=0-1,4-5", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("bytes=a-b", Asked::Whole),
            ("bytes=+1-2", Asked::Whole),
            ("items=0-1", Asked::Whole),
        ] {
            assert_eq!(parse(text, 10), expected, "{text}");
        }
        assert_eq!(parse("bytes=0-", 0), Asked::Beyond);
        assert_eq!(parse("bytes=-5", 0), Asked::Beyond);
    }

    #[test]
    fn chunks() {
        assert_eq!(chunk("0-99"), Some((0, 99)));
        assert_eq!(chunk("bytes 5-5/*"), Some((5, 5)));
        for bad in ["", "-", "5-4", "a-b", "0-", "-5", "0-18446744073709551615", "0-99999999999999999999999"] {
            assert_eq!(chunk(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_chunk_has_a_length(text in "(bytes )?[0-9/*-]{0,30}") {
            if let Some((start, end)) = chunk(&text) {
                assert!(end.checked_sub(start).and_then(|length| length.checked_add(1)).is_some());
            }
        }

        #[test]
        fn stays_inside(text in "(bytes=)?[0-9 ,-]{0,30}", size in proptest::prelude::any::<u64>()) {
            if let Asked::Part { start, length } = parse(&text, size) {
                assert!(length > 0 && start.checked_add(length).unwrap() <= size);
            }
        }
    }
}
