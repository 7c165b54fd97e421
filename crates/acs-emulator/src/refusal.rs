//! The error responses, in the shape that ACS uses.
//!
//! Recorded codes and texts are used word for word.

use std::borrow::Cow;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// An error answer.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) detail: Detail,
    pub(super) retry_after_seconds: Option<u64>,
}

/// The inside of `{"error": …}`.
#[derive(Debug, Serialize)]
pub(super) struct Detail {
    pub(super) code: Cow<'static, str>,
    pub(super) message: Cow<'static, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<Cow<'static, str>>,
    /// Version errors alone carry this member, always null.
    #[serde(rename = "innerError", skip_serializing_if = "Option::is_none")]
    inner_error: Option<()>,
}

#[derive(Serialize)]
struct Envelope {
    error: Detail,
}

impl Refusal {
    pub(super) fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        let detail = Detail { code: code.into(), message: message.into(), target: None, inner_error: None };
        Self { status, detail, retry_after_seconds: None }
    }

    /// Names the invalid member of the request.
    pub(super) fn at(mut self, target: impl Into<Cow<'static, str>>) -> Self {
        self.detail.target = Some(target.into());
        self
    }

    pub(super) fn validation(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "ValidationError", message)
    }

    pub(super) fn denied(message: &'static str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Denied", message)
    }

    pub(super) fn identity_not_owned() -> Self {
        let message = "Provided identity doesn't belong to the resource.";
        Self::new(StatusCode::UNAUTHORIZED, "IdentityNotOwned", message)
    }

    /// A choice: no response of ACS about a deleted identity was recorded, but the SDKs map 404 to a separate error.
    pub(super) fn identity_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "IdentityNotFound", "Provided identity doesn't exist.")
    }

    pub(super) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", "No operation has this path.")
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "No operation of this path has this method.")
    }

    pub(super) fn body_too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLarge", "The request body is too large or was cut short.")
    }

    pub(super) fn unspecified_version() -> Self {
        let message = "An API version is required, but was not specified.";
        Self::version("ApiVersionUnspecified", message)
    }

    pub(super) fn unsupported_version(uri: &str, version: &str) -> Self {
        Self::version(
            "UnsupportedApiVersion",
            format!(
                "The HTTP resource that matches the request URI '{uri}' does not support the API version '{version}'."
            ),
        )
    }

    /// A choice: no 429 of this service was recorded.
    pub(super) fn too_many_requests() -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", "The limit of calls in 30 seconds is exceeded.")
    }

    pub(super) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "The emulator failed.")
    }

    fn version(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let mut refusal = Self::new(StatusCode::BAD_REQUEST, code, message);
        refusal.detail.inner_error = Some(());
        refusal
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(Envelope { error: self.detail })).into_response();
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
