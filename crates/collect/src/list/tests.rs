use super::*;

fn parse(text: &str) -> Result<PackingList> {
    PackingList::parse(Path::new("naru.yaml"), text)
}

fn refused(text: &str) -> String {
    let error = parse(text).unwrap_err();
    match error.hint() {
        Some(hint) => format!("{error}\nhint: {hint}"),
        None => error.to_string(),
    }
}

#[test]
fn the_starter_is_a_packing_list() {
    let list = parse(STARTER).unwrap();
    assert_eq!(list.images.len(), 1);
    assert_eq!(list.files[0].path, "release/v1.34.1/bin/linux/amd64/kubectl");
    assert!(list.platforms_assumed);
    // And so is what one gets by taking the comment signs off, apart from prose (it has spaces before any colon, or
    // begins with a capital) and placeholders.
    let all: String = STARTER
        .lines()
        .filter(|line| !line.contains('…'))
        .map(|line| {
            let Some((indent, rest)) = line.split_once("# ").filter(|(before, _)| before.trim().is_empty()) else {
                return format!("{}\n", line.trim_end_matches('#'));
            };
            let key = rest.trim_start_matches([' ', '-']).split(':').next().unwrap_or_default();
            if key.contains(' ') || key.starts_with(char::is_uppercase) {
                String::new()
            } else {
                format!("{indent}{rest}\n")
            }
        })
        .collect();
    let list = parse(&all).unwrap_or_else(|error| panic!("{error}\n{all}"));
    assert_eq!(list.images.len(), 3);
    assert_eq!(list.upstreams.0.len(), 2);
}

#[test]
fn wishes_are_normalised() {
    let digest = artifact::Digest::of(b"x");
    let list = parse(&format!(
        "platforms: [linux/arm64, linux/amd64]
images:
  - nginx
  - {{image: quay.io/a/b:1, platforms: [all], referrers: false}}
  - docker.io/library/nginx:latest
  - a.io/b:1@{digest}
files:
  - {{url: 'https://Dl.K8s.io/a%20b/c', sha256: {}}}
  - {{url: 'http://files.example:8080/x?y=1', path: x.bin}}
  - path: ./kubespray
upstreams:
  docker.io: {{ca: ca.pem, username: u, password_file: /etc/p}}
foreign_layers: carry
",
        digest.hex()
    ))
    .unwrap();
    let shown: Vec<_> = list.images.iter().map(|wish| format!("{} {}", wish.reference, wish.platforms)).collect();
    assert_eq!(
        shown,
        [
            "docker.io/library/nginx:latest linux/amd64, linux/arm64".to_owned(),
            "quay.io/a/b:1 all".to_owned(),
            format!("a.io/b:1@{digest} linux/amd64, linux/arm64"),
        ]
    );
    assert_eq!((list.files[0].host.as_str(), list.files[0].path.as_str()), ("dl.k8s.io", "a b/c"));
    assert_eq!((list.files[1].host.as_str(), list.files[1].path.as_str()), ("files.example:8080", "x.bin"));
    assert_eq!(list.files[1].check, Check::FirstUse);
    assert_eq!(list.local[0].path, Path::new("./kubespray"));
    let upstream = &list.upstreams.0["docker.io"];
    assert_eq!(upstream.password_file.as_deref(), Some(Path::new("/etc/p")));
    assert_eq!(upstream.ca.as_deref(), Some(&*std::path::absolute("ca.pem").unwrap()));
    assert_eq!(list.foreign_layers, ForeignLayers::Carry);
}

#[test]
fn nothing_is_a_list_of_nothing() {
    for text in ["", "# all of it commented out\n", "{}", "images: []"] {
        assert_eq!(parse(text).unwrap().images.len(), 0, "{text}");
    }
    let comments = "# a long introduction\n".repeat(500) + "images: [a]\n";
    assert_eq!(parse(&comments).unwrap().images.len(), 1);
}

