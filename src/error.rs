//! Why a use case failed, by what the caller can do about it.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::{acs::retry as upstream, domain::scope::Scope, store};

/// Why a use case failed; all requests that share a call to ACS get the same.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("no grant of the policy matches the sign-in")]
    NoGrant,
    #[error("the scope `{}` is not granted", .0.as_str())]
    ScopeNotAllowed(Scope),
    #[error("the user is blocked")]
    UserBlocked,
    #[error("the sign-in is older than the user's last access change")]
    ReauthenticationRequired {
        /// Sign-ins dated from this second on are accepted.
        sign_ins_valid_from: DateTime<Utc>,
        /// How old a sign-in may be to be accepted now.
        max_age: Duration,
    },
    #[error("the user is being deleted")]
    UserDeleting,
    #[error("not found")]
    NotFound,
    #[error("conflicting mapping: {0}")]
    Conflict(&'static str),
    #[error("the configuration does not allow it")]
    NotAllowed,
    #[error("{0}")]
    Invalid(&'static str),
    /// A creation, revocation or deletion of the same user did not finish in time.
    #[error("another operation on the user did not finish in time")]
    InProgress,
    #[error("the call to ACS failed")]
    Upstream(#[from] upstream::Error),
    #[error("the store failed")]
    Store(#[from] store::Error),
    /// The process is stopping, or a task panicked.
    #[error("the work was interrupted")]
    Interrupted,
}

impl Error {
    pub(crate) const UNKNOWN_ISSUER: Self = Self::Invalid("the issuer key is not configured");
}
