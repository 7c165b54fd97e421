//! `/users/{user}`: revoke, block, unblock, delete, and undoing the cut-off of older sign-ins.

use axum::{Json, extract::State, http::StatusCode};

use crate::{
    api::{ChangeRequest, ChangeResponse, IdempotencyKeyParam, UserParam},
    auth::Role,
    domain::{audit::RequestContext, user::UserRef},
    http::{
        authenticate::Operator,
        context::Context,
        extract::{OptionalJson, UserPath},
        problem::Problem,
        state::AppState,
        view,
    },
    jobs::ChangeContext,
    users::access::AccessChange,
};

type ChangeAnswer = Result<(StatusCode, Json<ChangeResponse>), Problem>;

/// Revoke a user's access.
///
/// Ends every token of the user. Unless `rejectOlderSignIns` is false, sign-ins from before now get no more tokens. Needs
/// the role `revoker`.
#[utoipa::path(
    post, path = "/users/{user}/revoke", tag = "For operators and backends", security(("operatorKey" = [])),
    params(UserParam, IdempotencyKeyParam),
    request_body(content = Option<ChangeRequest>, description = "May be left out."),
    responses(
        (status = 200, description = "Revoked, at ACS too.", body = ChangeResponse),
        (status = 202, description = "Accepted durably; retried until ACS confirms it.", body = ChangeResponse),
    )
)]
pub(in crate::http) async fn revoke_user(
    State(state): State<AppState>,
    operator: Operator,
    Context(request_context): Context,
    UserPath(user): UserPath,
    OptionalJson(request): OptionalJson<ChangeRequest>,
) -> ChangeAnswer {
    operator.must_be_one_of(&[Role::Revoker])?;
    let reject_older_sign_ins = request.reject_older_sign_ins.unwrap_or(true);
    let change = operator.change(request_context, request.reason)?;
    apply(&state, &user, AccessChange::Revoke { reject_older_sign_ins }, &change).await
}

/// Block a user.
///
/// Ends every token of the user, and issues none until the block is lifted. Needs the role `revoker`.
#[utoipa::path(
    post, path = "/users/{user}/block", tag = "For operators and backends", security(("operatorKey" = [])),
    params(UserParam, IdempotencyKeyParam),
    request_body(content = Option<ChangeRequest>, description = "May be left out."),
    responses(
        (status = 200, description = "Blocked, and revoked at ACS.", body = ChangeResponse),
        (status = 202, description = "Accepted durably; retried until ACS confirms it.", body = ChangeResponse),
    )
)]
pub(in crate::http) async fn block_user(
    State(state): State<AppState>,
    operator: Operator,
    Context(request_context): Context,
    UserPath(user): UserPath,
    OptionalJson(request): OptionalJson<ChangeRequest>,
) -> ChangeAnswer {
    operator.must_be_one_of(&[Role::Revoker])?;
    let change = plain_change(&operator, request_context, request)?;
    apply(&state, &user, AccessChange::Block, &change).await
}

/// Lift the block of a user.
///
/// What was revoked stays revoked: the user has to sign in again. Needs the role `revoker`.
#[utoipa::path(
    post, path = "/users/{user}/unblock", tag = "For operators and backends", security(("operatorKey" = [])),
    params(UserParam, IdempotencyKeyParam),
    request_body(content = Option<ChangeRequest>, description = "May be left out."),
    responses((status = 200, description = "Not blocked.", body = ChangeResponse))
)]
pub(in crate::http) async fn unblock_user(
    State(state): State<AppState>,
    operator: Operator,
    Context(request_context): Context,
    UserPath(user): UserPath,
    OptionalJson(request): OptionalJson<ChangeRequest>,
) -> ChangeAnswer {
    operator.must_be_one_of(&[Role::Revoker])?;
    let change = plain_change(&operator, request_context, request)?;
    Ok(view::changed(state.users.unblock(&user, &change).await?))
}

/// Accept a user's older sign-ins again.
///
/// Undoes the cut-off of a revocation that was a mistake. Tokens that it ended stay ended. Needs the role `operator`.
#[utoipa::path(
    post, path = "/users/{user}/allow-older-sign-ins", tag = "For operators and backends",
    security(("operatorKey" = [])),
    params(UserParam, IdempotencyKeyParam),
    request_body(content = Option<ChangeRequest>, description = "May be left out."),
    responses((status = 200, description = "Older sign-ins are accepted.", body = ChangeResponse))
)]
pub(in crate::http) async fn allow_older_sign_ins(
    State(state): State<AppState>,
    operator: Operator,
    Context(request_context): Context,
    UserPath(user): UserPath,
    OptionalJson(request): OptionalJson<ChangeRequest>,
) -> ChangeAnswer {
    operator.must_be_one_of(&[Role::Operator])?;
    let change = plain_change(&operator, request_context, request)?;
    Ok(view::changed(state.users.allow_older_sign_ins(&user, &change).await?))
}

/// Delete a user's identity.
///
/// Permanently, with the user's chat memberships. A newer sign-in starts again with a new identity. Needs the role
/// `operator`.
#[utoipa::path(
    delete, path = "/users/{user}", tag = "For operators and backends", security(("operatorKey" = [])),
    params(UserParam, IdempotencyKeyParam),
    request_body(content = Option<ChangeRequest>, description = "May be left out."),
    responses(
        (status = 200, description = "Deleted, at ACS too.", body = ChangeResponse),
        (status = 202, description = "Accepted durably; retried until ACS confirms it.", body = ChangeResponse),
    )
)]
pub(in crate::http) async fn delete_user(
    State(state): State<AppState>,
    operator: Operator,
    Context(request_context): Context,
    UserPath(user): UserPath,
    OptionalJson(request): OptionalJson<ChangeRequest>,
) -> ChangeAnswer {
    operator.must_be_one_of(&[Role::Operator])?;
    let change = plain_change(&operator, request_context, request)?;
    apply(&state, &user, AccessChange::Delete, &change).await
}

async fn apply(state: &AppState, user: &UserRef, kind: AccessChange, change: &ChangeContext) -> ChangeAnswer {
    Ok(view::changed(state.users.change(user, kind, change).await?))
}

/// Reads the request of a change that is not a revocation.
fn plain_change(
    operator: &Operator,
    request_context: RequestContext,
    request: ChangeRequest,
) -> Result<ChangeContext, Problem> {
    if request.reject_older_sign_ins.is_some() {
        return Err(Problem::invalid("`rejectOlderSignIns`: is only for a revocation"));
    }
    operator.change(request_context, request.reason)
}
