//! Problems: every error of the API as an RFC 9457 document with a stable `code`.
//!
//! The one place that decides what a caller sees of an error. The access log writes the body, because it knows the
//! request's id, and logs the cause, which callers never see.

use std::{borrow::Cow, sync::Arc, time::Duration};

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use chrono::{DateTime, Utc};

use crate::{acs::retry as upstream, api::ProblemDocument, auth, error::Error, store};

/// The `Retry-After` of a 503 when nothing better is known.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(2);

/// Declares the problem codes: variant, HTTP status, stable name, title.
macro_rules! codes {
    ($($variant:ident $status:ident $name:literal $title:literal,)*) => {
        /// The stable names of problems.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Code { $($variant,)* }

        impl Code {
            pub(super) const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns status, code and title.
            pub(super) fn describe(self) -> (StatusCode, &'static str, &'static str) {
                match self { $(Self::$variant => (StatusCode::$status, $name, $title),)* }
            }
        }
    };
}

codes! {
    InvalidRequest BAD_REQUEST "invalid_request" "Invalid request",
    MissingCredentials UNAUTHORIZED "missing_credentials" "Authentication required",
    InvalidToken UNAUTHORIZED "invalid_token" "Invalid credentials",
    ReauthenticationRequired UNAUTHORIZED "reauthentication_required" "Sign in again",
    ScopeNotAllowed FORBIDDEN "scope_not_allowed" "Scope not allowed",
    UserBlocked FORBIDDEN "user_blocked" "User blocked",
    Forbidden FORBIDDEN "forbidden" "Forbidden",
    NotFound NOT_FOUND "not_found" "Not found",
    MethodNotAllowed METHOD_NOT_ALLOWED "method_not_allowed" "Method not allowed",
    MappingConflict CONFLICT "mapping_conflict" "Conflicting mapping",
    UserDeleting CONFLICT "user_deleting" "User is being deleted",
    PayloadTooLarge PAYLOAD_TOO_LARGE "payload_too_large" "Body too large",
    UnsupportedMediaType UNSUPPORTED_MEDIA_TYPE "unsupported_media_type" "Unsupported media type",
    IdempotencyMismatch UNPROCESSABLE_ENTITY "idempotency_mismatch" "Idempotency key used for a different request",
    RateLimited TOO_MANY_REQUESTS "rate_limited" "Too many requests",
    InternalError INTERNAL_SERVER_ERROR "internal_error" "Internal error",
    UpstreamRejected BAD_GATEWAY "upstream_rejected" "ACS rejected the request",
    UpstreamThrottled SERVICE_UNAVAILABLE "upstream_throttled" "ACS quota used up",
    UpstreamUnavailable SERVICE_UNAVAILABLE "upstream_unavailable" "ACS unavailable",
    StoreUnavailable SERVICE_UNAVAILABLE "store_unavailable" "Database unavailable",
    KeysUnavailable SERVICE_UNAVAILABLE "keys_unavailable" "Identity provider's keys unavailable",
    Overloaded SERVICE_UNAVAILABLE "overloaded" "Service overloaded",
    OperationInProgress SERVICE_UNAVAILABLE "operation_in_progress" "Operation in progress",
}

/// An error that a caller will see.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    code: Code,
    detail: Option<Cow<'static, str>>,
    retry_after: Option<Duration>,
    challenge: Option<String>,
    sign_ins_valid_from: Option<DateTime<Utc>>,
    cause: Option<Arc<dyn std::error::Error + Send + Sync>>,
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
        Self { code, detail: None, retry_after, challenge, sign_ins_valid_from: None, cause: None }
    }

    pub(super) fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidRequest).detail(detail)
    }

    pub(super) fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
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

    pub(super) fn status(&self) -> StatusCode {
        self.code.describe().0
    }

    pub(super) fn name(&self) -> &'static str {
        self.code.describe().1
    }

    /// Logs the problem with its cause, in the span of its request; the latency where the problem ended the request.
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

    pub(super) fn document(&self, request_id: &str) -> ProblemDocument {
        let (status, code, title) = self.code.describe();
        ProblemDocument {
            kind: format!("urn:acs-token-vendor:problem:{code}"),
            title: title.to_owned(),
            status: status.as_u16(),
            code: code.to_owned(),
            detail: self.detail.as_ref().map(ToString::to_string),
            sign_ins_valid_from: self.sign_ins_valid_from,
            request_id: request_id.to_owned(),
        }
    }

    /// `Retry-After` and `WWW-Authenticate`, where the problem has them.
    pub(super) fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        // Rounded up: a caller that comes a moment too early is refused again.
        let seconds = self.retry_after.map(|wait| wait.as_millis().div_ceil(1000).max(1).to_string());
        let header = |name, text: Option<&str>| Some((name, HeaderValue::from_str(text?).ok()?));
        [header(header::RETRY_AFTER, seconds.as_deref()), header(header::WWW_AUTHENTICATE, self.challenge.as_deref())]
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
                Self::new(Code::Forbidden).detail("no grant of the policy matches this caller").cause(error)
            }
            Error::ScopeNotAllowed(scope) => Self::new(Code::ScopeNotAllowed)
                .detail(format!("the scope `{}` is not granted to this caller", scope.as_str()))
                .cause(error),
            Error::UserBlocked => Self::new(Code::UserBlocked).cause(error),
            Error::ReauthenticationRequired { max_age, sign_ins_valid_from } => {
                let mut problem = Self::new(Code::ReauthenticationRequired).cause(error);
                problem.sign_ins_valid_from = Some(sign_ins_valid_from);
                // RFC 9470 section 3: clients then sign the user in again instead of presenting a cached token.
                let max_age = max_age.as_secs();
                problem.challenge =
                    Some(format!("Bearer error=\"insufficient_user_authentication\", max_age=\"{max_age}\""));
                problem
            }
            Error::UserDeleting => Self::new(Code::UserDeleting).cause(error),
            Error::NotFound => Self::new(Code::NotFound),
            Error::Conflict(detail) => Self::new(Code::MappingConflict).detail(detail).cause(error),
            Error::NotAllowed => {
                Self::new(Code::Forbidden).detail("the settings of the service do not allow this").cause(error)
            }
            Error::Invalid(detail) => Self::invalid(detail),
            Error::InProgress => Self::new(Code::OperationInProgress).cause(error),
            Error::Upstream(error) => error.into(),
            Error::Store(error) => Self::new(of_store(&error)).cause(error),
            Error::Interrupted => Self::new(Code::InternalError).cause(error),
        }
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        Self::new(of_store(&error)).cause(error)
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
