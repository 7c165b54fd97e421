//! Operations: accepted pieces of work at ACS that must happen even if every process dies.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    audit::Actor,
    user::{AcsId, UserId},
};

/// What is to be done at ACS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// End every token of the identity.
    Revoke,
    /// Delete the identity of a user who was deleted.
    Delete,
    /// Delete an identity that lost the race to be bound.
    Discard,
}

impl Kind {
    /// Returns the word that is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Revoke => "revoke",
            Self::Delete => "delete",
            Self::Discard => "discard",
        }
    }

    /// Reads the word that is stored.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "revoke" => Some(Self::Revoke),
            "delete" => Some(Self::Delete),
            "discard" => Some(Self::Discard),
            _ => None,
        }
    }
}

/// An accepted piece of work.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Its id: `UUIDv7`, so that ids are in the order of acceptance.
    pub id: Uuid,
    /// What is to be done.
    pub kind: Kind,
    /// For which user.
    pub user: UserId,
    /// To which identity.
    pub acs_id: AcsId,
    /// At which resource.
    pub resource: String,
    /// As part of which revocation of many.
    pub revocation: Option<Uuid>,
    /// Who asked for it.
    pub actor: Actor,
    /// Why.
    pub reason: Option<String>,
    /// Only a call sent from then on completes it: ACS reckons in whole seconds.
    pub not_before: DateTime<Utc>,
    /// When it is tried next.
    pub next_attempt_at: DateTime<Utc>,
    /// How often it was tried.
    pub attempts: i64,
    /// When it was last tried.
    pub last_attempt_at: Option<DateTime<Utc>>,
    /// What kept it from succeeding.
    pub last_error: Option<String>,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When ACS confirmed it.
    pub completed_at: Option<DateTime<Utc>>,
}

/// The right to try an operation, good for a short while; it is committed before the call is sent.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// Whose it is: unique to the attempt.
    pub by: Uuid,
    /// Until when.
    pub until: DateTime<Utc>,
}
