//! What operators and backends send and get.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::domain::{operation::Kind, user::State};

/// An app user's mapping.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserResponse {
    /// Our id.
    #[schema(example = "u_0198f0c1a2b37c4d8e5f60718293a4b5")]
    pub id: String,
    /// The issuer key of the user's identity provider.
    #[schema(example = "main")]
    pub issuer: String,
    /// What the identity provider calls the user.
    pub subject: String,
    /// Where the mapping is in its life.
    pub state: State,
    /// The ACS identity.
    pub communication_user_id: Option<String>,
    /// The name of the ACS resource.
    pub resource: Option<String>,
    /// Since when the user is blocked.
    pub blocked_at: Option<DateTime<Utc>>,
    /// Logins from before this second get no token.
    pub sign_ins_valid_from: Option<DateTime<Utc>>,
    /// The oldest operation that is not finished.
    pub pending_operation: Option<Uuid>,
    /// When a token was last minted.
    pub last_minted_at: Option<DateTime<Utc>>,
    /// When the mapping was made.
    pub created_at: DateTime<Utc>,
    /// When the mapping last changed.
    pub updated_at: DateTime<Utc>,
}

/// A page of mappings.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsersPage {
    /// The mappings, in the order of their ids.
    pub users: Vec<UserResponse>,
    /// What to give as `cursor` for the next page; none at the end.
    pub next_cursor: Option<String>,
}

/// Which mappings to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UsersQuery {
    /// Of this issuer key.
    pub issuer: Option<String>,
    /// With this subject.
    pub subject: Option<String>,
    /// With this identity.
    pub communication_user_id: Option<String>,
    /// In this state.
    pub state: Option<State>,
    /// How many at most, 1 to 1000; 100 where not given.
    pub limit: Option<i64>,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// Several users, each `u_…`, `<issuer key>:<subject>` or, for a lookup, an identity.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UsersRequest {
    /// The users.
    #[schema(example = json!(["main:alice", "u_0198f0c1a2b37c4d8e5f60718293a4b5"]))]
    pub users: Vec<String>,
}

/// What became of each user of a request, in its order.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ResolvedUsers {
    /// The users.
    pub users: Vec<ResolvedUser>,
}

/// One user of a request.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ResolvedUser {
    /// As the request named them.
    pub query: String,
    /// The mapping, if there is one.
    pub user: Option<UserResponse>,
    /// The code of the problem that kept it from being made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Why a user is revoked, blocked, unblocked or deleted; the whole body may be left out.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChangeRequest {
    /// Why, for the audit trail; at most 500 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether logins from before now get no token any more; true where not given. Only for a revocation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reject_older_sign_ins: Option<bool>,
}

/// A user after a change, and the work at ACS that it led to.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ChangeResponse {
    /// The user.
    pub user: UserResponse,
    /// The work at ACS; none where there was no identity.
    pub operation: Option<OperationResponse>,
}

/// An accepted piece of work at ACS.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationResponse {
    /// Its id.
    pub id: Uuid,
    /// What is to be done.
    pub kind: Kind,
    /// Whether it is done.
    pub state: OperationState,
    /// For which user.
    pub user: String,
    /// To which identity.
    pub communication_user_id: String,
    /// Why.
    pub reason: Option<String>,
    /// How often it was tried.
    pub attempts: i64,
    /// What kept it from succeeding the last time.
    pub last_error: Option<String>,
    /// When it is tried next, while it is pending.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When ACS confirmed it.
    pub confirmed_at: Option<DateTime<Utc>>,
    /// By when ACS says it has reached everywhere: 15 minutes after it was confirmed.
    pub propagates_by: Option<DateTime<Utc>>,
}

/// Whether an operation is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Accepted, and being retried until ACS confirms it.
    Pending,
    /// ACS confirmed it.
    Completed,
}

/// A page of operations.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationsPage {
    /// The operations, in the order of acceptance.
    pub operations: Vec<OperationResponse>,
    /// What to give as `cursor` for the next page; none at the end.
    pub next_cursor: Option<String>,
}

/// Which operations to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OperationsQuery {
    /// Only the pending, or only the completed.
    pub state: Option<OperationState>,
    /// How many at most, 1 to 1000; 100 where not given.
    pub limit: Option<i64>,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// Which identity is a user's.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImportRequest {
    /// The identity.
    pub communication_user_id: String,
}
