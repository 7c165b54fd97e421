//! `/revocations`.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// The users whose access is revoked: either `users` or `all`.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RevocationRequest {
    /// The users, each `u_…` or `<issuer key>:<subject>`; 1 to 10,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = json!(["main:alice", "u_0198f0c1a2b37c4d8e5f60718293a4b5"]))]
    pub users: Option<Vec<String>>,
    /// Everyone, including users that this service has never seen.
    #[serde(default)]
    pub all: bool,
    /// The reason, for the audit trail; at most 500 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether sign-ins from before now are rejected; true by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reject_older_sign_ins: Option<bool>,
    /// Whether to count the users with unexpired tokens without revoking anything.
    #[serde(default)]
    pub dry_run: bool,
}

/// A revocation of many users, and its progress at ACS.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevocationResponse {
    /// Its id; null for a dry run.
    pub id: Option<Uuid>,
    /// Whether it revokes everyone.
    pub all: bool,
    /// The number of users with unexpired tokens. The others are revoked too, but need no call to ACS.
    pub total: i64,
    /// The number of users for whom no operation has been created yet.
    pub waiting: i64,
    /// The number of operations that ACS has not confirmed yet.
    pub pending: i64,
    /// The number of operations that ACS has confirmed.
    pub confirmed: i64,
    /// The name of the operator key that requested it.
    pub actor: String,
    /// The reason.
    pub reason: Option<String>,
    /// When it was accepted. From then on no token is issued on an older authorisation.
    pub created_at: DateTime<Utc>,
    /// When ACS confirmed the last operation.
    pub completed_at: Option<DateTime<Utc>>,
    /// Users of the request that do not exist; only in the response to the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
}

/// A page of revocations.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevocationsPage {
    /// The revocations, newest first.
    pub revocations: Vec<RevocationResponse>,
    /// The `cursor` of the next page; null on the last page.
    pub next_cursor: Option<String>,
}

/// Which revocations to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RevocationsQuery {
    /// The maximum number, 1 to 1000; 100 by default.
    pub limit: Option<i64>,
    /// The `nextCursor` of the previous page.
    pub cursor: Option<String>,
}
