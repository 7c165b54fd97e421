//! What users may ask for: grants of scopes and a maximum lifetime to sign-in tokens with certain claims.
//!
//! The first grant whose conditions all hold decides. A user whom no grant matches gets no token.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};
use strum::VariantNames;

use crate::domain::{
    scope::{Scope, Scopes},
    string_list::StringList,
    token::Lifetime,
};

/// The grants of one issuer, in order.
#[derive(Clone, Debug, Default)]
pub struct Policy(Vec<Grant>);

/// What sign-in tokens with certain claims entitle to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Claims and their accepted values; without any, the grant matches every sign-in token.
    #[serde(default)]
    pub when: BTreeMap<String, StringList>,
    /// The scopes that may be requested, and the scopes of a token if none are requested.
    #[serde(deserialize_with = "some_scopes")]
    pub scopes: Scopes,
    /// The maximum lifetime of a token.
    #[serde(default = "default_max_lifetime")]
    pub max_lifetime: Lifetime,
}

impl Policy {
    /// Returns the grant for a sign-in token with these claims.
    #[must_use]
    pub fn grant_for(&self, claims: &Map<String, Value>) -> Option<&Grant> {
        self.0.iter().find(|grant| grant.when.iter().all(|(claim, values)| holds(claims.get(claim), &values.0)))
    }

    /// Tells whether there is no grant.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<Grant>> for Policy {
    fn from(grants: Vec<Grant>) -> Self {
        Self(grants)
    }
}

impl<'de> Deserialize<'de> for Policy {
    /// Reads a list of grants or, for environment variables, a single one. Unlike `serde_with::OneOrMany` or an untagged enum,
    /// this keeps the path of an error and does not quote values in its message.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Policy;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a grant or a list of grants")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Policy, A::Error> {
                let grant = Grant::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Policy(vec![grant]))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Policy, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(seq)).map(Policy)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Tells whether a claim is one of the wanted values, or a list or space-separated string that has one of them.
fn holds(claim: Option<&Value>, wanted: &[String]) -> bool {
    let is_wanted = |text: &str| wanted.iter().any(|w| w == text);
    match claim {
        Some(Value::String(text)) => is_wanted(text) || text.split(' ').any(is_wanted),
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).any(is_wanted),
        Some(Value::Bool(flag)) => is_wanted(if *flag { "true" } else { "false" }),
        _ => false,
    }
}

fn some_scopes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Scopes, D::Error> {
    scopes_of(&StringList::deserialize(deserializer)?).map_err(de::Error::custom)
}

/// Why a list is not the scopes of a grant.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ScopesError {
    #[error("a grant needs at least one scope")]
    Empty,
    #[error("each scope must be one of {}", Scope::VARIANTS.join(", "))]
    Unknown,
}

/// Reads the scopes of a grant.
pub(super) fn scopes_of(names: &StringList) -> Result<Scopes, ScopesError> {
    let scopes: Result<Scopes, _> = names.0.iter().map(|name| name.parse::<Scope>()).collect();
    scopes
        .map_err(|_| ScopesError::Unknown)
        .and_then(|scopes| if scopes.is_empty() { Err(ScopesError::Empty) } else { Ok(scopes) })
}

fn default_max_lifetime() -> Lifetime {
    Lifetime::HOUR
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(value: Value) -> Policy {
        serde_json::from_value(value).unwrap()
    }

    fn claims(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn first_matching_grant_decides() {
        let policy = policy(json!([
            {"when": {"roles": ["guest"]}, "scopes": ["chat.join.limited"]},
            {"when": {"roles": "staff,admin", "email_verified": "true"}, "scopes": "chat,voip", "max_lifetime": "24h"},
        ]));
        let scopes = |value| policy.grant_for(&claims(value)).map(|grant| grant.scopes.to_string());
        assert_eq!(scopes(json!({"roles": ["guest", "staff"], "email_verified": true})).unwrap(), "chat.join.limited");
        assert_eq!(scopes(json!({"roles": "admin", "email_verified": true})).unwrap(), "chat,voip");
        assert_eq!(scopes(json!({"roles": "openid admin", "email_verified": true})).unwrap(), "chat,voip");
        assert_eq!(scopes(json!({"roles": "admin", "email_verified": false})), None);
        assert_eq!(scopes(json!({})), None);
    }

    #[test]
    fn a_single_grant_needs_no_list() {
        let policy = policy(json!({"scopes": "voip"}));
        assert_eq!(policy.grant_for(&claims(json!({}))).unwrap().max_lifetime, Lifetime::HOUR);
    }

    #[test]
    fn a_policy_without_grants_grants_nothing() {
        assert!(Policy::default().grant_for(&claims(json!({"sub": "a"}))).is_none());
    }

    #[test]
    fn unknown_scopes_and_empty_grants_are_refused() {
        for bad in [json!({"scopes": ["fax"]}), json!({"scopes": []}), json!({"scopes": "chat", "scope": 1})] {
            assert!(serde_json::from_value::<Policy>(bad).is_err());
        }
    }
}
