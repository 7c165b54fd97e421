//! Single flight: equal requests that are running at the same moment share one call to ACS.
//!
//! The key has the generation and the identity that were read, so a request never gets a token that was authorised before an
//! access change which the request came after.
//! The call belongs to no request: it goes on although the request that began it may be gone.

use std::{collections::HashMap, sync::Arc};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::issue::Issued;
use crate::{
    domain::{
        scope::Scopes,
        token::Lifetime,
        user::{AcsId, UserId},
    },
    error::Error,
};

/// What makes two requests equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) user: UserId,
    pub(super) acs_id: AcsId,
    pub(super) generation: i64,
    pub(super) scopes: Scopes,
    pub(super) lifetime: Lifetime,
}

/// A token that may be returned, or nothing when it had to be thrown away.
pub(super) type Outcome = Result<Option<Issued>, Error>;

type Call = Shared<BoxFuture<'static, Outcome>>;

/// The calls that this replica is making.
#[derive(Clone, Default)]
pub(super) struct InFlight(Arc<Mutex<HashMap<Key, Call>>>);

impl InFlight {
    /// Joins the call of a key, or begins it; tells whether it was running already.
    pub(super) fn join<F>(&self, key: Key, tasks: &TaskTracker, begin: impl FnOnce() -> F) -> (Call, bool)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let mut calls = self.0.lock();
        if let Some(call) = calls.get(&key) {
            return (call.clone(), true);
        }
        let entry = Entry { in_flight: self.clone(), key: key.clone() };
        let work = begin();
        let task = tasks.spawn(
            async move {
                let _entry = entry;
                work.await
            }
            .in_current_span(),
        );
        let call = task.map(|outcome| outcome.unwrap_or(Err(Error::Interrupted))).boxed().shared();
        calls.insert(key, call.clone());
        (call, false)
    }
}

/// Removes a call however it ends, so that the next request begins another.
struct Entry {
    in_flight: InFlight,
    key: Key,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.in_flight.0.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::domain::scope::Scope;

    fn key(generation: i64, lifetime: Lifetime) -> Key {
        Key {
            user: UserId::parse("u_00000000000000000000000000000001").unwrap(),
            acs_id: AcsId::parse("8:acs:00000000-0000-0000-0000-000000000001_1").unwrap(),
            generation,
            scopes: [Scope::Chat].into_iter().collect(),
            lifetime,
        }
    }

    #[tokio::test]
    async fn only_equal_requests_share_a_call() {
        let (in_flight, tracker) = (InFlight::default(), TaskTracker::new());
        let (end, ended) = oneshot::channel::<()>();
        let begin = || async move {
            let _ = ended.await;
            Ok(None)
        };
        let (first, joined) = in_flight.join(key(1, Lifetime::HOUR), &tracker, begin);
        assert!(!joined);
        let never = || async { Err(Error::Interrupted) };
        let (second, joined) = in_flight.join(key(1, Lifetime::HOUR), &tracker, never);
        assert!(joined);
        assert!(!in_flight.join(key(2, Lifetime::HOUR), &tracker, never).1);
        assert!(!in_flight.join(key(1, Lifetime::from_minutes(61).unwrap()), &tracker, never).1);
        end.send(()).unwrap();
        assert!(matches!(first.await, Ok(None)) && matches!(second.await, Ok(None)));
        assert!(!in_flight.join(key(1, Lifetime::HOUR), &tracker, never).1, "a call that has ended is over");
    }

    #[tokio::test]
    async fn a_call_that_panics_is_removed() {
        let (in_flight, tracker) = (InFlight::default(), TaskTracker::new());
        let crash = || async { panic!("as a bug would") };
        let (call, _) = in_flight.join(key(1, Lifetime::HOUR), &tracker, crash);
        assert!(matches!(call.await, Err(Error::Interrupted)));
        assert!(in_flight.0.lock().is_empty());
    }
}
