//! Calls to ACS within the quota, with retries until the caller's deadline.
//!
//! As in the official SDKs, 408, 429, 500, 502, 503, 504 and connection errors are retried, and a longer `Retry-After` is
//! respected. A *create* is retried only if the attempt before certainly had no effect, because each creates an identity.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

use super::{
    client::Client,
    error::Error as CallError,
    quota::{self, Call, Permit, Priority, Quota},
};
use crate::{
    domain::{
        clock::Clock,
        scope::Scopes,
        token::{IssuedToken, Lifetime},
        user::AcsId,
    },
    metrics::Metrics,
    store::{self, Store},
};

/// The `Retry-After` for callers when ACS gives none.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(2);
/// The pauses between attempts, before chance makes them up to a half shorter or longer.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Why a call failed, by what the caller can do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Nothing: the key, its rights or the settings are wrong.
    #[error("ACS refused the call")]
    Rejected(#[source] Arc<CallError>),
    /// Try again later: ACS throttles, or the quota is used up.
    #[error("ACS is throttling")]
    Throttled {
        /// When to try again.
        retry_after: Duration,
    },
    /// Try again later: the quota is in the database, which failed.
    #[error("the store failed")]
    Store(#[source] Arc<store::Error>),
    /// Try again later: ACS failed or was too slow.
    #[error("ACS did not answer in time")]
    Unavailable {
        /// When to try again.
        retry_after: Duration,
        /// Whether the call may have had its effect all the same.
        may_have_acted: bool,
        /// The last failure.
        #[source]
        source: Option<Arc<CallError>>,
    },
}

impl Error {
    /// Returns whether ACS may do it later, so that an older token is better than none until then.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Throttled { .. } | Self::Unavailable { .. } => true,
            Self::Rejected(_) | Self::Store(_) => false,
        }
    }
}

impl From<quota::Error> for Error {
    fn from(error: quota::Error) -> Self {
        match error {
            quota::Error::UsedUp { retry_after } => Self::Throttled { retry_after },
            quota::Error::Store(error) => Self::Store(error),
        }
    }
}

/// The ACS resource, called within its quota.
#[derive(Debug)]
pub struct Upstream {
    acs: Client,
    quota: Quota,
    metrics: Arc<Metrics>,
}

impl Upstream {
    /// Makes calls through a client; to be called on a tokio runtime, where the quota's tasks run.
    #[must_use]
    pub fn new(acs: Client, store: &Store, clock: &Clock, settings: &quota::Settings, metrics: Arc<Metrics>) -> Self {
        let quota = Quota::new(store, clock, resource_of(&acs), settings);
        Self { acs, quota, metrics }
    }

