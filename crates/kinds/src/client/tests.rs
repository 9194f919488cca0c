use super::*;

const CA: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----";

fn tls() -> Site {
    Site::new("https://10.0.0.5:5000".parse().unwrap())
        .ca(CA)
        .host("registry.k8s.io")
        .unwrap()
        .host("docker.io")
        .unwrap()
        .host("registry.example:5001")
        .unwrap()
        .pause("registry.k8s.io/pause:3.10".parse().unwrap())
}

fn plain() -> Site {
    Site::new("http://mirror.example:5080".parse().unwrap()).ca(CA)
}

fn text(client: Client, site: &Site, version: Option<&str>) -> String {
    configure(client, site, version.map(|version| version.parse().unwrap())).to_string()
}

#[test]
fn containerd_of_every_age() {
    insta::assert_snapshot!("containerd", text(Client::Containerd, &tls(), None));
    insta::assert_snapshot!("containerd-2.3", text(Client::Containerd, &tls(), Some("2.3.4")));
    insta::assert_snapshot!("containerd-1.7", text(Client::Containerd, &tls(), Some("v1.7.34")));
    insta::assert_snapshot!("containerd-1.6.16", text(Client::Containerd, &tls(), Some("1.6.16")));
    insta::assert_snapshot!("containerd-1.5", text(Client::Containerd, &tls(), Some("1.5.18")));
    insta::assert_snapshot!("containerd-1.2", text(Client::Containerd, &tls(), Some("1.2.14")));
    assert_eq!(text(Client::Containerd, &tls(), Some("1.6.17")), text(Client::Containerd, &tls(), Some("1.6.20~ds1")));
}

#[test]
fn containerd_without_tls_gets_no_word_about_certificates() {
    // With a `ca` key it would ask a plain address by HTTPS.
    let text = text(Client::Containerd, &plain(), Some("2.1.0"));
    assert!(!text.contains("ca =") && !text.contains("ca.crt"), "{text}");
    insta::assert_snapshot!("containerd-plain", text);
}

#[test]
fn two_servers_stand_in_for_each_other() {
    let site = tls().server("https://10.0.0.6:5000".parse().unwrap());
    insta::assert_snapshot!("containerd-two", text(Client::Containerd, &site, Some("2.3.4")));
    insta::assert_snapshot!("podman-two", text(Client::Podman, &site, None));
}

#[test]
fn docker_before_and_after_29() {
    insta::assert_snapshot!("docker", text(Client::Docker, &tls(), None));
    insta::assert_snapshot!("docker-28", text(Client::Docker, &tls(), Some("28.5.2")));
    insta::assert_snapshot!("docker-29", text(Client::Docker, &tls(), Some("29")));
    insta::assert_snapshot!("docker-plain", text(Client::Docker, &plain(), Some("20.10.24")));
}

#[test]
fn podman_names_each_upstream() {
    insta::assert_snapshot!("podman", text(Client::Podman, &tls(), None));
    insta::assert_snapshot!("podman-plain", text(Client::Podman, &plain(), None));
}

#[test]
fn files_stay_where_clients_read() {
    for client in Client::ALL {
        for version in [None, Some("1.0"), Some("1.5"), Some("1.6.3"), Some("2.1"), Some("28"), Some("30")] {
            for file in configure(client, &tls(), version.map(|text| text.parse().unwrap())).files {
                assert!(file.path.starts_with("/etc/") && !file.path.contains(".."), "{}", file.path);
                assert!(file.text.ends_with('\n'), "{}", file.path);
            }
        }
    }
}

#[test]
fn hosts_that_are_none_are_refused() {
    for host in ["", "a b", "../x", "a\"b"] {
        assert!(tls().host(host).is_err(), "{host}");
    }
}
