//! The JSON of ACS's identity API, as in its REST reference (api-version 2023-10-01).

use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};

use super::error::Error;
use crate::domain::{
    scope::Scopes,
    token::{AccessToken, CredentialId, IssuedToken, Lifetime},
};

/// The body of `POST /identities` that also asks for a token.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateRequest<'a> {
    pub(super) create_token_with_scopes: &'a Scopes,
    pub(super) expires_in_minutes: u16,
}

/// The body of `POST /identities/{id}/:issueAccessToken`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct IssueRequest<'a> {
    pub(super) scopes: &'a Scopes,
    pub(super) expires_in_minutes: u16,
}

/// The answer to `POST /identities`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateResponse {
    pub(super) identity: Identity,
    pub(super) access_token: Option<TokenResponse>,
}

/// A token, as create and issue answer it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TokenResponse {
    token: AccessToken,
    /// RFC 3339 with up to seven fraction digits.
    expires_on: DateTime<Utc>,
}

impl TokenResponse {
    pub(super) fn made_with(self, credential: CredentialId) -> IssuedToken {
        IssuedToken { token: self.token, expires_on: self.expires_on.trunc_subsecs(3), made_with: credential }
    }
}

#[derive(Deserialize)]
pub(super) struct Identity {
    pub(super) id: String,
}

#[derive(Deserialize)]
struct ErrorResponse {
    error: ErrorBody,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: String,
}

impl<'a> CreateRequest<'a> {
    pub(super) fn new(scopes: &'a Scopes, lifetime: Lifetime) -> Self {
        Self { create_token_with_scopes: scopes, expires_in_minutes: lifetime.minutes() }
    }
}

impl<'a> IssueRequest<'a> {
    pub(super) fn new(scopes: &'a Scopes, lifetime: Lifetime) -> Self {
        Self { scopes, expires_in_minutes: lifetime.minutes() }
    }
}

/// Reads an answer that is not the wanted one; the body may be anything, a proxy's HTML page too.
pub(super) fn error_of(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Error {
    let code = serde_json::from_slice(body).map_or_else(|_| String::new(), |body: ErrorResponse| body.error.code);
    match status {
        429 => Error::Throttled { retry_after },
        // Without ACS's error body it is somebody else's 404, which says nothing about the identity.
        404 if !code.is_empty() => Error::NotFound,
        401 if code == "IdentityNotOwned" => Error::NotOwned,
        401 | 403 => Error::Unauthorized { code },
        // An answer that is not the documented one may hide an effect.
        200..=399 | 404 | 408 | 500..=599 => Error::Unavailable { retry_after, source: None },
        _ => Error::Refused { status, code },
    }
}

/// The longest wait that is believed; a longer one is a mistake, or it is worth asking again.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(5);

/// Reads `Retry-After` in either form of RFC 9110 section 10.2.3.
pub(super) fn retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let wait = if let Ok(seconds) = value.trim().parse() {
        Duration::from_secs(seconds)
    } else {
        let date = DateTime::<Utc>::from(httpdate::parse_http_date(value.trim()).ok()?);
        (date - now).to_std().unwrap_or_default()
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_observed_error_is_recognised() {
        let file: Value = serde_json::from_str(include_str!("../../tests/data/observed_exchanges.json")).unwrap();
        let mut seen = 0;
        for exchange in file["exchanges"].as_array().unwrap() {
            let answer = &exchange["response"];
            let status = u16::try_from(answer["status"].as_u64().unwrap()).unwrap();
            if status < 400 {
                continue;
            }
            seen += 1;
            let expected = answer["body"]["error"]["code"].as_str().unwrap();
            match error_of(status, None, answer["body"].to_string().as_bytes()) {
                Error::Refused { status: 400, code } | Error::Unauthorized { code } => assert_eq!(code, expected),
                Error::NotOwned => assert_eq!(expected, "IdentityNotOwned"),
                other => panic!("{status} {expected} read as {other:?}"),
            }
        }
        assert!(seen >= 10, "only {seen} errors in the file");
    }

    #[test]
    fn a_page_instead_of_json_still_has_a_meaning() {
        assert!(matches!(error_of(503, None, b"<html>"), Error::Unavailable { .. }));
        assert!(matches!(error_of(429, None, b""), Error::Throttled { retry_after: None }));
        assert!(matches!(error_of(401, None, b"<html>"), Error::Unauthorized { .. }));
        assert!(matches!(error_of(404, None, b"<html>"), Error::Unavailable { .. }));
        assert!(matches!(error_of(200, None, b"<html>"), Error::Unavailable { .. }));
        assert!(matches!(error_of(520, None, b""), Error::Unavailable { .. }));
        assert!(matches!(error_of(418, None, b"{}"), Error::Refused { status: 418, .. }));
    }

    #[test]
    fn both_forms_of_retry_after_are_read() {
        let now = DateTime::parse_from_rfc3339("2026-11-22T12:00:00Z").unwrap().with_timezone(&Utc);
        assert_eq!(retry_after("7", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Sun, 22 Nov 2026 12:00:05 GMT", now), Some(Duration::from_secs(5)));
        assert_eq!(retry_after("Sun, 22 Nov 2026 11:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
        assert_eq!(retry_after("18446744073709551615", now), Some(LONGEST_RETRY_AFTER));
        assert_eq!(retry_after("Thu, 22 Nov 2096 12:00:05 GMT", now), Some(LONGEST_RETRY_AFTER));
    }
}
