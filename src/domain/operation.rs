//! Operations: entries of the transactional outbox, calls to ACS that must happen even if every process dies.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    audit::Actor,
    user::{AcsId, UserId},
};

/// The call to ACS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, EnumString, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Kind {
    /// End every token of the identity.
    Revoke,
    /// Delete the identity of a user who was deleted.
    Delete,
    /// Delete an identity that lost the race to be bound.
    Discard,
}

impl Kind {
    /// Returns the stored form.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Reads the stored form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

/// A call to ACS that was accepted.
#[derive(Clone, Debug)]
pub struct Operation {
    /// A `UUIDv7`, so that ids are in the order of acceptance.
    pub id: Uuid,
    pub kind: Kind,
    pub user: UserId,
    pub acs_id: AcsId,
    /// The name of the ACS resource of the identity.
    pub resource: String,
    /// The bulk revocation that it belongs to.
    pub revocation: Option<Uuid>,
    pub actor: Actor,
    pub reason: Option<String>,
    /// Only a call sent at this time or later completes it, because ACS works with whole seconds.
    pub not_before: DateTime<Utc>,
    pub next_attempt_at: DateTime<Utc>,
    pub attempts: i64,
    pub last_attempt_at: Option<DateTime<Utc>>,
    pub last_error: Option<String>,
    pub created_at: DateTime<Utc>,
    /// When ACS confirmed it.
    pub completed_at: Option<DateTime<Utc>>,
}

impl Operation {
    /// Makes an operation that may be tried from now on.
    #[must_use]
    pub fn new(kind: Kind, user: UserId, acs_id: AcsId, resource: String, actor: Actor, now: DateTime<Utc>) -> Self {
        Self {
            id: Uuid::now_v7(),
            kind,
            user,
            acs_id,
            resource,
            revocation: None,
            actor,
            reason: None,
            not_before: now,
            next_attempt_at: now,
            attempts: 0,
            last_attempt_at: None,
            last_error: None,
            created_at: now,
            completed_at: None,
        }
    }
}

/// The exclusive right to try an operation for a short time, committed before the call is sent.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// Unique to the attempt.
    pub by: Uuid,
    pub until: DateTime<Utc>,
}
