//! `/operations`.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::domain::operation::Kind;

/// A call to ACS that is retried until ACS confirms it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationResponse {
    /// Its id.
    pub id: Uuid,
    /// The kind of call.
    pub kind: Kind,
    /// Whether ACS has confirmed it.
    pub state: OperationState,
    /// The user.
    pub user: String,
    /// The identity.
    pub communication_user_id: String,
    /// The reason.
    pub reason: Option<String>,
    /// The number of attempts.
    pub attempts: i64,
    /// The error of the last attempt.
    pub last_error: Option<String>,
    /// When the next attempt is due, while it is pending.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When ACS confirmed it.
    pub confirmed_at: Option<DateTime<Utc>>,
    /// When it has propagated in ACS at the latest: 15 minutes after it was confirmed.
    pub propagates_by: Option<DateTime<Utc>>,
}

/// The state of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Retried until ACS confirms it.
    Pending,
    /// ACS confirmed it.
    Completed,
}

/// A page of operations.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationsPage {
    /// The operations, oldest first.
    pub operations: Vec<OperationResponse>,
    /// The `cursor` of the next page; null on the last page.
    pub next_cursor: Option<String>,
}

/// Which operations to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OperationsQuery {
    /// Only pending or only completed operations.
    pub state: Option<OperationState>,
    /// The maximum number, 1 to 1000; 100 by default.
    pub limit: Option<i64>,
    /// The `nextCursor` of the previous page.
    pub cursor: Option<String>,
}
