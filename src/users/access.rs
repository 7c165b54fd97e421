//! Revoke, block, unblock and delete: one transaction that locks the user first, then a call to ACS that cannot be lost.
//!
//! A user without a row gets one, so that the first call of a thief fails too.

use std::sync::Arc;

use chrono::{DateTime, Duration, SubsecRound, Utc};
use serde_json::json;
use tokio::{sync::oneshot, time::Instant, time::timeout_at};

use super::Users;
use crate::{
    auth::SignIn,
    domain::{
        audit::{Action, Event},
        operation::{Kind, Operation},
        user::{State, User, UserRef},
    },
    error::Error,
    jobs::{ChangeContext, FirstAttempt, event},
    store::{Access, NewOperation},
};

/// What is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessChange {
    /// End the user's tokens.
    Revoke { reject_older_sign_ins: bool },
    /// End the user's tokens, and issue no more until unblocked.
    Block,
    /// Delete the user's identity; only a newer sign-in gets another one.
    Delete,
}

/// A user after a change, and the operation at ACS that it led to, where there was an identity.
#[derive(Clone, Debug)]
pub(crate) struct ChangeOutcome {
    pub(crate) user: User,
    pub(crate) operation: Option<Operation>,
}

impl Users {
    /// Changes a user's access and follows the operation at ACS for a while.
    ///
    /// Once this returns `Ok`, complete or not, no replica returns a token that was authorised before.
    pub(crate) async fn change(
        self: &Arc<Self>,
        user: &UserRef,
        change: AccessChange,
        context: &ChangeContext,
    ) -> Result<ChangeOutcome, Error> {
        let deadline = Instant::now() + self.parts.timeout;
        let (users, user, context) = (Arc::clone(self), user.clone(), context.clone());
        let (accept, accepted) = oneshot::channel();
        // Detached, so that the calls are made although the caller may hang up or be answered earlier.
        let work = self.parts.jobs.spawn(async move {
            let lease = users.parts.jobs.lease(users.parts.clock.now());
            let outcome = users.accept(&user, change, &context, FirstAttempt::Now(lease)).await;
            let operation = outcome.as_ref().ok().and_then(|outcome| outcome.operation.clone());
            let _ = accept.send(outcome);
            let followed = match operation {
                Some(operation) => users.parts.jobs.run_accepted(operation, lease, deadline).await.map(Some),
                None => Ok(None),
            };
            // The worker goes on with what is left.
            users.parts.jobs.wake();
            followed.unwrap_or_else(|error| {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot follow an operation");
                None
            })
        });
        let outcome = accepted.await.map_err(|_| Error::Interrupted)??;
        if outcome.operation.is_none() {
            return self.with_pending_deletion(outcome).await;
        }
        // If the state cannot be read now, the answer says what is certain: it was accepted.
        let followed = timeout_at(deadline, work).await.ok().and_then(Result::ok).flatten();
        Ok(ChangeOutcome { operation: followed.or(outcome.operation), ..outcome })
    }

    /// Revokes the access of a signed-in user, by the user.
    pub(crate) async fn revoke_me(
        self: &Arc<Self>,
        sign_in: &SignIn,
        context: &ChangeContext,
    ) -> Result<ChangeOutcome, Error> {
        let user = UserRef::AppUser(sign_in.app_user.clone());
        self.refuse_older(&user, sign_in).await?;
        self.change(&user, AccessChange::Revoke { reject_older_sign_ins: true }, context).await
    }

    /// Deletes a signed-in user, by the user, where the configuration allows it.
    pub(crate) async fn delete_me(
        self: &Arc<Self>,
        sign_in: &SignIn,
        context: &ChangeContext,
    ) -> Result<ChangeOutcome, Error> {
        if !self.parts.settings.self_delete {
            return Err(Error::NotAllowed);
        }
        let user = UserRef::AppUser(sign_in.app_user.clone());
        self.refuse_older(&user, sign_in).await?;
        self.change(&user, AccessChange::Delete, context).await
    }

    /// A sign-in that was revoked has nothing left to end, and must not shut its owner out again and again.
    async fn refuse_older(&self, user: &UserRef, sign_in: &SignIn) -> Result<(), Error> {
        let now = self.parts.clock.now();
        let read = self.parts.store.read_user(user, now).await?;
        let valid_from = read.user.map_or(read.global.sign_ins_valid_from, |user| user.sign_ins_valid_from);
        self.parts.tokens.refuse_older(valid_from, sign_in.time, now)
    }

    /// Adds the deletion that an access change found running, so that it does not look complete.
    async fn with_pending_deletion(&self, outcome: ChangeOutcome) -> Result<ChangeOutcome, Error> {
        if outcome.user.state != State::Deleting {
            return Ok(outcome);
        }
        self.parts.jobs.expedite_detached(outcome.user.id.clone());
        let operation = self.parts.store.find_open_deletion(&outcome.user.id).await?;
        Ok(ChangeOutcome { operation, ..outcome })
    }

    /// Lifts a block, and nothing else.
    pub(crate) async fn unblock(&self, user: &UserRef, context: &ChangeContext) -> Result<ChangeOutcome, Error> {
        let now = self.parts.clock.now();
        let mut tx = self.parts.store.begin().await?;
        let user = tx.lock_user(user, now).await?.ok_or(Error::NotFound)?;
        if user.blocked_at.is_none() {
            return Ok(ChangeOutcome { user, operation: None });
        }
        tx.unblock(&user, now).await?;
        tx.append_audit([event(Action::UserUnblocked, &user, None, context)], now).await?;
        tx.commit().await?;
        Ok(ChangeOutcome { user: User { blocked_at: None, updated_at: now, ..user }, operation: None })
    }

