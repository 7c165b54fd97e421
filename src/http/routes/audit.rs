//! `/audit`: the audit trail, newest first.

use axum::{Json, extract::State};
use chrono::DateTime;
use uuid::Uuid;

use crate::{
    api::{AuditPage, AuditQuery},
    auth::Role,
    domain::{audit::Action, user::UserRef},
    http::{authenticate::Operator, extract::Query, paging, problem::Problem, state::AppState, view},
    store::AuditFilter,
};

/// 9999-12-31T23:59:59Z
const LAST_SECOND: i64 = 253_402_300_799;

/// List audit events.
///
/// Needs the role `viewer`.
#[utoipa::path(
    get, path = "/audit", tag = "For operators and backends", security(("operatorKey" = [])), params(AuditQuery),
    responses((status = 200, description = "A page of events, newest first.", body = AuditPage))
)]
pub(in crate::http) async fn list_audit(
    State(state): State<AppState>,
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
        // Events are kept longer than the row of their user.
        Some(Ok(UserRef::Id(id))) => Some(id),
        Some(Ok(user)) => Some(state.user(&user).await?.id),
        Some(Err(error)) => return Err(Problem::invalid(format!("`user`: {error}"))),
    };
    if query.actor.as_ref().is_some_and(|actor| actor.contains('\0')) {
        return Err(Problem::invalid("`actor`: must not contain NUL"));
    }
    let filter = AuditFilter {
        user,
        actor: query.actor,
        action: query.action.map(Action::as_str),
        since: query.since.unwrap_or(DateTime::UNIX_EPOCH),
        until: query.until.or(DateTime::from_timestamp(LAST_SECOND, 0)).unwrap_or_default(),
        before: before.unwrap_or(Uuid::max()),
    };
    let events = state.store.list_audit(&filter, limit).await?;
    let next_cursor = paging::next(&events, limit, &same_query, |event| event.id.to_string());
    Ok(Json(AuditPage { events: events.into_iter().map(view::audit_event).collect(), next_cursor }))
}
