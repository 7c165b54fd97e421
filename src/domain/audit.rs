//! The audit trail: one event for every change, written in the transaction that makes the change.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::user::{AcsId, UserId};

/// Something that was done, by whom and to whom.
#[derive(Clone, Debug)]
pub struct Event {
    /// What was done.
    pub action: Action,
    /// Who did it.
    pub actor: Actor,
    /// The app user it was done to; none where it was done to everyone.
    pub user: Option<UserId>,
    /// The ACS identity that it concerned.
    pub acs_id: Option<AcsId>,
    /// The operation that it concerned.
    pub operation: Option<Uuid>,
    /// The token that it concerned.
    pub token: Option<TokenRecord>,
    /// The request that asked for it.
    pub trace: RequestContext,
    /// What else is worth knowing; never a secret.
    pub detail: Option<Value>,
}

impl Event {
    /// Makes an event without an identity, an operation, a token or detail.
    #[must_use]
    pub fn new(action: Action, actor: Actor, user: UserId, trace: RequestContext) -> Self {
        Self { action, actor, user: Some(user), acs_id: None, operation: None, token: None, trace, detail: None }
    }

    /// Makes an event of something that was done to everyone.
    #[must_use]
    pub fn of_everyone(action: Action, actor: Actor, trace: RequestContext) -> Self {
        Self { action, actor, user: None, acs_id: None, operation: None, token: None, trace, detail: None }
    }
}

/// Where a request came from.
#[derive(Clone, Debug, Default)]
pub struct RequestContext {
    /// What the request is called in answers and logs.
    pub request_id: Option<String>,
    /// The address of whoever sent it, as far as trusted proxies tell.
    pub client: Option<IpAddr>,
}

/// What the trail keeps of a token: enough to recognise it, useless to use it.
#[derive(Clone, Debug)]
pub struct TokenRecord {
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// ACS created an identity and it was bound to the user.
    IdentityBound,
    /// ACS created an identity that lost the race; its deletion is queued.
    IdentityDiscarded,
    /// An operator said which identity is the user's.
    IdentityImported,
    /// ACS may have created an identity that nobody knows of.
    PossibleOrphan,
    /// ACS minted a token and it was handed out.
    TokenMinted,
    /// An operator got a token of a user that was there already.
    TokenReused,
    /// Access was revoked.
    AccessRevoked,
    /// GlobalState's access was revoked.
    GlobalRevocation,
    /// Logins from before the last revocation are good again.
    OlderSignInsAllowed,
    /// The user was blocked.
    UserBlocked,
    /// The block was lifted.
    UserUnblocked,
    /// The user was deleted.
    UserDeleted,
    /// ACS confirmed an operation.
    OperationCompleted,
    /// A mapping without identity was forgotten after its time.
    UserPurged,
}

impl Action {
    /// Returns the word that is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IdentityBound => "identity_bound",
            Self::IdentityDiscarded => "identity_discarded",
            Self::IdentityImported => "identity_imported",
            Self::PossibleOrphan => "possible_orphan",
            Self::TokenMinted => "token_minted",
            Self::TokenReused => "token_reused",
            Self::AccessRevoked => "access_revoked",
            Self::GlobalRevocation => "global_revocation",
            Self::OlderSignInsAllowed => "older_sign_ins_allowed",
            Self::UserBlocked => "user_blocked",
            Self::UserUnblocked => "user_unblocked",
            Self::UserDeleted => "user_deleted",
            Self::OperationCompleted => "operation_completed",
            Self::UserPurged => "user_purged",
        }
    }
}

/// Who can do things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The app user, by a login.
    User(UserId),
    /// An operator or a backend, by a key of this name.
    OperatorKey(String),
    /// The service itself, going about accepted work.
    Worker,
}

impl Actor {
    /// Returns the kind of actor, as stored.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::OperatorKey(_) => "operator_key",
            Self::Worker => "worker",
        }
    }

    /// Returns the name of the actor, as stored.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::User(id) => id.as_str(),
            Self::OperatorKey(name) => name,
            Self::Worker => "",
        }
    }

    /// Reads an actor as stored.
    #[must_use]
    pub fn parse(kind: &str, name: &str) -> Option<Self> {
        match kind {
            "user" => UserId::parse(name).ok().map(Self::User),
            "operator_key" => Some(Self::OperatorKey(name.to_owned())),
            "worker" => Some(Self::Worker),
            _ => None,
        }
    }
}