#[test]
fn what_is_wrong_is_shown_where_it_stands() {
    insta::assert_snapshot!("unknown_key", refused("images:\n  - a\nimagse:\n  - b\n"));
    insta::assert_snapshot!("unknown_key_of_an_image", refused("images:\n  - image: a\n    platform: [linux/amd64]\n"));
    insta::assert_snapshot!("unknown_key_of_an_upstream", refused("upstreams:\n  docker.io:\n    insecur: true\n"));
    insta::assert_snapshot!("unknown_key_like_no_other", refused("cucumber: 1\n"));
    insta::assert_snapshot!("malformed", refused("images:\n  - a\n - b: [\n"));
    insta::assert_snapshot!("wrong_shape", refused("images:\n  nginx: 1\n"));
    insta::assert_snapshot!("not_a_reference", refused("images:\n  - nginx\n  - Https://a/B\n"));
    insta::assert_snapshot!(
        "not_a_platform",
        refused("images:\n  - image: nginx\n    platforms: [linux/amd64, amd64]\n")
    );
    insta::assert_snapshot!("same_key_twice", refused("images: [a]\nimages: [b]\n"));
    insta::assert_snapshot!("not_a_sum", refused("files:\n  - url: https://a.io/b\n    sha256: 00ff\n"));
    insta::assert_snapshot!("not_a_path", refused("files:\n  - url: https://a.io/b\n    path: ../b\n"));
}

#[test]
fn refuses_by_name() {
    for (text, part) in [
        ("platforms: []\n", "no platform is named"),
        ("platforms: [all, linux/amd64]\n", "`all` stands alone"),
        ("files: [{sha256: aa}]\n", "a file has a `url`"),
        ("files: [{url: 'ftp://a.io/b'}]\n", "neither http nor https"),
        ("files: [{url: 'https://me:secret@a.io/b'}]\n", "belong under `upstreams`"),
        ("files: [{url: 'https://a.io/'}]\n", "cannot be the path of a file"),
        ("files: [{url: 'https://a.io/b?c'}]\n", "give it a `path`"),
        ("files: [{url: 'https://a.io/b%2F..%2F..%2Fc'}]\n", "cannot be the path of a file"),
        ("files: [{url: 'https://local/b'}]\n", "naru's own name"),
        ("files: [{path: a, sha256: aa}]\n", "only a file with a `url`"),
        ("files: [{path: ..}]\n", "has no name"),
        ("foreign_layers: maybe\n", "maybe"),
        ("images: ['']\n", "missing"),
    ] {
        let said = refused(text);
        assert!(said.contains(part), "{said}");
        assert!(!said.contains("secret"), "{said}");
    }
}

#[test]
fn twice_the_same_is_once_and_two_that_disagree_are_none() {
    let one = artifact::Digest::of(b"1");
    let two = artifact::Digest::of(b"2");
    let list = parse("images: [nginx, 'docker.io/library/nginx:latest']\nfiles: [{path: ./a}, {path: ./a}]\n").unwrap();
    assert_eq!((list.images.len(), list.local.len()), (1, 1));
    insta::assert_snapshot!(
        "digests_disagree",
        refused(&format!("images:\n- a.io/b:1@{one}\n- c\n- a.io/b:1@{two}\n"))
    );
    insta::assert_snapshot!(
        "platforms_disagree",
        refused("images:\n- nginx\n- image: nginx\n  platforms: [linux/s390x]\nplatforms: [linux/amd64]\n")
    );
    insta::assert_snapshot!(
        "sums_disagree",
        refused(&format!(
            "files:\n- url: https://a.io/b\n  sha256: {}\n- url: https://a.io/b\n  sha256: {}\n",
            one.hex(),
            two.hex()
        ))
    );
    insta::assert_snapshot!(
        "addresses_disagree",
        refused("files:\n- url: https://a.io/b\n- {url: 'https://a.io/c', path: b}\n")
    );
    assert!(refused("files: [{path: a/x}, {path: b/x}]\n").contains("disagree"));
}

proptest::proptest! {
    #[test]
    fn never_panics(text in "(images|files|platforms|url|path|[a-z:/@\\-\\[\\]{}, \n\"'#&*!|>]){0,60}") {
        let _ = parse(&text);
    }
}
