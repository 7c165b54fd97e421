//! The worker of a replica: runs accepted operations until ACS confirms them; any number of replicas may have one.
//!
//! It sleeps until the next operation is due, at most for its interval. A replica that accepts work wakes its own worker.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::Jobs;
use crate::error::Error;

/// How often the worker looks for operations, and how many it runs at once.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How often the worker looks for operations that another replica accepted.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// How many operations run at once.
    pub at_once: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), at_once: 16 }
    }
}

/// The shortest pause between two rounds.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
/// How often what has expired is deleted.
const PURGE_INTERVAL: Duration = Duration::from_mins(10);

/// Runs what is due, and returns when the next operation is.
async fn work(jobs: &Jobs, at_once: usize) -> Result<Option<DateTime<Utc>>, Error> {
    let due = jobs.run_due(at_once).await?;
    if jobs.advance_revocations().await? { Ok(Some(jobs.parts.clock.now())) } else { Ok(due) }
}

/// Works until it is cancelled, and finishes the attempts that were begun.
pub(crate) async fn run(jobs: Arc<Jobs>, settings: Settings, stop: CancellationToken) {
    let mut next_purge = tokio::time::Instant::now();
    let mut is_failing = false;
    while !stop.is_cancelled() {
        let mut outcome = work(&jobs, settings.at_once).await;
        if outcome.is_ok() && tokio::time::Instant::now() >= next_purge {
            next_purge = tokio::time::Instant::now() + PURGE_INTERVAL;
            if let Err(error) = jobs.purge().await {
                outcome = Err(error);
            }
        }
        let pause = match outcome {
            Ok(Some(due)) => {
                let wait = (due - jobs.parts.clock.now()).to_std().unwrap_or(Duration::ZERO);
                wait.clamp(SHORTEST_PAUSE, settings.interval)
            }
            Ok(None) => settings.interval,
            Err(ref error) => {
                if !is_failing {
                    tracing::warn!(error = error as &dyn std::error::Error, "background work paused");
                }
                settings.interval
            }
        };
        is_failing = outcome.is_err();
        tokio::select! {
            () = stop.cancelled() => {}
            () = jobs.wake.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
