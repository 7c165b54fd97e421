//! Running operations: an attempt is leased before its call is sent, and repeated until ACS confirms it.
//!
//! ACS confirms with 204, 404, or `IdentityNotOwned` for an identity whose resource part is that of our own resource. With
//! another resource part the configuration is wrong, and the operation stays pending and is logged.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use tokio::time::Instant;
use uuid::Uuid;

use super::{CLOCK_MARGIN, Jobs};
use crate::{
    acs::{
        self,
        quota::{Call, Priority},
        retry::{self as upstream, had_no_effect},
    },
    domain::{
        audit::{Action, Actor, Event, RequestContext},
        operation::{Kind, Lease, Operation},
        user::UserId,
    },
    error::Error,
    store::{self, Completion, Failure},
};

/// How much longer than its call an attempt's lease is good.
const LEASE_MARGIN: Duration = Duration::from_secs(5);
/// How long an attempt waits for room in the quota: less than its lease's margin.
const QUOTA_TIMEOUT: Duration = Duration::from_secs(2);
/// The pauses between attempts, at least and at most.
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a wait for an attempt that somebody else makes is at least.
const SHORTEST_WAIT: Duration = Duration::from_millis(20);
/// How often a request that meets a hold may pull its user's operation forward.
pub(crate) const EXPEDITE_INTERVAL: Duration = Duration::from_secs(1);

/// When an attempt starts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    /// When its pause is over.
    WhenDue,
    /// Before that, because the user waits for it.
    Early,
}

/// How an attempt ended.
enum Outcome {
    Confirmed,
    /// The call may still act, or surely will not any more.
    Failed {
        error: acs::Error,
        may_act: bool,
    },
    /// The call was not sent, because the lease was nearly over or ACS's limit was reached.
    NotSent {
        retry_after: Duration,
    },
}

impl Jobs {
    /// Makes the lease of an attempt that begins now.
    pub(crate) fn lease(&self, now: DateTime<Utc>) -> Lease {
        Lease { by: Uuid::new_v4(), until: now + self.parts.upstream.timeout() + LEASE_MARGIN }
    }

    /// Runs operations that are due, so many at once; returns when the next one is due.
    pub(super) async fn run_due(&self, at_once: usize) -> Result<Option<DateTime<Utc>>, Error> {
        let now = self.parts.clock.now();
        let due = self.parts.store.due_operations(now, i64::try_from(at_once).unwrap_or(i64::MAX)).await?;
        let mut attempts = stream::iter(due)
            .map(|id| async move { (id, self.try_once(id, Start::WhenDue).await) })
            .buffer_unordered(at_once);
        while let Some((id, attempt)) = attempts.next().await {
            match attempt {
                // One row that cannot be read must not keep the others from being run.
                Err(Error::Store(error @ (store::Error::Corrupt { .. } | store::Error::Rejected(_)))) => {
                    tracing::error!(operation = %id, error = &error as &dyn std::error::Error, "cannot run an operation");
                }
                attempt => attempt?,
            }
        }
        let oldest = self.parts.store.oldest_pending_operation().await?;
        self.parts
            .metrics
            .oldest_pending_operation(oldest.map(|at| (self.parts.clock.now() - at).to_std().unwrap_or_default()));
        Ok(self.parts.store.next_due(self.parts.clock.now()).await?)
    }

    /// Expedites the pending operation of a user who waits for it; the request does not wait for the call itself.
    pub(crate) fn expedite_detached(self: &Arc<Self>, user: UserId) {
        let jobs = Arc::clone(self);
        self.spawn(async move {
            if let Err(error) = jobs.expedite(&user).await {
                tracing::warn!(error = &error as &dyn std::error::Error, %user, "cannot expedite an operation");
            }
        });
    }

    async fn expedite(&self, user: &UserId) -> Result<(), Error> {
        let now = self.parts.clock.now();
        if let Some(id) = self.parts.store.open_operation_of(user, now, now - EXPEDITE_INTERVAL).await? {
            self.try_once(id, Start::Early).await?;
        }
        Ok(())
    }

