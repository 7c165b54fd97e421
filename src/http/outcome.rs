//! How a request ended: the one response extension, read by the access log and by `Idempotency-Key`.

use std::net::IpAddr;

use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};

use super::problem::Problem;
use crate::{domain::user::UserId, tokens::request::TokenSource};

#[derive(Clone)]
pub(super) enum Outcome {
    Problem(Problem),
    TokenIssued(TokenIssued),
    /// Only a part of the request succeeded, so the same request may be tried again.
    Partial,
}

/// What the log keeps of an issued token: enough to find out who received which.
#[derive(Clone)]
pub(super) struct TokenIssued {
    pub(super) user: UserId,
    pub(super) fingerprint: String,
    pub(super) source: TokenSource,
    pub(super) expires_on: DateTime<Utc>,
    pub(super) sign_in_id: Option<String>,
    pub(super) session_id: Option<String>,
    pub(super) client: Option<IpAddr>,
}

impl IntoResponse for Problem {
    /// Sets the status only; the access log adds headers and body, because it knows the request's id.
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(Outcome::Problem(self));
        response
    }
}
