//! Revoke, block, unblock and delete: one transaction that locks the user first, then work at ACS that cannot be lost.
//!
//! Whoever has no row yet gets one, so that a thief's first call fails too.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::{sync::oneshot, time::timeout_at};
use tracing::Instrument;
use uuid::Uuid;

use crate::{
    auth::SignIn,
    domain::{
        audit::{Action, Actor, Event, RequestContext},
        operation::{Kind, Lease, Operation},
        user::{State, User, UserRef},
    },
    service::{CLOCK_MARGIN, Error, Service, floor_to_second},
    store::{Fence, NewOperation, Tx},
};

/// Who asks for a change, why, and from where.
#[derive(Clone, Debug)]
pub struct ChangeContext {
    /// Who; a user who asks for themselves is known only once the row is read.
    pub actor: Option<Actor>,
    /// Why.
    pub reason: Option<String>,
    /// From where.
    pub trace: RequestContext,
}

/// What kind of fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessChange {
    /// End the user's tokens.
    Revoke {
        /// Whether logins from before now get no token any more.
        reject_older_sign_ins: bool,
    },
    /// End the user's tokens, and give no more until unblocked.
    Block,
    /// Delete the user's identity; only a newer login starts afresh.
    Delete,
}

/// Who makes the first attempt at ACS.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attempt {
    /// Whoever accepts it, at once.
    Now(Lease),
    /// The worker in its time, as part of a revocation of many.
    InBatch(Uuid),
}

impl Attempt {
    fn lease(self) -> Option<Lease> {
        match self {
            Self::Now(lease) => Some(lease),
            Self::InBatch(_) => None,
        }
    }

    fn revocation(self) -> Option<Uuid> {
        match self {
            Self::Now(_) => None,
            Self::InBatch(revocation) => Some(revocation),
        }
    }

    /// Tells whether there is anything at ACS to end: of many only those are asked for whose tokens may be alive.
    fn is_worth_it(self, user: &User, now: DateTime<Utc>) -> bool {
        matches!(self, Self::Now(_)) || user.may_have_live_tokens(now)
    }
}

/// A user after a change, and the work at ACS that it led to.
#[derive(Clone, Debug)]
pub struct ChangeOutcome {
    /// The user.
    pub user: User,
    /// The work, where there was an identity.
    pub operation: Option<Operation>,
}

