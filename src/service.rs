//! What the product does: one user, one identity, and tokens that are never handed out against a later decision.
//!
//! The rules of issuing and creating are those of `docs/protocol.md`; each condition stands in a statement of `store`.

use std::{collections::HashSet, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde::Deserialize;
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::task::TaskTracker;

use crate::{
    acs::retry::{self as upstream, Upstream},
    domain::{clock::Clock, scope::Scope, token::Lifetime, user::IssuerKey},
    encryption::KeyRing,
    metrics::Metrics,
    store::{self, Reader, Recorder, Store},
    tokens::single_flight::InFlight,
};

pub use crate::{
    tokens::issue::{Issued, Requester, TokenParams, TokenSource},
    users::{
        access::{AccessChange, ChangeContext, ChangeOutcome},
        bulk::{Estimate, RevocationStatus, RevocationTarget},
        ensure::Ensured,
        import::{ImportOutcome, ImportedMany},
    },
};

/// What tokens are like, and how long a request waits.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The life of a token when the request does not say, bounded by the user's grant.
    pub lifetime: Lifetime,
    /// How long a request may wait for ACS, for another request that creates the identity, or for a revocation to finish.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// The keys that seal tokens for reuse; nothing is stored and reused without one.
    pub encryption_keys: KeyRing,
    /// How much of its life a stored token must have left to be handed out again.
    #[serde(with = "humantime_serde")]
    pub reuse_margin: Duration,
}

/// What is kept of users, and what users may do to themselves.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserSettings {
    /// Whether users may delete themselves; it ends their chat memberships for good.
    pub self_delete: bool,
    /// How long a mapping without identity is remembered; logins older than that are refused.
    #[serde(with = "humantime_serde")]
    pub tombstone_ttl: Duration,
}

impl Default for UserSettings {
    fn default() -> Self {
        Self { self_delete: false, tombstone_ttl: Duration::from_hours(180 * 24) }
    }
}

/// What is kept of the audit trail.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditSettings {
    /// How long events are kept; for ever where not set.
    #[serde(with = "humantime_serde")]
    pub retention: Option<Duration>,
}

/// G of the protocol: a whole second, in which ACS reckons, and a second that clocks may differ by.
pub(crate) const CLOCK_MARGIN: Duration = Duration::from_secs(2);

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

/// The least of a token's life that may be left when it is reused: clients refresh ten minutes before the end, and one
/// that got a token with less would ask again and again.
pub const LEAST_REUSE_MARGIN: Duration = Duration::from_mins(15);

/// Why a use case did not come to its end, by what the caller can do about it; all who share a mint get the same.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No grant matches the login.
    #[error("no grant of the policy matches the login")]
    NoGrant,
    /// A scope was asked for that the grant does not have.
    #[error("the scope `{}` is not granted", .0.as_str())]
    ScopeNotAllowed(Scope),
    /// The user is blocked.
    #[error("the user is blocked")]
    UserBlocked,
    /// The login is older than the user's last revocation.
    #[error("the login is older than the user's last revocation")]
    ReauthenticationRequired {
        /// How old a login may be at most to be accepted now.
        max_age: Duration,
        /// The moment that the sign-in was compared with.
        sign_ins_valid_from: DateTime<Utc>,
    },
    /// The user is being deleted.
    #[error("the user is being deleted")]
    UserDeleting,
    /// There is no such thing.
    #[error("there is no such thing")]
    NotFound,
    /// The mapping cannot be what was asked for.
    #[error("the mapping is another: {0}")]
    Conflict(&'static str),
    /// The settings do not allow it.
    #[error("the settings do not allow it")]
    NotAllowed,
    /// What was asked for names something that cannot be.
    #[error("{0}")]
    Invalid(&'static str),
    /// A creation, revocation or deletion of the same user did not finish in time.
    #[error("an operation on the same user did not finish in time")]
    InProgress,
    /// ACS did not do what was asked.
    #[error("the call to ACS failed")]
    Upstream(#[from] upstream::Error),
    /// The database did not do what was asked.
    #[error("the store failed")]
    Store(#[source] Arc<store::Error>),
    /// The work was interrupted by the process stopping or by a fault of ours.
    #[error("the work was interrupted")]
    Interrupted,
}

impl From<Arc<store::Error>> for Error {
    fn from(error: Arc<store::Error>) -> Self {
        Self::Store(error)
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// What the use cases are made of.
pub struct Parts {
    /// The database.
    pub store: Store,
    /// ACS.
    pub upstream: Upstream,
    /// The time.
    pub clock: Clock,
    /// What tokens are like.
    pub settings: Settings,
    /// What is kept of users.
    pub users: UserSettings,
    /// How long a call to ACS that got no answer may still act.
    pub max_call_age: Duration,
    /// The issuers for whose users mappings may be made.
    pub issuers: HashSet<IssuerKey>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// The use cases, over one store and one ACS resource.
pub struct Service {
    pub(crate) store: Store,
    pub(crate) upstream: Upstream,
    pub(crate) clock: Clock,
    pub(crate) settings: Settings,
    pub(crate) users: UserSettings,
    pub(crate) max_call_age: Duration,
    /// The issuers for whose users mappings may be made.
    pub(crate) issuers: HashSet<IssuerKey>,
    pub(crate) metrics: Arc<Metrics>,
    /// Finds cached tokens, where tokens are kept.
    pub(crate) reader: Option<Reader>,
    /// Permits minted tokens to leave the house.
    pub(crate) recorder: Recorder,
    /// The mints that are under way.
    pub(crate) in_flight: InFlight,
    /// Tells the worker that there is work.
    pub(crate) wake: Notify,
    /// Work that must come to its end although the request that began it may be gone.
    pub(crate) detached: TaskTracker,
}

impl Service {
    /// Puts the use cases together.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { store, upstream, clock, settings, users, max_call_age, issuers, metrics } = parts;
        let reader = (!settings.encryption_keys.is_empty()).then(|| Reader::start(&store));
        let recorder = Recorder::start(&store);
        Arc::new(Self {
            store,
            upstream,
            clock,
            settings,
            users,
            max_call_age,
            issuers,
            metrics,
            reader,
            recorder,
            in_flight: InFlight::default(),
            wake: Notify::new(),
            detached: TaskTracker::new(),
        })
    }

    /// Waits until there is new work for the worker.
    pub async fn work_accepted(&self) {
        self.wake.notified().await;
    }

    /// Runs work that must complete even if the request that began it is gone.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.detached.spawn(work)
    }

    /// Waits for work that outlived its request.
    pub async fn finish(&self) {
        self.detached.close();
        self.detached.wait().await;
    }

    /// Returns the address of the ACS resource.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        self.upstream.endpoint()
    }

    pub(crate) fn deadline(&self) -> tokio::time::Instant {
        tokio::time::Instant::now() + self.settings.timeout
    }
}

/// Rounds down to whole seconds, as JWTs know them.
pub(crate) fn floor_to_second(time: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp(time.timestamp(), 0).unwrap_or(time)
}
