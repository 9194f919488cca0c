//! What an installation consists of, on this machine.

use std::path::{Path, PathBuf};

use crate::exit::Exit;
use crate::failure::Failure;

/// The unit, as packages ship it.
pub(super) const UNIT: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/systemd/naru.service"));
const STORE: &str = "/var/lib/naru";
const BINARY: &str = "/usr/local/bin/naru";
const USER: &str = "naru";

/// What a machine has, as far as an installation depends on it.
#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    /// systemd runs it.
    pub(super) systemd: bool,
    /// SELinux is there, enforcing or not.
    pub(super) selinux: bool,
    /// The user is there already.
    pub(super) user: bool,
    /// Which of the programs are there.
    pub(super) programs: Vec<&'static str>,
}

impl Machine {
    /// Looks at the machine whose files lie below `root`.
    pub(super) fn look(root: &Path) -> Self {
        const PROGRAMS: [&str; 7] = ["useradd", "adduser", "restorecon", "semanage", "firewall-cmd", "ufw", "nft"];
        let has = |program: &str| {
            ["usr/sbin", "usr/bin", "sbin", "bin"].iter().any(|folder| root.join(folder).join(program).exists())
        };
        Self {
            systemd: root.join("run/systemd/system").exists(),
            selinux: root.join("sys/fs/selinux/enforce").exists(),
            user: super::user(root, USER).is_some(),
            programs: PROGRAMS.into_iter().filter(|program| has(program)).collect(),
        }
    }

    fn has(&self, program: &str) -> bool {
        self.programs.contains(&program)
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// This binary, copied.
    Binary { to: PathBuf },
    /// A folder.
    Folder { path: PathBuf, mode: u32, owner: Option<String> },
    /// A file.
    File { path: PathBuf, mode: u32, text: String },
    /// A command.
    Run { line: String },
    /// What only the user can decide.
    Advice { line: String },
}

impl Step {
    /// Whether it does nothing but write a file or a folder.
    pub(super) fn is_file(&self) -> bool {
        matches!(self, Self::Binary { .. } | Self::Folder { .. } | Self::File { .. })
    }

    /// The same by hand.
    pub(super) fn shell(&self) -> String {
        match self {
            Self::Binary { to } => format!("install -m 0755 naru {}", to.display()),
            Self::Folder { path, mode, owner: Some(owner) } => {
                format!("install -d -m {mode:04o} -o {owner} -g {owner} {}", path.display())
            }
            Self::Folder { path, mode, owner: None } => format!("install -d -m {mode:04o} {}", path.display()),
            Self::File { path, text, .. } => {
                format!("cat > {} <<'END'\n{}END", path.display(), text)
            }
            Self::Run { line } => line.clone(),
            Self::Advice { line } => format!("# {line}"),
        }
    }
}

/// What is to be done so that `machine` serves the store in `store` on `port`.
///
/// # Errors
/// When the store's path cannot stand in a unit.
pub(super) fn plan(machine: &Machine, store: &Path, port: u16) -> Result<Vec<Step>, Failure> {
    let path = store.to_str().filter(|path| {
        path.starts_with('/')
            && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte))
            && !path.split('/').any(|part| part == "..")
    });
    let path = path.ok_or_else(|| {
        Failure::new(format!("{} cannot stand in a systemd unit", store.display()))
            .hint("give an absolute path of letters, digits, `.`, `_` and `-`")
            .exit(Exit::Usage)
    })?;
    let run = |line: String| Step::Run { line };
    let advice = |line: String| Step::Advice { line };
    let mut steps = vec![Step::Binary { to: BINARY.into() }];
    if !machine.user {
        steps.push(if machine.has("useradd") || !machine.has("adduser") {
            run(format!("useradd --system --user-group --home-dir {path} --shell /usr/sbin/nologin {USER}"))
        } else {
            run(format!("adduser -S -D -H -h {path} -s /sbin/nologin {USER}"))
        });
    }
    steps.push(Step::Folder { path: store.to_owned(), mode: 0o750, owner: Some(USER.to_owned()) });
    // What root has loaded before belongs to the server's user too.
    steps.push(run(format!("chown -R -h {USER}:{USER} {path}/")));
    if machine.selinux {
        if path != STORE && machine.has("semanage") {
            steps.push(run(format!("semanage fcontext -a -t var_lib_t '{path}(/.*)?'")));
        }
        // What was copied from a stick has the stick's label, and systemd may not start it.
        steps.push(if machine.has("restorecon") {
            run(format!("restorecon -R {BINARY} {path}"))
        } else {
            run(format!("chcon -t bin_t {BINARY} && chcon -R -t var_lib_t {path}"))
        });
    }
    if machine.systemd {
        let text = UNIT.replace(STORE, path);
        steps.push(Step::File { path: "/etc/systemd/system/naru.service".into(), mode: 0o644, text });
        steps.push(run("systemctl daemon-reload".to_owned()));
        steps.push(run("systemctl enable naru.service".to_owned()));
        steps.push(run("systemctl restart naru.service".to_owned()));
    } else {
        steps.push(advice(format!(
            "no systemd runs here; have this started as user {USER} by what does: {BINARY} serve --store {path}"
        )));
    }
    if machine.has("firewall-cmd") {
        // Offline, when firewalld is installed and does not run.
        steps.push(run(format!(
            "if firewall-cmd --state >/dev/null 2>&1; then firewall-cmd --permanent --add-port={port}/tcp && \
             firewall-cmd --reload; else firewall-offline-cmd --add-port={port}/tcp; fi"
        )));
    } else if machine.has("ufw") {
        steps.push(run(format!("ufw allow {port}/tcp")));
    } else if machine.has("nft") {
        steps.push(advice(format!(
            "if a filter is on (`nft list ruleset`), let the port in: nft add rule inet filter input tcp dport {port} \
             accept"
        )));
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(machine: &Machine, store: &str) -> String {
        let steps = plan(machine, Path::new(store), 5000).unwrap();
        steps.iter().map(Step::shell).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn each_machine_gets_what_it_has() {
        let rocky = Machine {
            systemd: true,
            selinux: true,
            user: false,
            programs: vec!["useradd", "restorecon", "semanage", "firewall-cmd"],
        };
        insta::assert_snapshot!("install-rocky", text(&rocky, "/data/naru"));
        let bare = Machine { user: true, programs: vec!["nft"], ..Machine::default() };
        insta::assert_snapshot!("install-bare", text(&bare, STORE));
        let ubuntu = Machine { systemd: true, programs: vec!["useradd", "adduser", "ufw"], ..Machine::default() };
        insta::assert_snapshot!("install-ubuntu", text(&ubuntu, STORE));
    }

    #[test]
    fn a_path_cannot_add_to_the_unit() {
        for path in ["naru", "/a b", "/a\nExecStart=/x", "/a/../etc", "/a%n", "/a;b"] {
            assert!(plan(&Machine::default(), Path::new(path), 5000).is_err(), "{path}");
        }
    }
}
