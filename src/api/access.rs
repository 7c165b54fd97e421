//! Revoke, block, unblock, delete.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{OperationResponse, UserResponse};

/// The reason of a change; the whole body may be left out.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChangeRequest {
    /// The reason, for the audit trail; at most 500 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether sign-ins from before now are rejected; true by default. Only for a revocation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reject_older_sign_ins: Option<bool>,
}

/// A user after a change, and the resulting operation at ACS.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ChangeResponse {
    /// The user.
    pub user: UserResponse,
    /// The operation at ACS; null if the user had no identity.
    pub operation: Option<OperationResponse>,
}

/// The header of writes that may be repeated.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct IdempotencyKeyParam {
    /// A repeated request with the same key and body returns the same response for 24 hours and changes nothing.
    #[param(rename = "Idempotency-Key")]
    #[expect(dead_code, reason = "it only describes the header")]
    pub idempotency_key: Option<String>,
}
