//! The JSON of our own API: shapes only, shared by the server, the client and `openapi.yaml`.

mod bulk;
mod operators;
mod trail;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

pub use bulk::*;
pub use operators::*;
pub use trail::*;

use crate::domain::{scope::Scopes, token::AccessToken};

/// What to ask of `POST /token`; both members may be left out, as may the whole body.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRequest {
    /// The scopes of the token; all that the policy grants where not given.
    #[schema(value_type = Option<Vec<crate::domain::scope::Scope>>, min_items = 1, example = json!(["chat", "voip"]))]
    pub scopes: Option<Scopes>,
    /// The longest life wanted, in minutes; bounded by what the policy grants.
    #[schema(minimum = 60, maximum = 1440, example = 60)]
    pub expires_in_minutes: Option<u64>,
}

/// A token and everything that ACS's client SDKs want to know about it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenResponse {
    /// The ACS access token: opaque, secret.
    #[serde(serialize_with = "expose")]
    #[schema(value_type = String)]
    pub token: AccessToken,
    /// When the token ends, RFC 3339.
    pub expires_on: DateTime<Utc>,
    /// When the token ends, milliseconds since 1970: what `AzureCommunicationTokenCredential` takes.
    pub expires_on_timestamp: i64,
    /// When to ask for the next token: ten minutes before the end, as the SDKs' proactive refresh does, or halfway where less
    /// than twenty are left.
    pub refresh_after: DateTime<Utc>,
    /// The scopes of the token.
    #[schema(value_type = Vec<crate::domain::scope::Scope>)]
    pub scopes: Scopes,
    /// The address of the ACS resource, for the chat client.
    #[schema(example = "https://name.communication.azure.com")]
    pub endpoint: String,
    /// Who the token is for.
    pub user: CommunicationUser,
}

/// An ACS identity, in the shape of the SDKs' `CommunicationUserIdentifier`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommunicationUser {
    /// The id that ACS gave.
    #[schema(example = "8:acs:2dee53b4-368b-45b4-ab52-8493fb117652_00000005-14a2-493b-8a72-5a3a0d000081")]
    pub communication_user_id: String,
}

/// The caller's own mapping.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeResponse {
    /// Our id of the caller.
    #[schema(example = "u_0198f0c1a2b37c4d8e5f60718293a4b5")]
    pub id: String,
    /// The address of the ACS resource.
    pub endpoint: String,
    /// The caller's ACS identity.
    pub user: CommunicationUser,
}

/// An error, as RFC 9457 has it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProblemDocument {
    /// `urn:acs-token-vendor:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same text for every problem of this code.
    pub title: String,
    /// The HTTP status.
    #[schema(example = 403)]
    pub status: u16,
    /// What to act on: stable, lower snake case.
    #[schema(example = "scope_not_allowed")]
    pub code: String,
    /// What helps the caller in this case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to quote when asking for help: the same as in the header `x-request-id` and in the log.
    pub request_id: String,
}

/// The state of a replica, on the admin listener.
#[derive(Debug, Serialize, Deserialize)]
pub struct Readiness {
    /// `ready`, `starting` or `stopping`.
    pub status: String,
    /// Whether the database answers.
    pub database: String,
    /// Whether there are keys to check logins with, by issuer key.
    pub keys: std::collections::BTreeMap<String, String>,
}

fn expose<S: Serializer>(token: &AccessToken, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(token.expose())
}
