//! `Link` (RFC 8288): where a list goes on.

/// The target of `rel="next"` (RFC 8288).
pub(crate) fn next(header: &str) -> Option<String> {
    let mut rest = header;
    loop {
        let (target, after) = rest.split_once('<')?.1.split_once('>')?;
        // Parameters end where the next link begins.
        let parameters = after.split('<').next().unwrap_or_default();
        let is_next = parameters.split(';').any(|parameter| {
            let parameter = parameter.trim().trim_end_matches(',').trim_end();
            let value = parameter.strip_prefix("rel").map(|rest| rest.trim_start().trim_start_matches('=').trim());
            value.is_some_and(|value| value.trim_matches('"').eq_ignore_ascii_case("next"))
        });
        if is_next {
            return Some(target.to_owned());
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::next;

    #[test]
    fn links_as_registries_write_them() {
        assert_eq!(next(r#"</v2/a/referrers/x?n=2>; rel="next""#).as_deref(), Some("/v2/a/referrers/x?n=2"));
        assert_eq!(next("<https://a/b>;rel=next").as_deref(), Some("https://a/b"));
        assert_eq!(next(r#"</first>; rel="first", </second>; rel="next""#).as_deref(), Some("/second"));
        assert_eq!(next(r#"</first>; rel="first""#), None);
        assert_eq!(next("nonsense"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_link(text in ".{0,200}", likely in "[<>;=\"rel next,/]{0,80}") {
            next(&text);
            next(&likely);
        }
    }
}
