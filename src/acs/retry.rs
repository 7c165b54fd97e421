//! Calls to ACS inside the budget, and with retries inside the caller's deadline.
//!
//! Repeated are 408, 429, 500, 502, 503, 504 and connection errors, as the official SDKs do; `Retry-After` wins when longer.
//! A *create* is repeated only when it is certain that the attempt before had no effect, because each creates an identity.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::{Instant, timeout_at};

use super::quota::{self, Call, Priority, Quota, Right};
use crate::{
    acs,
    domain::{
        clock::Clock,
        scope::Scopes,
        token::{IssuedToken, Lifetime},
        user::AcsId,
    },
    metrics::Metrics,
    store::{self, Store},
};

/// What a caller is told to wait when ACS does not say.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(2);

/// Why ACS did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// ACS refused us: our key, our rights or our settings are wrong.
    #[error("ACS refused the call")]
    Rejected(#[source] Arc<acs::Error>),
    /// Too many calls for ACS: it said so, or the budget is spent.
    #[error("ACS is throttling")]
    Throttled {
        /// When to try again.
        retry_after: Duration,
    },
    /// The budget could not be asked, and without it nothing may be called.
    #[error("the store failed")]
    Store(#[source] Arc<store::Error>),
    /// ACS is away or too slow.
    #[error("ACS did not answer in time")]
    Unavailable {
        /// When to try again.
        retry_after: Duration,
        /// Whether the call may have had its effect all the same.
        may_have_acted: bool,
        /// The last failure.
        #[source]
        source: Option<Arc<acs::Error>>,
    },
}

impl Error {
    /// Tells whether the trouble is of the kind that passes, so that an older token is better than none.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Throttled { .. } | Self::Unavailable { .. } => true,
            Self::Rejected(_) | Self::Store(_) => false,
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Store(Arc::new(error))
    }
}

impl From<quota::Error> for Error {
    fn from(error: quota::Error) -> Self {
        match error {
            quota::Error::Spent { retry_after } => Self::Throttled { retry_after },
            quota::Error::Store(error) => error.into(),
        }
    }
}

/// ACS with patience.
#[derive(Debug)]
pub struct Upstream {
    acs: acs::Client,
    quota: Quota,
    metrics: Arc<Metrics>,
}

impl Upstream {
    /// Wraps a client, whose calls the budget bounds.
    #[must_use]
    pub fn new(
        acs: acs::Client,
        store: Store,
        clock: Clock,
        settings: &quota::Settings,
        metrics: Arc<Metrics>,
    ) -> Self {
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

    /// Tells whether a token that was made with this credential can still be alive.
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

    /// Takes the right to one revocation or deletion, waiting for it until the deadline at most.
    ///
    /// # Errors
    /// [`Error::Throttled`] or [`Error::Store`].
    pub(crate) async fn reserve(&self, call: Call, priority: Priority, deadline: Instant) -> Result<Right<'_>, Error> {
        let taken = self.quota.take(call, priority, deadline).await;
        if matches!(taken, Err(quota::Error::Spent { .. })) {
            self.metrics.quota_refused(call.as_str());
        }
        Ok(taken?)
    }

    /// Revokes the tokens of an identity, in one attempt whose right was reserved.
    ///
    /// # Errors
    /// Any [`acs::Error`].
    pub async fn revoke(&self, id: &AcsId) -> Result<(), acs::Error> {
        self.attempt(Call::Revoke, self.acs.revoke(id)).await
    }

    /// Deletes an identity, in one attempt whose right was reserved.
    ///
    /// # Errors
    /// Any [`acs::Error`].
    pub async fn delete(&self, id: &AcsId) -> Result<(), acs::Error> {
        self.attempt(Call::Delete, self.acs.delete(id)).await
    }