impl Service {
    /// Fences a user and follows the work at ACS for a while.
    ///
    /// Once this returns `Ok`, done or not, no replica hands out a token whose authorisation came before.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown user id, [`Error::Store`] when nothing was accepted.
    pub async fn fence(
        self: &Arc<Self>,
        user: &UserRef,
        kind: AccessChange,
        order: &ChangeContext,
    ) -> Result<ChangeOutcome, Error> {
        let deadline = self.deadline();
        let (service, user, order) = (Arc::clone(self), user.clone(), order.clone());
        let (tell, accepted) = oneshot::channel();
        // Detached: neither a caller who hangs up nor one who is told "accepted" may keep the calls from being made.
        let work = async move {
            let now = service.clock.now();
            let lease = service.lease(now);
            let changed = service.accept(&user, kind, &order, Attempt::Now(lease), now).await;
            let operation = changed.as_ref().ok().and_then(|changed| changed.operation.clone());
            let _ = tell.send(changed);
            if let Some(operation) = operation {
                if let Err(error) = service.run_accepted(operation, lease, deadline).await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "an operation could not be followed");
                }
                // What is left is the worker's.
                service.wake.notify_one();
            }
        };
        let work = self.detached.spawn(work.in_current_span());
        let changed = accepted.await.map_err(|_| Error::Interrupted)??;
        let Some(operation) = &changed.operation else {
            return self.with_pending_deletion(changed).await;
        };
        let _ = timeout_at(deadline, work).await;
        // Accepted is accepted: if the state cannot be read now, the caller is told what is certain.
        let known = self.store.find_operation(operation.id).await.ok().flatten();
        Ok(ChangeOutcome { operation: known.or(changed.operation), ..changed })
    }

    /// Deletes the user of a login, where the settings allow it.
    ///
    /// # Errors
    /// [`Error::NotAllowed`], or as [`Service::fence`]; [`Error::ReauthenticationRequired`] for a login that was revoked.
    pub async fn delete_me(self: &Arc<Self>, login: &SignIn, order: &ChangeContext) -> Result<ChangeOutcome, Error> {
        if !self.users.self_delete {
            return Err(Error::NotAllowed);
        }
        let user = UserRef::AppUser(login.app_user.clone());
        self.refuse_superseded(&user, login).await?;
        self.fence(&user, AccessChange::Delete, order).await
    }

    /// A login that was revoked has nothing left to end, and must not lock its owner out again and again.
    async fn refuse_superseded(&self, user: &UserRef, login: &SignIn) -> Result<(), Error> {
        let now = self.clock.now();
        match self.store.find_user(user, now).await? {
            Some(row) => self.refuse_old_sign_in(row.sign_ins_valid_from, login.time, now),
            None => Ok(()),
        }
    }

    /// Tells of the deletion that a user's fence found under way, so that nobody takes it for done.
    async fn with_pending_deletion(self: &Arc<Self>, changed: ChangeOutcome) -> Result<ChangeOutcome, Error> {
        if changed.user.state != State::Deleting {
            return Ok(changed);
        }
        self.expedite_detached(changed.user.id.clone());
        let operation = self.store.find_open_deletion(&changed.user.id).await?;
        Ok(ChangeOutcome { operation, ..changed })
    }

    /// Refuses to make a mapping for an issuer that is not configured: a slip of the pen must not look like success.
    pub(crate) async fn check_issuer(&self, user: &UserRef) -> Result<(), Error> {
        match user {
            UserRef::AppUser(app_user)
                if !self.issuers.contains(&app_user.issuer)
                    && self.store.find_user(user, self.clock.now()).await?.is_none() =>
            {
                Err(Error::Invalid("the issuer key is not configured"))
            }
            _ => Ok(()),
        }
    }

    /// Revokes the access of a login's user, by the user.
    ///
    /// # Errors
    /// [`Error::ReauthenticationRequired`] for a login that was revoked, or as [`Service::fence`].
    pub async fn revoke_me(self: &Arc<Self>, login: &SignIn, order: &ChangeContext) -> Result<ChangeOutcome, Error> {
        let user = UserRef::AppUser(login.app_user.clone());
        self.refuse_superseded(&user, login).await?;
        self.fence(&user, AccessChange::Revoke { reject_older_sign_ins: true }, order).await
    }

    /// Lifts a block, and nothing else.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such user, [`Error::Store`] when the database is away.
    pub async fn unblock(&self, user: &UserRef, order: &ChangeContext) -> Result<ChangeOutcome, Error> {
        let now = self.clock.now();
        let mut tx = self.store.begin().await?;
        let user = tx.lock_user(user, now).await?.ok_or(Error::NotFound)?;
        if user.blocked_at.is_some() {
            tx.unblock(&user, now).await?;
            tx.append_audit(&event(Action::UserUnblocked, &user, None, order), now).await?;
        }
        tx.commit().await?;
        Ok(ChangeOutcome { user: User { blocked_at: None, updated_at: now, ..user }, operation: None })
    }

    /// Lets logins in again that a revocation shut out, and nothing else: tokens that it ended stay ended.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such user, [`Error::Store`] when the database is away.
    pub async fn allow_older_sign_ins(&self, user: &UserRef, order: &ChangeContext) -> Result<ChangeOutcome, Error> {
        let now = self.clock.now();
        let known = self.store.find_user(user, now).await?.ok_or(Error::NotFound)?;
        // What was done to everyone must be the user's own before it can be undone.
        if known.is_stale {
            self.apply_global(&known.id).await?;
        }
        let mut tx = self.store.begin().await?;
        let user = tx.lock_user(&UserRef::Id(known.id), now).await?.ok_or(Error::NotFound)?;
        if user.is_stale {
            return Err(Error::InProgress);
        }
        if let Some(since) = user.sign_ins_valid_from {
            tx.allow_older_sign_ins(&user, now).await?;
            let about = event(Action::OlderSignInsAllowed, &user, None, order);
            let detail = serde_json::json!({"reason": order.reason, "signInsValidFrom": since});
            tx.append_audit(&Event { detail: Some(detail), ..about }, now).await?;
        }
        tx.commit().await?;
        Ok(ChangeOutcome { user: User { sign_ins_valid_from: None, updated_at: now, ..user }, operation: None })
    }

    /// Fences a user and accepts what is to be done at ACS, in one transaction.
    pub(crate) async fn accept(
        &self,
        user: &UserRef,
        kind: AccessChange,
        order: &ChangeContext,
        attempt: Attempt,
        now: DateTime<Utc>,
    ) -> Result<ChangeOutcome, Error> {
        self.check_issuer(user).await?;
        let mut tx = self.store.begin().await?;
        let user = tx.lock_or_insert(user, now).await?.ok_or(Error::NotFound)?;
        let deletes = kind == AccessChange::Delete;
        let rejects = !matches!(kind, AccessChange::Revoke { reject_older_sign_ins: false });
        let state = match user.state {
            State::Active if deletes => State::Deleting,
            State::Creating if deletes => State::Unbound,
            state => state,
        };
        let fence = Fence {
            sign_ins_valid_from: if rejects {
                user.sign_ins_valid_from.max(Some(floor_to_second(now)))
            } else {
                user.sign_ins_valid_from
            },
            blocked_at: if kind == AccessChange::Block { user.blocked_at.or(Some(now)) } else { user.blocked_at },
            block_reason: order.reason.as_deref().filter(|_| kind == AccessChange::Block),
            state,
            ends_claim: user.state == State::Creating && deletes,
        };
        tx.write_fence(&user, &fence, now).await?;
        if fence.ends_claim {
            // Whoever is creating the identity will find the claim gone and discard it, unless they died.
            tx.append_audit(&event(Action::PossibleOrphan, &user, None, order), now).await?;
        }
        // Nothing was ever handed out from an identity that is still being made; one being deleted is dealt with.
        let operation = match (&user.acs_id, user.state) {
            (Some(_), State::Active) if attempt.is_worth_it(&user, now) => {
                let kind = if deletes { Kind::Delete } else { Kind::Revoke };
                Some(self.insert(&mut tx, &user, kind, order, attempt, now).await?)
            }
            _ => None,
        };
        let action = match kind {
            AccessChange::Revoke { .. } => Action::AccessRevoked,
            AccessChange::Block => Action::UserBlocked,
            AccessChange::Delete => Action::UserDeleted,
        };
        tx.append_audit(&event(action, &user, operation.as_ref(), order), now).await?;
        tx.commit().await?;
        let user = User {
            state,
            generation: user.generation + 1,
            sign_ins_valid_from: fence.sign_ins_valid_from,
            blocked_at: fence.blocked_at,
            updated_at: now,
            ..user
        };
        Ok(ChangeOutcome { user, operation })
    }

    pub(crate) async fn insert(
        &self,
        tx: &mut Tx,
        user: &User,
        kind: Kind,
        order: &ChangeContext,
        attempt: Attempt,
        now: DateTime<Utc>,
    ) -> Result<Operation, Error> {
        let acs_id = user.acs_id.as_ref().ok_or(Error::NotFound)?;
        let actor = actor(user, order);
        // A deletion ends tokens of any second; a revocation may spare those of its own.
        let not_before = match user.last_minted_at {
            Some(minted) if kind == Kind::Revoke => now.max(minted + CLOCK_MARGIN),
            _ => now,
        };
        let new = NewOperation {
            kind,
            user: &user.id,
            acs_id,
            resource: user.resource.as_deref().unwrap_or(self.upstream.resource()),
            revocation: attempt.revocation(),
            actor: &actor,
            reason: order.reason.as_deref(),
            request_id: order.trace.request_id.as_deref(),
            not_before,
            lease: attempt.lease(),
        };
        Ok(tx.insert_operation(&new, now).await?)
    }
}

fn actor(user: &User, order: &ChangeContext) -> Actor {
    order.actor.clone().unwrap_or_else(|| Actor::User(user.id.clone()))
}

pub(crate) fn event(action: Action, user: &User, operation: Option<&Operation>, order: &ChangeContext) -> Event {
    Event {
        acs_id: user.acs_id.clone(),
        operation: operation.map(|operation| operation.id),
        detail: order.reason.as_ref().map(|reason| serde_json::json!({"reason": reason})),
        ..Event::new(action, actor(user, order), user.id.clone(), order.trace.clone())
    }
}
