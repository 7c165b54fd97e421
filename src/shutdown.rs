//! How the process is told to stop: politely by the first signal, at once by the second.

use std::time::Duration;

use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long stopping may take.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How long requests are still taken after `/readyz` says no, so that load balancers notice.
    #[serde(with = "humantime_serde")]
    pub delay: Duration,
    /// How long requests that were taken may run on.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { delay: Duration::from_secs(2), drain: Duration::from_secs(20) }
    }
}

/// The two wishes to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Finish what was begun, then stop.
    pub politely: CancellationToken,
    /// Stop at once.
    pub at_once: CancellationToken,
}

impl Stop {
    /// Follows SIGTERM and SIGINT.
    ///
    /// # Errors
    /// When the process may not listen to signals.
    pub fn on_signals() -> std::io::Result<Self> {
        let stop = Self::default();
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let wishes = stop.clone();
        tokio::spawn(async move {
            for wish in [wishes.politely, wishes.at_once] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                wish.cancel();
            }
        });
        Ok(stop)
    }
}
