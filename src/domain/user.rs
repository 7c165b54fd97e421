//! App users, their ids, and the identity ACS gave them.
//!
//! An app user is an issuer key and a subject; the mapping binds it to at most one ACS identity.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};
use utoipa::ToSchema;
use uuid::Uuid;

/// The longest subject that is stored, in bytes.
pub const MAX_SUBJECT_BYTES: usize = 256;

/// Why a text is not a valid id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseError {
    /// The issuer key does not begin with a letter, or has other characters than `[a-z0-9-]`, or too many.
    #[error("an issuer key is 1 to 64 of the characters a-z, 0-9 and -, beginning with a letter")]
    IssuerKey,
    /// The subject is empty, too long or has a NUL.
    #[error("a subject is 1 to {MAX_SUBJECT_BYTES} bytes without NUL")]
    Subject,
    /// The user id does not have the form of those that this service creates.
    #[error("a user id is `u_` and 32 hexadecimal digits")]
    UserId,
    /// The reference is neither a user id nor an issuer key and a subject.
    #[error("a user is `u_…` or `<issuer key>:<subject>`")]
    UserRef,
    /// The identity does not have the form of those that ACS creates.
    #[error("an ACS identity looks like `8:acs:<resource guid>_<suffix>`")]
    AcsId,
}

/// The short name of a configured identity provider. It is part of the key of its users, so it must never change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IssuerKey(String);

impl IssuerKey {
    /// Reads an issuer key: a letter and up to 63 more of `[a-z0-9-]`. An identity (`8:acs:…`) or a user id (`u_…`) can
    /// therefore not be mistaken for `<issuer key>:<subject>`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let begins_well = text.starts_with(|c: char| c.is_ascii_lowercase());
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        if begins_well && text.len() <= 64 && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::IssuerKey)
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The identifier of a user at the identity provider: the value of the configured claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject(String);

