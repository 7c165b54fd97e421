//! Rate limits for callers, counted by key in the memory of this replica.
//!
//! Keys whose bucket is full again are forgotten, so that memory follows the callers of the moment.

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

/// A number of requests in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// The number of requests, all of which may come at once.
    pub requests: NonZeroU32,
    /// The period in which as many more are allowed.
    #[serde(with = "humantime_serde")]
    pub per: Duration,
}

/// The limits of a replica (`[limits]`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// For each app user.
    pub user: Rate,
    /// For each app user's `POST /me/revoke`.
    pub self_revoke: Rate,
    /// For invalid sign-in tokens of each client address. Counted only where `server.trusted_proxies` is set, because
    /// otherwise all clients might seem to have the address of a proxy.
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

/// The state of a key's bucket after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimitStatus {
    /// The name of the limit.
    pub limit: &'static str,
    pub rate: Rate,
    /// How many more requests are allowed now.
    pub remaining: u32,
    /// The time until one more is allowed than now.
    pub next_in: Duration,
    /// Whether this request was over the limit.
    pub is_exceeded: bool,
}

/// A rate limit with a bucket for each key.
pub struct Limit {
    name: &'static str,
    rate: Rate,
    /// Keys are hashed with a secret of the process. Two that collide share a bucket, but no caller can choose that.
    hasher: RandomState,
    limiter: RateLimiter<u64, HashMapStateStore<u64>, DefaultClock, StateInformationMiddleware>,
    clock: DefaultClock,
}

impl Rate {
    /// Whether the period has at least a nanosecond for each request.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        !(self.per / self.requests.get()).is_zero()
    }

    fn interval(&self) -> Duration {
        self.per / self.requests.get()
    }
}

impl Limit {
    /// `name` is the limit's name in `RateLimit` headers and metrics.
    #[must_use]
    pub fn new(name: &'static str, rate: Rate) -> Self {
        let quota = Quota::with_period(rate.interval()).unwrap_or(Quota::per_second(rate.requests));
        let limiter = RateLimiter::hashmap(quota.allow_burst(rate.requests)).with_middleware();
        Self { name, rate, hasher: RandomState::new(), limiter, clock: DefaultClock::default() }
    }

    pub fn count(&self, key: impl Hash) -> RateLimitStatus {
        let status = |remaining, next_in, is_exceeded| RateLimitStatus {
            limit: self.name,
            rate: self.rate,
            remaining,
            next_in,
            is_exceeded,
        };
        match self.limiter.check_key(&self.hasher.hash_one(key)) {
            Ok(state) => status(state.remaining_burst_capacity(), self.rate.interval(), false),
            Err(refusal) => status(0, refusal.wait_time_from(self.clock.now()), true),
        }
    }

    /// Forgets the keys whose buckets are full again.
    pub fn forget_idle(&self) {
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
    fn each_key_has_a_bucket_of_its_own() {
        let limit = limit(3, Duration::from_hours(3));
        let remaining: Vec<_> = (0..3).map(|_| limit.count("alice").remaining).collect();
        assert_eq!(remaining, [2, 1, 0]);
        let refused = limit.count("alice");
        assert!(refused.is_exceeded && refused.next_in > Duration::from_mins(59), "{refused:?}");
        assert!(!limit.count("bob").is_exceeded);
    }

    #[test]
    fn keys_with_full_buckets_are_forgotten() {
        let limit = limit(1, Duration::from_millis(1));
        for key in 0..100 {
            limit.count(key);
        }
        std::thread::sleep(Duration::from_millis(5));
        limit.forget_idle();
        assert_eq!(limit.limiter.len(), 0);
    }
}
