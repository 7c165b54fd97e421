//! The layers around the routes; `http.rs` has their order.

pub(super) mod access_log;
pub(super) mod body;
pub(super) mod concurrency;
pub(super) mod cors;
pub(super) mod idempotency;
pub(super) mod rate_limit;
