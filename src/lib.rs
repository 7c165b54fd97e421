//! Vends Azure Communication Services access tokens to an app's users, and takes them back.
//!
//! `ARCHITECTURE.md` has the picture of the house; `tests/it/architecture.rs` holds the code against it.

pub mod acs;
pub mod api;
pub mod app;
pub mod auth;
pub mod cli;
pub mod client;
pub mod config;
pub mod dev;
pub mod domain;
pub mod encryption;
pub(crate) mod error;
pub mod http;
pub(crate) mod jobs;
pub mod limit;
pub mod metrics;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub(crate) mod tokens;
pub(crate) mod users;
