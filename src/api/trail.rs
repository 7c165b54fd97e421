//! The audit trail, and which tokens a user held.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::domain::audit::Action;

/// The tokens that a user held at a moment.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HeldTokens {
    /// The tokens, newest first, at most a thousand.
    pub tokens: Vec<HeldTokenResponse>,
}

/// The moment to look at.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MomentQuery {
    /// The moment, RFC 3339; now where not given.
    pub at: Option<DateTime<Utc>>,
}

/// A token that a user held, by its fingerprint.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldTokenResponse {
    /// SHA-256 of the token in hexadecimal.
    pub fingerprint: String,
    /// Its scopes, joined by commas.
    pub scopes: String,
    /// When it was handed out.
    pub issued_at: DateTime<Utc>,
    /// When it ends by itself.
    pub expires_on: DateTime<Utc>,
    /// When ACS confirmed its end, where it was revoked or the identity deleted.
    pub ended_at: Option<DateTime<Utc>>,
    /// The identity.
    pub communication_user_id: Option<String>,
    /// The request that got it.
    pub request_id: Option<String>,
    /// The address that request came from.
    pub client: Option<String>,
    /// The `jti` of the login behind it.
    pub sign_in_id: Option<String>,
    /// The `sid` of the login behind it.
    pub session_id: Option<String>,
}

/// A page of the audit trail.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditPage {
    /// The events, newest first.
    pub events: Vec<AuditEvent>,
    /// What to give as `cursor` for the next page; none at the end.
    pub next_cursor: Option<String>,
}

/// Which events to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// About this user: `u_…` or `<issuer key>:<subject>`.
    pub user: Option<String>,
    /// By the actor of this name: an operator key's name or a user id.
    pub actor: Option<String>,
    /// Of this action.
    pub action: Option<Action>,
    /// From this time on, RFC 3339.
    pub since: Option<DateTime<Utc>>,
    /// Before this time, RFC 3339.
    pub until: Option<DateTime<Utc>>,
    /// How many at most, 1 to 1000; 100 where not given.
    pub limit: Option<i64>,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// Something that was done.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditEvent {
    /// Its id.
    pub id: Uuid,
    /// When.
    pub at: DateTime<Utc>,
    /// What.
    pub action: String,
    /// What kind of actor did it: `user`, `operator_key` or `worker`.
    pub actor_kind: String,
    /// Which one.
    pub actor: String,
    /// To whom; none where it was done to everyone.
    pub user: Option<String>,
    /// The identity concerned.
    pub communication_user_id: Option<String>,
    /// The operation concerned.
    pub operation: Option<Uuid>,
    /// The request.
    pub request_id: Option<String>,
    /// The address it came from.
    pub client: Option<String>,
    /// SHA-256 of the token concerned.
    pub token_fingerprint: Option<String>,
    /// Its scopes, joined by commas.
    pub token_scopes: Option<String>,
    /// When it ends.
    pub token_expires_on: Option<DateTime<Utc>>,
    /// What else there is: a reason, or the login's `jti` and `sid`.
    pub detail: Option<serde_json::Value>,
}
