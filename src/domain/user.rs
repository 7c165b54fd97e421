//! App users, their ids, and the identity ACS gave them.
//!
//! An app user is an issuer key and a subject; the mapping binds it to at most one ACS identity.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// The longest subject that is stored, in bytes.
pub const MAX_SUBJECT_BYTES: usize = 256;

/// Why a text is not the id it was taken for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseError {
    /// The issuer key does not begin with a letter, or has other characters than `[a-z0-9-]`, or too many.
    #[error("an issuer key is 1 to 64 of the characters a-z, 0-9 and -, beginning with a letter")]
    IssuerKey,
    /// The subject is empty, too long or has a NUL.
    #[error("a subject is 1 to {MAX_SUBJECT_BYTES} bytes without NUL")]
    Subject,
    /// The user id is not one that this service gave.
    #[error("a user id is `u_` and 32 hexadecimal digits")]
    UserId,
    /// The reference is neither a user id nor an issuer key and a subject.
    #[error("a user is `u_…` or `<issuer key>:<subject>`")]
    UserRef,
    /// The identity is not shaped like one that ACS gives.
    #[error("an ACS identity looks like `8:acs:<resource guid>_<suffix>`")]
    AcsId,
}

/// The short stable name of a configured identity provider, part of its users' key for ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IssuerKey(String);

impl IssuerKey {
    /// Reads an issuer key.
    ///
    /// # Errors
    /// [`ParseError::IssuerKey`] when it is not a letter and up to 63 more of `[a-z0-9-]`: an identity (`8:acs:…`) and a
    /// user id (`u_…`) can then never be taken for `<issuer key>:<subject>`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let begins_well = text.starts_with(|c: char| c.is_ascii_lowercase());
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        if begins_well && text.len() <= 64 && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::IssuerKey)
        }
    }

    /// Returns the key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What the identity provider calls the user: the value of the configured claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject(String);

impl Subject {
    /// Reads a subject.
    ///
    /// # Errors
    /// [`ParseError::Subject`] when it is empty, over [`MAX_SUBJECT_BYTES`], or has a NUL (which Postgres cannot store).
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if (1..=MAX_SUBJECT_BYTES).contains(&text.len()) && !text.contains('\0') {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::Subject)
        }
    }

    /// Returns the subject as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An app user as the identity provider knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AppUser {
    /// Which identity provider.
    pub issuer: IssuerKey,
    /// Who, in that provider's words.
    pub subject: Subject,
}

/// The opaque id this service gives an app user at first sight; safe in paths and logs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserId(String);

impl UserId {
    /// Makes a new id.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("u_{}", Uuid::now_v7().simple()))
    }

    /// Reads an id that this service gave.
    ///
    /// # Errors
    /// [`ParseError::UserId`] when it is not of that form.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let digits = text.strip_prefix("u_").ok_or(ParseError::UserId)?;
        let is_digit = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if digits.len() == 32 && digits.bytes().all(is_digit) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::UserId)
        }
    }

    /// Returns the id as text.
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

/// What paths and lists take for a user: `u_…`, or `<issuer key>:<subject>` for people.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UserRef {
    /// By our id.
    Id(UserId),
    /// By what the identity provider calls the user.
    AppUser(AppUser),
}

impl UserRef {
    /// Reads a reference; a subject may itself have colons.
    ///
    /// # Errors
    /// [`ParseError`] of the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.starts_with("u_") {
            return UserId::parse(text).map(Self::Id);
        }
        let (issuer, subject) = text.split_once(':').ok_or(ParseError::UserRef)?;
        Ok(Self::AppUser(AppUser { issuer: IssuerKey::parse(issuer)?, subject: Subject::parse(subject)? }))
    }
}

/// An identity that ACS created, opaque but for its resource part.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AcsId(String);

impl AcsId {
    /// Reads an identity such as `8:acs:<resource guid>_<suffix>`; the clouds `gcch-acs` and `dod-acs` have the same form.
    ///
    /// # Errors
    /// [`ParseError::AcsId`] when it is not of that form.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let suffix_start = Self::resource_end(text).ok_or(ParseError::AcsId)?;
        let printable = text.bytes().all(|c| c.is_ascii_graphic());
        if printable && text.len() <= 256 && text.len() > suffix_start + 1 {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::AcsId)
        }
    }

    /// Returns the identity as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the GUID of the resource that the identity belongs to.
    #[must_use]
    pub fn resource_guid(&self) -> &str {
        let start = self.0.rfind(':').map_or(0, |colon| colon + 1);
        let end = Self::resource_end(&self.0).unwrap_or(self.0.len());
        &self.0[start..end]
    }

    /// Returns where the resource part ends: at the first `_` after a well-formed prefix and GUID.
    fn resource_end(text: &str) -> Option<usize> {
        let rest = text.strip_prefix("8:")?;
        let (cloud, rest) = rest.split_once(':')?;
        let (guid, _) = rest.split_once('_')?;
        let known_cloud = matches!(cloud, "acs" | "gcch-acs" | "dod-acs");
        (known_cloud && guid.len() == 36 && Uuid::try_parse(guid).is_ok()).then(|| "8:".len() + cloud.len() + 1 + 36)
    }
}

impl fmt::Display for AcsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a mapping is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
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
    /// Returns the word that is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Active => "active",
            Self::Deleting => "deleting",
            Self::Unbound => "unbound",
        }
    }

    /// Reads the word that is stored.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "creating" => Some(Self::Creating),
            "active" => Some(Self::Active),
            "deleting" => Some(Self::Deleting),
            "unbound" => Some(Self::Unbound),
            _ => None,
        }
    }
}

/// The mapping of one app user: the row as it was read in one statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Our id.
    pub id: UserId,
    /// The app user.
    pub app_user: AppUser,
    /// The name of the ACS resource that holds the identity.
    pub resource: Option<String>,
    /// The identity, where one is bound.
    pub acs_id: Option<AcsId>,
    /// Where the mapping is in its life.
    pub state: State,
    /// Since when the user is blocked.
    pub blocked_at: Option<DateTime<Utc>>,
    /// Counter of fences, the user's own and everyone's: tokens authorised under an older one are never handed out.
    pub generation: i64,
    /// How often everyone was revoked.
    pub epoch: i64,
    /// Whether the last time is still to be carried over to this user.
    pub is_stale: bool,
    /// Logins from before this whole second get no token.
    pub sign_ins_valid_from: Option<DateTime<Utc>>,
    /// Until when the creator's claim is good.
    pub claimed_until: Option<DateTime<Utc>>,
    /// Whether an unfinished revocation holds issuing back.
    pub held: bool,
    /// The oldest operation that is not finished.
    pub pending_operation: Option<Uuid>,
    /// When a token was last minted.
    pub last_minted_at: Option<DateTime<Utc>>,
    /// When the last token that was handed out is over by itself.
    pub tokens_expire_at: Option<DateTime<Utc>>,
    /// Before when no token may be kept for reuse, because a stray revocation could still end it.
    pub no_reuse_before: Option<DateTime<Utc>>,
    /// The tokens that are cached for the identity, encrypted.
    pub cached_tokens: Option<Vec<u8>>,
    /// When the mapping was made.
    pub created_at: DateTime<Utc>,
    /// When the mapping last changed.
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
}
