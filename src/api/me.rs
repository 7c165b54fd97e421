//! `/me`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::CommunicationUser;

/// The caller's own mapping.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeResponse {
    /// The caller's id in this service.
    #[schema(example = "u_0198f0c1a2b37c4d8e5f60718293a4b5")]
    pub id: String,
    /// The address of the ACS resource.
    pub endpoint: String,
    /// The caller's ACS identity.
    pub user: CommunicationUser,
}
