use kinds::client::{Site, configure};

use super::*;

/// A machine with these files, and what is found there.
fn found(client: Client, version: &str, files: &[(&str, &str)]) -> Vec<String> {
    let root = tempfile::tempdir().unwrap();
    let machine = Machine::new(Some(root.path()));
    for (path, text) in files {
        fs::create_dir_all(machine.at(path).parent().unwrap()).unwrap();
        fs::write(machine.at(path), text).unwrap();
    }
    let site = Site::new("https://10.0.0.5:5000".parse().unwrap()).host("docker.io").unwrap();
    let files = configure(client, &site, Some(version.parse().unwrap()));
    let lines = look(client, &files, &["10.0.0.5".to_owned()], &machine);
    lines.into_iter().map(|line| line.replace(&root.path().display().to_string(), "")).collect()
}

#[test]
fn what_beats_the_files_is_named() {
    let containerd = found(
        Client::Containerd,
        "2.1",
        &[
            ("/etc/containerd/certs.d/_default/hosts.toml", ""),
            ("/etc/containerd/certs.d/docker.io/hosts.toml", ""),
            ("/etc/containerd/certs.d/quay.io/ca.crt", ""),
            ("/etc/containerd/certs.d/README", ""),
            ("/etc/containerd/config.toml", "disabled_plugins = [\"cri\"]\nimports = [\"/etc/more/*.toml\"]\n"),
            ("/etc/more/a.toml", "[plugins.'io.containerd.cri.v1.images'.registry]\n"),
            ("/etc/more/b.toml", "# [plugins.'io.containerd.cri.v1.images'.registry]\n"),
        ],
    );
    let docker = found(
        Client::Docker,
        "29",
        &[
            ("/etc/docker/certs.d/quay.io/hosts.toml", ""),
            ("/etc/systemd/system/docker.service.d/a.conf", "ExecStart=dockerd --registry-mirror=https://x\n"),
        ],
    );
    let rule = |prefix: &str| format!("[[registry]]\nprefix = \"{prefix}\"\n[[registry.mirror]]\nlocation='x'\n");
    let podman = found(
        Client::Podman,
        "4",
        &[
            ("/etc/containers/registries.conf", "[registries.search]\nregistries = []\n"),
            ("/etc/containers/registries.conf.d/10-own.conf", &rule("docker.io")),
            ("/etc/containers/registries.conf.d/20-own.conf", &rule("docker.io/library")),
            ("/etc/containers/registries.conf.d/50-naru.conf", &rule("docker.io")),
            ("/etc/containers/registries.conf.d/60-own.conf", "[[[\n"),
            ("/etc/containers/registries.conf.d/90-own.conf", "[[registry]]\nlocation = 'docker.io' # theirs\n"),
            ("/etc/containers/registries.conf.d/91-own.conf", &rule("private.example")),
            ("/home/kim/.config/containers/registries.conf", ""),
        ],
    );
    insta::assert_snapshot!([containerd, docker, podman].map(|lines| lines.join("\n")).join("\n\n"));
}

#[test]
fn a_proxy_without_an_exception_is_named() {
    let unit = "/etc/systemd/system/containerd.service.d/proxy.conf";
    let of = |text: &str| found(Client::Containerd, "2.1", &[(unit, text)]);
    let lines = of("[Service]\nEnvironment=\"HTTPS_PROXY=http://p:3128\" \"NO_PROXY=localhost,10.96.0.0/12\"\n");
    assert!(lines[0].contains("proxy.conf: HTTPS_PROXY is set, and NO_PROXY does not name 10.0.0.5"), "{lines:?}");
    assert!(of("[Service]\nEnvironment=HTTPS_PROXY=http://p NO_PROXY=10.0.0.0/8\n").is_empty());
    assert!(of("[Service]\n# Environment=HTTPS_PROXY=http://p\n").is_empty());
    let two = [(unit, "Environment=HTTP_PROXY=http://p"), ("/etc/environment", "no_proxy='10.0.0.5'\n")];
    assert!(found(Client::Containerd, "2.1", &two).is_empty());
    let docker = found(Client::Docker, "28", &[("/etc/default/docker", "export http_proxy=\"http://p\"\n")]);
    assert!(docker[0].contains("/etc/default/docker"), "{docker:?}");
    let every = ("/etc/systemd/system.conf.d/proxy.conf", "[Manager]\nDefaultEnvironment=\"HTTPS_PROXY=http://p\"\n");
    let lines = found(Client::Containerd, "2.1", &[every]);
    assert!(lines[0].contains("system.conf.d/proxy.conf"), "{lines:?}");
    let own =
        |more: &str| ("/etc/docker/daemon.json", format!("{{\"proxies\":{{\"https-proxy\":\"http://p\"{more}}}}}"));
    let (path, text) = own("");
    let lines = found(Client::Docker, "29", &[(path, &text)]);
    assert!(lines[0].contains("daemon.json: HTTPS_PROXY is set"), "{lines:?}");
    let (path, text) = own(",\"no-proxy\":\"10.0.0.5\"");
    assert!(found(Client::Docker, "29", &[(path, &text)]).is_empty());
}

#[test]
fn exceptions_are_read_as_go_reads_them() {
    for (host, exceptions, excepted) in [
        ("naru.corp", "corp", true),
        ("naru.corp", ".corp", true),
        ("naru.corp", "*.corp, x", true),
        ("naru.corp", "aru.corp", false),
        ("naru.corp", "*", true),
        ("10.1.2.3", "10.1.0.0/16", true),
        ("10.1.2.3", "10.2.0.0/16", false),
        ("10.1.2.3", "0.0.0.0/0", true),
        ("[fd00::1]", "fd00::/8", true),
        ("[fd00::1]", "10.0.0.0/8,fe80::/99999999999", false),
        ("127.0.0.1", "", true),
        ("naru", "", false),
    ] {
        assert_eq!(is_excepted(host, exceptions), excepted, "{host} {exceptions}");
    }
}
