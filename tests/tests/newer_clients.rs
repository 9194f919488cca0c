//! Clients newer than this machine's: containerd 2, docker 26 and later, podman 5, from a newer Debian. They run in that
//! userland, and the harness finds them where it looks for the machine's own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use journeys::image::application;
use journeys::{Containerd, Dockerd, Folder, Naru, Need, Podman, Registry, Userland, find, free_port, journey, run};

const NEWER: Userland = Userland {
    suite: "forky",
    variant: "extract",
    packages: "containerd,runc,docker.io,docker-cli,podman,golang-github-containers-common,ca-certificates",
};
const PROGRAMS: [&str; 5] = ["containerd", "ctr", "dockerd", "docker", "podman"];

const NEEDS: &[Need] = &[
    Need::Program("docker-registry"),
    Need::Program("busybox"),
    Need::Program("containerd"),
    Need::Program("ctr"),
    Need::Program("dockerd"),
    Need::Program("docker"),
    Need::Program("podman"),
    Need::Root,
    Need::Userland(NEWER),
];

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of our own")
}

/// Unpacks the userland, and puts its programs in place of this machine's, as far as this journey sees.
fn newer(folder: &Folder) -> Result<PathBuf> {
    let root = NEWER.unpack(folder)?;
    for name in ["bin", "sbin", "lib", "lib64"] {
        // Unpacked and not configured: nobody has made them.
        if !root.join(name).exists() {
            std::os::unix::fs::symlink(format!("usr/{name}"), root.join(name))?;
        }
    }
    std::fs::create_dir_all(root.join("var/tmp"))?;
    let base = folder.path();
    let inner = root.join(base.strip_prefix("/")?);
    std::fs::create_dir_all(&inner)?;
    // Docker wants its root to be a mount.
    run("mount", ["--bind", text(&root)?, text(&root)?])?;
    for (from, to) in [("/proc", root.join("proc")), ("/sys", root.join("sys")), ("/dev", root.join("dev"))] {
        run("mount", ["--rbind", from, text(&to)?])?;
    }
    run("mount", ["-t", "tmpfs", "run", text(&root.join("run"))?])?;
    // What the harness writes is there under the same name.
    run("mount", ["--bind", text(base)?, text(&inner)?])?;
    for program in PROGRAMS {
        let theirs = ["usr/bin", "usr/sbin", "bin", "sbin"].map(|place| root.join(place).join(program));
        let theirs = theirs.iter().find(|path| path.is_file()).with_context(|| format!("no {program} in there"))?;
        let inside = theirs.strip_prefix(&root)?;
        let chroot = find("chroot").context("chroot is not here")?;
        let (chroot, root) = (chroot.display(), root.display());
        let script = format!("#!/bin/sh\nexec {chroot} {root} /{} \"$@\"\n", inside.display());
        let wrapper = folder.write(format!("newer/{program}"), script)?;
        std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755))?;
        let ours = find(program).with_context(|| format!("{program} is not here"))?;
        run("mount", ["--bind", text(&wrapper)?, text(&ours)?])?;
    }
    Ok(root)
}

