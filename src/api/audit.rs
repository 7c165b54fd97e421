//! `/audit`.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::domain::audit::Action;

/// A page of the audit trail.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditPage {
    /// The events, newest first.
    pub events: Vec<AuditEvent>,
    /// The `cursor` of the next page; null on the last page.
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
    /// The maximum number, 1 to 1000; 100 by default.
    pub limit: Option<i64>,
    /// The `nextCursor` of the previous page.
    pub cursor: Option<String>,
}

/// An event of the audit trail.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditEvent {
    /// Its id.
    pub id: Uuid,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// The action.
    pub action: String,
    /// The kind of actor: `user`, `operator_key` or `worker`.
    pub actor_kind: String,
    /// The name of the operator key, or the id of the user.
    pub actor: String,
    /// The user it concerns; null if it concerns everyone.
    pub user: Option<String>,
    /// The identity it concerns.
    pub communication_user_id: Option<String>,
    /// The operation it led to.
    pub operation: Option<Uuid>,
    /// The id of the request.
    pub request_id: Option<String>,
    /// The client address of the request.
    pub client: Option<String>,
    /// SHA-256 of the token.
    pub token_fingerprint: Option<String>,
    /// Its scopes, joined by commas.
    pub token_scopes: Option<String>,
    /// When the token expires.
    pub token_expires_on: Option<DateTime<Utc>>,
    /// More: a reason, or `jti` and `sid` of the sign-in token.
    pub detail: Option<serde_json::Value>,
}
