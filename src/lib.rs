//! A token-exchange service for Azure Communication Services.
//!
//! It verifies the token with which an app's user signed in at any OpenID Connect provider and returns a short-lived ACS access token.
//! `ARCHITECTURE.md` describes the modules; `tests/it/architecture.rs` checks which of them may use which.
//!
//! The crate is a library only for its own tests and benchmarks: it has no stable interface.

pub mod acs;
pub(crate) mod api;
pub mod app;
pub mod auth;
pub mod cli;
pub(crate) mod client;
pub mod config;
#[cfg(feature = "dev")]
pub mod dev;
pub mod domain;
pub mod encryption;
pub(crate) mod error;
pub mod http;
pub(crate) mod jobs;
pub(crate) mod limit;
pub mod metrics;
pub mod shutdown;
pub mod store;
pub(crate) mod telemetry;
pub(crate) mod tokens;
pub(crate) mod users;
