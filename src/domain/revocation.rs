//! Revocations of many users at once, and how far they have come.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::audit::Actor;

/// A revocation of many users, or of everyone.
#[derive(Clone, Debug)]
pub struct Revocation {
    /// Its id: `UUIDv7`.
    pub id: Uuid,
    /// Who asked for it.
    pub actor: Actor,
    /// Why.
    pub reason: Option<String>,
    /// The request that asked for it.
    pub request_id: Option<String>,
    /// The epoch that it began, where it is of everyone.
    pub epoch: Option<i64>,
    /// How many users had tokens that were alive.
    pub total: i64,
    /// Where the work through the users has come to.
    pub swept_to: String,
    /// When it had come to its end.
    pub swept_at: Option<DateTime<Utc>>,
    /// When it was accepted: from then on nobody gets a token on an older authorisation.
    pub created_at: DateTime<Utc>,
    /// When ACS had confirmed the last one.
    pub completed_at: Option<DateTime<Utc>>,
}

/// How far the work at ACS has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Operations that ACS has not confirmed yet.
    pub pending: i64,
    /// Operations that it has.
    pub confirmed: i64,
}
