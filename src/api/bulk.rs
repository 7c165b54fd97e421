//! Many users at once: revocations, and imports line by line.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// Whose access is to be revoked: either `users` or `all`.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RevocationRequest {
    /// These users, each `u_…` or `<issuer key>:<subject>`; 1 to 10,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = json!(["main:alice", "u_0198f0c1a2b37c4d8e5f60718293a4b5"]))]
    pub users: Option<Vec<String>>,
    /// Everyone, those included who have never been seen.
    #[serde(default)]
    pub all: bool,
    /// Why, for the audit trail; at most 500 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether logins from before now get no token any more; true where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reject_older_sign_ins: Option<bool>,
    /// Whether only to tell how many users have tokens that are alive.
    #[serde(default)]
    pub dry_run: bool,
}

/// A revocation of many users, and how far it has come at ACS.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevocationResponse {
    /// Its id; none for a dry run.
    pub id: Option<Uuid>,
    /// Whether it is of everyone.
    pub all: bool,
    /// How many users had tokens that were alive. The others are stopped too, but cost ACS nothing.
    pub total: i64,
    /// How many of them ACS has not been asked for yet.
    pub waiting: i64,
    /// How many operations ACS has not confirmed yet.
    pub pending: i64,
    /// How many operations ACS has confirmed.
    pub confirmed: i64,
    /// Who asked for it: an operator key's name.
    pub actor: String,
    /// Why.
    pub reason: Option<String>,
    /// When it was accepted: from then on nobody gets a token on an older authorisation.
    pub created_at: DateTime<Utc>,
    /// When ACS had confirmed the last one.
    pub completed_at: Option<DateTime<Utc>>,
    /// Users of the request whom nobody knows, as it named them; only in the answer to the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
}

/// A page of revocations.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevocationsPage {
    /// The revocations, newest first.
    pub revocations: Vec<RevocationResponse>,
    /// What to give as `cursor` for the next page; none at the end.
    pub next_cursor: Option<String>,
}

/// Which revocations to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RevocationsQuery {
    /// How many at most, 1 to 1000; 100 where not given.
    pub limit: Option<i64>,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// A line of an import: which identity is whose.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportLine {
    /// The issuer key of the user's identity provider.
    #[schema(example = "main")]
    pub issuer: String,
    /// What the identity provider calls the user.
    #[schema(example = "alice")]
    pub subject: String,
    /// The identity.
    pub communication_user_id: String,
}

/// What became of a line of an import.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ImportLineResult {
    /// Which line, the first being 1.
    pub line: u64,
    /// What became of it.
    pub result: ImportResult,
    /// Why it was not imported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What can become of a line of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImportResult {
    /// The identity is the user's from now on.
    Imported,
    /// It was the user's before.
    Unchanged,
    /// User or identity are otherwise mapped, or the identity is being deleted or was.
    Conflict,
    /// The line is not as it should be.
    Invalid,
    /// The database was away; nothing after this line was done.
    Failed,
}
