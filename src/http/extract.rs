//! What handlers take out of requests, with problems for whatever is wrong in them.

use axum::{
    RequestPartsExt,
    body::Bytes,
    extract::{FromRequest, FromRequestParts, OriginalUri, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{
    Api,
    middleware::access_log::{ClientAddress, RequestId},
    problem::{Code, Problem},
};
use crate::{
    auth::{self, Role},
    domain::{
        audit::{Actor, RequestContext},
        user::UserRef,
    },
};

/// The login of an app user, which the gate before the handler has verified.
pub(super) struct Login(pub(super) auth::SignIn);

impl FromRequestParts<Api> for Login {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Problem> {
        parts.extensions.remove().map(Self).ok_or_else(|| auth::Error::Missing.into())
    }
}

/// The holder of an operator's key.
pub(super) struct Operator(pub(super) auth::Operator);

impl FromRequestParts<Api> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let key = bearer(&parts.headers).ok_or(auth::Error::Missing)?;
        Ok(Self(api.operators.authenticate(key)?.clone()))
    }
}

impl Operator {
    /// Refuses a holder who has none of these roles.
    pub(super) fn must_be_one_of(&self, roles: &[Role]) -> Result<(), Problem> {
        if self.0.has_one_of(roles) {
            return Ok(());
        }
        let names: Vec<_> = roles.iter().map(|role| format!("`{}`", role.as_str())).collect();
        Err(Problem::new(Code::Forbidden)
            .detail(format!("the key needs the role {} or `operator`", names.join(" or "))))
    }

    pub(super) fn actor(&self) -> Actor {
        Actor::OperatorKey(self.0.name.clone())
    }
}

/// Reads `Authorization: Bearer …` (RFC 6750 section 2.1); the scheme's name has no case (RFC 9110 section 11.1).
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let only_one = values.next().is_none();
    (only_one && scheme.eq_ignore_ascii_case("bearer")).then(|| token.trim())
}

/// Where a request came from.
pub(super) struct Context(pub(super) RequestContext);

impl<S: Sync> FromRequestParts<S> for Context {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let request_id = parts.extensions.get::<RequestId>().map(|id| id.0.to_string());
        let client = parts.extensions.get::<ClientAddress>().and_then(|client| client.0);
        Ok(Self(RequestContext { request_id, client }))
    }
}

/// The user that a path names.
pub(super) struct UserPath(pub(super) UserRef);

impl<S: Send + Sync> FromRequestParts<S> for UserPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let invalid = |detail: String| Problem::new(Code::InvalidRequest).detail(detail);
        let axum::extract::Path(text) = parts
            .extract::<axum::extract::Path<String>>()
            .await
            .map_err(|_| invalid("the user in the path is not percent-encoded UTF-8".to_owned()))?;
        UserRef::parse(&text).map(Self).map_err(|error| invalid(format!("the user in the path: {error}")))
    }
}

/// The id that a path names; what is no id names nothing.
pub(super) struct IdPath(pub(super) Uuid);

impl<S: Send + Sync> FromRequestParts<S> for IdPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let id = parts.extract::<axum::extract::Path<Uuid>>().await;
        id.map(|axum::extract::Path(id)| Self(id)).map_err(|_| Problem::new(Code::NotFound))
    }
}

/// The query of a list.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => {
                let text = rejection.body_text();
                let detail = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text).to_owned();
                Err(Problem::new(Code::InvalidRequest).detail(format!("the query: {detail}")))
            }
        }
    }
}

/// The path of a request as it was sent.
pub(super) async fn original_path(parts: &mut Parts) -> String {
    match parts.extract::<OriginalUri>().await {
        Ok(OriginalUri(uri)) => uri.path().to_owned(),
        Err(never) => match never {},
    }
}

/// A JSON body.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match read_body(request, state).await? {
            Some(body) => parse(&body).map(Self),
            None => Err(Problem::new(Code::InvalidRequest).detail("a body is needed")),
        }
    }
}

/// A JSON body that may be left out altogether.
pub(super) struct OptionalJson<T>(pub(super) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match read_body(request, state).await? {
            Some(body) => parse(&body).map(Self),
            None => Ok(Self(T::default())),
        }
    }
}

/// Reads a body that, if there is one, must be declared as JSON.
async fn read_body<S: Send + Sync>(request: Request, state: &S) -> Result<Option<Bytes>, Problem> {
    let content_type = request.headers().get(header::CONTENT_TYPE).cloned();
    let body = Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(Code::PayloadTooLarge),
        _ => Problem::new(Code::InvalidRequest).detail("the body could not be read"),
    })?;
    if body.is_empty() {
        return Ok(None);
    }
    if !content_type.is_some_and(|value| value.to_str().is_ok_and(is_json)) {
        return Err(Problem::new(Code::UnsupportedMediaType));
    }
    Ok(Some(body))
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
        let place = if path == "." { "the body".to_owned() } else { format!("`{path}`") };
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