    /// Makes a call, counts it, and rests its lane when ACS says that it was one too many.
    async fn attempt<T>(
        &self,
        call: Call,
        attempt: impl Future<Output = Result<T, acs::Error>>,
    ) -> Result<T, acs::Error> {
        let begun = Instant::now();
        let answer = attempt.await;
        self.metrics.upstream_call(call.as_str(), outcome(&answer), begun.elapsed());
        if let Err(acs::Error::Throttled { retry_after }) = &answer {
            if let Err(error) = self.quota.pause(call, *retry_after).await {
                // The call fails for another reason; the other replicas will see their own refusals.
                tracing::warn!(error = &error as &dyn std::error::Error, "a lane's rest could not be shared");
            }
        } else if answer.is_ok() {
            self.quota.taken(call);
        }
        answer
    }

    /// Calls until it works, may not be repeated, or the deadline would pass.
    async fn retry<T, F: Future<Output = Result<T, acs::Error>>>(
        &self,
        call: Call,
        deadline: Instant,
        may_repeat: impl Fn(&acs::Error) -> bool,
        attempt: impl Fn() -> F,
    ) -> Result<T, Error> {
        let mut pauses = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(2))
            .without_max_times()
            .with_jitter()
            .build();
        if Instant::now() >= deadline {
            return Err(Error::Unavailable { retry_after: DEFAULT_RETRY_AFTER, may_have_acted: false, source: None });
        }
        loop {
            let right = self.reserve(call, Priority::Interactive, deadline).await?;
            let error = match timeout_at(deadline, self.attempt(call, attempt())).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => error,
                Err(_) => {
                    return Err(Error::Unavailable {
                        retry_after: DEFAULT_RETRY_AFTER,
                        may_have_acted: true,
                        source: None,
                    });
                }
            };
            let pause = match &error {
                // The lane rests, and so does whoever is in it.
                acs::Error::Throttled { .. } => continue,
                acs::Error::Unavailable { retry_after, .. } => {
                    next_pause(&mut pauses).max(retry_after.unwrap_or_default())
                }
                acs::Error::Unreachable(_) => next_pause(&mut pauses),
                _ => return Err(give_up(error)),
            };
            drop(right);
            if !may_repeat(&error) || Instant::now() + pause >= deadline {
                return Err(give_up(error));
            }
            tokio::time::sleep(pause).await;
        }
    }
}

fn next_pause(pauses: &mut impl Iterator<Item = Duration>) -> Duration {
    pauses.next().unwrap_or(DEFAULT_RETRY_AFTER)
}

fn resource_of(acs: &acs::Client) -> &str {
    acs.endpoint().split_once("://").map_or("", |(_, host)| host)
}

fn outcome<T>(answer: &Result<T, acs::Error>) -> &'static str {
    match answer {
        Ok(_) => "ok",
        Err(acs::Error::Throttled { .. }) => "throttled",
        Err(acs::Error::Unreachable(_)) => "unreachable",
        Err(acs::Error::Unavailable { .. } | acs::Error::Malformed { .. }) => "unavailable",
        Err(
            acs::Error::Unauthorized { .. } | acs::Error::NotOwned | acs::Error::NotFound | acs::Error::Refused { .. },
        ) => "refused",
    }
}

/// Tells whether a failed call surely did nothing at ACS.
pub(crate) fn had_no_effect(error: &acs::Error) -> bool {
    !matches!(error, acs::Error::Unavailable { .. } | acs::Error::Malformed { .. })
}

fn give_up(error: acs::Error) -> Error {
    let may_have_acted = !had_no_effect(&error);
    match error {
        acs::Error::Throttled { retry_after } => {
            Error::Throttled { retry_after: retry_after.unwrap_or(DEFAULT_RETRY_AFTER) }
        }
        acs::Error::Unreachable(_) | acs::Error::Unavailable { .. } | acs::Error::Malformed { .. } => {
            let retry_after = match &error {
                acs::Error::Unavailable { retry_after, .. } => *retry_after,
                _ => None,
            };
            Error::Unavailable {
                retry_after: retry_after.unwrap_or(DEFAULT_RETRY_AFTER),
                may_have_acted,
                source: Some(Arc::new(error)),
            }
        }
        acs::Error::Unauthorized { .. } | acs::Error::NotOwned | acs::Error::NotFound | acs::Error::Refused { .. } => {
            Error::Rejected(Arc::new(error))
        }
    }
}
