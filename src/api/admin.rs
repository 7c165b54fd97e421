//! The admin listener.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The state of a replica, on the admin listener.
#[derive(Debug, Serialize, Deserialize)]
pub struct Readiness {
    /// `ready`, `starting` or `stopping`.
    pub status: String,
    /// `available` or `unavailable`.
    pub database: String,
    /// `available` or `unavailable`: the keys of each identity provider, by issuer key.
    pub keys: BTreeMap<String, String>,
}
