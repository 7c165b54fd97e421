//! Reads an operation and an API version from a request line.
//!
//! Identities may be percent-encoded or not: the Python client's blocking form and the JavaScript client encode the colons, the Python client's async form does not.

use axum::http::{Method, Uri};
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::refusal::Refusal;

/// An operation, as counters and fault rules name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Operation {
    Create,
    Issue,
    Revoke,
    Delete,
    /// The Teams exchange, which is counted and named but never answered with success.
    Exchange,
}

impl Operation {
    pub(super) const ALL: [Self; 5] = [Self::Create, Self::Issue, Self::Revoke, Self::Delete, Self::Exchange];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Issue => "issue",
            Self::Revoke => "revoke",
            Self::Delete => "delete",
            Self::Exchange => "exchange",
        }
    }
}

/// The requested operation and its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Create,
    Issue(String),
    Revoke(String),
    Delete(String),
}

impl Action {
    /// Reads the method and the path.
    pub(super) fn parse(method: &Method, path: &str) -> Result<Self, Refusal> {
        let segments: Option<Vec<String>> = path.strip_prefix('/').unwrap_or(path).split('/').map(decode).collect();
        let segments = segments.ok_or_else(Refusal::not_found)?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let (allowed, action) = match segments.as_slice() {
            ["identities"] => (Method::POST, Self::Create),
            ["identities", id] => (Method::DELETE, Self::Delete((*id).to_owned())),
            ["identities", id, ":issueAccessToken"] => (Method::POST, Self::Issue((*id).to_owned())),
            ["identities", id, ":revokeAccessTokens"] => (Method::POST, Self::Revoke((*id).to_owned())),
            _ => return Err(Refusal::not_found()),
        };
        if *method == allowed { Ok(action) } else { Err(Refusal::method_not_allowed()) }
    }

    pub(super) fn operation(&self) -> Operation {
        match self {
            Self::Create => Operation::Create,
            Self::Issue(_) => Operation::Issue,
            Self::Revoke(_) => Operation::Revoke,
            Self::Delete(_) => Operation::Delete,
        }
    }
}

/// The stable versions of the contract, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    V20210307,
    V20220601,
    V20221001,
    V20231001,
    V20250630,
}

/// The value of the header `api-supported-versions`: the versions that [`Version::parse`] accepts.
pub(super) const SUPPORTED_VERSIONS: &str = "2021-03-07, 2022-06-01, 2022-10-01, 2023-10-01, 2025-06-30";

impl Version {
    /// Finds the version in the query of `uri`; `host` is only used in the error message.
    pub(super) fn of(uri: &Uri, host: &str) -> Result<Self, Refusal> {
        let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        let asked = pairs.into_iter().find(|(name, value)| name == "api-version" && !value.is_empty());
        let (_, asked) = asked.ok_or_else(Refusal::unspecified_version)?;
        Self::parse(&asked).ok_or_else(|| Refusal::unsupported_version(&format!("http://{host}{}", uri.path()), &asked))
    }

    /// Whether callers may choose the lifetime of a token.
    pub(super) fn has_lifetimes(self) -> bool {
        self >= Self::V20221001
    }

    /// Whether the scopes that only allow joining exist.
    pub(super) fn has_join_scopes(self) -> bool {
        self >= Self::V20231001
    }

    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "2021-03-07" => Self::V20210307,
            "2022-06-01" => Self::V20220601,
            "2022-10-01" => Self::V20221001,
            "2023-10-01" => Self::V20231001,
            "2025-06-30" => Self::V20250630,
            _ => return None,
        })
    }
}

/// Decodes a path segment; None if the result is not UTF-8.
fn decode(segment: &str) -> Option<String> {
    percent_decode_str(segment).decode_utf8().ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_and_plain_identities_are_the_same() {
        let plain = Action::parse(&Method::POST, "/identities/8:acs:a_b/:issueAccessToken").unwrap();
        let encoded = Action::parse(&Method::POST, "/identities/8%3Aacs%3aa_b/:issueAccessToken").unwrap();
        assert_eq!(plain, Action::Issue("8:acs:a_b".to_owned()));
        assert_eq!(plain, encoded);
    }

    #[test]
    fn wrong_method_and_unknown_path_differ() {
        assert_eq!(Action::parse(&Method::GET, "/identities").unwrap_err().status, 405);
        assert_eq!(Action::parse(&Method::POST, "/identities/x/:other").unwrap_err().status, 404);
        assert_eq!(Action::parse(&Method::DELETE, "/identities/%ff").unwrap_err().status, 404);
    }

    #[test]
    fn every_listed_version_is_understood() {
        for version in SUPPORTED_VERSIONS.split(", ") {
            let uri: Uri = format!("/identities?api-version={version}").parse().unwrap();
            Version::of(&uri, "host").unwrap();
        }
    }
}
