//! Reads scopes and lifetime from request bodies.
//!
//! Explicit nulls count as absent, as recorded; unknown members are ignored.

use serde::Deserialize;

use super::{call::Version, refusal::Refusal};

const DEFAULT_MINUTES: i64 = 1440;
const ALLOWED_MINUTES: std::ops::RangeInclusive<i64> = 60..=1440;

/// The scopes and the lifetime of a token to issue.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) scopes: Vec<String>,
    pub(super) minutes: i64,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct CreateBody {
    create_token_with_scopes: Option<Vec<String>>,
    expires_in_minutes: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IssueBody {
    scopes: Option<Vec<String>>,
    expires_in_minutes: Option<i64>,
}

impl Grant {
    /// Reads the body of a create; None means an identity without a token.
    ///
    /// A choice: an empty list of scopes is the same as none.
    pub(super) fn for_create(body: &[u8], version: Version) -> Result<Option<Self>, Refusal> {
        let body = if body.is_empty() { CreateBody::default() } else { read(body)? };
        let minutes = minutes(body.expires_in_minutes, version)?;
        let scopes = body.create_token_with_scopes.unwrap_or_default();
        check_scopes(&scopes, version)?;
        Ok((!scopes.is_empty()).then_some(Self { scopes, minutes }))
    }

    /// Reads the body of an issue.
    pub(super) fn for_issue(body: &[u8], version: Version) -> Result<Self, Refusal> {
        if body.is_empty() {
            return Err(Refusal::validation("A non-empty request body is required."));
        }
        let body: IssueBody = read(body)?;
        let required = || Refusal::validation("Scopes: The Scopes field is required.").at("Scopes");
        let scopes = body.scopes.ok_or_else(required)?;
        if scopes.is_empty() {
            return Err(Refusal::validation("Invalid scopes - Scopes field is required.").at("scopes"));
        }
        check_scopes(&scopes, version)?;
        Ok(Self { scopes, minutes: minutes(body.expires_in_minutes, version)? })
    }
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::validation(format!("The request body is invalid: {error}.")))
}

/// Versions without lifetimes ignore the member, as they ignore any unknown one.
fn minutes(asked: Option<i64>, version: Version) -> Result<i64, Refusal> {
    match asked.filter(|_| version.has_lifetimes()) {
        None => Ok(DEFAULT_MINUTES),
        Some(minutes) if ALLOWED_MINUTES.contains(&minutes) => Ok(minutes),
        Some(minutes) => {
            let text =
                format!("ExpiresInMinutes value {minutes} is invalid. Value must be within the [60, 1440] interval.");
            Err(Refusal::validation(text).at("ExpiresInMinutes"))
        }
    }
}

/// A choice: no response to an unknown scope was recorded, so the text follows the response to an empty list.
fn check_scopes(scopes: &[String], version: Version) -> Result<(), Refusal> {
    let known = |scope: &str| match scope {
        "chat" | "voip" => true,
        "chat.join" | "chat.join.limited" | "voip.join" => version.has_join_scopes(),
        _ => false,
    };
    match scopes.iter().find(|scope| !known(scope)) {
        None => Ok(()),
        Some(scope) => Err(Refusal::validation(format!("Invalid scopes - {scope} is not a known scope.")).at("scopes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail(refusal: Refusal) -> (String, Option<String>) {
        (refusal.detail.message.into_owned(), refusal.detail.target.map(Into::into))
    }

    #[test]
    fn lifetimes_outside_the_interval_are_refused_since_they_exist() {
        for minutes in [59, 1441, -1, 0] {
            let body = format!(r#"{{"scopes":["chat"],"expiresInMinutes":{minutes}}}"#);
            let (message, target) = detail(Grant::for_issue(body.as_bytes(), Version::V20221001).unwrap_err());
            assert!(message.starts_with(&format!("ExpiresInMinutes value {minutes} is invalid.")));
            assert_eq!(target.as_deref(), Some("ExpiresInMinutes"));
            assert_eq!(Grant::for_issue(body.as_bytes(), Version::V20220601).unwrap().minutes, 1440);
        }
        for minutes in [60, 1440] {
            let body = format!(r#"{{"scopes":["chat"],"expiresInMinutes":{minutes}}}"#);
            assert_eq!(Grant::for_issue(body.as_bytes(), Version::V20250630).unwrap().minutes, minutes);
        }
    }

    #[test]
    fn join_scopes_need_their_version() {
        let body = br#"{"scopes":["chat.join","voip.join","chat.join.limited"]}"#;
        assert_eq!(Grant::for_issue(body, Version::V20231001).unwrap().scopes.len(), 3);
        assert_eq!(detail(Grant::for_issue(body, Version::V20221001).unwrap_err()).1.as_deref(), Some("scopes"));
    }

    #[test]
    fn nulls_count_as_absent() {
        let version = Version::V20231001;
        let nulls = br#"{"createTokenWithScopes":null,"expiresInMinutes":null}"#;
        assert_eq!(Grant::for_create(nulls, version).unwrap(), None);
        assert_eq!(Grant::for_create(b"{}", version).unwrap(), None);
        assert_eq!(Grant::for_create(b"", version).unwrap(), None);
        let issue = br#"{"scopes":["chat"],"expiresInMinutes":null}"#;
        assert_eq!(Grant::for_issue(issue, version).unwrap().minutes, 1440);
    }

    #[test]
    fn malformed_bodies_are_validation_errors() {
        for body in ["", "null", "[]", "{", r#"{"scopes":"chat"}"#, r#"{"scopes":["phone"]}"#] {
            let refusal = Grant::for_issue(body.as_bytes(), Version::V20231001).unwrap_err();
            assert_eq!(refusal.detail.code, "ValidationError", "{body}");
        }
    }
}
