//! Single flight: equal requests that are running at the same moment share one call to ACS.
//!
//! The call belongs to no request: it goes on although the request that began it may be gone.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::error::Error;

type Call<T> = Shared<BoxFuture<'static, Result<T, Error>>>;
type Calls<K, T> = Arc<Mutex<HashMap<K, Call<T>>>>;

/// The calls that this replica is making, by what makes two requests equal.
pub(super) struct InFlight<K, T>(Calls<K, T>);

impl<K, T> Default for InFlight<K, T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K, T> InFlight<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Joins the call of a key, or begins it; tells whether it was running already.
    pub(super) fn join<F>(&self, key: K, tasks: &TaskTracker, begin: impl FnOnce() -> F) -> (Call<T>, bool)
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let mut calls = self.0.lock();
        if let Some(call) = calls.get(&key) {
            return (call.clone(), true);
        }
        let entry = Entry { calls: Arc::clone(&self.0), key: key.clone() };
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
struct Entry<K: Eq + Hash, T> {
    calls: Calls<K, T>,
    key: K,
}

impl<K: Eq + Hash, T> Drop for Entry<K, T> {
    fn drop(&mut self) {
        self.calls.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn only_equal_requests_share_a_call() {
        let (in_flight, tasks) = (InFlight::default(), TaskTracker::new());
        let (end, ended) = oneshot::channel::<()>();
        let begin = || async move {
            let _ = ended.await;
            Ok(1)
        };
        let (first, joined) = in_flight.join("a", &tasks, begin);
        assert!(!joined);
        let never = || async { Err(Error::Interrupted) };
        let (second, joined) = in_flight.join("a", &tasks, never);
        assert!(joined);
        assert!(!in_flight.join("b", &tasks, never).1);
        end.send(()).unwrap();
        assert!(matches!(first.await, Ok(1)) && matches!(second.await, Ok(1)));
        assert!(!in_flight.join("a", &tasks, never).1, "a call that has ended is over");
    }

    #[tokio::test]
    async fn a_call_that_panics_is_removed() {
        let (in_flight, tasks) = (InFlight::<_, ()>::default(), TaskTracker::new());
        let crash = || async { panic!("as a bug would") };
        let (call, _) = in_flight.join("a", &tasks, crash);
        assert!(matches!(call.await, Err(Error::Interrupted)));
        assert!(in_flight.0.lock().is_empty());
    }
}
