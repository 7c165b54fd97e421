//! Shutdown: graceful at the first signal, immediate at the second.

use std::time::Duration;

use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long a shutdown may take.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How long requests are still accepted after `/readyz` fails, so that load balancers notice.
    #[serde(with = "humantime_serde")]
    pub delay: Duration,
    /// How long accepted requests may take to finish.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { delay: Duration::from_secs(2), drain: Duration::from_secs(20) }
    }
}

/// The two ways to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Finish accepted requests, then stop.
    pub politely: CancellationToken,
    pub at_once: CancellationToken,
}

impl Stop {
    /// Reacts to SIGTERM and SIGINT.
    pub fn on_signals() -> std::io::Result<Self> {
        let stop = Self::default();
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let tokens = stop.clone();
        tokio::spawn(async move {
            for token in [tokens.politely, tokens.at_once] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                token.cancel();
            }
        });
        Ok(stop)
    }
}
