//! The control endpoints under `/_emulator`: what ACS would not tell, and fault injection.
//!
//! Nothing here is authenticated: anyone who can reach the emulator can use it.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
};
use chrono::DateTime;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    data_plane::read, faults::Rule, operations::round_trip, refusal::Refusal, shared::Shared, state::TokenState,
};

#[derive(Deserialize)]
struct Introspect {
    token: String,
}

/// The state of a token; a token that this process did not issue only has `active` and `reason`.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Introspection {
    active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scopes: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_on: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// `GET /_emulator/stats`
pub(super) async fn stats(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(shared.counters.to_json(shared.identities.existing()))
}

/// `GET /_emulator/identities/{id}`; an unknown id is reported as not existing.
pub(super) async fn identity(
    State(shared): State<Arc<Shared>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, Refusal> {
    let Path(id) = id.map_err(|_| Refusal::not_found())?;
    let report = shared.identities.report(&id, shared.clock.now().timestamp());
    Ok(Json(json!({
        "id": id,
        "exists": report.exists,
        "tokensIssued": report.issued,
        "tokensActive": report.active,
    })))
}

/// `POST /_emulator/introspect`
pub(super) async fn introspect(State(shared): State<Arc<Shared>>, body: Body) -> Result<Json<Introspection>, Refusal> {
    let body: Introspect = serde_json::from_slice(&read(body).await?)
        .map_err(|_| Refusal::validation("The request body must be {\"token\": text}.").at("token"))?;
    let Some(claims) = shared.mint.claims(&body.token) else {
        return Ok(Json(Introspection { reason: Some("unknown_token"), ..Introspection::default() }));
    };
    let identity = claims.identity();
    let now = shared.clock.now().timestamp();
    let reason = match shared.identities.token_state(&identity, claims.serial, claims.exp, now) {
        TokenState::Active => None,
        TokenState::Expired => Some("expired"),
        TokenState::Revoked => Some("revoked"),
        TokenState::IdentityDeleted => Some("identity_deleted"),
    };
    Ok(Json(Introspection {
        active: reason.is_none(),
        scopes: Some(claims.scopes().into_iter().map(str::to_owned).collect()),
        expires_on: DateTime::from_timestamp(claims.exp, 0).map(round_trip),
        identity: Some(identity),
        reason,
    }))
}

/// `GET /_emulator/jwks`
pub(super) async fn jwks(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(shared.mint.key_set())
}

/// `GET /_emulator/faults`: the rules that can still fire, with their remaining counts.
pub(super) async fn list_faults(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(echo(&shared.faults.list()))
}

/// `PUT /_emulator/faults`
pub(super) async fn replace_faults(State(shared): State<Arc<Shared>>, body: Body) -> Result<Json<Value>, Refusal> {
    let rules = Rule::parse_all(&read(body).await?)?;
    shared.faults.replace(rules.clone());
    Ok(Json(echo(&rules)))
}

/// `DELETE /_emulator/faults`
pub(super) async fn clear_faults(State(shared): State<Arc<Shared>>) -> StatusCode {
    shared.faults.replace(Vec::new());
    StatusCode::NO_CONTENT
}

/// The response to a wrong method on one of the paths above.
pub(super) async fn method_not_allowed() -> Refusal {
    Refusal::method_not_allowed()
}

fn echo(rules: &[Rule]) -> Value {
    let rules: Vec<Value> = rules.iter().map(Rule::to_json).collect();
    json!({ "rules": rules })
}
