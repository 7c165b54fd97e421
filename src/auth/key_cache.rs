//! The keys of an issuer: cached, refreshed in the background and on an unknown `kid`.
//!
//! Reading never waits for a refresh that it does not need. The cool-down counts attempts, not successes: an issuer that is
//! unavailable gets one request per cool-down, however many unknown keys are presented.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use jsonwebtoken::Algorithm;
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use super::{
    discovery::{self, Source},
    jose::Error,
    jwks::KeySet,
};
use crate::domain::clock::Clock;

/// The minimum time between attempts because of unknown keys.
const COOL_DOWN: Duration = Duration::from_secs(30);
/// The same while there are no keys at all, so that a service that starts before its issuer recovers soon.
const FIRST_COOL_DOWN: Duration = Duration::from_secs(1);

/// The current keys of one issuer.
pub struct KeyCache {
    source: Source,
    http: reqwest::Client,
    clock: Clock,
    max_age: Duration,
    state: RwLock<State>,
    refreshing: tokio::sync::Mutex<()>,
}

#[derive(Clone, Default)]
struct State {
    keys: Arc<KeySet>,
    fetched_at: Option<DateTime<Utc>>,
    attempted_at: Option<DateTime<Utc>>,
}

impl KeyCache {
    /// Creates an empty cache whose keys are used up to `max_age` after they were fetched.
    #[must_use]
    pub fn new(source: Source, http: reqwest::Client, clock: Clock, max_age: Duration) -> Self {
        Self { source, http, clock, max_age, state: RwLock::default(), refreshing: tokio::sync::Mutex::default() }
    }

    /// Returns a key set with a candidate for this id and algorithm, and fetches the keys again if there is none.
    ///
    /// # Errors
    /// [`Error::UnknownKey`] if the issuer has no such key, [`Error::KeysUnavailable`] if it is unavailable.
    pub async fn keys_for(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Arc<KeySet>, Error> {
        let has_it = |keys: &Arc<KeySet>| keys.candidates(id, algorithm).next().is_some();
        let before = self.state();
        if let Some(keys) = self.good(&before).filter(has_it) {
            return Ok(keys);
        }
        self.refresh_unless_cooling(before.attempted_at).await;
        let after = self.state();
        match self.good(&after) {
            Some(keys) if has_it(&keys) => Ok(keys),
            Some(_) => Err(Error::UnknownKey),
            None => Err(Error::KeysUnavailable { retry_after: self.cool_down(&after) }),
        }
    }

    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.good(&self.state()).is_some()
    }

    /// Refreshes the keys every `interval`, and sooner after a failure, until `stop` is cancelled.
    pub async fn keep_fresh(&self, interval: Duration, stop: CancellationToken) {
        let mut failures: u32 = 0;
        loop {
            failures = if self.refresh().await { 0 } else { failures.saturating_add(1) };
            let pause = match failures {
                0 => interval,
                _ => COOL_DOWN.min(FIRST_COOL_DOWN * 2_u32.saturating_pow(failures - 1)),
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Refreshes once for all callers that wait here, and not again before the cool-down is over.
    async fn refresh_unless_cooling(&self, seen_attempt: Option<DateTime<Utc>>) {
        let _one_at_a_time = self.refreshing.lock().await;
        let state = self.state();
        let somebody_just_did = state.attempted_at != seen_attempt;
        let cooling = state.attempted_at.is_some_and(|at| self.clock.now() < at + self.cool_down(&state));
        if !somebody_just_did && !cooling {
            self.fetch().await;
        }
    }

    async fn refresh(&self) -> bool {
        let _one_at_a_time = self.refreshing.lock().await;
        self.fetch().await
    }

    async fn fetch(&self) -> bool {
        let now = self.clock.now();
        self.write(|state| state.attempted_at = Some(now));
        match discovery::fetch(&self.http, &self.source).await {
            Ok(keys) => {
                let keys = Arc::new(keys);
                self.write(|state| {
                    state.keys = keys;
                    state.fetched_at = Some(now);
                });
                true
            }
            Err(error) => {
                // No request waits for this refresh, so its failure is logged here.
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot fetch the keys of an issuer");
                false
            }
        }
    }

    fn good(&self, state: &State) -> Option<Arc<KeySet>> {
        let fresh = state.fetched_at.is_some_and(|at| self.clock.now() <= at + self.max_age);
        fresh.then(|| Arc::clone(&state.keys))
    }

    fn cool_down(&self, state: &State) -> Duration {
        if self.good(state).is_some() { COOL_DOWN } else { FIRST_COOL_DOWN }
    }

    fn state(&self) -> State {
        self.state.read().clone()
    }

    fn write(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.write());
    }
}
