//! `/audit`: who did what to whom, newest first.

use axum::{Json, extract::State};
use chrono::DateTime;
use uuid::Uuid;

use crate::http::{
    Api,
    extract::{Operator, Query},
    paging,
    problem::{Code, Problem},
    routes, view,
};
use crate::{
    api::{AuditPage, AuditQuery, ProblemDocument},
    auth::Role,
    domain::{audit::Action, user::UserRef},
    store::AuditFilter,
};

/// List audit events.
#[utoipa::path(
    get, path = "/audit", tag = "For operators and backends", security(("operatorKey" = [])), params(AuditQuery),
    responses(
        (status = 200, description = "A page of events, newest first. Role `viewer`.", body = AuditPage),
        (status = 400, description = "`invalid_request`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "`missing_credentials`, `invalid_token`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`: there is no such user", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "`store_unavailable`", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn list_audit(
    State(api): State<Api>,
    operator: Operator,
    Query(query): Query<AuditQuery>,
) -> Result<Json<AuditPage>, Problem> {
    operator.must_be_one_of(&[Role::Viewer])?;
    let limit = paging::limit(query.limit)?;
    let same_query =
        format!("audit {:?} {:?} {:?} {:?} {:?}", query.user, query.actor, query.action, query.since, query.until);
    let before = paging::after(query.cursor.as_deref(), &same_query, |text| text.parse().ok())?;
    let user = match query.user.as_deref().map(UserRef::parse) {
        None => None,
        // An id may outlive its row, and so does its trail.
        Some(Ok(UserRef::Id(id))) => Some(id),
        Some(Ok(user)) => Some(routes::users::find(&api, &user).await?.id),
        Some(Err(error)) => return Err(Problem::new(Code::InvalidRequest).detail(format!("`user`: {error}"))),
    };
    if query.actor.as_ref().is_some_and(|actor| actor.contains('\0')) {
        return Err(Problem::new(Code::InvalidRequest).detail("`actor`: must not have NUL"));
    }
    let (first, last) = (DateTime::UNIX_EPOCH, DateTime::from_timestamp(253_402_300_799, 0).unwrap_or_default());
    let filter = AuditFilter {
        user,
        actor: query.actor,
        action: query.action.map(Action::as_str),
        since: query.since.unwrap_or(first),
        until: query.until.unwrap_or(last),
        before: before.unwrap_or(Uuid::max()),
    };
    let events = api.store.list_audit(&filter, limit).await?;
    let is_full = i64::try_from(events.len()).is_ok_and(|count| count == limit);
    let last = events.last().filter(|_| is_full);
    let next_cursor = last.map(|last| paging::cursor(&same_query, &last.id.to_string()));
    Ok(Json(AuditPage { events: events.into_iter().map(view::audit_event).collect(), next_cursor }))
}