    /// Follows an operation that was just accepted, whose first attempt is leased, until it is complete or the deadline comes;
    /// returns the operation as it is then.
    ///
    /// The first call goes out at once, because it ends most tokens. Where it comes too early to count, another one follows.
    pub(crate) async fn run_accepted(
        &self,
        operation: Operation,
        lease: Lease,
        deadline: Instant,
    ) -> Result<Operation, Error> {
        if self.parts.clock.now() >= operation.not_before {
            self.attempt(&operation, lease, Priority::Interactive).await?;
        } else {
            let outcome = self.call(&operation, lease, Priority::Interactive).await;
            let may_act = matches!(outcome, Outcome::Failed { may_act: true, .. });
            let failure = Failure { next_attempt_at: operation.not_before, not_before: None, error: None, may_act };
            self.parts.store.back_off(operation.id, lease, &failure).await?;
        }
        loop {
            let current = self.parts.store.find_operation(operation.id).await?.ok_or(Error::NotFound)?;
            let due = current.next_attempt_at.max(current.not_before);
            let wait = (due - self.parts.clock.now()).to_std().unwrap_or_default().max(SHORTEST_WAIT);
            if current.completed_at.is_some() || Instant::now() + wait >= deadline {
                return Ok(current);
            }
            tokio::time::sleep(wait).await;
            self.try_once(operation.id, Start::WhenDue).await?;
        }
    }

    /// Makes an attempt, unless another replica or request is making one.
    async fn try_once(&self, id: Uuid, start: Start) -> Result<(), Error> {
        let now = self.parts.clock.now();
        let lease = self.lease(now);
        let early = start == Start::Early;
        let Some(operation) = self.parts.store.lease_operation(id, lease, early, now).await? else { return Ok(()) };
        // Operations of a bulk revocation are in the background, unless their user waits.
        let in_background = operation.revocation.is_some() && !early;
        let priority = if in_background { Priority::Background } else { Priority::Interactive };
        self.attempt(&operation, lease, priority).await
    }

    /// Makes a leased attempt whose call counts.
    async fn attempt(&self, operation: &Operation, lease: Lease, priority: Priority) -> Result<(), Error> {
        let (error, may_act) = match self.call(operation, lease, priority).await {
            Outcome::Confirmed => return self.complete(operation).await,
            Outcome::Failed { error, may_act } => (error, may_act),
            Outcome::NotSent { retry_after } => {
                let next_attempt_at = self.parts.clock.now() + retry_after;
                let failure = Failure { next_attempt_at, not_before: None, error: None, may_act: false };
                return Ok(self.parts.store.back_off(operation.id, lease, &failure).await?);
            }
        };
        let retry_after = match &error {
            acs::Error::Throttled { retry_after } | acs::Error::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        };
        let age = (self.parts.clock.now() - operation.created_at).to_std().unwrap_or_default();
        let pause = pause(age, lease).max(retry_after.unwrap_or_default());
        tracing::warn!(
            operation = %operation.id,
            kind = operation.kind.as_str(),
            attempts = operation.attempts,
            age_s = age.as_secs(),
            error = &error as &dyn std::error::Error,
            "operation attempt failed, will retry"
        );
        let now = self.parts.clock.now();
        let failure = Failure {
            next_attempt_at: now + pause,
            // ACS's `Retry-After` also binds requests that would expedite the operation.
            not_before: retry_after.map(|wait| now + wait),
            error: Some(error.to_string()),
            may_act,
        };
        self.parts.store.back_off(operation.id, lease, &failure).await?;
        Ok(())
    }

