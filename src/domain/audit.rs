//! The audit trail: one event for every change, written in the transaction that makes the change.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::user::{AcsId, UserId};

/// Something that was done, by whom and to whom.
#[derive(Clone, Debug)]
pub struct Event {
    /// What was done.
    pub action: Action,
    /// Who did it.
    pub actor: Actor,
    /// The app user it was done to.
    pub user: UserId,
    /// The ACS identity that it concerned.
    pub acs_id: Option<AcsId>,
    /// The token that it concerned.
    pub token: Option<TokenTrace>,
    /// The request that asked for it.
    pub request_id: Option<String>,
    /// What else is worth knowing; never a secret.
    pub detail: Option<Value>,
}

/// What the trail keeps of a token: enough to recognise it, useless to use it.
#[derive(Clone, Debug)]
pub struct TokenTrace {
    /// SHA-256 of the token in hexadecimal.
    pub fingerprint: String,
    /// Its scopes, canonical.
    pub scopes: String,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
    /// The generation it was authorised under.
    pub generation: i64,
}

/// What can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// ACS created an identity and it was bound to the user.
    IdentityBound,
    /// ACS created an identity that lost the race; its deletion is queued.
    IdentityDiscarded,
    /// ACS may have created an identity that nobody knows of.
    PossibleOrphan,
    /// ACS minted a token and it was handed out.
    TokenMinted,
}

impl Action {
    /// Returns the word that is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IdentityBound => "identity_bound",
            Self::IdentityDiscarded => "identity_discarded",
            Self::PossibleOrphan => "possible_orphan",
            Self::TokenMinted => "token_minted",
        }
    }
}

/// Who can do things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The app user, by a login.
    User(UserId),
}

impl Actor {
    /// Returns the kind of actor, as stored.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
        }
    }

    /// Returns the name of the actor, as stored.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::User(id) => id.as_str(),
        }
    }
}