impl Subject {
    /// Reads a subject: 1 to [`MAX_SUBJECT_BYTES`] bytes without NUL, which Postgres cannot store.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if (1..=MAX_SUBJECT_BYTES).contains(&text.len()) && !text.contains('\0') {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::Subject)
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An app user as the identity provider knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AppUser {
    pub issuer: IssuerKey,
    pub subject: Subject,
}

/// The opaque id that this service creates for an app user. It can appear in paths and logs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct UserId(String);

impl UserId {
    #[must_use]
    pub fn random() -> Self {
        Self(format!("u_{}", Uuid::now_v7().simple()))
    }

    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let digits = text.strip_prefix("u_").ok_or(ParseError::UserId)?;
        let is_digit = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if digits.len() == 32 && digits.bytes().all(is_digit) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::UserId)
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A reference to a user in paths and lists: `u_…` or `<issuer key>:<subject>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UserRef {
    Id(UserId),
    AppUser(AppUser),
}

impl UserRef {
    /// Reads a reference. The subject can itself contain colons.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.starts_with("u_") {
            return UserId::parse(text).map(Self::Id);
        }
        let (issuer, subject) = text.split_once(':').ok_or(ParseError::UserRef)?;
        Ok(Self::AppUser(AppUser { issuer: IssuerKey::parse(issuer)?, subject: Subject::parse(subject)? }))
    }
}

/// An identity that ACS created. It is opaque except for the GUID of its resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AcsId(String);

impl AcsId {
    /// Reads an identity such as `8:acs:<resource guid>_<suffix>`; the clouds `gcch-acs` and `dod-acs` use the same form.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let (_, suffix) = Self::split(text).ok_or(ParseError::AcsId)?;
        let is_printable = text.bytes().all(|c| c.is_ascii_graphic());
        if is_printable && text.len() <= 256 && !suffix.is_empty() {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::AcsId)
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the GUID of the resource that the identity belongs to.
    #[must_use]
    pub fn resource_guid(&self) -> &str {
        Self::split(&self.0).map_or("", |(guid, _)| guid)
    }

    /// Splits an identity into the GUID of its resource and the suffix.
    fn split(text: &str) -> Option<(&str, &str)> {
        let (cloud, rest) = text.strip_prefix("8:")?.split_once(':')?;
        let (guid, suffix) = rest.split_once('_')?;
        let is_known_cloud = matches!(cloud, "acs" | "gcch-acs" | "dod-acs");
        (is_known_cloud && guid.len() == 36 && Uuid::try_parse(guid).is_ok()).then_some((guid, suffix))
    }
}

impl fmt::Display for AcsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The state of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, EnumString, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum State {
    /// A request holds the claim to create the identity.
    Creating,
    /// An identity is bound.
    Active,
    /// The identity is being deleted at ACS.
    Deleting,
    /// No identity: there never was one, or it was deleted.
    Unbound,
}

impl State {
    /// Returns the stored form.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Reads the stored form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

/// An app user: the row as one statement read it, with what is known of all users applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub id: UserId,
    pub app_user: AppUser,
    /// The name of the ACS resource that holds the identity.
    pub resource: Option<String>,
    pub acs_id: Option<AcsId>,
    pub state: State,
    pub blocked_at: Option<DateTime<Utc>>,
    /// The number of access changes, the user's own and global ones: a token authorised under an older one is never returned.
    pub generation: i64,
    /// The number of global revocations.
    pub epoch: i64,
    /// Whether the latest global revocation has not been applied to this user yet.
    pub is_stale: bool,
    /// Sign-ins dated before this whole second get no token.
    pub sign_ins_valid_from: Option<DateTime<Utc>>,
    /// When the claim to create the identity ends.
    pub claimed_until: Option<DateTime<Utc>>,
    /// Whether no token may be issued until a revocation has completed.
    pub held: bool,
    /// The oldest operation that is not complete.
    pub pending_operation: Option<Uuid>,
    pub last_minted_at: Option<DateTime<Utc>>,
    /// When the last token that was issued expires.
    pub tokens_expire_at: Option<DateTime<Utc>>,
    /// Before this time no token may be cached, because a late revocation could still end it.
    pub no_reuse_before: Option<DateTime<Utc>>,
    /// The tokens that are cached for the identity, encrypted.
    pub cached_tokens: Option<Vec<u8>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl User {
    /// Tells whether there is an identity with tokens that are not over by themselves.
    #[must_use]
    pub fn may_have_live_tokens(&self, now: DateTime<Utc>) -> bool {
        self.state == State::Active && self.tokens_expire_at.is_some_and(|end| end > now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn identity_knows_its_resource() {
        let text = "8:acs:ac80d96a-85de-48b1-995d-a3a3fa3627c8_0000000a-e41f-70e3-defd-8b3a0d008112";
        let id = AcsId::parse(text).unwrap();
        assert_eq!(id.resource_guid(), "ac80d96a-85de-48b1-995d-a3a3fa3627c8");
        assert_eq!(id.as_str(), text);
        let gov = "8:gcch-acs:ac80d96a-85de-48b1-995d-a3a3fa3627c8_1";
        assert_eq!(AcsId::parse(gov).unwrap().resource_guid(), "ac80d96a-85de-48b1-995d-a3a3fa3627c8");
    }

    #[test]
    fn colons_in_a_suffix_are_part_of_it() {
        let id = AcsId::parse("8:acs:ac80d96a-85de-48b1-995d-a3a3fa3627c8_a:b").unwrap();
        assert_eq!(id.resource_guid(), "ac80d96a-85de-48b1-995d-a3a3fa3627c8");
    }

    #[test]
    fn malformed_identities_are_refused() {
        for text in [
            "",
            "8:acs:x_y",
            "8:acs:ac80d96a-85de-48b1-995d-a3a3fa3627c8_",
            "8:acs:ac80d96a-85de-48b1-995d-a3a3fa3627c8",
            "8:orgid:ac80d96a-85de-48b1-995d-a3a3fa3627c8_1",
            "8:acs:ac80d96a-85de-48b1-995d-a3a3fa3627c8_a b",
        ] {
            assert_eq!(AcsId::parse(text), Err(ParseError::AcsId), "{text}");
        }
    }

    #[test]
    fn user_ids_round_trip_and_others_are_refused() {
        let id = UserId::random();
        assert_eq!(UserId::parse(id.as_str()), Ok(id.clone()));
        for text in ["u_", "u_XYZ", "dev:alice", &id.as_str().to_uppercase(), &format!("{id}0")] {
            assert_eq!(UserId::parse(text), Err(ParseError::UserId), "{text}");
        }
    }

    #[test]
    fn references_are_told_apart() {
        let app_user = |issuer: &str, subject: &str| {
            UserRef::AppUser(AppUser {
                issuer: IssuerKey::parse(issuer).unwrap(),
                subject: Subject::parse(subject).unwrap(),
            })
        };
        let id = UserId::random();
        assert_eq!(UserRef::parse(id.as_str()), Ok(UserRef::Id(id)));
        assert_eq!(UserRef::parse("dev:alice"), Ok(app_user("dev", "alice")));
        assert_eq!(UserRef::parse("dev:auth0|a:b/c"), Ok(app_user("dev", "auth0|a:b/c")));
        assert_eq!(UserRef::parse("alice"), Err(ParseError::UserRef));
        assert_eq!(UserRef::parse("dev:"), Err(ParseError::Subject));
        assert_eq!(UserRef::parse("u_1"), Err(ParseError::UserId));
        assert_eq!(UserRef::parse("8:acs:x"), Err(ParseError::IssuerKey));
    }

    #[test]
    fn subjects_are_bounded_in_bytes_and_have_no_nul() {
        assert!(Subject::parse("ä/%: alice@example.com").is_ok());
        assert!(Subject::parse(&"ä".repeat(128)).is_ok());
        for text in ["", "a\0b", &"ä".repeat(129)] {
            assert_eq!(Subject::parse(text), Err(ParseError::Subject));
        }
    }

    /// Any text, or one that is nearly an identity.
    fn any_identity() -> impl Strategy<Value = String> {
        let guid = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{11,12}";
        let near = ("8:(acs|gcch-acs|dod-acs|orgid):", guid, "[:_]{0,2}", "[a-f:_é ]{0,4}");
        prop_oneof![any::<String>(), near.prop_map(|(cloud, guid, mark, suffix)| cloud + &guid + &mark + &suffix)]
    }

    proptest! {
        #[test]
        fn parsed_identities_round_trip_and_know_their_resource(text in any_identity()) {
            if let Ok(id) = AcsId::parse(&text) {
                prop_assert_eq!(id.as_str(), &text);
                prop_assert!(Uuid::try_parse(id.resource_guid()).is_ok());
                let (_, rest) = text.split_once(id.resource_guid()).unwrap();
                prop_assert!(rest.len() > 1 && rest.starts_with('_'));
            }
        }

        #[test]
        fn ids_round_trip(text in prop_oneof![any::<String>(), "u_[0-9a-g]{31,33}", "[a-zA-Z0-9-]{0,66}"]) {
            if let Ok(id) = UserId::parse(&text) {
                prop_assert_eq!(id.as_str(), &text);
                prop_assert_eq!(UserRef::parse(&text), Ok(UserRef::Id(id)));
            }
            if let Ok(key) = IssuerKey::parse(&text) {
                prop_assert_eq!(key.as_str(), &text);
                prop_assert!(UserId::parse(&text).is_err() && AcsId::parse(&text).is_err());
            }
            if let Ok(subject) = Subject::parse(&text) {
                prop_assert_eq!(subject.as_str(), &text);
            }
        }

        #[test]
        fn references_to_app_users_round_trip(issuer in "[a-z][a-z0-9-]{0,63}", subject in any::<String>(), text in any::<String>()) {
            let parsed = UserRef::parse(&format!("{issuer}:{subject}"));
            match Subject::parse(&subject) {
                Ok(subject) => {
                    let issuer = IssuerKey::parse(&issuer).unwrap();
                    prop_assert_eq!(parsed, Ok(UserRef::AppUser(AppUser { issuer, subject })));
                }
                Err(error) => prop_assert_eq!(parsed, Err(error)),
            }
            let _ = UserRef::parse(&text);
        }
    }
}
