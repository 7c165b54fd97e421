//! The product's tests: the real application on free ports, with the emulator, a real issuer and both databases.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod access;
mod architecture;
mod budget;
mod commands;
mod configuration;
mod emulator;
mod import;
mod metrics;
mod migrations;
mod model_based;
mod openapi;
mod operator_commands;
mod operators;
mod overload;
mod problems;
mod promises;
mod proxy;
mod redaction;
mod reuse;
mod revocations;
mod sign_ins;
mod support;
mod token;
mod upstream;