/// A `config.toml` of version 3, as containerd 2 writes it.
fn configuration(folder: &Folder) -> Result<String> {
    let work = folder.make("containerd")?;
    Ok(format!(
        r#"# A node's own.
version = 3
root = "{work}/root"
state = "{work}/state"
[grpc]
  address = "{work}/s.sock"
[ttrpc]
  address = "{work}/s.sock.ttrpc"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "native"
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["{work}/cni"]
  conf_dir = "{work}/net.d"
[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
  platform = "linux/amd64"
  snapshotter = "native"
[plugins.'io.containerd.grpc.v1.cri']
  stream_server_address = "127.0.0.1"
  stream_server_port = "{stream}"
"#,
        work = work.display(),
        stream = free_port()?,
    ))
}

#[test]
fn newer_clients_pull_with_what_setup_writes() {
    journey("newer_clients_pull_with_what_setup_writes", NEEDS, |folder| {
        let hub = Registry::start(folder, "hub")?;
        let image = application(folder, "newer")?;
        hub.push("library/app", "1", &image)?;
        let outside = Naru::new(folder, "outside")?;
        outside.list(&format!(
            "platforms: [linux/amd64]\nimages:\n- docker.io/library/app:1\n\
             upstreams:\n  docker.io:\n    mirrors:\n    - {{ url: 'http://{}', trust: mirror }}\n",
            hub.host()
        ))?;
        let bundle = folder.join("bundle");
        outside.pack(&bundle, &[])?;
        let inside = Naru::new(folder, "inside")?;
        inside.load(&bundle)?;
        let serving = inside.serve(&[])?;
        let (name, server) = ("docker.io/library/app:1", format!("https://{}", serving.address()));

        let root = newer(folder)?;
        let version = |program: &str, arguments: &[&str]| -> Result<String> {
            let said = std::process::Command::new(find(program).context("it was there")?).args(arguments).output()?;
            let said = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
            let number = |word: &&str| word.trim_start_matches('v').starts_with(|first: char| first.is_ascii_digit());
            let found = said.split([' ', ',', '\n']).find(number).with_context(|| said.clone())?;
            Ok(found.trim_start_matches('v').split(['+', '~']).next().unwrap_or_default().to_owned())
        };
        let config = root.join("etc/containerd/config.toml");
        std::fs::create_dir_all(root.join("etc/containerd"))?;
        std::fs::write(&config, configuration(folder)?)?;
        for (client, major) in [("containerd", 2), ("docker", 26), ("podman", 5)] {
            let version = version(client, &["--version"])?;
            let number: u32 = version.split('.').next().unwrap_or_default().parse()?;
            ensure!(number >= major, "{client} {version} is not new");
            eprintln!("{client} {version}");
            let apply = ["setup", client, "--server", &server, "--root", text(&root)?, "--version", &version];
            inside.ok(apply.into_iter().chain(["--apply", "--yes"]))?;
        }
        ensure!(std::fs::read_to_string(&config)?.starts_with("# A node's own.\n"), "the comment is gone");

        let containerd =
            Containerd::with(folder, Path::new("/etc/containerd/config.toml"), "/etc/containerd/certs.d".into())?;
        let pulled = containerd.cri_pull(name)?;
        ensure!(pulled[0].ends_with(image.digest()), "CRI: {pulled:?}");

        let podman = Podman::of_system(folder)?;
        let pulled = podman.pull(name)?;
        ensure!(pulled.contains(image.digest()), "podman: {pulled}");

        let dockerd = Dockerd::with(folder, Path::new("/etc/docker/daemon.json"))?;
        let pulled = dockerd.pull(name)?;
        ensure!(pulled.contains(image.digest()), "docker: {pulled}");

        // What this docker saves is an OCI layout beside its own list; and it takes what Naru exports.
        let id = dockerd.docker(&["image", "inspect", "--format", "{{.Id}}", name])?;
        let saved = folder.join("saved.tar");
        dockerd.docker(&["save", "--output", text(&saved)?, name])?;
        let listed = std::process::Command::new("tar").arg("-tf").arg(&saved).output()?;
        let listed = String::from_utf8(listed.stdout)?;
        ensure!(listed.contains("index.json") && listed.contains("manifest.json"), "{listed}");
        let other = Naru::new(folder, "other")?;
        other.ok(["load", text(&saved)?])?;
        ensure!(other.ok(["ls"])?.stdout.contains(name), "what docker saved did not come in");
        dockerd.docker(&["image", "rm", "--force", name])?;
        let exported = folder.join("exported.tar");
        other.ok(["export", name, "-o", text(&exported)?])?;
        dockerd.docker(&["load", "--input", text(&exported)?])?;
        let again = dockerd.docker(&["image", "inspect", "--format", "{{.Id}}", name])?;
        ensure!(again == id, "docker: {again}, not {id}");
        Ok(())
    });
}
