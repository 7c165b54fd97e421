//! What is done to users: access changes, bulk revocations and imports.

pub(crate) mod access;
pub(crate) mod bulk;
pub(crate) mod import;

use std::{collections::HashSet, sync::Arc, time::Duration};

use serde::Deserialize;

use crate::{
    acs::retry::Upstream,
    domain::{
        clock::Clock,
        user::{IssuerKey, UserRef},
    },
    error::Error,
    jobs::Jobs,
    store::Store,
    tokens::Tokens,
};

/// What users may do themselves, and how long they are remembered.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Whether users may delete themselves; it ends their chat memberships for good.
    pub self_delete: bool,
    /// How long a row without an identity is kept; older sign-ins are refused.
    #[serde(with = "humantime_serde")]
    pub tombstone_ttl: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { self_delete: false, tombstone_ttl: Duration::from_hours(180 * 24) }
    }
}

/// What users are changed with.
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) clock: Clock,
    pub(crate) settings: Settings,
    /// How long a request waits for ACS to confirm a change.
    pub(crate) timeout: Duration,
    /// The issuers for whose users rows may be made.
    pub(crate) issuers: Arc<HashSet<IssuerKey>>,
}

/// Changes users.
pub(crate) struct Users {
    parts: Parts,
}

impl Users {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self { parts })
    }

    /// Refuses to make a row for an issuer that is not configured: a typing error must not look like success.
    async fn check_issuer(&self, user: &UserRef) -> Result<(), Error> {
        match user {
            UserRef::AppUser(app_user)
                if !self.parts.issuers.contains(&app_user.issuer)
                    && self.parts.store.find_user(user, self.parts.clock.now()).await?.is_none() =>
            {
                Err(Error::UNKNOWN_ISSUER)
            }
            _ => Ok(()),
        }
    }
}
