//! Reads the body of an app user's request before anything is held for it, so that slow clients delay only themselves.

use std::time::Duration;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use tokio::time::timeout;

use crate::http::{extract::read_body, problem::Problem};

const MAX_BYTES: usize = 16 * 1024;

pub(in crate::http) async fn buffer(
    State(body_timeout): State<Duration>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let body = timeout(body_timeout, read_body(body, MAX_BYTES)).await;
    let body = body.map_err(|_| Problem::invalid("the body took too long to arrive"))??;
    Ok(next.run(Request::from_parts(parts, body.into())).await)
}
