//! Integration tests: the real application on free ports, with the emulator, a real issuer and both databases.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod access;
mod access_races;
mod architecture;
mod batches;
mod commands;
mod configuration;
mod import;
mod metrics;
mod migrations;
mod model_based;
mod openapi;
mod operator_commands;
mod operators;
mod overload;
mod problems;
mod proxy;
mod quota;
mod redaction;
mod reuse;
mod revocations;
mod sign_ins;
mod store;
mod store_unavailable;
mod support;
mod token;
mod upstream;
