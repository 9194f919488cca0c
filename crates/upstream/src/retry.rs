//! Trying again: how often, and after which wait.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime};

use http::HeaderValue;

use crate::error::{Error, Result};

/// Nobody waits longer than this at a time, whatever the upstream asks.
const LONGEST_WAIT: Duration = Duration::from_mins(2);
/// This long anybody can wait.
const BRIEF: Duration = Duration::from_secs(2);
const FIRST_WAIT: Duration = Duration::from_millis(if cfg!(test) { 2 } else { 500 });

/// How often something is tried without any progress.
pub(crate) const ATTEMPTS: u32 = 5;
/// The same where somebody else can be asked instead.
pub(crate) const ATTEMPTS_BEFORE_NEXT: u32 = 2;
/// The same where nobody listens, or a proxy lets nothing through.
const ATTEMPTS_REFUSED: u32 = 2;

/// Tries again while that may help, at most `attempts` times.
pub(crate) async fn retried<T, F: Future<Output = Result<T>>>(attempts: u32, mut work: impl FnMut() -> F) -> Result<T> {
    let mut patience = Patience::new(attempts);
    loop {
        match work().await {
            Err(error) if error.is_transient() && patience.has_more(&error) => patience.wait(&error).await,
            answer => return answer,
        }
    }
}

/// How often and how long one waits. Progress restores it.
pub(crate) struct Patience {
    attempts: u32,
    used: u32,
}

impl Patience {
    pub(crate) fn new(attempts: u32) -> Self {
        Self { attempts, used: 0 }
    }

    pub(crate) fn has_more(&self, error: &Error) -> bool {
        // Whoever is asked for others, or has one to stand in for it, is not waited for as it likes.
        if self.attempts <= ATTEMPTS_BEFORE_NEXT && error.retry_after().is_some_and(|asked| asked > BRIEF) {
            return false;
        }
        let attempts = if error.is_refusal() { self.attempts.min(ATTEMPTS_REFUSED) } else { self.attempts };
        self.used + 1 < attempts
    }

    pub(crate) fn restore(&mut self) {
        self.used = 0;
    }

    /// Waits as the upstream asks, else twice as long as the last time, give or take: those who failed together
    /// should not come back together.
    pub(crate) async fn wait(&mut self, error: &Error) {
        let doubled = FIRST_WAIT * 2_u32.pow(self.used.min(6));
        self.used += 1;
        let jitter = u32::try_from(RandomState::new().build_hasher().finish() % 512).unwrap_or_default();
        let usual = doubled * (256 + jitter) / 512;
        let time = error.retry_after().map_or(usual, |asked| asked.max(usual)).min(LONGEST_WAIT);
        tracing::info!(wait = ?time, "{error}; trying again");
        tokio::time::sleep(time).await;
    }
}

/// `Retry-After`: seconds, or a date (RFC 9110 §10.2.3).
pub(crate) fn wait_of(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_read_in_both_forms() {
        let read = |text: &str| wait_of(&HeaderValue::from_str(text).unwrap());
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(1000));
        assert!(read(&later).unwrap() > Duration::from_mins(15));
        assert_eq!((read("soon"), read("-1")), (None, None));
    }
}
