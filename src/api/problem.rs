//! Errors.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An error (RFC 9457).
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProblemDocument {
    /// `urn:acs-token-vendor:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// A short text for the code.
    pub title: String,
    /// The HTTP status.
    #[schema(example = 403)]
    pub status: u16,
    /// The code for programs: stable, lower snake case.
    #[schema(example = "scope_not_allowed")]
    pub code: String,
    /// What is wrong in this case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// With `reauthentication_required`: sign-ins from this moment on are accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign_ins_valid_from: Option<DateTime<Utc>>,
    /// The same id as in the header `x-request-id` and in the log.
    pub request_id: String,
}
