//! Limits for callers: so many requests in a time, in a burst or spread, counted for each key by itself.
//!
//! They are kept in memory, so each replica counts for itself.
//! A bucket that is full again is as good as none, so it is forgotten by and by, and memory follows who calls now.

mod turns;

use std::{
    hash::{BuildHasher, Hash, RandomState},
    num::NonZeroU32,
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::StateInformationMiddleware,
    state::keyed::HashMapStateStore,
};
use serde::Deserialize;

pub use turns::Turns;

/// So many requests in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// How many may come at once.
    pub requests: NonZeroU32,
    /// In what time as many more may come.
    #[serde(with = "humantime_serde")]
    pub per: Duration,
}

/// The limits of a replica.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// For each app user.
    pub user: Rate,
    /// For each app user's signing out everywhere.
    pub self_revoke: Rate,
    /// For bad logins from each client address; counted only behind trusted proxies, because otherwise all clients might
    /// seem to come from one.
    pub failed_sign_ins: Rate,
}

impl Default for Settings {
    fn default() -> Self {
        let rate = |requests: u32, minutes| Rate {
            requests: NonZeroU32::new(requests).unwrap_or(NonZeroU32::MIN),
            per: Duration::from_mins(minutes),
        };
        Self { user: rate(60, 1), self_revoke: rate(5, 10), failed_sign_ins: rate(30, 1) }
    }
}

/// How a key stands after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimitStatus {
    /// The name of the limit.
    pub limit: &'static str,
    /// The limit.
    pub rate: Rate,
    /// How many more requests may come now.
    pub remaining: u32,
    /// When one more may come than may now.
    pub next_in: Duration,
    /// Whether this request was one too many.
    pub is_exceeded: bool,
}

/// A limit of its own for each key.
pub struct Limit {
    name: &'static str,
    rate: Rate,
    /// Keys are hashed under a secret of the process: two that collide share a bucket, which nobody can bring about.
    hasher: RandomState,
    limiter: RateLimiter<u64, HashMapStateStore<u64>, DefaultClock, StateInformationMiddleware>,
    clock: DefaultClock,
}

impl Rate {
    /// Tells whether the rate can be reckoned with: a time of at least a nanosecond for each request.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        !(self.per / self.requests.get()).is_zero()
    }

    fn interval(&self) -> Duration {
        self.per / self.requests.get()
    }
}

impl Limit {
    /// Makes a limit; `name` is what callers and metrics know it by.
    #[must_use]
    pub fn new(name: &'static str, rate: Rate) -> Self {
        let quota = Quota::with_period(rate.interval()).unwrap_or(Quota::per_second(rate.requests));
        let limiter = RateLimiter::hashmap(quota.allow_burst(rate.requests)).with_middleware();
        Self { name, rate, hasher: RandomState::new(), limiter, clock: DefaultClock::default() }
    }

    /// Counts a request of a key.
    pub fn count(&self, key: impl Hash) -> RateLimitStatus {
        let standing = |remaining, next_in, is_exceeded| RateLimitStatus {
            limit: self.name,
            rate: self.rate,
            remaining,
            next_in,
            is_exceeded,
        };
        match self.limiter.check_key(&self.hasher.hash_one(key)) {
            Ok(state) => standing(state.remaining_burst_capacity(), self.rate.interval(), false),
            Err(refusal) => standing(0, refusal.wait_time_from(self.clock.now()), true),
        }
    }

    /// Forgets the keys whose buckets are full again.
    pub fn forget_rested(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(requests: u32, per: Duration) -> Limit {
        Limit::new("user", Rate { requests: NonZeroU32::new(requests).unwrap(), per })
    }

    #[test]
    fn each_key_has_its_own_burst_and_is_told_how_it_stands() {
        let limit = limit(3, Duration::from_hours(3));
        let remaining: Vec<_> = (0..3).map(|_| limit.count("alice").remaining).collect();
        assert_eq!(remaining, [2, 1, 0]);
        let refused = limit.count("alice");
        assert!(refused.is_exceeded && refused.next_in > Duration::from_mins(59), "{refused:?}");
        assert!(!limit.count("bob").is_exceeded);
    }

    #[test]
    fn rested_keys_are_forgotten() {
        let limit = limit(1, Duration::from_millis(1));
        for key in 0..100 {
            limit.count(key);
        }
        std::thread::sleep(Duration::from_millis(5));
        limit.forget_rested();
        assert_eq!(limit.limiter.len(), 0);
    }
}
