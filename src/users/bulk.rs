//! Revocations of many: everyone is stopped by one row, and the work at ACS follows at the pace that its limits allow.
//!
//! Whoever signs in anew meanwhile pulls their own operation forward. Users whose tokens are all over cost ACS nothing.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use uuid::Uuid;

use super::access::{AccessChange, Attempt, ChangeContext, event};
use crate::domain::{
    audit::{Action, Event, RequestContext},
    operation::Kind,
    revocation::{Progress, Revocation},
    user::{UserId, UserRef},
};
use crate::service::{Error, Service, next_second};

/// How many users of a list are fenced at once.
const AT_ONCE: usize = 8;
/// How many operations of a revocation wait for ACS at most: enough to keep its limit busy, few enough to go through.
const MOST_WAITING: i64 = 256;
/// How many users are caught up in one go, and how long the right to do so is good.
const CHUNK: i64 = 64;
const CLAIM: Duration = Duration::from_secs(30);
/// How often a revocation whose operations wait for ACS is looked after.
const LOOK: Duration = Duration::from_secs(1);

/// Whose access is revoked.
#[derive(Clone, Debug)]
pub enum RevocationTarget {
    /// These.
    Users(Vec<UserRef>),
    /// Everyone, and those who have never been seen.
    GlobalState,
}

/// A revocation of many and how far it has come.
#[derive(Clone, Debug)]
pub struct RevocationStatus {
    /// What was accepted.
    pub revocation: Revocation,
    /// The work at ACS.
    pub progress: Progress,
}

/// What a revocation of many would do.
#[derive(Clone, Debug)]
pub struct Estimate {
    /// How many users have tokens that are alive.
    pub total: i64,
    /// The places in the list of those whom nobody knows.
    pub unknown: Vec<usize>,
}

impl Service {
    /// Tells what a revocation of many would do.
    ///
    /// # Errors
    /// [`Error::Store`] when the database is away.
    pub async fn estimate_revocation(&self, whom: &RevocationTarget) -> Result<Estimate, Error> {
        let now = self.clock.now();
        let RevocationTarget::Users(users) = whom else {
            return Ok(Estimate { total: self.store.count_live(now).await?, unknown: Vec::new() });
        };
        let find = |user: &UserRef| {
            let user = user.clone();
            async move { self.store.find_user(&user, now).await }
        };
        let found: Vec<_> = stream::iter(users).map(find).buffered(AT_ONCE).try_collect().await?;
        let live = found.iter().flatten().filter(|user| user.may_have_live_tokens(now)).count();
        let total = i64::try_from(live).unwrap_or(i64::MAX);
        let unknown = found.iter().enumerate().filter(|(_, user)| user.is_none()).map(|(index, _)| index).collect();
        Ok(Estimate { total, unknown })
    }

    /// Revokes the access of many; once this returns, nobody of them gets a token on an older authorisation.
    ///
    /// # Errors
    /// [`Error::Store`] when the database is away: some users of a list may have been revoked then, and the same request may
    /// be made again.
    pub async fn revoke_many(
        self: &Arc<Self>,
        whom: RevocationTarget,
        reject_older_sign_ins: bool,
        order: &ChangeContext,
    ) -> Result<(RevocationStatus, Vec<usize>), Error> {
        let now = self.clock.now();
        let mut revocation = Revocation {
            id: Uuid::now_v7(),
            actor: order.actor.clone().ok_or(Error::NotAllowed)?,
            reason: order.reason.clone(),
            request_id: order.trace.request_id.clone(),
            epoch: None,
            total: 0,
            swept_to: String::new(),
            swept_at: None,
            created_at: now,
            completed_at: None,
        };
        let unknown = match whom {
            RevocationTarget::GlobalState => {
                self.accept_everyone(&mut revocation, reject_older_sign_ins, order).await?;
                Vec::new()
            }
            RevocationTarget::Users(users) => {
                self.accept_list(&mut revocation, users, reject_older_sign_ins, order).await?
            }
        };
        tracing::info!(
            revocation = %revocation.id,
            everyone = revocation.epoch.is_some(),
            total = revocation.total,
            "many are revoked"
        );
        self.wake.notify_one();
        Ok((self.status(revocation).await?, unknown))
    }

    /// Steps the epoch: one row, however many users there are.
    async fn accept_everyone(
        &self,
        revocation: &mut Revocation,
        reject_older_sign_ins: bool,
        order: &ChangeContext,
    ) -> Result<(), Error> {
        let now = revocation.created_at;
        let since = reject_older_sign_ins.then(|| next_second(now));
        let mut tx = self.store.begin().await?;
        revocation.epoch = Some(tx.step_epoch(since).await?);
        tx.insert_revocation(revocation).await?;
        let about = Event::of_everyone(Action::GlobalRevocation, revocation.actor.clone(), order.trace.clone());
        tx.append_audit(&Event { detail: Some(detail(revocation)), ..about }, now).await?;
        tx.commit().await?;
        // Everybody is stopped; how many that are may take a moment to count.
        revocation.total = self.store.count_live(now).await?;
        Ok(self.store.set_revocation_total(revocation.id, revocation.total).await?)
    }

