//! Roots of other machines, old and new, made by mmdebstrap from the mirror that this machine's own apt uses.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::process::{Outcome, find, run};

/// What is in each: a C library, and the modules for its name look-ups that a static binary must not load.
const PACKAGES: &str = "--include=libc6,libnss-myhostname,libnss-sss";

/// Where the archive of `suite` is kept for the next run: beside cargo's profiles.
fn archive(suite: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.ancestors().nth(3).context("a test lies in cargo's folder")?.join("userlands");
    std::fs::create_dir_all(&folder)?;
    Ok(folder.join(format!("{suite}.tar")))
}

/// Makes the archive where it is not there yet; outside of a journey, which has no network.
///
/// # Errors
/// With what mmdebstrap said.
pub(crate) fn make(suite: &str) -> Result<()> {
    let archive = archive(suite)?;
    if archive.is_file() {
        return Ok(());
    }
    let mut apt = Command::new(find("apt-get").context("apt-get is not here")?);
    apt.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]);
    let mirrors = Outcome::of(&mut apt)?.ok("apt-get indextargets")?;
    let mirror = mirrors.lines().next().context("apt has no sources here")?;
    let half = archive.with_extension(format!("{}.tar", std::process::id()));
    let mut command = Command::new(find("mmdebstrap").context("mmdebstrap is not here")?);
    command.args(["--quiet", "--variant=extract", PACKAGES, suite]).arg(&half).arg(mirror);
    let made = Outcome::of(&mut command)?;
    if !made.status.success() {
        let _ = std::fs::remove_file(&half);
        let last = made.stderr.lines().last().unwrap_or_default().to_owned();
        ensure!(made.status.success(), "mmdebstrap {suite}: {last}");
    }
    Ok(std::fs::rename(half, archive)?)
}

/// Unpacks it into a folder.
///
/// # Errors
/// When it was not a need of the journey, or tar fails.
pub fn unpack(suite: &str, root: &Path) -> Result<()> {
    run(
        "tar",
        ["-xf".as_ref(), archive(suite)?.as_os_str(), "--exclude=./dev/*".as_ref(), "-C".as_ref(), root.as_os_str()],
    )
}
