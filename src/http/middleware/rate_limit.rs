//! Rate limits: counted by the extractors that authenticate, reported in the headers of every counted request.

use std::{hash::Hash, net::IpAddr, time::Duration};

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    http::{
        context::RequestInfo,
        problem::{Code, Problem},
    },
    limit::{Limit, RateLimitStatus, Settings},
    metrics::Metrics,
};

pub(super) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub(super) const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The rate limits of this replica.
pub(crate) struct Limits {
    pub(in crate::http) user: Limit,
    pub(in crate::http) self_revoke: Limit,
    failed_sign_ins: Option<Limit>,
}

impl Limits {
    /// Failed sign-ins are counted only where the addresses of clients are known.
    pub(crate) fn new(settings: &Settings, clients_are_known: bool) -> Self {
        Self {
            user: Limit::new("user", settings.user),
            self_revoke: Limit::new("self_revoke", settings.self_revoke),
            failed_sign_ins: clients_are_known.then(|| Limit::new("failed_sign_ins", settings.failed_sign_ins)),
        }
    }

    /// Forgets callers whose limits are unused.
    pub(crate) fn forget_idle(&self) {
        [Some(&self.user), Some(&self.self_revoke), self.failed_sign_ins.as_ref()]
            .into_iter()
            .flatten()
            .for_each(Limit::forget_idle);
    }
}

/// Counts a request, and refuses it over the limit.
pub(in crate::http) fn count(
    limit: &Limit,
    key: impl Hash,
    info: &RequestInfo,
    metrics: &Metrics,
) -> Result<(), Problem> {
    let status = limit.count(key);
    let _ = info.rate_limit.set(status);
    if status.is_exceeded { Err(exceeded(status, metrics)) } else { Ok(()) }
}

/// Counts an invalid sign-in token of a client address.
///
/// Valid tokens of the same address are never refused, because the address is only looked at after the verification.
pub(in crate::http) fn count_failed_sign_in(
    limits: &Limits,
    info: &RequestInfo,
    metrics: &Metrics,
) -> Result<(), Problem> {
    let (Some(limit), Some(client)) = (&limits.failed_sign_ins, info.client) else { return Ok(()) };
    let status = limit.count(network(client));
    if status.is_exceeded {
        let _ = info.rate_limit.set(status);
        return Err(exceeded(status, metrics));
    }
    Ok(())
}

fn exceeded(status: RateLimitStatus, metrics: &Metrics) -> Problem {
    metrics.request_rate_limited(status.limit);
    Problem::new(Code::RateLimited).retry_after(status.next_in)
}

/// One subscriber has a whole IPv6 network of 64 bits (RFC 6177), so its addresses count as one.
fn network(client: IpAddr) -> u64 {
    match client {
        IpAddr::V4(address) => u64::from(u32::from(address)),
        IpAddr::V6(address) => u64::from_be_bytes(address.octets()[..8].try_into().unwrap_or_default()) | 1 << 63,
    }
}

/// Writes the caller's rate limit into response headers (draft-ietf-httpapi-ratelimit-headers-10).
pub(super) fn write(headers: &mut HeaderMap, status: RateLimitStatus) {
    let RateLimitStatus { limit, rate, remaining, next_in, .. } = status;
    let seconds = |time: Duration| time.as_millis().div_ceil(1000);
    let policy = format!("\"{limit}\";q={};w={}", rate.requests, seconds(rate.per));
    let state = format!("\"{limit}\";r={remaining};t={}", seconds(next_in));
    for (name, value) in [(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, state)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}
