use std::os::unix::fs::PermissionsExt as _;

use kinds::client::{Site, configure};

use super::*;

fn configuration(server: &str) -> Configuration {
    configure(Client::Containerd, &Site::new(server.parse().unwrap()).ca("PEM"), Some("1.7.20".parse().unwrap()))
}

/// Every file below a folder, with its bytes and mode.
fn tree(folder: &Path) -> Vec<(PathBuf, Vec<u8>, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        if path.is_dir() {
            found.push((path.clone(), Vec::new(), mode));
            found.extend(tree(&path));
        } else {
            found.push((path.clone(), fs::read(&path).unwrap(), mode));
        }
    }
    found.sort();
    found
}

fn machine() -> (tempfile::TempDir, Machine) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("etc/containerd");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.toml"), "# mine\nversion = 2\r\n").unwrap();
    fs::set_permissions(folder.join("config.toml"), fs::Permissions::from_mode(0o640)).unwrap();
    let machine = Machine::new(Some(root.path()));
    (root, machine)
}

fn apply_to(machine: &Machine, server: &str) -> anyhow::Result<usize> {
    let changes = changes(&configuration(server), machine)?;
    apply(Client::Containerd, &changes, machine)?;
    Ok(changes.len())
}

#[test]
fn what_is_undone_is_as_it_was() {
    let (root, machine) = machine();
    let before = tree(root.path());
    assert_eq!(apply_to(&machine, "https://one:5000").unwrap(), 3);
    assert_eq!(apply_to(&machine, "https://one:5000").unwrap(), 0, "twice is not once");
    assert_eq!(apply_to(&machine, "https://two:5000").unwrap(), 1);
    let config = machine.read("/etc/containerd/config.toml").unwrap().unwrap();
    assert!(String::from_utf8(config).unwrap().starts_with("# mine\n"));
    let mode = fs::metadata(machine.at("/etc/containerd/config.toml")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    undo(Client::Containerd, &machine).unwrap();
    assert_eq!(tree(root.path()), before);
    undo(Client::Containerd, &machine).unwrap_err();

    // Nobody edited what somebody removed.
    apply_to(&machine, "https://one:5000").unwrap();
    fs::remove_file(machine.at("/etc/containerd/config.toml")).unwrap();
    undo(Client::Containerd, &machine).unwrap();
    assert_eq!(tree(root.path()), before);
}

#[test]
fn what_was_edited_since_is_not_undone() {
    let (_root, machine) = machine();
    apply_to(&machine, "https://one:5000").unwrap();
    let hosts = machine.at("/etc/containerd/certs.d/_default/hosts.toml");
    let written = fs::read_to_string(&hosts).unwrap();
    fs::write(&hosts, "# better\n").unwrap();
    let all = tree(&machine.root);
    let error = undo(Client::Containerd, &machine).unwrap_err().to_string();
    assert!(error.contains("hosts.toml was edited"), "{error}");
    let error = apply_to(&machine, "https://two:5000").unwrap_err().to_string();
    assert!(error.contains("hosts.toml was edited"), "{error}");
    assert_eq!(tree(&machine.root), all);
    fs::write(&hosts, written).unwrap();

    // What is only partly ours may be edited and set up again; going back is then its user's.
    let config = machine.at("/etc/containerd/config.toml");
    fs::write(&config, "# other\nversion = 2\n").unwrap();
    assert_eq!(apply_to(&machine, "https://one:5000").unwrap(), 1);
    let error = undo(Client::Containerd, &machine).unwrap_err().to_string();
    assert!(error.contains("config.toml was edited"), "{error}");
}

#[test]
fn a_run_that_was_cut_can_be_undone_and_run_again() {
    let (root, machine) = machine();
    let before = tree(root.path());
    apply_to(&machine, "https://one:5000").unwrap();
    // As if it had ended before the files: backups and record only.
    fs::copy(machine.at("/etc/containerd/config.toml.before-naru"), machine.at("/etc/containerd/config.toml")).unwrap();
    fs::remove_file(machine.at("/etc/containerd/certs.d/_default/hosts.toml")).unwrap();
    assert_eq!(apply_to(&machine, "https://one:5000").unwrap(), 2);
    fs::copy(machine.at("/etc/containerd/config.toml.before-naru"), machine.at("/etc/containerd/config.toml")).unwrap();
    undo(Client::Containerd, &machine).unwrap();
    assert_eq!(tree(root.path()), before);
}

/// The record is written before the files: a second run may be cut between them.
#[test]
fn a_second_run_that_was_cut_can_be_undone_and_run_again() {
    let (root, machine) = machine();
    let before = tree(root.path());
    for again in [true, false] {
        apply_to(&machine, "https://one:5000").unwrap();
        let all = ["/etc/containerd/config.toml", "/etc/containerd/certs.d/_default/hosts.toml"];
        let written: Vec<_> = all.iter().map(|path| fs::read(machine.at(path)).unwrap()).collect();
        apply_to(&machine, "https://two:5000").unwrap();
        for (path, bytes) in all.iter().zip(written) {
            fs::write(machine.at(path), bytes).unwrap();
        }
        if again {
            assert_eq!(apply_to(&machine, "https://two:5000").unwrap(), 1);
        }
        undo(Client::Containerd, &machine).unwrap();
        assert_eq!(tree(root.path()), before);
    }
}

/// An edit stands in the way of going back only as long as it is there.
#[test]
fn what_its_user_gave_back_is_as_it_was() {
    let (root, machine) = machine();
    let before = tree(root.path());
    apply_to(&machine, "https://one:5000").unwrap();
    let config = machine.at("/etc/containerd/config.toml");
    fs::write(&config, "# other\nversion = 2\n").unwrap();
    apply_to(&machine, "https://one:5000").unwrap();
    undo(Client::Containerd, &machine).unwrap_err();
    fs::copy(machine.at("/etc/containerd/config.toml.before-naru"), &config).unwrap();
    undo(Client::Containerd, &machine).unwrap();
    assert_eq!(tree(root.path()), before);
}

#[test]
fn links_lead_nowhere() {
    let (root, machine) = machine();
    let outside = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), root.path().join("etc/containerd/certs.d")).unwrap();
    let error = apply_to(&machine, "https://one:5000").unwrap_err().to_string();
    assert!(error.contains("certs.d is a link"), "{error}");
    assert!(tree(outside.path()).is_empty());
}
