//! `POST /token` and `POST /users/{user}/token`.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use crate::domain::{scope::Scopes, token::AccessToken};

/// What a token should be; both members and the whole body may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRequest {
    /// The scopes of the token; by default all that the policy grants.
    #[schema(value_type = Option<Vec<crate::domain::scope::Scope>>, min_items = 1, example = json!(["chat", "voip"]))]
    pub scopes: Option<Scopes>,
    /// The lifetime in minutes, at most what the policy grants.
    #[schema(minimum = 60, maximum = 1440, example = 60)]
    pub expires_in_minutes: Option<u64>,
}

/// A token with everything that ACS's client SDKs need.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenResponse {
    /// The ACS access token: opaque, secret.
    #[serde(serialize_with = "expose")]
    #[schema(value_type = String)]
    pub token: AccessToken,
    /// When the token expires, RFC 3339.
    pub expires_on: DateTime<Utc>,
    /// When the token expires, milliseconds since 1970: what `AzureCommunicationTokenCredential` takes.
    pub expires_on_timestamp: i64,
    /// When to request the next token: ten minutes before the end, as the SDKs' proactive refresh does, or halfway if less
    /// than twenty minutes are left.
    pub refresh_after: DateTime<Utc>,
    /// The scopes of the token.
    #[schema(value_type = Vec<crate::domain::scope::Scope>)]
    pub scopes: Scopes,
    /// The address of the ACS resource, for the chat client.
    #[schema(example = "https://name.communication.azure.com")]
    pub endpoint: String,
    /// The identity that the token is for.
    pub user: CommunicationUser,
}

/// An ACS identity, in the shape of the SDKs' `CommunicationUserIdentifier`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommunicationUser {
    /// The identity's id in ACS.
    #[schema(example = "8:acs:2dee53b4-368b-45b4-ab52-8493fb117652_00000005-14a2-493b-8a72-5a3a0d000081")]
    pub communication_user_id: String,
}

fn expose<S: Serializer>(token: &AccessToken, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(token.expose())
}
