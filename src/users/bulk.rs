//! Bulk revocations: of a list of users, or of all users by one row that every request reads.
//!
//! The calls to ACS follow at the rate that its limits allow (`jobs::global`).

use std::collections::HashSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use uuid::Uuid;

use super::{
    Users,
    access::{AccessChange, first_valid_second},
};
use crate::{
    domain::{
        audit::{Action, Event},
        revocation::{Progress, Revocation},
        user::UserRef,
    },
    error::Error,
    jobs::{ChangeContext, FirstAttempt, global::detail},
};

/// How many users of a list are read at once.
const AT_ONCE: usize = 8;

/// Whose access is revoked.
#[derive(Clone, Debug)]
pub(crate) enum RevocationTarget {
    Users(Vec<UserRef>),
    /// All users, and those who have never been seen.
    All,
}

/// A bulk revocation with its progress at ACS.
#[derive(Clone, Debug)]
pub(crate) struct RevocationStatus {
    pub(crate) revocation: Revocation,
    pub(crate) progress: Progress,
}

/// What a bulk revocation would do.
#[derive(Clone, Debug)]
pub(crate) struct Estimate {
    /// How many users have live tokens.
    pub(crate) total: i64,
    /// The indexes of unknown users in the list.
    pub(crate) unknown: Vec<usize>,
}

impl Users {
    /// Estimates what a bulk revocation would do.
    pub(crate) async fn estimate_revocation(&self, target: &RevocationTarget) -> Result<Estimate, Error> {
        let now = self.parts.clock.now();
        let RevocationTarget::Users(users) = target else {
            return Ok(Estimate { total: self.parts.store.count_live(now).await?, unknown: Vec::new() });
        };
        let find = |user: &UserRef| {
            let user = user.clone();
            async move { self.parts.store.find_user(&user, now).await }
        };
        let found: Vec<_> = stream::iter(users).map(find).buffered(AT_ONCE).try_collect().await?;
        let live = found.iter().flatten().filter(|user| user.may_have_live_tokens(now));
        let live = live.map(|user| &user.id).collect::<HashSet<_>>().len();
        let total = i64::try_from(live).unwrap_or(i64::MAX);
        let unknown = found.iter().enumerate().filter(|(_, user)| user.is_none()).map(|(index, _)| index).collect();
        Ok(Estimate { total, unknown })
    }

    /// Revokes the access of many users. Once this returns, none of them gets a token that was authorised before.
    pub(crate) async fn revoke_many(
        &self,
        target: RevocationTarget,
        reject_older_sign_ins: bool,
        context: &ChangeContext,
    ) -> Result<(RevocationStatus, Vec<usize>), Error> {
        let now = self.parts.clock.now();
        let mut revocation = Revocation {
            id: Uuid::now_v7(),
            actor: context.actor.clone().ok_or(Error::NotAllowed)?,
            reason: context.reason.clone(),
            request_id: context.request_context.request_id.clone(),
            epoch: None,
            total: 0,
            swept_to: String::new(),
            swept_at: None,
            created_at: now,
            completed_at: None,
        };
        let unknown = match target {
            RevocationTarget::All => {
                self.accept_all(&mut revocation, reject_older_sign_ins, context).await?;
                Vec::new()
            }
            RevocationTarget::Users(users) => {
                self.accept_list(&mut revocation, &users, reject_older_sign_ins, context).await?
            }
        };
        tracing::info!(
            revocation = %revocation.id,
            all = revocation.epoch.is_some(),
            total = revocation.total,
            "bulk revocation accepted"
        );
        self.parts.jobs.wake();
        Ok((self.status(revocation).await?, unknown))
    }

    /// One row, however many users there are.
    async fn accept_all(
        &self,
        revocation: &mut Revocation,
        reject_older_sign_ins: bool,
        context: &ChangeContext,
    ) -> Result<(), Error> {
        let (store, now) = (&self.parts.store, revocation.created_at);
        let since = reject_older_sign_ins.then(|| first_valid_second(now));
        let event = Event {
            detail: Some(detail(revocation)),
            ..Event::global(Action::GlobalRevocation, revocation.actor.clone(), context.request_context.clone())
        };
        store.revoke_all(revocation, since, event).await?;
        // All users are stopped by now; counting how many have live tokens may take a moment.
        revocation.total = store.count_live(now).await?;
        Ok(store.set_revocation_total(revocation.id, revocation.total).await?)
    }

    /// Changes all users of a list in one transaction: all or none. Returns the indexes of unknown users.
    async fn accept_list(
        &self,
        revocation: &mut Revocation,
        users: &[UserRef],
        reject_older_sign_ins: bool,
        context: &ChangeContext,
    ) -> Result<Vec<usize>, Error> {
        let mut tx = self.parts.store.begin().await?;
        let issuers = &self.parts.issuers;
        let named = users.iter().filter_map(|user| match user {
            UserRef::AppUser(app_user) => Some(app_user).filter(|app_user| issuers.contains(&app_user.issuer)),
            UserRef::Id(_) => None,
        });
        let named: Vec<_> = named.collect();
        tx.insert_missing(&named, revocation.created_at).await?;
        let found = tx.lock_many(users, revocation.created_at).await?;
        // The locks may have taken a while, in which the users may have signed in.
        let now = self.parts.clock.now();
        revocation.created_at = now;
        let (change, first) = (AccessChange::Revoke { reject_older_sign_ins }, FirstAttempt::InBulk(revocation.id));
        let (mut accesses, mut operations, mut events) = (Vec::new(), Vec::new(), Vec::new());
        for user in found.users {
            let changed = self.changed(user, change, context, first, now)?;
            accesses.push(changed.access);
            operations.extend(changed.operation);
            events.extend(changed.events);
        }
        revocation.total = i64::try_from(operations.len()).unwrap_or(i64::MAX);
        revocation.swept_at = Some(now);
        tx.insert_revocation(revocation).await?;
        tx.write_access(&accesses, now).await?;
        tx.insert_operations(&operations).await?;
        tx.append_audit(events, now).await?;
        tx.commit().await?;
        Ok(found.unknown)
    }

    /// Finds a bulk revocation.
    pub(crate) async fn revocation(&self, id: Uuid) -> Result<RevocationStatus, Error> {
        let revocation = self.parts.store.find_revocation(id).await?.ok_or(Error::NotFound)?;
        self.status(revocation).await
    }

    /// Lists bulk revocations, newest first.
    pub(crate) async fn list_revocations(&self, before: Uuid, limit: i64) -> Result<Vec<RevocationStatus>, Error> {
        let revocations = self.parts.store.list_revocations(before, limit).await?;
        stream::iter(revocations).then(|revocation| self.status(revocation)).try_collect().await
    }

    async fn status(&self, revocation: Revocation) -> Result<RevocationStatus, Error> {
        let progress = self.parts.store.revocation_progress(&revocation).await?;
        Ok(RevocationStatus { revocation, progress })
    }
}
