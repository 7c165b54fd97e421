//! Imports, one user or line by line.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The identity of a user.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImportRequest {
    /// The identity.
    pub communication_user_id: String,
}

/// A line of an import: a user and an identity.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportLine {
    /// The issuer key of the user's identity provider.
    #[schema(example = "main")]
    pub issuer: String,
    /// The user's subject at the identity provider.
    #[schema(example = "alice")]
    pub subject: String,
    /// The identity.
    pub communication_user_id: String,
}

/// The result of a line of an import.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ImportLineResult {
    /// The number of the line, from 1.
    pub line: u64,
    /// The result.
    pub result: ImportResult,
    /// Why it was not imported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The result of a line of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImportResult {
    /// The identity is the user's now.
    Imported,
    /// The identity was the user's before.
    Unchanged,
    /// The user or the identity has another mapping, or the identity was or is being deleted.
    Conflict,
    /// The line is not valid.
    Invalid,
    /// The database was unavailable; no line after this one was imported.
    Failed,
}
