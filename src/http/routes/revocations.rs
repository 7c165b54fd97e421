//! `/revocations`: revoking the access of many users, or of everyone.

use axum::{Json as JsonResponse, extract::State, http::StatusCode};
use uuid::Uuid;

use crate::{
    api::{IdempotencyKeyParam, RevocationRequest, RevocationResponse, RevocationsPage, RevocationsQuery},
    auth::Role,
    domain::user::UserRef,
    http::{
        authenticate::Operator,
        context::Context,
        extract::{IdPath, Json, Query, parse_users},
        paging,
        problem::Problem,
        state::AppState,
        view,
    },
    users::bulk::RevocationTarget,
};

const MAX_USERS: usize = 10_000;

/// Revoke the access of many users, or of everyone.
///
/// Once this has answered, no token is issued to these users on the ground of an older sign-in. At ACS the tokens are
/// revoked in the background, within its rate limits, only for users with unexpired tokens; users who sign in again go
/// first. Needs the role `operator`.
///
/// Of a list, all users are revoked or none. After `503 store_unavailable` it is not certain which of the two: send the
/// same request again, which does no harm.
#[utoipa::path(
    post, path = "/revocations", tag = "For operators and backends", security(("operatorKey" = [])),
    params(IdempotencyKeyParam),
    request_body = RevocationRequest,
    responses(
        (status = 200, description = "What a `dryRun` would do.", body = RevocationResponse),
        (status = 202, description = "Accepted durably; `GET /revocations/{id}` reports the progress.", body = RevocationResponse),
    )
)]
pub(in crate::http) async fn revoke_many(
    State(state): State<AppState>,
    operator: Operator,
    Context(request_context): Context,
    Json(request): Json<RevocationRequest>,
) -> Result<(StatusCode, JsonResponse<RevocationResponse>), Problem> {
    operator.must_be_one_of(&[Role::Operator])?;
    let users = request.users.unwrap_or_default();
    let target = match (request.all, users.is_empty()) {
        (true, true) => RevocationTarget::All,
        (false, false) => RevocationTarget::Users(parse_users(&users, MAX_USERS, UserRef::parse)?),
        _ => return Err(Problem::invalid("either `users` or `all` must be given")),
    };
    let named = |indexes: Vec<usize>| indexes.into_iter().filter_map(|index| users.get(index).cloned()).collect();
    let change = operator.change(request_context, request.reason)?;
    if request.dry_run {
        let estimate = state.users.estimate_revocation(&target).await?;
        let (total, unknown) = (estimate.total, named(estimate.unknown));
        let response = view::estimate(&change, total, unknown, request.all, state.clock.now());
        return Ok((StatusCode::OK, JsonResponse(response)));
    }
    let reject_older_sign_ins = request.reject_older_sign_ins.unwrap_or(true);
    let (status, unknown) = state.users.revoke_many(target, reject_older_sign_ins, &change).await?;
    let response = RevocationResponse { unknown: named(unknown), ..view::revocation(status) };
    Ok((StatusCode::ACCEPTED, JsonResponse(response)))
}

/// List revocations of many users.
///
/// Needs the role `viewer`.
#[utoipa::path(
    get, path = "/revocations", tag = "For operators and backends", security(("operatorKey" = [])),
    params(RevocationsQuery),
    responses((status = 200, description = "A page of revocations, newest first.", body = RevocationsPage))
)]
pub(in crate::http) async fn list_revocations(
    State(state): State<AppState>,
    operator: Operator,
    Query(query): Query<RevocationsQuery>,
) -> Result<JsonResponse<RevocationsPage>, Problem> {
    operator.must_be_one_of(&[Role::Viewer])?;
    let limit = paging::limit(query.limit)?;
    let same_query = "revocations";
    let before = paging::after(query.cursor.as_deref(), same_query, |text| text.parse().ok())?;
    let revocations = state.users.list_revocations(before.unwrap_or(Uuid::max()), limit).await?;
    let next_cursor = paging::next(&revocations, limit, same_query, |status| status.revocation.id.to_string());
    let revocations = revocations.into_iter().map(view::revocation).collect();
    Ok(JsonResponse(RevocationsPage { revocations, next_cursor }))
}

/// Get a revocation of many users.
///
/// Needs the role `viewer`.
#[utoipa::path(
    get, path = "/revocations/{id}", tag = "For operators and backends", security(("operatorKey" = [])),
    params(("id" = Uuid, Path, description = "The revocation's id")),
    responses((status = 200, description = "The revocation and its progress.", body = RevocationResponse))
)]
pub(in crate::http) async fn get_revocation(
    State(state): State<AppState>,
    operator: Operator,
    IdPath(id): IdPath,
) -> Result<JsonResponse<RevocationResponse>, Problem> {
    operator.must_be_one_of(&[Role::Viewer])?;
    Ok(JsonResponse(view::revocation(state.users.revocation(id).await?)))
}
