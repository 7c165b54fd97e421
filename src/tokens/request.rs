//! What is asked for and what is issued.

use chrono::{DateTime, Utc};

use crate::{
    auth::{SignIn, policy::Grant},
    domain::{
        audit::{Actor, RequestContext},
        scope::Scopes,
        token::{AccessToken, Lifetime},
        user::{AcsId, UserId, UserRef},
    },
};

/// Who asks for a token, for which user, and what may be asked for.
#[derive(Clone, Debug)]
pub(crate) struct Requester {
    pub(crate) user: UserRef,
    /// When the user signed in; a backend with a key of its own needs no sign-in.
    pub(crate) sign_in_time: Option<DateTime<Utc>>,
    pub(crate) grant: Option<Grant>,
    /// Who asks, where it is not the user.
    pub(crate) actor: Option<Actor>,
    pub(crate) request_context: RequestContext,
    /// The `jti` of the sign-in token, for the audit trail.
    pub(crate) sign_in_id: Option<String>,
    /// The `sid` of the sign-in token, for the audit trail.
    pub(crate) session_id: Option<String>,
}

impl Requester {
    /// A signed-in user who asks for a token of their own.
    pub(crate) fn of_sign_in(sign_in: SignIn, request_context: RequestContext) -> Self {
        Self {
            user: UserRef::AppUser(sign_in.app_user),
            sign_in_time: Some(sign_in.time),
            grant: sign_in.grant,
            actor: None,
            request_context,
            sign_in_id: sign_in.token_id,
            session_id: sign_in.session_id,
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenParams {
    /// The scopes; all that are granted by default.
    pub(crate) scopes: Option<Scopes>,
    /// The longest lifetime.
    pub(crate) lifetime: Option<Lifetime>,
}

/// Where an issued token comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenSource {
    /// ACS minted it for this request.
    Minted,
    /// ACS minted it for an equal request at the same moment.
    Shared,
    /// It was cached.
    Cached,
    /// It was cached and expires soon, but ACS could not be asked (stale-if-error, RFC 5861).
    Stale,
}

impl TokenSource {
    /// The label in logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Minted => "minted",
            Self::Shared => "shared",
            Self::Cached => "cached",
            Self::Stale => "stale",
        }
    }
}

/// A token that may be returned.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    pub(crate) token: AccessToken,
    /// The SHA-256 of the token in hexadecimal.
    pub(crate) fingerprint: String,
    pub(crate) expires_on: DateTime<Utc>,
    pub(crate) scopes: Scopes,
    /// The generation it was authorised under.
    pub(crate) generation: i64,
    pub(crate) user: UserId,
    pub(crate) acs_id: AcsId,
    pub(crate) source: TokenSource,
}

/// What is asked for, bounded by the grant.
#[derive(Clone, Debug)]
pub(super) struct Granted {
    pub(super) scopes: Scopes,
    pub(super) lifetime: Lifetime,
}

/// What makes two requests equal.
///
/// The generation and the identity are those that were read, so a request never gets a token that was authorised before an
/// access change which the request came after.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) user: UserId,
    pub(super) acs_id: AcsId,
    pub(super) generation: i64,
    pub(super) scopes: Scopes,
    pub(super) lifetime: Lifetime,
}
