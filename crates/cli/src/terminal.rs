//! What the user sees: data on stdout, everything else on stderr.
//!
//! On a terminal long work draws one bar; elsewhere it says a line now and then; with `--json` every line on either
//! stream is one JSON value.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use artifact::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::failure::Report;
use crate::size::size;

/// How often a line about long work is written where no bar can be drawn.
const EVERY: Duration = Duration::from_secs(5);

/// Where a command speaks: narration and progress, and the data that it was asked for.
pub(crate) trait Voice: Progress {
    /// One thing of the answer, as a line (or several) for people and as a value for machines.
    ///
    /// # Errors
    /// [`ReaderGone`] when nobody reads any more.
    fn answer(&self, text: &str, value: &Value) -> anyhow::Result<()>;
    /// Who speaks to us, for the history.
    fn by(&self) -> String;
}

/// The user that this process runs as, by number: names would load NSS.
pub(crate) fn this_user() -> String {
    format!("uid {}", rustix::process::getuid().as_raw())
}

/// A voice, as commands pass it on.
pub(crate) type Speaker = Arc<dyn Voice>;

/// Passes on what a command says, and has `hear` look at its answers.
pub(crate) struct Overheard<F> {
    pub(crate) voice: Speaker,
    pub(crate) hear: F,
}

impl<F: Fn(&Value) + Send + Sync> Voice for Overheard<F> {
    fn answer(&self, text: &str, value: &Value) -> anyhow::Result<()> {
        (self.hear)(value);
        self.voice.answer(text, value)
    }

    fn by(&self) -> String {
        self.voice.by()
    }
}

impl<F: Send + Sync> Progress for Overheard<F> {
    fn say(&self, line: &str) {
        self.voice.say(line);
    }
    fn warn(&self, line: &str) {
        self.voice.warn(line);
    }
    fn begin(&self, phase: &str, total: u64) {
        self.voice.begin(phase, total);
    }
    fn advance(&self, bytes: u64) {
        self.voice.advance(bytes);
    }
    fn end(&self) {
        self.voice.end();
    }
}

/// Whoever read our standard output has closed it (`naru ls | head`).
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output any more")]
pub(crate) struct ReaderGone;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Bars,
    Lines,
    Json,
}

/// The terminal, or whatever stands in its place.
pub(crate) struct Terminal {
    manner: Manner,
    quiet: bool,
    bars: MultiProgress,
    phase: Mutex<Option<Phase>>,
}

struct Phase {
    name: String,
    total: u64,
    done: u64,
    began: Instant,
    said: Instant,
    bar: Option<ProgressBar>,
}

impl Terminal {
    /// `quiet` leaves warnings, errors and data.
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        let manner = match () {
            () if json => Manner::Json,
            () if io::stderr().is_terminal() => Manner::Bars,
            () => Manner::Lines,
        };
        let bars = MultiProgress::with_draw_target(match manner {
            Manner::Bars if !quiet => ProgressDrawTarget::stderr(),
            _ => ProgressDrawTarget::hidden(),
        });
        Self { manner, quiet, bars, phase: Mutex::new(None) }
    }

    /// An error and its hint, last of all.
    pub(crate) fn fail(&self, report: &Report) {
        self.end();
        if self.manner == Manner::Json {
            self.line(&json!({ "error": report.line, "hint": report.hint, "exit": report.exit as u8 }).to_string());
            return;
        }
        self.line(&format!("error: {}", report.line));
        if let Some(hint) = &report.hint {
            self.line(&format!("hint: {hint}"));
        }
    }

    /// A line on stderr, above the bar. A closed stderr is nobody's error.
    fn line(&self, text: &str) {
        self.bars.suspend(|| {
            let _ = writeln!(io::stderr().lock(), "{text}");
        });
    }

    fn phase(&self) -> MutexGuard<'_, Option<Phase>> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Voice for Terminal {
    fn answer(&self, text: &str, value: &Value) -> anyhow::Result<()> {
        let written = self.bars.suspend(|| {
            let mut out = io::stdout().lock();
            if self.manner == Manner::Json { writeln!(out, "{value}") } else { writeln!(out, "{text}") }?;
            out.flush()
        });
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
            Err(error) => Err(anyhow::Error::new(error).context("standard output")),
            Ok(()) => Ok(()),
        }
    }

    fn by(&self) -> String {
        this_user()
    }
}

impl Progress for Terminal {
    fn say(&self, line: &str) {
        match self.manner {
            _ if self.quiet => {}
            Manner::Json => self.line(&json!({ "say": line }).to_string()),
            Manner::Bars | Manner::Lines => self.line(line),
        }
    }

    fn warn(&self, line: &str) {
        match self.manner {
            Manner::Json => self.line(&json!({ "warning": line }).to_string()),
            Manner::Bars | Manner::Lines => self.line(&format!("warning: {line}")),
        }
    }

    fn begin(&self, phase: &str, total: u64) {
        self.end();
        if self.quiet {
            return;
        }
        let bar = (self.manner == Manner::Bars).then(|| {
            let bar = self.bars.add(ProgressBar::new(total));
            bar.set_style(style());
            bar.set_message(phase.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        let now = Instant::now();
        *self.phase() = Some(Phase { name: phase.to_owned(), total, done: 0, began: now, said: now, bar });
    }

    fn advance(&self, bytes: u64) {
        let mut guard = self.phase();
        let Some(phase) = guard.as_mut() else { return };
        phase.done = phase.done.saturating_add(bytes);
        if let Some(bar) = &phase.bar {
            bar.inc(bytes);
        } else if phase.said.elapsed() >= EVERY {
            phase.said = Instant::now();
            let text = match self.manner {
                Manner::Json => json!({ "phase": phase.name, "done": phase.done, "total": phase.total }).to_string(),
                _ => standing(&phase.name, phase.done, phase.total, phase.began.elapsed()),
            };
            drop(guard);
            self.line(&text);
        }
    }

    fn end(&self) {
        if let Some(Phase { bar: Some(bar), .. }) = self.phase().take() {
            bar.finish_and_clear();
        }
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template(
        "{msg:>10} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left",
    )
    .map_or_else(|_| ProgressStyle::default_bar(), |style| style.progress_chars("=> "))
}

/// `pull: 12.0 MiB of 48.0 MiB, 3.0 MiB/s, 12 s left`.
fn standing(name: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = done.saturating_mul(1000) / milliseconds;
    let left = total.saturating_sub(done).checked_div(rate).map_or_else(String::new, |s| format!(", {s} s left"));
    format!("{name}: {} of {}, {}/s{left}", size(done), size(total), size(rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_rate_and_time_left() {
        let line = standing("pull", 12 << 20, 48 << 20, Duration::from_secs(4));
        assert_eq!(line, "pull: 12.0 MiB of 48.0 MiB, 3.0 MiB/s, 12 s left");
        assert_eq!(standing("pull", 0, 10, Duration::ZERO), "pull: 0 B of 10 B, 0 B/s");
    }
}
