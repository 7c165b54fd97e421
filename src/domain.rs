//! The words of the product as types: users, identities, scopes, tokens, policies, audit events and the clock.
//!
//! Nothing here does I/O, is async or knows a framework; every other room may use it.

pub mod address;
pub mod audit;
pub mod clock;
pub mod operation;
pub mod revocation;
pub mod scope;
pub mod token;
pub mod user;
pub mod window;
