//! Metrics, in the text format of Prometheus.
//!
//! They are a value that is passed to their users, not a global, so that two services in one process count separately.
//! Labels have few values, all known beforehand, and never a user, an identity or a token.

use std::time::Duration;

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// From a cached token to a call that reached the longest timeout, in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Histograms<const N: usize> = Family<Labels<N>, Histogram>;
type RequestLabels = ([(&'static str, String); 1], [(&'static str, u16); 1]);

/// The metrics of one service.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    tokens: Counters<1>,
    undecryptable: Counter,
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
            undecryptable: Counter::default(),
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
            "Tokens issued: minted, shared with another request, cached, or stale because no new one was available",
            metrics.tokens.clone(),
        );
        registry.register(
            "undecryptable_cached_tokens",
            "Users whose cached tokens no encryption key decrypted",
            metrics.undecryptable.clone(),
        );
        registry.register_with_unit(
            "upstream_call",
            "Duration of calls to ACS, each attempt counted",
            Unit::Seconds,
            metrics.upstream_calls.clone(),
        );
        registry.register(
            "quota_refusals",
            "Calls to ACS that the quota did not allow within the timeout of the request",
            metrics.quota_refusals.clone(),
        );
        registry.register_with_unit(
            "request",
            "Duration of requests by route and status",
            Unit::Seconds,
            metrics.requests.clone(),
        );
        registry.register("requests_shed", "Requests refused because of a concurrency limit", metrics.shed.clone());
        registry.register(
            "requests_rate_limited",
            "Requests refused because of a rate limit",
            metrics.rate_limited.clone(),
        );
        registry.register_with_unit(
            "oldest_pending_operation_age",
            "Age of the oldest operation that ACS has not confirmed; zero if there is none",
            Unit::Seconds,
            metrics.oldest_operation.clone(),
        );
        Self { registry, ..metrics }
    }
}

impl Metrics {
    pub fn token_issued(&self, source: &'static str) {
        self.tokens.get_or_create(&[("source", source)]).inc();
    }

    /// Counts a user whose cached tokens no encryption key decrypts.
    pub fn cached_tokens_undecryptable(&self) {
        self.undecryptable.inc();
    }

    /// Counts an attempt at ACS.
    pub fn upstream_call(&self, operation: &'static str, outcome: &'static str, took: Duration) {
        let labels = [("operation", operation), ("outcome", outcome)];
        self.upstream_calls.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts a call that the quota did not allow in time.
    pub fn quota_refused(&self, operation: &'static str) {
        self.quota_refusals.get_or_create(&[("operation", operation)]).inc();
    }

    pub fn request(&self, route: &str, status: u16, took: Duration) {
        let labels = ([("route", route.to_owned())], [("status", status)]);
        self.requests.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts a request that a concurrency limit refused.
    pub fn request_shed(&self, limit: &'static str) {
        self.shed.get_or_create(&[("limit", limit)]).inc();
    }

    /// Counts a request that a rate limit refused.
    pub fn request_rate_limited(&self, limit: &'static str) {
        self.rate_limited.get_or_create(&[("limit", limit)]).inc();
    }

    /// Sets the age of the oldest operation that ACS has not confirmed.
    pub fn oldest_pending_operation(&self, age: Option<Duration>) {
        self.oldest_operation.set(age.map_or(0, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX)));
    }

    /// Returns all metrics as text.
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
    fn metrics_are_rendered_with_their_labels() {
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
            "vendor_undecryptable_cached_tokens_total 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