    /// Fences each user of a list; returns the places of those who could not be, because nobody knows them.
    async fn accept_list(
        &self,
        revocation: &mut Revocation,
        users: Vec<UserRef>,
        reject_older_sign_ins: bool,
        order: &ChangeContext,
    ) -> Result<Vec<usize>, Error> {
        let (now, attempt) = (revocation.created_at, Attempt::InBatch(revocation.id));
        let kind = AccessChange::Revoke { reject_older_sign_ins };
        let fence = async |(index, user): (usize, UserRef)| match self.accept(&user, kind, order, attempt, now).await {
            Ok(changed) => Ok((index, changed.operation.is_some(), true)),
            Err(Error::NotFound | Error::Invalid(_)) => Ok((index, false, false)),
            Err(error) => Err(error),
        };
        let fenced = stream::iter(users.into_iter().enumerate()).map(fence).buffer_unordered(AT_ONCE);
        let fenced: Vec<_> = fenced.try_collect().await?;
        let mut unknown: Vec<_> = fenced.iter().filter(|(.., known)| !known).map(|(index, ..)| *index).collect();
        unknown.sort_unstable();
        let queued = fenced.iter().filter(|(_, queued, _)| *queued).count();
        revocation.total = i64::try_from(queued).unwrap_or(i64::MAX);
        revocation.swept_at = Some(now);
        let mut tx = self.store.begin().await?;
        tx.insert_revocation(revocation).await?;
        tx.commit().await?;
        Ok(unknown)
    }

    /// Returns a revocation of many.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none, [`Error::Store`] when the database is away.
    pub async fn revocation(&self, id: Uuid) -> Result<RevocationStatus, Error> {
        let revocation = self.store.find_revocation(id).await?.ok_or(Error::NotFound)?;
        self.status(revocation).await
    }

    /// Lists revocations of many, newest first.
    ///
    /// # Errors
    /// [`Error::Store`] when the database is away.
    pub async fn list_revocations(&self, before: Uuid, limit: i64) -> Result<Vec<RevocationStatus>, Error> {
        let revocations = self.store.list_revocations(before, limit).await?;
        stream::iter(revocations).then(|revocation| self.status(revocation)).try_collect().await
    }

    async fn status(&self, revocation: Revocation) -> Result<RevocationStatus, Error> {
        let progress = self.store.revocation_progress(&revocation).await?;
        Ok(RevocationStatus { revocation, progress })
    }

    /// Works on a revocation that is not done, if there is one: catches up users whose tokens are alive while there is room
    /// for their operations, and sees whether all is done. Returns whether there is more to do at once.
    ///
    /// # Errors
    /// [`Error::Store`] when the database does not answer.
    pub async fn advance_revocations(&self) -> Result<bool, Error> {
        let now = self.clock.now();
        let Some(mut revocation) = self.store.claim_revocation(now + CLAIM, now).await? else { return Ok(false) };
        let progress = self.store.revocation_progress(&revocation).await?;
        let mut again_at = now + LOOK;
        if let (Some(epoch), None) = (revocation.epoch, revocation.swept_at) {
            if progress.pending < MOST_WAITING {
                let behind = self.store.users_behind(epoch, &revocation.swept_to, CHUNK, now).await?;
                for user in &behind {
                    self.apply_global(user).await?;
                }
                match behind.last() {
                    Some(last) => last.as_str().clone_into(&mut revocation.swept_to),
                    None => revocation.swept_at = Some(now),
                }
                again_at = now;
            }
        } else if progress.pending == 0 {
            revocation.completed_at = Some(now);
            tracing::info!(revocation = %revocation.id, confirmed = progress.confirmed, "a revocation of many is done");
        }
        self.store.advance_revocation(&revocation, again_at).await?;
        Ok(again_at == now)
    }

    /// Carries the revocation of everyone over to one user: what a revocation of this user alone would have done.
    pub(crate) async fn apply_global(&self, user: &UserId) -> Result<(), Error> {
        let now = self.clock.now();
        let mut tx = self.store.begin().await?;
        let Some(user) = tx.lock_user(&UserRef::Id(user.clone()), now).await?.filter(|user| user.is_stale) else {
            return Ok(());
        };
        tx.apply_global(&user, now).await?;
        let Some(revocation) = tx.find_revocation_of_everyone(user.epoch).await? else {
            return Err(Error::Interrupted);
        };
        let order = order_of(&revocation);
        let attempt = Attempt::InBatch(revocation.id);
        let operation = if user.may_have_live_tokens(now) {
            Some(self.insert(&mut tx, &user, Kind::Revoke, &order, attempt, now).await?)
        } else {
            None
        };
        let about = event(Action::AccessRevoked, &user, operation.as_ref(), &order);
        tx.append_audit(&Event { detail: Some(detail(&revocation)), ..about }, now).await?;
        tx.commit().await?;
        if operation.is_some() {
            self.wake.notify_one();
        }
        Ok(())
    }
}

fn order_of(revocation: &Revocation) -> ChangeContext {
    let trace = RequestContext { request_id: revocation.request_id.clone(), client: None };
    ChangeContext { actor: Some(revocation.actor.clone()), reason: revocation.reason.clone(), trace }
}

fn detail(revocation: &Revocation) -> serde_json::Value {
    json!({"revocation": revocation.id, "reason": revocation.reason})
}
