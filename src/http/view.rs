//! Domain values as the JSON of our API.

use axum::{Json, http::StatusCode};
use chrono::{DateTime, Duration, Utc};

use crate::{
    api::{
        AuditEvent, ChangeResponse, HeldTokenResponse, OperationResponse, OperationState, RevocationResponse,
        UserResponse,
    },
    domain::{audit::Actor, operation::Operation, user::User},
    jobs::ChangeContext,
    store::{AuditRow, HeldToken},
    users::{access::ChangeOutcome, bulk::RevocationStatus},
};

/// How long a revocation or deletion may take to propagate in ACS (learn.microsoft.com, "identity model").
const PROPAGATION_MINUTES: i64 = 15;

pub(super) fn user(user: User) -> UserResponse {
    UserResponse {
        id: user.id.as_str().to_owned(),
        issuer: user.app_user.issuer.as_str().to_owned(),
        subject: user.app_user.subject.as_str().to_owned(),
        state: user.state,
        communication_user_id: user.acs_id.map(|id| id.as_str().to_owned()),
        resource: user.resource,
        blocked_at: user.blocked_at,
        sign_ins_valid_from: user.sign_ins_valid_from,
        pending_operation: user.pending_operation,
        last_minted_at: user.last_minted_at,
        created_at: user.created_at,
        updated_at: user.updated_at,
    }
}

pub(super) fn operation(operation: Operation) -> OperationResponse {
    let is_done = operation.completed_at.is_some();
    OperationResponse {
        id: operation.id,
        kind: operation.kind,
        state: if is_done { OperationState::Completed } else { OperationState::Pending },
        user: operation.user.as_str().to_owned(),
        communication_user_id: operation.acs_id.as_str().to_owned(),
        reason: operation.reason,
        attempts: operation.attempts,
        last_error: operation.last_error,
        next_attempt_at: (!is_done).then(|| operation.next_attempt_at.max(operation.not_before)),
        created_at: operation.created_at,
        confirmed_at: operation.completed_at,
        propagates_by: operation.completed_at.map(|at| at + Duration::minutes(PROPAGATION_MINUTES)),
    }
}

/// 200 if the change is complete at ACS, 202 if it is still being retried.
pub(super) fn changed(changed: ChangeOutcome) -> (StatusCode, Json<ChangeResponse>) {
    let is_pending = changed.operation.as_ref().is_some_and(|operation| operation.completed_at.is_none());
    let status = if is_pending { StatusCode::ACCEPTED } else { StatusCode::OK };
    (status, Json(ChangeResponse { user: user(changed.user), operation: changed.operation.map(operation) }))
}

pub(super) fn revocation(status: RevocationStatus) -> RevocationResponse {
    let RevocationStatus { revocation, progress } = status;
    let known = progress.pending + progress.confirmed;
    RevocationResponse {
        id: Some(revocation.id),
        all: revocation.epoch.is_some(),
        total: revocation.total,
        waiting: if revocation.swept_at.is_some() { 0 } else { (revocation.total - known).max(0) },
        pending: progress.pending,
        confirmed: progress.confirmed,
        actor: revocation.actor.name().to_owned(),
        reason: revocation.reason,
        created_at: revocation.created_at,
        completed_at: revocation.completed_at,
        unknown: Vec::new(),
    }
}

/// The response to a dry run.
pub(super) fn estimate(
    change: &ChangeContext,
    total: i64,
    unknown: Vec<String>,
    all: bool,
    now: DateTime<Utc>,
) -> RevocationResponse {
    RevocationResponse {
        id: None,
        all,
        total,
        waiting: total,
        pending: 0,
        confirmed: 0,
        actor: change.actor.as_ref().map_or_else(String::new, |actor| Actor::name(actor).to_owned()),
        reason: change.reason.clone(),
        created_at: now,
        completed_at: None,
        unknown,
    }
}

pub(super) fn audit_event(row: AuditRow) -> AuditEvent {
    AuditEvent {
        id: row.id,
        at: row.at,
        action: row.action,
        actor_kind: row.actor_kind,
        actor: row.actor,
        user: row.user_id,
        communication_user_id: row.acs_id,
        operation: row.operation_id,
        request_id: row.request_id,
        client: row.client,
        token_fingerprint: row.token_fingerprint,
        token_scopes: row.token_scopes,
        token_expires_on: row.token_expires_at,
        detail: row.detail.map(|detail| detail.0),
    }
}

pub(super) fn held_token(token: HeldToken) -> HeldTokenResponse {
    let of_sign_in = |name: &str| token.detail.as_ref()?.0.get(name)?.as_str().map(str::to_owned);
    HeldTokenResponse {
        sign_in_id: of_sign_in("jti"),
        session_id: of_sign_in("sid"),
        fingerprint: token.token_fingerprint,
        scopes: token.token_scopes,
        issued_at: token.at,
        expires_on: token.token_expires_at,
        ended_at: token.ended_at,
        communication_user_id: token.acs_id,
        request_id: token.request_id,
        client: token.client,
    }
}
