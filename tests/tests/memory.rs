//! Memory is bounded whatever the size: every command in a cgroup that holds it to 256 MiB (invariant 6).
//!
//! `NARU_MEMORY_GIB` says how much is carried: 1 by itself, 20 in `make soak`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use journeys::image::Blob;
use journeys::{Folder, Naru, Need, Outcome, Registry, http, journey, run};
use serde_json::json;

const LIMIT: u64 = 256 << 20;

/// A memory cgroup of this journey's, of either version, without swap.
struct Group {
    folder: PathBuf,
}

impl Group {
    /// Named after the journey's folder: in a namespace of its own every journey's process has the same number, and what
    /// one that was killed left behind shall not stop the next.
    fn new(journey: &Folder, limit: u64) -> Result<Self> {
        let unique = journey.path().file_name().context("a folder has a name")?.display();
        let own = format!("{unique}-{limit}");
        let first = Path::new("/sys/fs/cgroup/memory");
        if first.join("memory.limit_in_bytes").exists() {
            let folder = first.join(own);
            std::fs::create_dir(&folder)?;
            let group = Self { folder };
            group.write("memory.limit_in_bytes", limit)?;
            // Where swap is accounted for at all.
            let _ = group.write("memory.memsw.limit_in_bytes", limit);
            return Ok(group);
        }
        let second = Path::new("/sys/fs/cgroup");
        let controllers = std::fs::read_to_string(second.join("cgroup.subtree_control")).unwrap_or_default();
        ensure!(controllers.contains("memory"), "the memory controller is not handed on below {}", second.display());
        let group = Self { folder: second.join(own) };
        std::fs::create_dir(&group.folder)?;
        group.write("memory.max", limit)?;
        let _ = group.write("memory.swap.max", 0);
        Ok(group)
    }

    fn write(&self, name: &str, value: u64) -> Result<()> {
        let path = self.folder.join(name);
        std::fs::write(&path, value.to_string()).with_context(|| path.display().to_string())
    }

    /// The same command, begun by a shell that has put itself into the group.
    fn hold(&self, command: &Command) -> Result<Command> {
        let mut held = Command::new("/bin/sh");
        held.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.folder.join("cgroup.procs"));
        held.arg(command.get_program()).args(command.get_args()).env_clear();
        held.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        held.current_dir(command.get_current_dir().context("commands run in a folder of their own")?);
        Ok(held)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.folder);
    }
}

/// What `docker save` would write of an image with one layer of 256 MiB.
fn saved(folder: &Folder) -> Result<PathBuf> {
    let work = folder.make("saved")?;
    File::create(work.join("layer.tar"))?.set_len(256 << 20)?;
    let diff_id = Blob::of_file(work.join("layer.tar"))?.digest;
    let config =
        json!({ "os": "linux", "architecture": "amd64", "rootfs": { "type": "layers", "diff_ids": [diff_id] } });
    std::fs::write(work.join("c.json"), config.to_string())?;
    let list = json!([{ "Config": "c.json", "RepoTags": ["saved:1"], "Layers": ["layer.tar"] }]);
    std::fs::write(work.join("manifest.json"), list.to_string())?;
    let archive = folder.join("saved.tar");
    let (from, to) = (work.to_str().context("a path of our own")?, archive.to_str().context("a path of our own")?);
    run("tar", ["-C", from, "-cf", to, "layer.tar", "c.json", "manifest.json"])?;
    Ok(archive)
}

#[test]
fn every_command_is_content_with_256_mib() {
    journey("every_command_is_content_with_256_mib", &[Need::Root, Need::Program("docker-registry")], |folder| {
        let gib = std::env::var("NARU_MEMORY_GIB").ok().and_then(|given| given.parse::<u64>().ok()).unwrap_or(1);
        let group = Group::new(folder, LIMIT)?;

        // First of all: the limit bites.
        let mut greedy = Command::new("/bin/sh");
        greedy.args(["-c", "x=$(head -c 400000000 /dev/zero | tr '\\0' a); echo ${#x}"]).current_dir(folder.path());
        let outcome = Outcome::of(&mut group.hold(&greedy)?)?;
        ensure!(!outcome.status.success(), "this machine's cgroups do not hold anything: {}", outcome.stdout);

        // Files that are mostly holes: as many bytes as wanted, and hardly any disk on this side.
        let outside = Naru::new(folder, "outside")?;
        let content = folder.make("outside/content")?;
        for number in 0..4 {
            let file = File::create(content.join(format!("file-{number}")))?;
            file.set_len((gib << 30) / 4 + number)?;
        }
        outside.list("files:\n- path: ./content\n")?;
        let bundle = folder.join("bundle");
        let inside = Naru::new(folder, "inside")?;
        let limited = |site: &Naru, arguments: &[&str]| -> Result<()> {
            let line = arguments.join(" ");
            Outcome::of(&mut group.hold(&site.command(arguments))?)?.ok(&format!("naru {line} in 256 MiB"))?;
            Ok(())
        };
        let medium = bundle.to_str().context("a path of our own")?;
        limited(&outside, &["lock"])?;
        limited(&outside, &["pull"])?;
        limited(&outside, &["pack", "-o", medium, "--volume-size", "300MiB", "--parity", "1"])?;
        limited(&outside, &["verify", medium])?;
        limited(&outside, &["report", "--format", "json", medium])?;
        limited(&inside, &["load", medium])?;
        let receipt = folder.join("receipt");
        limited(&inside, &["receipt", "-o", receipt.to_str().context("a path of our own")?])?;
        std::fs::remove_file(bundle.join("naru-0002.tar"))?;
        let back = folder.join("back");
        limited(&outside, &["verify", "--repair", back.to_str().context("a path of our own")?, medium])?;
        ensure!(back.join("naru-0002.tar").exists(), "it was not brought back");
        // Archives of others: as they are, and by compressors that were given all the memory they can use.
        let saved = saved(folder)?;
        let saved = saved.to_str().context("a path of our own")?;
        for (program, arguments) in [("xz", &["-9"][..]), ("zstd", &["-q", "--ultra", "-22", "--long=27"])] {
            run(program, arguments.iter().chain(&["-k", saved]))?;
        }
        for (name, ending) in [("plain", ""), ("xz", ".xz"), ("zstd", ".zst")] {
            let as_name = format!("image:{name}:1");
            let fresh = Naru::new(folder, name)?;
            limited(&fresh, &["load", "--as", &as_name, &format!("{saved}{ending}")])?;
            if ending.is_empty() {
                let registry = Registry::start(folder, "target")?;
                limited(&fresh, &["push", "--to", &registry.host(), "plain:1"])?;
                let out = folder.join("exported.tar");
                limited(&fresh, &["export", "plain:1", "-o", out.to_str().context("a path of our own")?])?;
            }
        }
        limited(&inside, &["fsck"])?;

        // A server: 64 MiB and what its connections may have.
        let few = Group::new(folder, (64 << 20) + (32 * 1024 * 1024 / 10))?;
        let serving = inside.serve(&[])?;
        std::fs::write(few.folder.join("cgroup.procs"), serving.daemon.id().to_string())?;
        let url = serving.url("/files/local/content/file-0");
        std::thread::scope(|scope| {
            let pulls = [(); 8].map(|()| scope.spawn(|| http::hash(&url)));
            pulls.into_iter().try_for_each(|pull| {
                let (_, size) = pull.join().map_err(|_| anyhow::anyhow!("a pull panicked"))??;
                ensure!(size == (gib << 30) / 4, "{size} bytes");
                Ok(())
            })
        })?;
        drop(serving);
        Ok(())
    });
}
