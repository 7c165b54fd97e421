//! `/revocations`: taking access away from many at once, or from everyone.

use axum::{Json as Answer, extract::State, http::StatusCode};
use uuid::Uuid;

use crate::http::{
    Api,
    extract::{Context, IdPath, Json, Operator, Query},
    paging,
    problem::{Code, Problem},
    routes::access,
    routes::users::named,
    view,
};
use crate::{
    api::{ProblemDocument, RevocationRequest, RevocationResponse, RevocationsPage, RevocationsQuery},
    auth::Role,
    domain::user::UserRef,
    users::bulk::RevocationTarget,
};

const MAX_USERS: usize = 10_000;

/// Revoke the access of many.
///
/// Once this is answered, nobody of them gets a token on an older authorisation; everyone is stopped by one row, however
/// many they are. At ACS the work goes on at the pace of its limits, only for users whose tokens may be alive, and first for
/// those who sign in anew.
#[utoipa::path(
    post, path = "/revocations", tag = "For operators and backends", security(("operatorKey" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "Repeating a request with the same key and body gives the same answer for 24 hours.")),
    request_body = RevocationRequest,
    responses(
        (status = 200, description = "What a `dryRun` would do.", body = RevocationResponse),
        (status = 202, description = "Accepted for good; follow it at `/revocations/{id}`. Role `operator`.", body = RevocationResponse),
        (status = 400, description = "`invalid_request`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "`missing_credentials`, `invalid_token`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "`payload_too_large`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "`idempotency_mismatch`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "`store_unavailable`: nobody is revoked, or some of a list are; make the same request again", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn revoke_many(
    State(api): State<Api>,
    operator: Operator,
    Context(trace): Context,
    Json(request): Json<RevocationRequest>,
) -> Result<(StatusCode, Answer<RevocationResponse>), Problem> {
    operator.must_be_one_of(&[Role::Operator])?;
    let users = request.users.unwrap_or_default();
    let whom = match (request.all, users.is_empty()) {
        (true, true) => RevocationTarget::All,
        (false, false) => RevocationTarget::Users(named(&users, MAX_USERS, UserRef::parse)?),
        _ => return Err(Problem::new(Code::InvalidRequest).detail("either `users` or `all` must be given")),
    };
    let is_unknown = |places: Vec<usize>| places.into_iter().filter_map(|place| users.get(place).cloned()).collect();
    let order = access::order(&operator, trace, request.reason)?;
    if request.dry_run {
        let estimate = api.users.estimate_revocation(&whom).await?;
        let (total, unknown) = (estimate.total, is_unknown(estimate.unknown));
        let answer = view::estimate(&order, total, unknown, request.all, api.clock.now());
        return Ok((StatusCode::OK, Answer(answer)));
    }
    let reject_older_sign_ins = request.reject_older_sign_ins.unwrap_or(true);
    let (status, unknown) = api.users.revoke_many(whom, reject_older_sign_ins, &order).await?;
    let answer = RevocationResponse { unknown: is_unknown(unknown), ..view::revocation(status) };
    Ok((StatusCode::ACCEPTED, Answer(answer)))
}

/// List revocations of many.
#[utoipa::path(
    get, path = "/revocations", tag = "For operators and backends", security(("operatorKey" = [])), params(RevocationsQuery),
    responses(
        (status = 200, description = "A page of revocations, newest first. Role `viewer`.", body = RevocationsPage),
        (status = 400, description = "`invalid_request`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "`missing_credentials`, `invalid_token`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "`store_unavailable`", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn list_revocations(
    State(api): State<Api>,
    operator: Operator,
    Query(query): Query<RevocationsQuery>,
) -> Result<Answer<RevocationsPage>, Problem> {
    operator.must_be_one_of(&[Role::Viewer])?;
    let limit = paging::limit(query.limit)?;
    let same_query = "revocations";
    let before = paging::after(query.cursor.as_deref(), same_query, |text| text.parse().ok())?;
    let revocations = api.users.list_revocations(before.unwrap_or(Uuid::max()), limit).await?;
    let is_full = i64::try_from(revocations.len()).is_ok_and(|count| count == limit);
    let last = revocations.last().filter(|_| is_full);
    let next_cursor = last.map(|last| paging::cursor(same_query, &last.revocation.id.to_string()));
    Ok(Answer(RevocationsPage { revocations: revocations.into_iter().map(view::revocation).collect(), next_cursor }))
}

/// Get a revocation of many.
#[utoipa::path(
    get, path = "/revocations/{id}", tag = "For operators and backends", security(("operatorKey" = [])),
    params(("id" = Uuid, Path, description = "The revocation's id")),
    responses(
        (status = 200, description = "How far it has come. Role `viewer`.", body = RevocationResponse),
        (status = 401, description = "`missing_credentials`, `invalid_token`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "`store_unavailable`", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn get_revocation(
    State(api): State<Api>,
    operator: Operator,
    IdPath(id): IdPath,
) -> Result<Answer<RevocationResponse>, Problem> {
    operator.must_be_one_of(&[Role::Viewer])?;
    Ok(Answer(view::revocation(api.users.revocation(id).await?)))
}
