//! How work tells whoever waits for it.

/// Where long work reports to. The command line draws bars or prints plain lines; tests stay silent.
pub trait Progress: Send + Sync {
    /// One line of narration, without a newline.
    fn say(&self, line: &str);
    /// Something the user should know and can do something about.
    fn warn(&self, line: &str);
    /// What is to be done now, in bytes; called again when the next phase begins.
    fn begin(&self, phase: &str, total: u64);
    /// So many bytes more are done.
    fn advance(&self, bytes: u64);
    /// The phase is over.
    fn end(&self);
}

/// Nobody waits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn say(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}
