//! The terms of the product as types: users, identities, scopes, tokens, operations, audit events and the clock.
//!
//! Nothing here does I/O, is async or depends on a framework; every other module may use it.

pub mod address;
pub mod audit;
pub mod clock;
pub mod operation;
pub mod revocation;
pub mod scope;
pub mod string_list;
pub mod token;
pub mod user;
pub mod window;
