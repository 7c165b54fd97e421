//! The scopes of an ACS access token.
//!
//! Names are those of the REST API. `chat.join`, `chat.join.limited` and `voip.join` exist since api-version 2023-10-01.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr, VariantNames};
use utoipa::ToSchema;

/// What a token lets its holder do.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
    EnumString,
    IntoStaticStr,
    VariantNames,
)]
pub enum Scope {
    /// Everything in chat.
    #[serde(rename = "chat")]
    #[strum(serialize = "chat")]
    Chat,
    /// Join chat threads, without creating them.
    #[serde(rename = "chat.join")]
    #[strum(serialize = "chat.join")]
    ChatJoin,
    /// Join chat threads, and only read and write there.
    #[serde(rename = "chat.join.limited")]
    #[strum(serialize = "chat.join.limited")]
    ChatJoinLimited,
    /// Everything in calling.
    #[serde(rename = "voip")]
    #[strum(serialize = "voip")]
    Voip,
    /// Join calls, without starting them.
    #[serde(rename = "voip.join")]
    #[strum(serialize = "voip.join")]
    VoipJoin,
}

impl Scope {
    /// Returns the name that ACS uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A set of scopes. Its text has the names in canonical order, so that equal sets have equal texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct Scopes(BTreeSet<Scope>);

impl Scopes {
    /// Tells whether there is no scope in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the first scope that is not in `allowed`.
    #[must_use]
    pub fn first_outside(&self, allowed: &Self) -> Option<Scope> {
        self.0.difference(&allowed.0).next().copied()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().collect())
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, scope) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            f.write_str(scope.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_repetition_do_not_matter() {
        let a: Scopes = [Scope::Voip, Scope::Chat, Scope::Voip].into_iter().collect();
        assert_eq!(a.to_string(), "chat,voip");
        assert_eq!(a, [Scope::Chat, Scope::Voip].into_iter().collect());
    }

    #[test]
    fn wire_names_match_the_texts() {
        for scope in [Scope::Chat, Scope::ChatJoin, Scope::ChatJoinLimited, Scope::Voip, Scope::VoipJoin] {
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.as_str());
        }
    }

    #[test]
    fn a_scope_outside_the_allowed_is_named() {
        let allowed: Scopes = [Scope::Chat].into_iter().collect();
        let wanted: Scopes = [Scope::Chat, Scope::Voip].into_iter().collect();
        assert_eq!(wanted.first_outside(&allowed), Some(Scope::Voip));
        assert_eq!(allowed.first_outside(&wanted), None);
    }
}
