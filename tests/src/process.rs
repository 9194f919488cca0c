//! Programs: finding them, running them, keeping daemons alive for as long as they are wanted.

use std::ffi::OsStr;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// Where a program is: in PATH, or where Debian puts those of the administrator.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// What a program that ended left behind.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Outcome {
    /// Runs a command to its end.
    ///
    /// # Errors
    /// When it does not start.
    pub fn of(command: &mut Command) -> Result<Self> {
        let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
        Ok(Self {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Its stdout, if it ended well.
    ///
    /// # Errors
    /// With all that it said, when it did not.
    pub fn ok(self, what: &str) -> Result<String> {
        ensure!(self.status.success(), "{what}: {}\n{}{}", self.status, self.stdout, self.stderr);
        Ok(self.stdout)
    }
}

/// Runs a program of this machine; it must end well.
///
/// # Errors
/// With all that it said, when it does not.
pub fn run<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> Result<()> {
    let path = find(program).with_context(|| format!("{program} is not here"))?;
    let mut command = Command::new(path);
    command.args(arguments);
    Outcome::of(&mut command)?.ok(&format!("{command:?}"))?;
    Ok(())
}

/// A port that was free a moment ago, in this network namespace.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Asks until the answer is there. The limit is for what will never come; nothing is asserted about time.
///
/// # Errors
/// When it does not come.
pub fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + Duration::from_mins(1);
    loop {
        if let Some(answer) = ask().with_context(|| what.to_owned())? {
            return Ok(answer);
        }
        if Instant::now() > end {
            bail!("{what}: waited for a minute");
        }
        sleep(Duration::from_millis(20));
    }
}

/// A program that runs until it is dropped, its output in a file.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().append(true).create(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What the kernel says of its memory, in bytes: `VmHWM` (the most it ever had), `VmRSS` (now).
    ///
    /// # Errors
    /// When it has ended.
    pub fn memory(&self, field: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kibibytes = line.context("no such field")?.trim().trim_end_matches(" kB").parse::<u64>()?;
        Ok(kibibytes * 1024)
    }

    /// Waits for `ready`, and fails early when the program ends before it.
    ///
    /// # Errors
    /// With what it said.
    pub fn wait_for<T>(&mut self, what: &str, mut ready: impl FnMut(&str) -> Option<T>) -> Result<T> {
        wait_until(what, || {
            let said = self.said();
            if let Some(answer) = ready(&said) {
                return Ok(Some(answer));
            }
            match self.child.try_wait()? {
                Some(status) => bail!("it ended: {status}\n{said}"),
                None => Ok(None),
            }
        })
        .with_context(|| format!("what it said:\n{}", self.said()))
    }

    /// Whether it has ended, and how.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait()?)
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        let id = rustix::process::Pid::from_child(&self.child);
        Ok(rustix::process::kill_process(id, signal)?)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
