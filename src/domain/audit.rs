//! The audit trail: one event for each change, written in the transaction of the change.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use strum::IntoStaticStr;
use utoipa::ToSchema;
use uuid::Uuid;

use super::user::{AcsId, UserId};

/// An action, who did it, and to whom.
#[derive(Clone, Debug)]
pub struct Event {
    pub action: Action,
    pub actor: Actor,
    /// The app user it was done to; `None` if it was done to all users.
    pub user: Option<UserId>,
    pub acs_id: Option<AcsId>,
    pub operation: Option<Uuid>,
    pub token: Option<TokenRecord>,
    pub request_context: RequestContext,
    /// Further details; never a secret.
    pub detail: Option<Value>,
}

impl Event {
    /// Creates an event without an identity, an operation, a token or details.
    #[must_use]
    pub fn new(action: Action, actor: Actor, user: UserId, request_context: RequestContext) -> Self {
        Self {
            action,
            actor,
            user: Some(user),
            acs_id: None,
            operation: None,
            token: None,
            request_context,
            detail: None,
        }
    }

    /// Creates an event of something that was done to all users.
    #[must_use]
    pub fn global(action: Action, actor: Actor, request_context: RequestContext) -> Self {
        Self { action, actor, user: None, acs_id: None, operation: None, token: None, request_context, detail: None }
    }
}

/// Where a request came from.
#[derive(Clone, Debug, Default)]
pub struct RequestContext {
    /// The id of the request in responses and logs.
    pub request_id: Option<String>,
    /// The address of the client, taken from `X-Forwarded-For` only behind trusted proxies.
    pub client: Option<IpAddr>,
}

/// What the trail records of a token: enough to recognise it, not enough to use it.
#[derive(Clone, Debug)]
pub struct TokenRecord {
    /// SHA-256 of the token in hexadecimal.
    pub fingerprint: String,
    /// Its scopes in canonical form.
    pub scopes: String,
    pub expires_at: DateTime<Utc>,
    /// The generation under which it was authorised.
    pub generation: i64,
}

/// What can happen to users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Action {
    /// ACS created an identity and it was bound to the user.
    IdentityBound,
    /// ACS created a second identity for the user; its deletion is queued.
    IdentityDiscarded,
    /// An operator mapped the user to an existing identity.
    IdentityImported,
    /// ACS may have created an identity that the service does not know.
    PossibleOrphan,
    /// ACS minted a token and it was returned.
    TokenMinted,
    /// An operator got a cached token of a user.
    TokenReused,
    /// Access was revoked.
    AccessRevoked,
    /// The access of all users was revoked.
    GlobalRevocation,
    /// Sign-ins from before the last revocation were allowed again.
    OlderSignInsAllowed,
    /// The user was blocked.
    UserBlocked,
    /// The block was lifted.
    UserUnblocked,
    /// The user was deleted.
    UserDeleted,
    /// ACS confirmed an operation.
    OperationCompleted,
    /// A mapping without an identity was deleted after its retention time.
    UserPurged,
}

impl Action {
    /// Returns the stored form.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Who does something. The text is the stored kind.
#[derive(Clone, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Actor {
    /// The app user, authenticated by a sign-in token.
    User(UserId),
    /// An operator or a backend, by the name of its key.
    OperatorKey(String),
    /// The service itself, performing accepted work.
    Worker,
}

impl Actor {
    /// Returns the stored kind.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.into()
    }

    /// Returns the stored name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::User(id) => id.as_str(),
            Self::OperatorKey(name) => name,
            Self::Worker => "",
        }
    }

    /// Reads an actor from its stored kind and name.
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
