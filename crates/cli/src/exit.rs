//! How a command ends, for scripts.

use std::process::ExitCode;

/// The exit codes. They are part of the interface: `naru --help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// All of it is done, and survives a power cut.
    Done = 0,
    /// It failed, and said why.
    Failed = 1,
    /// The command line or a document of the user cannot be understood.
    Usage = 2,
    /// Something is missing or damaged and was named; the rest is done.
    Incomplete = 3,
    /// The lock does not cover the packing list.
    Stale = 4,
    /// A signature is missing, wrong, or by a key that is not trusted.
    Untrusted = 5,
    /// Another process holds the store.
    Held = 6,
    /// Ctrl-C. What was begun goes on where it stopped.
    Interrupted = 130,
    /// SIGTERM, likewise.
    Terminated = 143,
}

impl Exit {
    const ALL: [Self; 9] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Incomplete,
        Self::Stale,
        Self::Untrusted,
        Self::Held,
        Self::Interrupted,
        Self::Terminated,
    ];

    /// The exit code that another naru answered with.
    pub(crate) fn of(code: u8) -> Self {
        Self::ALL.into_iter().find(|exit| *exit as u8 == code).unwrap_or(Self::Failed)
    }

    fn meaning(self) -> &'static str {
        match self {
            Self::Done => "all of it is done",
            Self::Failed => "it failed, and said why",
            Self::Usage => "the command line, the packing list or a lock cannot be understood",
            Self::Incomplete => "something is missing or damaged and was named; the rest is done",
            Self::Stale => "the lock does not cover the packing list",
            Self::Untrusted => "a signature is missing, wrong, or by a key that is not trusted",
            Self::Held => "another process holds the store",
            Self::Interrupted => "ended by Ctrl-C; the next run goes on where this one stopped",
            Self::Terminated => "ended by SIGTERM; likewise",
        }
    }

    /// The end of `naru --help`.
    pub(crate) fn help() -> String {
        let lines = Self::ALL.map(|exit| format!("  {:>3}  {}", exit as u8, exit.meaning()));
        format!("Exit codes:\n{}", lines.join("\n"))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