    /// Accepts sign-ins again that an access change refused, and nothing else: tokens that it ended stay ended.
    pub(crate) async fn allow_older_sign_ins(
        &self,
        user: &UserRef,
        context: &ChangeContext,
    ) -> Result<ChangeOutcome, Error> {
        let now = self.parts.clock.now();
        let known = self.parts.store.find_user(user, now).await?.ok_or(Error::NotFound)?;
        // A global revocation must be the user's own before it can be undone.
        if known.is_stale {
            self.parts.jobs.apply_global(&known.id).await?;
        }
        let mut tx = self.parts.store.begin().await?;
        let user = tx.lock_user(&UserRef::Id(known.id), now).await?.ok_or(Error::NotFound)?;
        if user.is_stale {
            return Err(Error::InProgress);
        }
        let Some(since) = user.sign_ins_valid_from else {
            return Ok(ChangeOutcome { user, operation: None });
        };
        tx.allow_older_sign_ins(&user, now).await?;
        let event = Event {
            detail: Some(json!({"reason": context.reason, "signInsValidFrom": since})),
            ..event(Action::OlderSignInsAllowed, &user, None, context)
        };
        tx.append_audit([event], now).await?;
        tx.commit().await?;
        Ok(ChangeOutcome { user: User { sign_ins_valid_from: None, updated_at: now, ..user }, operation: None })
    }

    /// Changes a user's access and accepts the operation at ACS, in one transaction.
    async fn accept(
        &self,
        user: &UserRef,
        change: AccessChange,
        context: &ChangeContext,
        first: FirstAttempt,
    ) -> Result<ChangeOutcome, Error> {
        self.check_issuer(user).await?;
        let mut tx = self.parts.store.begin().await?;
        let user = tx.lock_or_insert(user, self.parts.clock.now()).await?.ok_or(Error::NotFound)?;
        // The lock may have taken a while, in which the user may have signed in.
        let now = self.parts.clock.now();
        let changed = self.changed(user, change, context, first, now)?;
        tx.write_access(&[changed.access], now).await?;
        tx.insert_operations(changed.operation.as_slice()).await?;
        tx.append_audit(changed.events, now).await?;
        tx.commit().await?;
        Ok(ChangeOutcome { user: changed.user, operation: changed.operation.map(|new| new.operation) })
    }

    /// What a change makes of a locked user.
    pub(super) fn changed(
        &self,
        user: User,
        change: AccessChange,
        context: &ChangeContext,
        first: FirstAttempt,
        now: DateTime<Utc>,
    ) -> Result<Changed, Error> {
        let deletes = change == AccessChange::Delete;
        let blocks = change == AccessChange::Block;
        let rejects = !matches!(change, AccessChange::Revoke { reject_older_sign_ins: false });
        // The request that creates the identity finds its claim gone and discards it, unless its replica died.
        let ends_claim = deletes && user.state == State::Creating;
        let access = Access {
            id: user.id.clone(),
            epoch: user.epoch,
            sign_ins_valid_from: user.sign_ins_valid_from.max(rejects.then(|| first_valid_second(now))),
            blocked_at: user.blocked_at.or(blocks.then_some(now)),
            block_reason: context.reason.clone().filter(|_| blocks),
            state: match user.state {
                State::Active if deletes => State::Deleting,
                State::Creating if deletes => State::Unbound,
                state => state,
            },
            ends_claim,
        };
        // No token was ever returned for an identity that is still being created, and one that is being deleted has its
        // operation. In bulk only users whose tokens may be alive get one.
        let worth_it = matches!(first, FirstAttempt::Now(_)) || user.may_have_live_tokens(now);
        let operation = if user.state == State::Active && worth_it {
            let kind = if deletes { Kind::Delete } else { Kind::Revoke };
            Some(self.parts.jobs.operation(&user, kind, context, first, now)?)
        } else {
            None
        };
        let action = match change {
            AccessChange::Revoke { .. } => Action::AccessRevoked,
            AccessChange::Block => Action::UserBlocked,
            AccessChange::Delete => Action::UserDeleted,
        };
        let orphan = ends_claim.then(|| event(Action::PossibleOrphan, &user, None, context));
        let done = event(action, &user, operation.as_ref().map(|new| &new.operation), context);
        let user = User {
            state: access.state,
            generation: user.generation + 1,
            sign_ins_valid_from: access.sign_ins_valid_from,
            blocked_at: access.blocked_at,
            updated_at: now,
            ..user
        };
        Ok(Changed { user, access, operation, events: orphan.into_iter().chain([done]).collect() })
    }
}

/// A user after a change, and what has to be written for it, all in one transaction.
pub(super) struct Changed {
    user: User,
    pub(super) access: Access,
    pub(super) operation: Option<NewOperation>,
    pub(super) events: Vec<Event>,
}

/// The first second whose sign-ins a change made now accepts. Sign-ins are dated in whole seconds, so one of the very second
/// of the change may be from before it.
pub(super) fn first_valid_second(now: DateTime<Utc>) -> DateTime<Utc> {
    now.trunc_subsecs(0) + Duration::seconds(1)
}
