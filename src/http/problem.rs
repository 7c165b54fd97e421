//! Problems: every error that leaves the house, as RFC 9457 documents with a stable `code`.
//!
//! The one place that decides what a caller sees. A problem is rendered and logged once, by `middleware::render_problems`,
//! which knows the request's id; the cause goes to the log only.

use std::{borrow::Cow, sync::Arc, time::Duration};

use axum::{
    http::{HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};

use crate::{acs::retry as upstream, auth, error::Error, limit::RateLimitStatus, store};

/// What a caller is told to wait when nothing better is known.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(2);

/// The stable names of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    InvalidRequest,
    MissingCredentials,
    InvalidToken,
    ReauthenticationRequired,
    ScopeNotAllowed,
    UserBlocked,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    MappingConflict,
    UserDeleting,
    PayloadTooLarge,
    UnsupportedMediaType,
    IdempotencyMismatch,
    RateLimited,
    InternalError,
    UpstreamRejected,
    UpstreamThrottled,
    UpstreamUnavailable,
    StoreUnavailable,
    KeysUnavailable,
    Overloaded,
    OperationInProgress,
}

impl Code {
    /// Returns status, code and title.
    pub(super) fn describe(self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::InvalidRequest => (S::BAD_REQUEST, "invalid_request", "The request is not valid"),
            Self::MissingCredentials => (S::UNAUTHORIZED, "missing_credentials", "A login is needed"),
            Self::InvalidToken => (S::UNAUTHORIZED, "invalid_token", "The login is not valid"),
            Self::ReauthenticationRequired => {
                (S::UNAUTHORIZED, "reauthentication_required", "The login is too old: sign in again")
            }
            Self::ScopeNotAllowed => (S::FORBIDDEN, "scope_not_allowed", "The scope is not allowed"),
            Self::UserBlocked => (S::FORBIDDEN, "user_blocked", "The user is blocked"),
            Self::Forbidden => (S::FORBIDDEN, "forbidden", "This is not allowed"),
            Self::NotFound => (S::NOT_FOUND, "not_found", "There is no such thing"),
            Self::MethodNotAllowed => (S::METHOD_NOT_ALLOWED, "method_not_allowed", "The method is not allowed here"),
            Self::MappingConflict => (S::CONFLICT, "mapping_conflict", "The mapping is another"),
            Self::UserDeleting => (S::CONFLICT, "user_deleting", "The user is being deleted"),
            Self::PayloadTooLarge => (S::PAYLOAD_TOO_LARGE, "payload_too_large", "The body is too large"),
            Self::UnsupportedMediaType => {
                (S::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "The body must be `application/json`")
            }
            Self::IdempotencyMismatch => {
                (S::UNPROCESSABLE_ENTITY, "idempotency_mismatch", "The idempotency key was used for another request")
            }
            Self::RateLimited => (S::TOO_MANY_REQUESTS, "rate_limited", "Too many requests"),
            Self::InternalError => (S::INTERNAL_SERVER_ERROR, "internal_error", "Something went wrong on our side"),
            Self::UpstreamRejected => (S::BAD_GATEWAY, "upstream_rejected", "ACS refused the service"),
            Self::UpstreamThrottled => (S::SERVICE_UNAVAILABLE, "upstream_throttled", "ACS is throttling the service"),
            Self::UpstreamUnavailable => (S::SERVICE_UNAVAILABLE, "upstream_unavailable", "ACS is not available"),
            Self::StoreUnavailable => (S::SERVICE_UNAVAILABLE, "store_unavailable", "The database is not available"),
            Self::KeysUnavailable => {
                (S::SERVICE_UNAVAILABLE, "keys_unavailable", "The keys to check the login are not available")
            }
            Self::Overloaded => (S::SERVICE_UNAVAILABLE, "overloaded", "The service is too busy"),
            Self::OperationInProgress => {
                (S::SERVICE_UNAVAILABLE, "operation_in_progress", "Another operation on the user is not finished")
            }
        }
    }
}

