//! `Idempotency-Key` on operators' writes: a repeated request returns the first response and changes nothing.
//!
//! Only successful responses are stored; a request that failed may be repeated under the same key. Routes that return
//! tokens or streams are not behind this layer.

use std::time::Duration;

use axum::{
    RequestPartsExt,
    body::Body,
    extract::{OriginalUri, Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use crate::http::{
    authenticate::Operator,
    extract::{MAX_OPERATOR_BODY_BYTES, read_body},
    outcome::Outcome,
    problem::{Code, Problem},
    state::AppState,
};
use crate::store::{Idempotency, IdempotentRequest};

pub(super) const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const RETENTION: Duration = Duration::from_hours(24);
/// A request that has not finished after this long belongs to a process that died.
const ABANDONED_AFTER: Duration = Duration::from_mins(1);
const MAX_KEY_BYTES: usize = 128;
const MAX_RESPONSE_BYTES: usize = 1024 * 1024;

pub(in crate::http) async fn idempotency(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let is_write = ![Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    let Some(key) = request.headers().get(&KEY).cloned().filter(|_| is_write) else {
        return Ok(next.run(request).await);
    };
    let (mut parts, body) = request.into_parts();
    let operator: Operator = parts.extract_with_state(&state).await?;
    let key = parse_key(&key)?;
    let body = read_body(body, MAX_OPERATOR_BODY_BYTES).await?;
    let now = state.clock.now();
    let named = IdempotentRequest {
        actor: operator.name().to_owned(),
        route: route(&mut parts).await,
        key,
        body_hash: hex::encode(Sha256::digest(&body)),
        begun_at: now,
    };
    match state.store.begin_idempotent(&named, now + RETENTION, now - ABANDONED_AFTER).await? {
        Idempotency::Begun => {}
        Idempotency::Mismatch => return Err(Problem::new(Code::IdempotencyMismatch)),
        Idempotency::Running => {
            return Err(Problem::new(Code::OperationInProgress).detail("the same request is still being handled"));
        }
        Idempotency::Answered(status, body) => {
            let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
            let headers = [(header::CONTENT_TYPE, "application/json"), (REPLAYED, "true")];
            return Ok((status.unwrap_or(StatusCode::OK), headers, body).into_response());
        }
    }
    // In a task of its own: the response is stored even if the caller hangs up, and shutdown waits for it.
    let request = Request::from_parts(parts, Body::from(body));
    let work = {
        let state = state.clone();
        async move { store(&state, &named, next.run(request).await).await }
    };
    state.jobs.spawn(work).await.map_err(|_| Problem::new(Code::InternalError))?
}

fn parse_key(key: &HeaderValue) -> Result<String, Problem> {
    let key = key.to_str().ok().filter(|key| (1..=MAX_KEY_BYTES).contains(&key.len()));
    key.map(str::to_owned).ok_or_else(|| {
        Problem::invalid(format!("`Idempotency-Key`: must be 1 to {MAX_KEY_BYTES} visible ASCII characters"))
    })
}

/// The method and the path as they were sent.
async fn route(parts: &mut Parts) -> String {
    let OriginalUri(uri) = parts.extract().await.unwrap_or_else(|never| match never {});
    format!("{} {}", parts.method, uri.path())
}

/// Stores a response that may be replayed.
async fn store(state: &AppState, named: &IdempotentRequest, response: Response) -> Result<Response, Problem> {
    let is_partial = matches!(response.extensions().get(), Some(Outcome::Partial));
    if !response.status().is_success() || is_partial {
        state.store.forget_idempotent(named).await?;
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let body = read_body(body, MAX_RESPONSE_BYTES).await.map_err(|_| Problem::new(Code::InternalError))?;
    // The request has succeeded, so its response is returned even if it cannot be stored.
    let text = String::from_utf8_lossy(&body);
    if let Err(error) = state.store.answer_idempotent(named, i64::from(parts.status.as_u16()), &text).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "cannot store a response for its `Idempotency-Key`");
    }
    Ok(Response::from_parts(parts, Body::from(body)))
}
