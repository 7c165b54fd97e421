//! `/operations`: accepted work, finished and not.

use axum::{Json, extract::State};
use uuid::Uuid;

use crate::http::{
    Api,
    extract::{IdPath, Operator, Query},
    paging,
    problem::{Code, Problem},
    view,
};
use crate::{
    api::{OperationResponse, OperationState, OperationsPage, OperationsQuery, ProblemDocument},
    auth::Role,
};

/// List operations.
#[utoipa::path(
    get, path = "/operations", tag = "For operators and backends", security(("operatorKey" = [])), params(OperationsQuery),
    responses(
        (status = 200, description = "A page of operations. Role `viewer`.", body = OperationsPage),
        (status = 400, description = "`invalid_request`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "`missing_credentials`, `invalid_token`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "`store_unavailable`", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn list_operations(
    State(api): State<Api>,
    operator: Operator,
    Query(query): Query<OperationsQuery>,
) -> Result<Json<OperationsPage>, Problem> {
    operator.must_be_one_of(&[Role::Viewer])?;
    let limit = paging::limit(query.limit)?;
    let same_query = format!("operations {:?}", query.state);
    let after = paging::after(query.cursor.as_deref(), &same_query, |text| text.parse().ok())?;
    let pending = query.state.map(|state| state == OperationState::Pending);
    let operations = api.store.list_operations(pending, after.unwrap_or(Uuid::nil()), limit).await?;
    let is_full = i64::try_from(operations.len()).is_ok_and(|count| count == limit);
    let last = operations.last().filter(|_| is_full);
    let next_cursor = last.map(|last| paging::cursor(&same_query, &last.id.to_string()));
    Ok(Json(OperationsPage { operations: operations.into_iter().map(view::operation).collect(), next_cursor }))
}

/// Get an operation.
#[utoipa::path(
    get, path = "/operations/{id}", tag = "For operators and backends", security(("operatorKey" = [])),
    params(("id" = Uuid, Path, description = "The operation's id")),
    responses(
        (status = 200, description = "The operation. Role `viewer` or `revoker`.", body = OperationResponse),
        (status = 401, description = "`missing_credentials`, `invalid_token`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "`store_unavailable`", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn get_operation(
    State(api): State<Api>,
    operator: Operator,
    IdPath(id): IdPath,
) -> Result<Json<OperationResponse>, Problem> {
    // Who may revoke may also see what became of it.
    operator.must_be_one_of(&[Role::Viewer, Role::Revoker])?;
    Ok(Json(view::operation(api.store.find_operation(id).await?.ok_or_else(|| Problem::new(Code::NotFound))?)))
}
