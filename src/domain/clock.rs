//! The clock that is handed to everything that asks for the time.
//!
//! Times are whole milliseconds: Postgres keeps microseconds and SQLite keeps text, and a value read back must equal the one written.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use chrono::{DateTime, SubsecRound, Utc};

/// The system's clock, moved by an offset that tests may change.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    offset_ms: Arc<AtomicI64>,
}

impl Clock {
    /// Returns the present time in whole milliseconds.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's time")]
        let system = DateTime::<Utc>::from(SystemTime::now()).trunc_subsecs(3);
        system + chrono::Duration::milliseconds(self.offset_ms.load(Ordering::Relaxed))
    }

    /// Moves this clock and all its clones forward.
    pub fn advance(&self, by: Duration) {
        let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.offset_ms.fetch_add(ms, Ordering::Relaxed);
    }
}
