//! Background work: the operations of the outbox at ACS, bulk revocations, and deleting what has expired.

pub(crate) mod global;
mod purge;
mod run;
pub(crate) mod worker;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::{
    acs::retry::Upstream,
    domain::{
        audit::{Action, Actor, Event, RequestContext},
        clock::Clock,
        operation::{Kind, Lease, Operation},
        user::User,
    },
    error::Error,
    metrics::Metrics,
    store::{NewOperation, Store},
};

pub(crate) use run::EXPEDITE_INTERVAL;

/// G of the protocol: ACS reckons in whole seconds, and clocks may differ by a second.
pub(crate) const CLOCK_MARGIN: Duration = Duration::from_secs(2);

/// What jobs are run with.
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    /// How long a call to ACS that got no answer may still act.
    pub(crate) max_call_age: Duration,
    /// How long a row without an identity is kept.
    pub(crate) tombstone_ttl: Duration,
    /// How long audit events are kept; without end by default.
    pub(crate) audit_retention: Option<Duration>,
}

/// Runs the operations that were accepted, and what else goes on in the background.
pub(crate) struct Jobs {
    parts: Parts,
    wake: Notify,
    /// Work that must finish although the request that began it may be gone.
    tasks: TaskTracker,
}

/// Who asks for a change, why, and from where.
#[derive(Clone, Debug)]
pub(crate) struct ChangeContext {
    /// A user who asks for themselves is known only once the row is read.
    pub(crate) actor: Option<Actor>,
    pub(crate) reason: Option<String>,
    pub(crate) request_context: RequestContext,
}

/// Who makes the first attempt of an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FirstAttempt {
    /// The replica that accepts it, at once.
    Now(Lease),
    /// The worker, as part of a bulk revocation.
    InBulk(uuid::Uuid),
}

impl Jobs {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self { parts, wake: Notify::new(), tasks: TaskTracker::new() })
    }

    /// Wakes the worker.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// The tasks that are waited for before the process ends.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Spawns work that is waited for before the process ends.
    pub(crate) fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.tasks.spawn(work.in_current_span())
    }

    /// Waits for work that outlived its request.
    pub(crate) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Makes the operation of a change for a locked user with an identity.
    pub(crate) fn operation(
        &self,
        user: &User,
        kind: Kind,
        context: &ChangeContext,
        first: FirstAttempt,
        now: DateTime<Utc>,
    ) -> Result<NewOperation, Error> {
        let acs_id = user.acs_id.clone().ok_or(Error::NotFound)?;
        let resource = user.resource.clone().unwrap_or_else(|| self.parts.upstream.resource().to_owned());
        // A deletion ends tokens of any second; a revocation may spare those of its own.
        let not_before = match user.last_minted_at {
            Some(minted) if kind == Kind::Revoke => now.max(minted + CLOCK_MARGIN),
            _ => now,
        };
        let (revocation, lease) = match first {
            FirstAttempt::Now(lease) => (None, Some(lease)),
            FirstAttempt::InBulk(revocation) => (Some(revocation), None),
        };
        let operation = Operation {
            revocation,
            reason: context.reason.clone(),
            not_before,
            attempts: i64::from(lease.is_some()),
            last_attempt_at: lease.map(|_| now),
            ..Operation::new(kind, user.id.clone(), acs_id, resource, actor(user, context), now)
        };
        Ok(NewOperation { operation, request_id: context.request_context.request_id.clone(), lease })
    }
}

fn actor(user: &User, context: &ChangeContext) -> Actor {
    context.actor.clone().unwrap_or_else(|| Actor::User(user.id.clone()))
}

/// The event of a change of a user.
pub(crate) fn event(action: Action, user: &User, operation: Option<&Operation>, context: &ChangeContext) -> Event {
    Event {
        acs_id: user.acs_id.clone(),
        operation: operation.map(|operation| operation.id),
        detail: context.reason.as_ref().map(|reason| serde_json::json!({"reason": reason})),
        ..Event::new(action, actor(user, context), user.id.clone(), context.request_context.clone())
    }
}
