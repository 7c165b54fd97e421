//! `/operations`: calls to ACS that were accepted, pending and completed.

use axum::{Json, extract::State};
use uuid::Uuid;

use crate::{
    api::{OperationResponse, OperationState, OperationsPage, OperationsQuery},
    auth::Role,
    http::{
        authenticate::Operator,
        extract::{IdPath, Query},
        paging,
        problem::{Code, Problem},
        state::AppState,
        view,
    },
};

/// List operations.
///
/// Needs the role `viewer`.
#[utoipa::path(
    get, path = "/operations", tag = "For operators and backends", security(("operatorKey" = [])),
    params(OperationsQuery),
    responses((status = 200, description = "A page of operations, oldest first.", body = OperationsPage))
)]
pub(in crate::http) async fn list_operations(
    State(state): State<AppState>,
    operator: Operator,
    Query(query): Query<OperationsQuery>,
) -> Result<Json<OperationsPage>, Problem> {
    operator.must_be_one_of(&[Role::Viewer])?;
    let limit = paging::limit(query.limit)?;
    let same_query = format!("operations {:?}", query.state);
    let after = paging::after(query.cursor.as_deref(), &same_query, |text| text.parse().ok())?;
    let pending = query.state.map(|state| state == OperationState::Pending);
    let operations = state.store.list_operations(pending, after.unwrap_or(Uuid::nil()), limit).await?;
    let next_cursor = paging::next(&operations, limit, &same_query, |operation| operation.id.to_string());
    Ok(Json(OperationsPage { operations: operations.into_iter().map(view::operation).collect(), next_cursor }))
}

/// Get an operation.
///
/// Needs the role `viewer` or `revoker`.
#[utoipa::path(
    get, path = "/operations/{id}", tag = "For operators and backends", security(("operatorKey" = [])),
    params(("id" = Uuid, Path, description = "The operation's id")),
    responses((status = 200, description = "The operation.", body = OperationResponse))
)]
pub(in crate::http) async fn get_operation(
    State(state): State<AppState>,
    operator: Operator,
    IdPath(id): IdPath,
) -> Result<Json<OperationResponse>, Problem> {
    operator.must_be_one_of(&[Role::Viewer, Role::Revoker])?;
    let operation = state.store.find_operation(id).await?.ok_or_else(|| Problem::new(Code::NotFound))?;
    Ok(Json(view::operation(operation)))
}
