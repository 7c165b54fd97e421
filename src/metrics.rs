//! What is counted, in the text format that Prometheus reads.
//!
//! A value that is built once and handed down, not a global: two services in one process count apart.
//! Labels take few values, all known beforehand; no user, identity or token is ever one.

use std::time::Duration;

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// From a reused token to a call that used up the longest deadline, in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Histograms<const N: usize> = Family<Labels<N>, Histogram>;
type RequestLabels = ([(&'static str, String); 1], [(&'static str, u16); 1]);

/// The counters of one service.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    tokens: Counters<1>,
    unopened: Counter,
    upstream_calls: Histograms<2>,
    quota_refusals: Counters<1>,
    requests: Family<RequestLabels, Histogram>,
    shed: Counters<1>,
    rate_limited: Counters<1>,
    oldest_operation: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        let mut registry = Registry::with_prefix("vendor");
        let metrics = Self {
            tokens: Family::default(),
            unopened: Counter::default(),
            upstream_calls: Family::new_with_constructor(histogram),
            quota_refusals: Family::default(),
            requests: Family::new_with_constructor(histogram),
            shed: Family::default(),
            rate_limited: Family::default(),
            oldest_operation: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register(
            "tokens_issued",
            "Tokens handed out: minted, shared with a mint under way, reused, or stale because no new one could be had",
            metrics.tokens.clone(),
        );
        registry.register(
            "cached_tokens_unopened",
            "Cached tokens of users that no encryption key opened",
            metrics.unopened.clone(),
        );
        registry.register_with_unit(
            "upstream_call",
            "Calls to ACS, one for each attempt",
            Unit::Seconds,
            metrics.upstream_calls.clone(),
        );
        registry.register(
            "quota_refusals",
            "Calls to ACS that the budget had no room for within the caller's deadline",
            metrics.quota_refusals.clone(),
        );
        registry.register_with_unit("request", "Requests by route and status", Unit::Seconds, metrics.requests.clone());
        registry.register("requests_shed", "Requests refused because too many were under way", metrics.shed.clone());
        registry.register("requests_rate_limited", "Requests refused by a limit", metrics.rate_limited.clone());
        registry.register_with_unit(
            "oldest_pending_operation_age",
            "Age of the oldest accepted operation that ACS has not confirmed",
            Unit::Seconds,
            metrics.oldest_operation.clone(),
        );
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// Counts a token that left the house.
    pub fn token_issued(&self, source: &'static str) {
        self.tokens.get_or_create(&[("source", source)]).inc();
    }

    /// Counts a user's cached tokens that no encryption key opened.
    pub fn tokens_unopened(&self) {
        self.unopened.inc();
    }

    /// Counts an attempt at ACS.
    pub fn upstream_call(&self, operation: &'static str, outcome: &'static str, took: Duration) {
        let labels = [("operation", operation), ("outcome", outcome)];
        self.upstream_calls.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts a call that the budget had no room for.
    pub fn quota_refused(&self, operation: &'static str) {
        self.quota_refusals.get_or_create(&[("operation", operation)]).inc();
    }

    /// Counts an answered request.
    pub fn request(&self, route: &str, status: u16, took: Duration) {
        let labels = ([("route", route.to_owned())], [("status", status)]);
        self.requests.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts a request that was refused because too many were under way.
    pub fn request_shed(&self, share: &'static str) {
        self.shed.get_or_create(&[("share", share)]).inc();
    }

    /// Counts a request that a limit refused.
    pub fn request_rate_limited(&self, limit: &'static str) {
        self.rate_limited.get_or_create(&[("limit", limit)]).inc();
    }

    /// Tells how old the oldest pending operation is.
    pub fn oldest_operation(&self, age: Option<Duration>) {
        self.oldest_operation.set(age.map_or(0, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX)));
    }

    /// Writes everything that was counted.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_rendered_with_its_labels() {
        let metrics = Metrics::default();
        metrics.token_issued("cached");
        metrics.token_issued("cached");
        metrics.upstream_call("issue", "throttled", Duration::from_millis(3));
        metrics.request("/token", 200, Duration::from_micros(900));
        let text = metrics.render();
        for line in [
            r#"vendor_tokens_issued_total{source="cached"} 2"#,
            r#"vendor_upstream_call_seconds_count{operation="issue",outcome="throttled"} 1"#,
            r#"vendor_request_seconds_bucket{le="0.001",route="/token",status="200"} 1"#,
            "vendor_cached_tokens_unopened_total 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