/// A problem on its way to the caller.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) code: Code,
    pub(super) detail: Option<Cow<'static, str>>,
    pub(super) retry_after: Option<Duration>,
    pub(super) challenge: Option<String>,
    pub(super) standing: Option<Box<RateLimitStatus>>,
    pub(super) cause: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Problem {
    pub(super) fn new(code: Code) -> Self {
        let (status, name, _) = code.describe();
        let challenge = match code {
            // RFC 6750 section 3.1: no error code where no credentials were presented.
            Code::MissingCredentials => Some("Bearer".to_owned()),
            _ if status == StatusCode::UNAUTHORIZED => Some(format!("Bearer error=\"{name}\"")),
            _ => None,
        };
        let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(DEFAULT_RETRY_AFTER);
        Self { code, detail: None, retry_after, challenge, standing: None, cause: None }
    }

    pub(super) fn response(code: Code) -> Response {
        Self::new(code).into_response()
    }

    pub(super) fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub(super) fn standing(mut self, standing: RateLimitStatus) -> Self {
        self.standing = Some(Box::new(standing));
        self
    }

    pub(super) fn retry_after(mut self, retry_after: Duration) -> Self {
        self.retry_after = Some(retry_after);
        self
    }

    fn cause(mut self, cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.cause = Some(Arc::new(cause));
        self
    }

    /// Logs the problem with its cause, in the span of its request; the latency is told where it ended the request.
    pub(super) fn log(&self, latency_us: Option<u64>) {
        let (status, code, _) = self.code.describe();
        let cause = self.cause.as_deref().map(chain);
        let status_code = status.as_u16();
        if status == StatusCode::INTERNAL_SERVER_ERROR || status == StatusCode::BAD_GATEWAY {
            tracing::error!(status = status_code, latency_us, code, cause, "request failed");
        } else if status.is_server_error() {
            tracing::warn!(status = status_code, latency_us, code, cause, "request failed");
        } else {
            tracing::info!(status = status_code, latency_us, code, cause, "request refused");
        }
    }

    /// The headers that belong to the problem.
    pub(super) fn headers(&self) -> impl Iterator<Item = (axum::http::HeaderName, HeaderValue)> {
        use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
        // Rounded up: a caller that comes a moment too early is refused again.
        let seconds = self.retry_after.map(|wait| wait.as_millis().div_ceil(1000).max(1).to_string());
        let header = |name, text: Option<&str>| Some((name, HeaderValue::from_str(text?).ok()?));
        [header(RETRY_AFTER, seconds.as_deref()), header(WWW_AUTHENTICATE, self.challenge.as_deref())]
            .into_iter()
            .flatten()
    }
}

/// Writes an error and its causes in one line; messages never repeat their source.
fn chain(error: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

impl IntoResponse for Problem {
    /// Gives the status only; the body follows where the request's id is known.
    fn into_response(self) -> Response {
        let (status, ..) = self.code.describe();
        let mut response = status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<auth::Error> for Problem {
    fn from(error: auth::Error) -> Self {
        match error {
            auth::Error::Missing => Self::new(Code::MissingCredentials),
            auth::Error::Invalid(_) | auth::Error::UnknownIssuer | auth::Error::UnknownKey => {
                Self::new(Code::InvalidToken).cause(error)
            }
            auth::Error::KeysUnavailable { retry_after } => {
                Self::new(Code::KeysUnavailable).retry_after(retry_after).cause(error)
            }
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::NoGrant => {
                Self::new(Code::Forbidden).detail("no grant of the policy matches this login").cause(error)
            }
            Error::ScopeNotAllowed(scope) => Self::new(Code::ScopeNotAllowed)
                .detail(format!("this login may not have the scope `{}`", scope.as_str()))
                .cause(error),
            Error::UserBlocked => Self::new(Code::UserBlocked).cause(error),
            Error::ReauthenticationRequired { max_age, .. } => {
                let mut problem = Self::new(Code::ReauthenticationRequired).cause(error);
                let max_age = max_age.as_secs();
                // RFC 9470 section 3: makes clients sign the user in again instead of presenting a cached token.
                problem.challenge =
                    Some(format!("Bearer error=\"insufficient_user_authentication\", max_age=\"{max_age}\""));
                problem
            }
            Error::UserDeleting => Self::new(Code::UserDeleting).cause(error),
            Error::NotFound => Self::new(Code::NotFound),
            Error::Conflict(detail) => Self::new(Code::MappingConflict).detail(detail).cause(error),
            Error::NotAllowed => {
                Self::new(Code::Forbidden).detail("the settings of the service do not allow it").cause(error)
            }
            Error::Invalid(detail) => Self::new(Code::InvalidRequest).detail(detail),
            Error::InProgress => Self::new(Code::OperationInProgress).cause(error),
            Error::Upstream(error) => error.into(),
            Error::Store(error) => Self::new(of_store(&error)).cause(error),
            Error::Interrupted => Self::new(Code::InternalError).cause(error),
        }
    }
}

impl From<upstream::Error> for Problem {
    fn from(error: upstream::Error) -> Self {
        match error {
            upstream::Error::Rejected(_) => Self::new(Code::UpstreamRejected).cause(error),
            upstream::Error::Store(ref cause) => Self::new(of_store(cause)).cause(error),
            upstream::Error::Throttled { retry_after } => {
                Self::new(Code::UpstreamThrottled).retry_after(retry_after).cause(error)
            }
            upstream::Error::Unavailable { retry_after, .. } => {
                Self::new(Code::UpstreamUnavailable).retry_after(retry_after).cause(error)
            }
        }
    }
}

fn of_store(error: &store::Error) -> Code {
    match error {
        store::Error::Unavailable(_) => Code::StoreUnavailable,
        store::Error::Url(_)
        | store::Error::Rejected(_)
        | store::Error::Corrupt { .. }
        | store::Error::Migration(_)
        | store::Error::TooOld { .. } => Code::InternalError,
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        Self::new(of_store(&error)).cause(error)
    }
}
