//! What handlers take out of requests, with problems for whatever is wrong in them.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request},
    http::{StatusCode, header, request::Parts},
};
use serde::de::DeserializeOwned;

use super::{
    Api,
    middleware::RequestId,
    problem::{Code, Problem},
};
use crate::auth;

/// A verified login of an app user.
pub(super) struct Login(pub(super) auth::Login);

impl FromRequestParts<Api> for Login {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let token = bearer(parts).ok_or(auth::Error::Missing)?;
        Ok(Self(api.authenticator.authenticate(token).await?))
    }
}

/// Reads `Authorization: Bearer …` (RFC 6750 section 2.1); the scheme's name has no case (RFC 9110 section 11.1).
fn bearer(parts: &Parts) -> Option<&str> {
    let mut values = parts.headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let only_one = values.next().is_none();
    (only_one && scheme.eq_ignore_ascii_case("bearer")).then(|| token.trim())
}

impl<S: Sync> FromRequestParts<S> for RequestId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Problem::new(Code::InternalError))
    }
}

/// A JSON body that may be left out altogether.
pub(super) struct OptionalJson<T>(pub(super) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let content_type = request.headers().get(header::CONTENT_TYPE).cloned();
        let body = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => Problem::new(Code::PayloadTooLarge),
                _ => Problem::new(Code::InvalidRequest).detail("the body could not be read"),
            })?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        if !content_type.is_some_and(|value| value.to_str().is_ok_and(is_json)) {
            return Err(Problem::new(Code::UnsupportedMediaType));
        }
        parse(&body).map(Self)
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// Reads JSON, naming the member that is wrong.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let invalid = |detail: String| Problem::new(Code::InvalidRequest).detail(detail);
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let place = if path == "." {
            "the body".to_owned()
        } else {
            format!("`{path}`")
        };
        invalid(format!("{place}: {}", error.inner()))
    })?;
    json.end().map_err(|error| invalid(format!("the body: {error}")))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_is_json() {
        for good in ["application/json", "Application/JSON; charset=utf-8"] {
            assert!(is_json(good), "{good}");
        }
        for bad in ["text/plain", "application/jsonx", "application/problem+json", ""] {
            assert!(!is_json(bad), "{bad}");
        }
    }
}
