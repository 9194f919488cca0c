//! `naru install`: makes a machine serve, from the medium on. Without root it prints what root would do.

mod plan;

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use super::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::terminal::Speaker;
use plan::{Machine, Step, plan};

/// Between looks at the started service.
const LOOK: Duration = Duration::from_millis(250);
/// So many looks in a row it must be active; longer than the two seconds after which systemd starts it again.
const STAYS: u32 = 10;
/// Looks at most.
const LOOKS: u32 = 40;

/// Where and whether.
#[derive(Debug, clap::Args)]
pub(crate) struct Request {
    /// Writes below this folder and runs nothing: for packages and images of machines
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Only prints what would be done
    #[arg(long)]
    dry_run: bool,
    /// The port that the firewall shall let in
    #[arg(long, default_value_t = 5000)]
    port: u16,
}

pub(crate) fn run(request: &Request, context: &Context, voice: &Speaker) -> anyhow::Result<Exit> {
    let store = context.store.clone().or_else(|| context.environment.named_store());
    let store = store.unwrap_or_else(|| PathBuf::from("/var/lib/naru"));
    let root = request.root.as_deref().unwrap_or(Path::new("/"));
    refuse_what_is_no_store(&below(root, &store))?;
    let machine = Machine::look(root);
    let steps = plan(&machine, &store, request.port)?;
    let is_ours = context.environment.is_root() || request.root.is_some();
    let prints = request.dry_run || !is_ours;
    if prints && !request.dry_run {
        voice.say("this needs root; as root it would do this:");
    }
    for step in &steps {
        // Below another root nothing of this machine is touched: no user, no service, no firewall.
        let does = !prints && (request.root.is_none() || step.is_file());
        voice.answer(&step.shell(), &json!({ "step": step.shell(), "done": does }))?;
        if does {
            carry_out(step, root).with_context(|| step.shell())?;
        }
    }
    if prints || request.root.is_some() {
        return Ok(Exit::Done);
    }
    if !machine.systemd {
        voice.say("naru is in its place; it serves when it is started as the last lines say");
        return Ok(Exit::Done);
    }
    if let Err(state) = came_up(state, LOOK) {
        return Err(Failure::new(format!("naru.service is {state}"))
            .hint("`journalctl -u naru -n 20` says why; then `systemctl restart naru`")
            .into());
    }
    voice.say("naru serves now; the admin token of the first start: journalctl -u naru");
    Ok(Exit::Done)
}

/// All of the store's folder is given to the server's user: it had better be one.
fn refuse_what_is_no_store(folder: &Path) -> anyhow::Result<()> {
    let is_ours = |name: &std::ffi::OsStr| {
        ["lost+found", "serve.yaml", "naru.yaml", "naru.lock", ".snapshot"].iter().any(|known| name == *known)
    };
    let Ok(mut entries) = fs::read_dir(folder) else { return Ok(()) };
    if folder.join("naru.db").exists() || entries.all(|entry| entry.is_ok_and(|entry| is_ours(&entry.file_name()))) {
        return Ok(());
    }
    Err(Failure::new(format!("{} has something in it, and is no store", folder.display()))
        .hint("name an empty folder, or one that naru made, with --store")
        .exit(Exit::Usage)
        .into())
}

/// What systemd says of the service: `active`, `activating`, `failed`.
fn state() -> String {
    let said = Command::new("systemctl").args(["is-active", "naru.service"]).output();
    said.map_or_else(|error| error.to_string(), |said| String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

/// Whether the service is active and stays so. For systemd it is as soon as its process began; one that cannot have its
/// port ends a moment later, and is started again and again.
fn came_up(mut state: impl FnMut() -> String, pause: Duration) -> Result<(), String> {
    let (mut last, mut in_a_row) = (String::new(), 0);
    for _ in 0..LOOKS {
        last = state();
        in_a_row = if last == "active" { in_a_row + 1 } else { 0 };
        if in_a_row == STAYS {
            return Ok(());
        }
        std::thread::sleep(pause);
    }
    Err(last)
}

fn carry_out(step: &Step, root: &Path) -> anyhow::Result<()> {
    match step {
        Step::Binary { to } => copy_binary(&below(root, to)),
        Step::Folder { path, mode, owner } => {
            let path = below(root, path);
            fs::create_dir_all(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(*mode))?;
            // A user that is only named yet is made by the machine on which this root will start.
            match owner.as_deref().and_then(|name| user(root, name)) {
                Some((user, group)) => Ok(chown(&path, Some(user), Some(group))?),
                None => Ok(()),
            }
        }
        Step::File { path, mode, text } => put(&below(root, path), *mode, &mut text.as_bytes()),
        Step::Run { line } => {
            let status = Command::new("/bin/sh").args(["-c", line]).status()?;
            if status.success() {
                return Ok(());
            }
            Err(Failure::new(format!("it ended with {status}"))
                .hint("run the lines that are left by hand: `naru install --dry-run` prints all of them")
                .into())
        }
        Step::Advice { .. } => Ok(()),
    }
}

/// This binary, as it runs, even from a medium that is mounted without leave to execute what is copied over it.
fn copy_binary(to: &Path) -> anyhow::Result<()> {
    let mut from = File::open("/proc/self/exe").context("/proc/self/exe")?;
    put(to, 0o755, &mut from)
}

/// Writes beside and renames, so that a running service's binary or unit is never half there.
pub(super) fn put(path: &Path, mode: u32, from: &mut impl io::Read) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    io::copy(from, file.as_file_mut())?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(File::open(folder)?.sync_all()?)
}

pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// A user's numbers, from the file and not by NSS, which kills static binaries.
fn user(root: &Path, name: &str) -> Option<(u32, u32)> {
    let passwd = fs::read_to_string(root.join("etc/passwd")).ok()?;
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_root_gets_files_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("run/systemd/system")).unwrap();
        let steps = plan(&Machine::look(root.path()), Path::new("/var/lib/naru"), 5000).unwrap();
        for step in steps.iter().filter(|step| step.is_file()) {
            carry_out(step, root.path()).unwrap();
        }
        let unit = fs::read_to_string(root.path().join("etc/systemd/system/naru.service")).unwrap();
        assert_eq!(unit, plan::UNIT);
        let mode = |path: &str| fs::metadata(root.path().join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode("usr/local/bin/naru"), 0o755);
        assert_eq!(mode("var/lib/naru"), 0o750);
    }

    #[test]
    fn a_service_that_ends_again_did_not_come_up() {
        let mut looks = 0;
        let slow = || {
            looks += 1;
            if looks < 5 { "activating" } else { "active" }.to_owned()
        };
        assert_eq!(came_up(slow, Duration::ZERO), Ok(()));
        let mut looks = 0;
        let again_and_again = || {
            looks += 1;
            if looks % 8 == 0 { "activating" } else { "active" }.to_owned()
        };
        assert_eq!(came_up(again_and_again, Duration::ZERO), Err("activating".to_owned()));
        assert_eq!(came_up(|| "failed".to_owned(), Duration::ZERO), Err("failed".to_owned()));
    }

    #[test]
    fn users_are_read_from_the_file() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\nnaru:x:998:997::/:/x\n").unwrap();
        assert_eq!(user(root.path(), "naru"), Some((998, 997)));
        assert_eq!(user(root.path(), "nar"), None);
    }
}
