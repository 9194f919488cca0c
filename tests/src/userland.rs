//! Other machines: userlands of Debian, old and new, made by mmdebstrap and entered by chroot, or booted.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::folder::Folder;
use crate::process::{Outcome, find, run, wait_until};

/// A suite, and what is installed of it.
#[derive(Clone, Copy, Debug)]
pub struct Userland {
    /// `bullseye`.
    pub suite: &'static str,
    /// mmdebstrap's variant: `extract` unpacks, `apt` configures too.
    pub variant: &'static str,
    /// Packages, separated by commas.
    pub packages: &'static str,
}

impl Userland {
    /// Its archive, made once and kept in cargo's folder.
    ///
    /// # Errors
    /// When mmdebstrap cannot make it: no such suite where this machine's apt looks, no network.
    pub(crate) fn archive(&self) -> Result<PathBuf> {
        let test = std::env::current_exe()?;
        let cargo = test.ancestors().nth(3).context("a test lies in cargo's folder")?.join("userlands");
        std::fs::create_dir_all(&cargo)?;
        let path = cargo.join(format!("{}-{}-{}.tar", self.suite, self.variant, self.packages.replace(',', "+")));
        if path.is_file() {
            return Ok(path);
        }
        // From where this machine's own packages come.
        let format = "$(CODENAME) $(REPO_URI)";
        let mut apt = Command::new(find("apt-get").context("apt-get is not here")?);
        let listed = Outcome::of(apt.args(["indextargets", "--format", format, "Created-By: Packages"]))?;
        let listed = listed.ok("apt-get indextargets")?;
        let mirror = listed.lines().filter_map(|line| line.split_once(' ')).find(|(suite, _)| !suite.contains('-'));
        let (_, mirror) = mirror.context("apt knows no repository")?;
        let made = cargo.join(format!("{}.{}", self.suite, std::process::id()));
        let mut mmdebstrap = Command::new(find("mmdebstrap").context("mmdebstrap is not here")?);
        mmdebstrap
            .arg(format!("--variant={}", self.variant))
            .arg(format!("--include={}", self.packages))
            // A mirror that stands still is good enough for a test; its signature is looked at all the same.
            .arg("--aptopt=Acquire::Check-Valid-Until \"false\"")
            .args(["--quiet", "--format=tar", self.suite])
            .arg(&made)
            .arg(format!("deb {mirror} {} main", self.suite));
        Outcome::of(&mut mmdebstrap)?.ok(&format!("mmdebstrap {}", self.suite))?;
        std::fs::rename(&made, &path)?;
        Ok(path)
    }

    /// Unpacks it into a folder of the journey.
    ///
    /// # Errors
    /// When it cannot be made or unpacked.
    pub fn unpack(&self, folder: &Folder) -> Result<PathBuf> {
        let root = folder.make(self.suite)?;
        run("tar", ["-C".as_ref(), root.as_os_str(), "-xf".as_ref(), self.archive()?.as_os_str()])?;
        for name in ["proc", "sys", "dev", "run", "tmp", "mnt"] {
            std::fs::create_dir_all(root.join(name))?;
        }
        Ok(root)
    }
}

/// What a machine has before its first process: the file systems of the kernel, a few devices, an empty cgroup tree.
const BOOT: &str = r#"
set -e
cd "$0"
mount --bind . .
cd "$0"
mount -t proc proc proc
mount -t tmpfs run run
mount -t tmpfs tmp tmp
mount -t tmpfs dev dev
while read -r name major minor; do mknod -m 666 "dev/$name" c "$major" "$minor"; done <<END
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
END
mkdir -p dev/shm dev/pts dev/mqueue dev/hugepages run/lock
ln -s /proc/self/fd dev/fd
ln -s pts/ptmx dev/ptmx
mount -t devpts -o newinstance devpts dev/pts
mount -t sysfs -o ro sysfs sys
if [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then
  mount -t tmpfs cgroup sys/fs/cgroup
  mkdir sys/fs/cgroup/systemd
  mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
else
  mount -t cgroup2 cgroup sys/fs/cgroup
fi
pivot_root . mnt
cd /
umount -l /mnt
exec env -i container=other /lib/systemd/systemd
"#;

/// A userland with systemd as its first process; its network is the journey's.
#[derive(Debug)]
pub struct Machine {
    process: Child,
    first: String,
}

impl Machine {
    /// Boots what lies in `root`.
    ///
    /// # Errors
    /// When systemd does not come up.
    pub fn boot(root: &Path) -> Result<Self> {
        let mut unshare = Command::new(find("unshare").context("unshare is not here")?);
        unshare
            .args([
                "--mount",
                "--propagation",
                "private",
                "--pid",
                "--fork",
                "--kill-child",
                "--uts",
                "--ipc",
                "--cgroup",
            ])
            .args(["sh", "-c", BOOT])
            .arg(root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = unshare.spawn()?;
        let id = process.id();
        let mut machine = Self { process, first: String::new() };
        machine.first = wait_until("the first process", || {
            let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
            Ok(children.split_whitespace().next().map(str::to_owned))
        })?;
        wait_until("systemd", || {
            let state = machine.outcome(&["systemctl", "is-system-running"])?.stdout;
            Ok(["running", "degraded"].contains(&state.trim()).then_some(()))
        })?;
        Ok(machine)
    }

    /// Runs a command on it as root.
    ///
    /// # Errors
    /// When it does not start.
    pub fn outcome(&self, command: &[&str]) -> Result<Outcome> {
        let mut nsenter = Command::new(find("nsenter").context("nsenter is not here")?);
        nsenter
            .args(["--target", &self.first, "--mount", "--pid", "--uts", "--ipc", "--root", "--wd=/"])
            .args(["env", "-i", "HOME=/root", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"])
            .args(command);
        Outcome::of(&mut nsenter)
    }

    /// Runs a command on it as root, to a good end; what it wrote to stdout.
    ///
    /// # Errors
    /// With all that it said.
    pub fn ok(&self, command: &[&str]) -> Result<String> {
        let outcome = self.outcome(command)?;
        ensure!(!outcome.stderr.contains("panicked at"), "{}", outcome.stderr);
        outcome.ok(&command.join(" "))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
