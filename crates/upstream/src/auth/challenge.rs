//! `WWW-Authenticate` (RFC 9110 §11.6.1): what a server wants to see before it answers.

/// How much of a header is read; a longer one has nothing for us.
const LIMIT: usize = 8 * 1024;

/// One challenge that we can meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User and password with each request (RFC 7617).
    Basic,
    /// A token from elsewhere (distribution spec, "Token Authentication").
    Bearer {
        /// Where tokens are had.
        realm: String,
        /// For whom.
        service: Option<String>,
        /// For what.
        scope: Option<String>,
    },
}

/// The challenge to meet among those of all the headers: Bearer before Basic, as docker has it.
pub(crate) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for challenge in headers.flat_map(parse) {
        match challenge {
            Challenge::Bearer { .. } => return Some(challenge),
            Challenge::Basic => basic = Some(challenge),
        }
    }
    basic
}

/// The challenges of one header. Schemes that we do not know are passed over; what is malformed ends the reading.
fn parse(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    if header.len() > LIMIT {
        return found;
    }
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (scheme, after) = token(rest);
        if scheme.is_empty() {
            return found;
        }
        rest = after;
        let mut parameters = Vec::new();
        // Parameters go on until something that is not `name=value`: the next scheme.
        loop {
            let here = rest.trim_start_matches([' ', '\t', ',']);
            let (name, after) = token(here);
            let Some(after) = after.trim_start().strip_prefix('=').filter(|_| !name.is_empty()) else { break };
            let Some((value, after)) = value(after.trim_start()) else { return found };
            parameters.push((name.to_ascii_lowercase(), value));
            rest = after;
        }
        let take = |name: &str| parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer") {
            if let Some(realm) = take("realm") {
                found.push(Challenge::Bearer { realm, service: take("service"), scope: take("scope") });
            }
        } else if parameters.is_empty() {
            // `Negotiate abc==`: what follows is a token68, not a scheme.
            let (_, after) = rest.split_once(',').unwrap_or_default();
            rest = after;
        }
    }
}

fn token(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && !"!#$%&'*+-.^_`|~".contains(c)).unwrap_or(text.len());
    text.split_at(end)
}

/// A token or a quoted string. Unquoted values in the field have `/` and `:` in them.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return Some((value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, quoted.get(at + 1..).unwrap_or_default())),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(character),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let (service, scope) = (service.map(str::to_owned), scope.map(str::to_owned));
        Challenge::Bearer { realm: realm.to_owned(), service, scope }
    }

    #[test]
    fn as_registries_write_them() {
        for (header, challenges) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull""#,
                vec![bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:library/nginx:pull"),
                )],
            ),
            (r#"Basic realm="Registry Realm""#, vec![Challenge::Basic]),
            (
                r#"Negotiate, Basic realm="a, \"b\"", bearer realm = https://a.example/t , error="x""#,
                vec![Challenge::Basic, bearer("https://a.example/t", None, None)],
            ),
            ("NTLM TlRMTVNTUAAC==, Basic realm=x", vec![Challenge::Basic]),
            ("Bearer", vec![]),
            (r#"Bearer realm="never closed"#, vec![]),
            ("", vec![]),
        ] {
            assert_eq!(parse(header), challenges, "{header}");
        }
    }

    #[test]
    fn bearer_comes_first() {
        let headers = [r#"Basic realm="x""#, r#"Bearer realm="https://a.example/t""#];
        assert_eq!(choose(headers.into_iter()), Some(bearer("https://a.example/t", None, None)));
        assert_eq!(choose(headers.into_iter().take(1)), Some(Challenge::Basic));
    }

    proptest::proptest! {
        #[test]
        fn any_header(text in ".{0,200}", likely in "[a-z=\", \\\\]{0,80}") {
            parse(&text);
            parse(&likely);
        }

        #[test]
        fn quoting_is_undone(realm in "[ -~]{1,60}") {
            let quoted = realm.replace('\\', r"\\").replace('"', r#"\""#);
            assert_eq!(parse(&format!("Bearer realm=\"{quoted}\"")), [bearer(&realm, None, None)]);
        }
    }
}
