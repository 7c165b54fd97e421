//! The worker: in every replica, any number of them, doing accepted work until ACS confirms it.
//!
//! It sleeps until the next operation is due, at most a moment; a replica that accepts work wakes its own worker at once.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::service::{Error, Service};

/// How eagerly accepted work is looked for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How often operations that another replica accepted are looked for.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// How many operations are tried at once.
    pub at_once: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), at_once: 16 }
    }
}

/// How often what has served its time is forgotten.
const PURGE_INTERVAL: Duration = Duration::from_mins(10);

/// Does what is due, and tells when the next thing is.
async fn work(service: &Service, at_once: usize) -> Result<Option<DateTime<Utc>>, Error> {
    let due = service.run_due(at_once).await?;
    if service.advance_revocations().await? { Ok(Some(service.now())) } else { Ok(due) }
}

/// Works until told to stop, finishing the attempts that were begun.
pub async fn run(
    service: Arc<Service>,
    settings: Settings,
    audit_retention: Option<Duration>,
    stop: CancellationToken,
) {
    let mut next_purge = tokio::time::Instant::now();
    let mut database_is_away = false;
    while !stop.is_cancelled() {
        let mut outcome = work(&service, settings.at_once).await;
        if outcome.is_ok() && tokio::time::Instant::now() >= next_purge {
            next_purge = tokio::time::Instant::now() + PURGE_INTERVAL;
            if let Err(error) = service.purge(audit_retention).await {
                outcome = Err(error);
            }
        }
        let pause = match outcome {
            Ok(Some(due)) => {
                let wait = (due - service.now()).to_std().unwrap_or(Duration::ZERO);
                wait.clamp(Duration::from_millis(20), settings.interval)
            }
            Ok(None) => settings.interval,
            Err(ref error) => {
                if !database_is_away {
                    tracing::warn!(error = error as &dyn std::error::Error, "accepted work has to wait");
                }
                settings.interval
            }
        };
        database_is_away = outcome.is_err();
        tokio::select! {
            () = stop.cancelled() => {}
            () = service.work_accepted() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
