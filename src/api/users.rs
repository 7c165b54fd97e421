//! `/users`: mappings, and the tokens that a user held.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::domain::user::State;

/// An app user's mapping.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserResponse {
    /// The user's id in this service.
    #[schema(example = "u_0198f0c1a2b37c4d8e5f60718293a4b5")]
    pub id: String,
    /// The issuer key of the user's identity provider.
    #[schema(example = "main")]
    pub issuer: String,
    /// The user's subject at the identity provider.
    pub subject: String,
    /// The state of the mapping.
    pub state: State,
    /// The ACS identity.
    pub communication_user_id: Option<String>,
    /// The name of the ACS resource.
    pub resource: Option<String>,
    /// When the user was blocked.
    pub blocked_at: Option<DateTime<Utc>>,
    /// Sign-ins from before this second are rejected.
    pub sign_ins_valid_from: Option<DateTime<Utc>>,
    /// The oldest pending operation.
    pub pending_operation: Option<Uuid>,
    /// When ACS last issued a token.
    pub last_minted_at: Option<DateTime<Utc>>,
    /// When the mapping was created.
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
    /// The `cursor` of the next page; null on the last page.
    pub next_cursor: Option<String>,
}

/// Which mappings to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UsersQuery {
    /// With this issuer key.
    pub issuer: Option<String>,
    /// With this subject.
    pub subject: Option<String>,
    /// With this identity.
    pub communication_user_id: Option<String>,
    /// In this state.
    pub state: Option<State>,
    /// The maximum number, 1 to 1000; 100 by default.
    pub limit: Option<i64>,
    /// The `nextCursor` of the previous page.
    pub cursor: Option<String>,
}

/// Several users, each as `u_…`, as `<issuer key>:<subject>` or, for a lookup, by identity.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UsersRequest {
    /// The users.
    #[schema(example = json!(["main:alice", "u_0198f0c1a2b37c4d8e5f60718293a4b5"]))]
    pub users: Vec<String>,
}

/// The users of a request, in the same order.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ResolvedUsers {
    /// The users.
    pub users: Vec<ResolvedUser>,
}

/// One user of a request.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ResolvedUser {
    /// The user as named in the request.
    pub query: String,
    /// The mapping, or null.
    pub user: Option<UserResponse>,
    /// The code of the problem that prevented the mapping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

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
    /// The moment, RFC 3339; now by default.
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
    /// When it was issued.
    pub issued_at: DateTime<Utc>,
    /// When it expires.
    pub expires_on: DateTime<Utc>,
    /// When ACS confirmed that it was revoked or the identity deleted.
    pub ended_at: Option<DateTime<Utc>>,
    /// The identity.
    pub communication_user_id: Option<String>,
    /// The id of the request that received it.
    pub request_id: Option<String>,
    /// The client address of that request.
    pub client: Option<String>,
    /// The `jti` of the sign-in token.
    pub sign_in_id: Option<String>,
    /// The `sid` of the sign-in token.
    pub session_id: Option<String>,
}

/// The user in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct UserParam {
    /// `u_…`, or `<issuer key>:<subject>`, percent-encoded.
    #[expect(dead_code, reason = "it only describes the path")]
    pub user: String,
}
