//! Calls to ACS with retries inside the caller's deadline.
//!
//! Repeated are 408, 429, 500, 502, 503, 504 and connection errors, as the official SDKs do; `Retry-After` wins when longer.
//! A *create* is repeated only when it is certain that the attempt before had no effect, because each creates an identity.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::{Instant, timeout_at};

use crate::{
    acs,
    domain::{
        scope::Scopes,
        token::{IssuedToken, Lifetime},
        user::AcsId,
    },
};

/// What a caller is told to wait when ACS does not say.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(2);

/// Why ACS did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// ACS refused us: our key, our rights or our settings are wrong.
    #[error("ACS refused the call")]
    Rejected(#[source] Arc<acs::Error>),
    /// Too many calls for ACS.
    #[error("ACS is throttling")]
    Throttled {
        /// When to try again.
        retry_after: Duration,
    },
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
            Self::Rejected(_) => false,
        }
    }
}

/// ACS with patience.
#[derive(Debug)]
pub struct Upstream {
    acs: acs::Client,
}

impl Upstream {
    /// Wraps a client.
    #[must_use]
    pub fn new(acs: acs::Client) -> Self {
        Self { acs }
    }

    /// Returns the resource's address.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        self.acs.endpoint()
    }

    /// Returns the name of the resource that mappings and operations remember: the host of its address.
    #[must_use]
    pub fn resource(&self) -> &str {
        self.acs.endpoint().split_once("://").map_or("", |(_, host)| host)
    }

    /// Returns the client for calls that are not repeated here.
    #[must_use]
    pub fn acs(&self) -> &acs::Client {
        &self.acs
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
        retry(deadline, had_no_effect, || self.acs.create()).await
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
        retry(deadline, had_no_effect, || self.acs.create_with_token(scopes, lifetime)).await
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
        retry(deadline, |_| true, || self.acs.issue(id, scopes, lifetime)).await
    }
}

/// Tells whether a failed call surely did nothing at ACS.
pub(super) fn had_no_effect(error: &acs::Error) -> bool {
    !matches!(error, acs::Error::Unavailable { .. } | acs::Error::Malformed { .. })
}

/// Calls until it works, may not be repeated, or the deadline would pass.
async fn retry<T, F: Future<Output = Result<T, acs::Error>>>(
    deadline: Instant,
    may_repeat: impl Fn(&acs::Error) -> bool,
    call: impl Fn() -> F,
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
        let error = match timeout_at(deadline, call()).await {
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
        let wish = match &error {
            acs::Error::Throttled { retry_after } | acs::Error::Unavailable { retry_after, .. } => *retry_after,
            acs::Error::Unreachable(_) => None,
            _ => return Err(give_up(error)),
        };
        let pause = pauses.next().unwrap_or(DEFAULT_RETRY_AFTER).max(wish.unwrap_or_default());
        if !may_repeat(&error) || Instant::now() + pause >= deadline {
            return Err(give_up(error));
        }
        tokio::time::sleep(pause).await;
    }
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
