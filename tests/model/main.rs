//! The protocol of tokens, revocations and identities as a model whose every state is explored.
//!
//! `cargo test --test model` runs small scenarios and leaves each rule out once, to see its promise break;
//! `cargo test --release --test model -- --ignored` runs every scenario to its end.
//! docs/protocol.md explains the protocol, what the model leaves out, and how many states were explored.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod clean;
mod mutations;
mod operators;
mod promises;
mod requests;
mod rules;
mod scenarios;
mod search;
mod state;
mod steps;
mod workers;
