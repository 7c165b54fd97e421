//! Issuing tokens: from the cache, by minting at ACS, or together with a new identity.
//!
//! The rules are those of `docs/protocol.md`; each condition stands in a statement of `store`.

mod cache;
mod create;
mod ensure;
mod issue;
mod mint;
pub(crate) mod request;
mod single_flight;

use std::{
    collections::HashSet,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use serde::Deserialize;

use crate::{
    acs::retry::Upstream,
    domain::{clock::Clock, token::Lifetime, user::IssuerKey},
    encryption::KeyRing,
    jobs::Jobs,
    metrics::Metrics,
    store::Store,
};
use request::{Issued, Key};
use single_flight::InFlight;

/// What tokens are like, and how long a request waits.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The lifetime of a token when the request does not say, bounded by the user's grant.
    pub lifetime: Lifetime,
    /// How long a request may wait for ACS, for another request that creates the identity, or for a revocation.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// The keys that encrypt cached tokens; without one nothing is cached.
    pub encryption_keys: KeyRing,
    /// How much of its lifetime a cached token must have left to be issued again.
    #[serde(with = "humantime_serde")]
    pub reuse_margin: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lifetime: Lifetime::HOUR,
            timeout: Duration::from_secs(5),
            encryption_keys: KeyRing::default(),
            reuse_margin: Duration::from_mins(20),
        }
    }
}

/// The least reuse margin: clients refresh ten minutes before the end, and one that got a token with less would ask again
/// and again.
pub(crate) const LEAST_REUSE_MARGIN: Duration = Duration::from_mins(15);

/// What tokens are issued with.
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) clock: Clock,
    pub(crate) settings: Settings,
    /// How long a row without an identity is kept; older sign-ins are refused.
    pub(crate) tombstone_ttl: Duration,
    /// The issuers for whose users identities may be created.
    pub(crate) issuers: Arc<HashSet<IssuerKey>>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Issues tokens.
pub(crate) struct Tokens {
    parts: Parts,
    in_flight: InFlight<Key, Option<Issued>>,
    /// Whether the database knows the GUID of the resource.
    resource_is_known: AtomicBool,
}

impl Tokens {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self { parts, in_flight: InFlight::default(), resource_is_known: AtomicBool::new(false) })
    }

    /// Returns the address of the ACS resource.
    pub(crate) fn endpoint(&self) -> &str {
        self.parts.upstream.endpoint()
    }

    fn deadline(&self) -> tokio::time::Instant {
        tokio::time::Instant::now() + self.parts.settings.timeout
    }
}
