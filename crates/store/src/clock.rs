//! The time, as a store counts it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Store;

/// Seconds since 1970, as the machine has it.
pub(crate) fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX))
}

/// Seconds since 1970; in tests, some more of them.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    ahead: AtomicI64,
}

impl Clock {
    pub(crate) fn now(&self) -> i64 {
        now().saturating_add(self.ahead.load(Ordering::Relaxed))
    }
}

impl Store {
    /// Seconds since 1970, as the catalog counts them.
    pub fn now(&self) -> i64 {
        self.inner.clock.now()
    }

    /// Lets time pass, for tests.
    #[doc(hidden)]
    pub fn pass(&self, seconds: i64) {
        self.inner.clock.ahead.fetch_add(seconds, Ordering::Relaxed);
    }
}
