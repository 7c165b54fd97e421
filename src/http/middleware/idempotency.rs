//! `Idempotency-Key` on operators' writes: repeating a request gives the same answer and changes nothing.
//!
//! Only what succeeded is kept; what failed may be tried again under the same key. Answers with tokens never get here.

use std::time::Duration;

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use crate::http::{
    Api, MAX_OPS_BODY_BYTES,
    extract::{bearer, original_path},
    problem::{Code, Problem},
};
use crate::store::{Idempotency, IdempotentRequest};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const KEPT_FOR: Duration = Duration::from_hours(24);
/// A request that runs longer than this belongs to a process that died.
const ABANDONED_AFTER: Duration = Duration::from_mins(1);
const MAX_KEY_BYTES: usize = 128;
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// Answers a repeated request as the first time, and keeps the answer to a new one.
pub(in crate::http) async fn idempotent(State(api): State<Api>, request: Request, next: Next) -> Response {
    let is_write = ![Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    let Some(key) = request.headers().get(&KEY).cloned().filter(|_| is_write) else {
        return next.run(request).await;
    };
    // Who may not ask at all is told so by the handler.
    let operator = bearer(request.headers()).and_then(|key| api.operators.authenticate(key).ok().cloned());
    let Some(operator) = operator else {
        return next.run(request).await;
    };
    match answer(&api, operator.name, &key, request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn answer(
    api: &Api,
    actor: String,
    key: &HeaderValue,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let invalid = |detail: &'static str| Problem::new(Code::InvalidRequest).detail(detail);
    let key = key.to_str().ok().filter(|key| (1..=MAX_KEY_BYTES).contains(&key.len()));
    let key = key.ok_or_else(|| invalid("`Idempotency-Key`: must be 1 to 128 visible ASCII characters"))?.to_owned();
    let (mut parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_OPS_BODY_BYTES).await.map_err(|_| Problem::new(Code::PayloadTooLarge))?;
    let path = original_path(&mut parts).await;
    let route = format!("{} {path}", parts.method);
    let now = api.clock.now();
    let body_hash = Sha256::digest(&body).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let named = IdempotentRequest { actor, route, key, body_hash, begun_at: now };
    match api.store.begin_idempotent(&named, now + KEPT_FOR, now - ABANDONED_AFTER).await? {
        Idempotency::Begun => {}
        Idempotency::Mismatch => return Err(Problem::new(Code::IdempotencyMismatch)),
        Idempotency::Running => {
            return Err(Problem::new(Code::OperationInProgress).detail("the same request is being answered"));
        }
        Idempotency::Answered(status, answer) => {
            let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
            let headers = [(header::CONTENT_TYPE, "application/json"), (REPLAYED, "true")];
            return Ok((status.unwrap_or(StatusCode::OK), headers, answer).into_response());
        }
    }
    // Detached: a caller who hangs up must find the answer when asking again.
    let request = Request::from_parts(parts, Body::from(body));
    let (jobs, api) = (std::sync::Arc::clone(&api.jobs), api.clone());
    let work = async move { keep(&api, &named, next.run(request).await).await };
    jobs.spawn(work).await.map_err(|_| Problem::new(Code::InternalError))?
}

/// Keeps an answer that is worth repeating.
async fn keep(api: &Api, named: &IdempotentRequest, response: Response) -> Result<Response, Problem> {
    if !response.status().is_success() || response.extensions().get::<DoNotKeep>().is_some() {
        api.store.forget_idempotent(named).await?;
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, MAX_ANSWER_BYTES).await.map_err(|_| Problem::new(Code::InternalError))?;
    // What was asked for is done: an answer that cannot be kept is no reason to hide it.
    let text = String::from_utf8_lossy(&body);
    if let Err(error) = api.store.answer_idempotent(named, i64::from(parts.status.as_u16()), &text).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "an answer could not be kept");
    }
    Ok(Response::from_parts(parts, Body::from(body)))
}

/// Marks an answer that succeeded in part only: the same request may be tried again.
#[derive(Clone, Copy)]
pub(in crate::http) struct DoNotKeep;