    /// Returns the resource's address.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        self.acs.endpoint()
    }

    /// Returns the name of the resource that mappings and operations remember: the host of its address.
    #[must_use]
    pub fn resource(&self) -> &str {
        resource_of(&self.acs)
    }

    /// Returns whether a token that was made with this credential can still be alive.
    #[must_use]
    pub fn has_credential(&self, credential: &str) -> bool {
        self.acs.has_credential(credential)
    }

    /// Returns how long one call may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.acs.timeout()
    }

    /// Creates an identity without a token.
    ///
    /// # Errors
    /// Any [`Error`]; see `may_have_acted`.
    pub async fn create_bare(&self, deadline: Instant) -> Result<AcsId, Error> {
        self.retry(Call::Create, deadline, had_no_effect, || self.acs.create()).await
    }

    /// Creates an identity with its first token.
    ///
    /// # Errors
    /// Any [`Error`]; see `may_have_acted`.
    pub async fn create(
        &self,
        scopes: &Scopes,
        lifetime: Lifetime,
        deadline: Instant,
    ) -> Result<(AcsId, IssuedToken), Error> {
        let attempt = || self.acs.create_with_token(scopes, lifetime);
        self.retry(Call::CreateWithToken, deadline, had_no_effect, attempt).await
    }

    /// Issues a token for an identity.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn issue(
        &self,
        id: &AcsId,
        scopes: &Scopes,
        lifetime: Lifetime,
        deadline: Instant,
    ) -> Result<IssuedToken, Error> {
        self.retry(Call::Issue, deadline, |_| true, || self.acs.issue(id, scopes, lifetime)).await
    }

    /// Reserves one call, waiting for it until the deadline at most. The permit is held while the call is made.
    ///
    /// # Errors
    /// [`Error::Throttled`] or [`Error::Store`].
    pub(crate) async fn reserve(&self, call: Call, priority: Priority, deadline: Instant) -> Result<Permit, Error> {
        let reserved = self.quota.reserve(call, priority, deadline).await;
        if matches!(reserved, Err(quota::Error::UsedUp { .. })) {
            self.metrics.quota_refused(call.as_str());
        }
        Ok(reserved?)
    }

    /// Revokes the tokens of an identity, in one attempt that was reserved.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn revoke(&self, id: &AcsId) -> Result<(), CallError> {
        self.attempt(Call::Revoke, self.acs.revoke(id)).await
    }

    /// Deletes an identity, in one attempt that was reserved.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn delete(&self, id: &AcsId) -> Result<(), CallError> {
        self.attempt(Call::Delete, self.acs.delete(id)).await
    }

    /// Makes a call, counts it, and pauses calls of its kind if ACS says that it was one too many.
    async fn attempt<T>(
        &self,
        call: Call,
        attempt: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let begun = Instant::now();
        let answer = attempt.await;
        self.metrics.upstream_call(call.as_str(), outcome(&answer), begun.elapsed());
        match &answer {
            Ok(_) => self.quota.accepted(call),
            Err(CallError::Throttled { retry_after }) => self.quota.throttled(call, *retry_after),
            Err(_) => {}
        }
        answer
    }

    /// Calls until ACS does it, or the call may not be repeated, or the deadline would pass.
    async fn retry<T, F: Future<Output = Result<T, CallError>>>(
        &self,
        call: Call,
        deadline: Instant,
        may_repeat: impl Fn(&CallError) -> bool,
        attempt: impl Fn() -> F,
    ) -> Result<T, Error> {
        let unavailable =
            |may_have_acted| Error::Unavailable { retry_after: DEFAULT_RETRY_AFTER, may_have_acted, source: None };
        if Instant::now() >= deadline {
            return Err(unavailable(false));
        }
        let mut pause = FIRST_PAUSE;
        loop {
            let permit = self.reserve(call, Priority::Interactive, deadline).await?;
            let answer = timeout_at(deadline, self.attempt(call, attempt())).await;
            drop(permit);
            let error = match answer {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => error,
                Err(_) => return Err(unavailable(true)),
            };
            let wished = match &error {
                // The quota is paused now, so the next permit comes when ACS said.
                CallError::Throttled { .. } => continue,
                CallError::Unavailable { retry_after, .. } => retry_after.unwrap_or_default(),
                CallError::Unreachable(_) => Duration::ZERO,
                _ => return Err(give_up(error)),
            };
            let wait = pause.mul_f64(0.5 + fastrand::f64()).max(wished);
            if !may_repeat(&error) || Instant::now() + wait >= deadline {
                return Err(give_up(error));
            }
            sleep(wait).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }
}

fn resource_of(acs: &Client) -> &str {
    acs.endpoint().split_once("://").map_or("", |(_, host)| host)
}

fn outcome<T>(answer: &Result<T, CallError>) -> &'static str {
    match answer {
        Ok(_) => "ok",
        Err(CallError::Throttled { .. }) => "throttled",
        Err(CallError::Unreachable(_)) => "unreachable",
        Err(CallError::Unavailable { .. } | CallError::Malformed { .. }) => "unavailable",
        Err(CallError::Unauthorized { .. } | CallError::NotOwned | CallError::NotFound | CallError::Refused { .. }) => {
            "refused"
        }
    }
}

/// Returns whether a failed call certainly had no effect at ACS.
pub(crate) fn had_no_effect(error: &CallError) -> bool {
    !matches!(error, CallError::Unavailable { .. } | CallError::Malformed { .. })
}

fn give_up(error: CallError) -> Error {
    let may_have_acted = !had_no_effect(&error);
    match error {
        CallError::Throttled { retry_after } => {
            Error::Throttled { retry_after: retry_after.unwrap_or(DEFAULT_RETRY_AFTER) }
        }
        CallError::Unreachable(_) | CallError::Unavailable { .. } | CallError::Malformed { .. } => {
            let retry_after = match &error {
                CallError::Unavailable { retry_after, .. } => *retry_after,
                _ => None,
            };
            Error::Unavailable {
                retry_after: retry_after.unwrap_or(DEFAULT_RETRY_AFTER),
                may_have_acted,
                source: Some(Arc::new(error)),
            }
        }
        CallError::Unauthorized { .. } | CallError::NotOwned | CallError::NotFound | CallError::Refused { .. } => {
            Error::Rejected(Arc::new(error))
        }
    }
}
