//! Extractors for paths, queries and bodies, with a problem for whatever is wrong in them.

use axum::{
    RequestPartsExt,
    body::{Body, Bytes, to_bytes},
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::{HeaderMap, header, request::Parts},
};
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::problem::{Code, Problem};
use crate::domain::user::UserRef;

/// The maximum size of an operator's request body: ten thousand user references of a usual length.
pub(super) const MAX_OPERATOR_BODY_BYTES: usize = 1024 * 1024;

/// The user named by a path.
pub(super) struct UserPath(pub(super) UserRef);

impl<S: Send + Sync> FromRequestParts<S> for UserPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Path(text) = parts
            .extract::<Path<String>>()
            .await
            .map_err(|_| Problem::invalid("the user in the path is not percent-encoded UTF-8"))?;
        UserRef::parse(&text).map(Self).map_err(|error| Problem::invalid(format!("the user in the path: {error}")))
    }
}

/// The id named by a path; anything that is not a UUID is not found.
pub(super) struct IdPath(pub(super) Uuid);

impl<S: Send + Sync> FromRequestParts<S> for IdPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let id = parts.extract::<Path<Uuid>>().await;
        id.map(|Path(id)| Self(id)).map_err(|_| Problem::new(Code::NotFound))
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
                let detail = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
                Err(Problem::invalid(format!("the query: {detail}")))
            }
        }
    }
}

/// A JSON body.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        match read_json(request).await? {
            Some(value) => Ok(Self(value)),
            None => Err(Problem::invalid("the body: is required")),
        }
    }
}

/// A JSON body that may be left out.
pub(super) struct OptionalJson<T>(pub(super) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        read_json(request).await.map(|value| Self(value.unwrap_or_default()))
    }
}

/// Reads a JSON body; `None` for an empty one.
async fn read_json<T: DeserializeOwned>(request: Request) -> Result<Option<T>, Problem> {
    let (parts, body) = request.into_parts();
    // Bodies of app users are bounded more tightly before they get here.
    let body = read_body(body, MAX_OPERATOR_BODY_BYTES).await?;
    if body.is_empty() {
        return Ok(None);
    }
    if !has_media_type(&parts.headers, "application/json") {
        return Err(Problem::new(Code::UnsupportedMediaType).detail("the body must be `application/json`"));
    }
    parse(&body).map(Some).map_err(Problem::invalid)
}

/// Reads a whole body of bounded size.
pub(super) async fn read_body(body: Body, max_bytes: usize) -> Result<Bytes, Problem> {
    to_bytes(body, max_bytes).await.map_err(|error| {
        if error.into_inner().is::<LengthLimitError>() {
            Problem::new(Code::PayloadTooLarge).detail(format!("the body must have at most {max_bytes} bytes"))
        } else {
            Problem::invalid("the body could not be read")
        }
    })
}

/// Compares the media type of a body without its parameters.
pub(super) fn has_media_type(headers: &HeaderMap, expected: &str) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.is_some_and(|value| value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(expected))
}

/// Reads a JSON object, naming the member that is wrong.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    // Derived implementations of `Deserialize` also take an array for a struct.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err("the body: must be a JSON object".to_owned());
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let place = if path == "." { "the body".to_owned() } else { format!("`{path}`") };
        format!("{place}: {}", error.inner())
    })?;
    json.end().map_err(|error| format!("the body: {error}"))?;
    Ok(value)
}

/// Reads the users of a request, naming the first that is not valid.
pub(super) fn parse_users<T, E: std::fmt::Display>(
    users: &[String],
    max: usize,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Vec<T>, Problem> {
    if users.is_empty() || users.len() > max {
        return Err(Problem::invalid(format!("`users`: must name 1 to {max} users")));
    }
    let parse = |(index, text): (usize, &String)| {
        parse(text).map_err(|error| Problem::invalid(format!("`users[{index}]`: {error}")))
    };
    users.iter().enumerate().map(parse).collect()
}
