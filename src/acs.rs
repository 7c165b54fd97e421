//! The identity API of Azure Communication Services (ACS): a client, and above it retries within the quota.

mod client;
pub mod connection_string;
pub mod credential;
mod error;
pub mod quota;
pub mod retry;
pub mod signing;
mod wire;

pub use client::{Client, Settings};
pub use error::Error;