    async fn call(&self, operation: &Operation, lease: Lease, priority: Priority) -> Outcome {
        if operation.resource != self.parts.upstream.resource() {
            // The settings name another resource now: its answers say nothing about this operation.
            return Outcome::Failed { error: acs::Error::NotOwned, may_act: false };
        }
        let call = match operation.kind {
            Kind::Revoke => Call::Revoke,
            Kind::Delete | Kind::Discard => Call::Delete,
        };
        let _right = match self.parts.upstream.reserve(call, priority, Instant::now() + QUOTA_TIMEOUT).await {
            Ok(right) => right,
            Err(upstream::Error::Throttled { retry_after }) => return Outcome::NotSent { retry_after },
            Err(_) => return Outcome::NotSent { retry_after: SHORTEST_PAUSE },
        };
        // Another replica may take the next lease as soon as this one is over.
        if self.parts.clock.now() + self.parts.upstream.timeout() > lease.until {
            return Outcome::NotSent { retry_after: Duration::ZERO };
        }
        let result = match operation.kind {
            Kind::Revoke => self.parts.upstream.revoke(&operation.acs_id).await,
            Kind::Delete | Kind::Discard => self.parts.upstream.delete(&operation.acs_id).await,
        };
        match result {
            Ok(()) | Err(acs::Error::NotFound) => Outcome::Confirmed,
            Err(acs::Error::NotOwned) if self.is_ours(operation).await => Outcome::Confirmed,
            Err(error) => Outcome::Failed { may_act: !had_no_effect(&error), error },
        }
    }

    /// Tells whether the identity has the resource part that the present resource gave its identities.
    async fn is_ours(&self, operation: &Operation) -> bool {
        let guid = self.parts.store.resource_guid(&operation.resource).await;
        guid.is_ok_and(|guid| guid.as_deref() == Some(operation.acs_id.resource_guid()))
    }

    /// Completes an operation and lifts what it held, in one transaction: a crash between the two would leave the user held.
    async fn complete(&self, operation: &Operation) -> Result<(), Error> {
        let now = self.parts.clock.now();
        let mut tx = self.parts.store.begin().await?;
        let Some(Completion { late_calls, last_attempt_at }) = tx.complete_operation(operation.id, now).await? else {
            return Ok(());
        };
        match operation.kind {
            Kind::Revoke => {
                // ACS reckons in whole seconds: a token of the second of the revocation may be dead.
                let no_reuse_before =
                    last_attempt_at.filter(|_| late_calls > 0).map(|at| at + self.parts.max_call_age + CLOCK_MARGIN);
                tx.hold(&operation.user, now + CLOCK_MARGIN, no_reuse_before).await?;
            }
            Kind::Delete => tx.unbind(&operation.user, &operation.acs_id, now).await?,
            Kind::Discard => {}
        }
        let event = Event {
            acs_id: Some(operation.acs_id.clone()),
            operation: Some(operation.id),
            ..Event::new(Action::OperationCompleted, Actor::Worker, operation.user.clone(), RequestContext::default())
        };
        tx.append_audit([event], now).await?;
        tx.commit().await?;
        tracing::info!(
            operation = %operation.id,
            kind = operation.kind.as_str(),
            attempts = operation.attempts,
            age_ms = (now - operation.created_at).num_milliseconds(),
            "operation completed"
        );
        Ok(())
    }
}

/// The pause before the next attempt: half the operation's age, so that it doubles with each attempt, and that requests
/// which pull the operation forward do not push it away; with jitter, up to a ceiling, and never giving up.
fn pause(age: Duration, lease: Lease) -> Duration {
    let pause = (age / 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    // The lease's id is random, and each attempt has its own.
    let percent = 75 + u32::try_from(lease.by.as_u128() % 51).unwrap_or_default();
    pause * percent / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_age_up_to_a_ceiling() {
        let lease = Lease { by: Uuid::from_u128(25), until: DateTime::UNIX_EPOCH };
        for (age_s, pause_ms) in [(0, 500), (1, 500), (10, 5_000), (60, 30_000), (86_400, 30_000)] {
            assert_eq!(pause(Duration::from_secs(age_s), lease), Duration::from_millis(pause_ms));
        }
        for random in 0..500 {
            let lease = Lease { by: Uuid::from_u128(random), ..lease };
            let pause = pause(Duration::from_secs(20), lease);
            assert!((7_500..=12_500).contains(&pause.as_millis()), "{pause:?}");
        }
    }
}
