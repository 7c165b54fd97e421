//! Bulk revocations and their progress.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::audit::Actor;

/// A revocation of many users, or of all.
#[derive(Clone, Debug)]
pub struct Revocation {
    /// A `UUIDv7`.
    pub id: Uuid,
    pub actor: Actor,
    pub reason: Option<String>,
    pub request_id: Option<String>,
    /// The epoch that it began, if it is of all users.
    pub epoch: Option<i64>,
    /// How many users had tokens that were not expired.
    pub total: i64,
    /// The last user for whom operations were created.
    pub swept_to: String,
    /// When operations had been created for all users.
    pub swept_at: Option<DateTime<Utc>>,
    /// When it was accepted: from then on no token is issued under an older authorisation.
    pub created_at: DateTime<Utc>,
    /// When ACS had confirmed the last operation.
    pub completed_at: Option<DateTime<Utc>>,
}

/// The progress at ACS.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Operations that ACS has not confirmed.
    pub pending: i64,
    /// Operations that ACS has confirmed.
    pub confirmed: i64,
}
