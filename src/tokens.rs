//! Issuing tokens: from the cache, by minting at ACS, or with a new identity.

pub mod cache;
pub mod create;
pub mod issue;
pub mod mint;
pub mod single_flight;
