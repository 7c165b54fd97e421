//! Single flight: requests that want the same token at the same moment share one mint.
//!
//! The key has the generation and the identity that were read, so that nobody gets a token whose mint was authorised
//! before a fence that they came after, or after one that they came before.
//! A flight is nobody's request: it lands although the request that began it may be gone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::issue::Issued;
use crate::domain::{
    scope::Scopes,
    token::Lifetime,
    user::{AcsId, UserId},
};
use crate::service::Error;

/// What makes two mints one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct InFlightKey {
    pub(crate) user: UserId,
    pub(crate) acs_id: AcsId,
    pub(crate) generation: i64,
    pub(crate) scopes: Scopes,
    pub(crate) lifetime: Lifetime,
}

/// What a flight brings: a token that may leave the house, or nothing when it had to be thrown away.
pub(crate) type Landed = Result<Option<Issued>, Error>;

type Flight = Shared<BoxFuture<'static, Landed>>;

/// The mints that are under way in this replica.
#[derive(Clone, Default)]
pub(crate) struct InFlight(Arc<Mutex<HashMap<InFlightKey, Flight>>>);

impl InFlight {
    /// Joins the flight of a key, or begins it; tells whether it was under way already.
    pub(crate) fn join<F>(&self, key: InFlightKey, tracker: &TaskTracker, begin: impl FnOnce() -> F) -> (Flight, bool)
    where
        F: Future<Output = Landed> + Send + 'static,
    {
        let mut in_flight = self.lock();
        if let Some(flight) = in_flight.get(&key) {
            return (flight.clone(), true);
        }
        let landing = Landing { in_flight: self.clone(), key: key.clone() };
        let work = begin();
        let task = tracker.spawn(
            async move {
                let _landing = landing;
                work.await
            }
            .in_current_span(),
        );
        let flight = task.map(|landed| landed.unwrap_or(Err(Error::Interrupted))).boxed().shared();
        in_flight.insert(key, flight.clone());
        (flight, false)
    }

    /// The map is whole at any time, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, HashMap<InFlightKey, Flight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a flight however it ends, so that the next request begins another.
struct Landing {
    in_flight: InFlight,
    key: InFlightKey,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.in_flight.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::domain::scope::Scope;

    fn key(generation: i64, lifetime: Lifetime) -> InFlightKey {
        InFlightKey {
            user: UserId::parse("u_00000000000000000000000000000001").unwrap(),
            acs_id: AcsId::parse("8:acs:00000000-0000-0000-0000-000000000001_1").unwrap(),
            generation,
            scopes: [Scope::Chat].into_iter().collect(),
            lifetime,
        }
    }

    #[tokio::test]
    async fn only_what_is_the_same_is_shared() {
        let (in_flight, tracker) = (InFlight::default(), TaskTracker::new());
        let (land, landing) = oneshot::channel::<()>();
        let begin = || async move {
            let _ = landing.await;
            Ok(None)
        };
        let (first, joined) = in_flight.join(key(1, Lifetime::HOUR), &tracker, begin);
        assert!(!joined);
        let never = || async { Err(Error::Interrupted) };
        let (second, joined) = in_flight.join(key(1, Lifetime::HOUR), &tracker, never);
        assert!(joined);
        assert!(!in_flight.join(key(2, Lifetime::HOUR), &tracker, never).1);
        assert!(!in_flight.join(key(1, Lifetime::from_minutes(61).unwrap()), &tracker, never).1);
        land.send(()).unwrap();
        assert!(matches!(first.await, Ok(None)) && matches!(second.await, Ok(None)));
        assert!(!in_flight.join(key(1, Lifetime::HOUR), &tracker, never).1, "a flight that landed is over");
    }

    #[tokio::test]
    async fn a_flight_that_panics_does_not_stay() {
        let (in_flight, tracker) = (InFlight::default(), TaskTracker::new());
        let crash = || async { panic!("as a fault of ours would") };
        let (flight, _) = in_flight.join(key(1, Lifetime::HOUR), &tracker, crash);
        assert!(matches!(flight.await, Err(Error::Interrupted)));
        assert!(in_flight.lock().is_empty());
    }
}
