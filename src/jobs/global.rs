//! Bulk revocations after they were accepted: global revocations are applied to users one by one, and the progress at ACS is
//! followed.
//!
//! A user who signs in meanwhile expedites their own operation. Users whose tokens have all expired cost ACS nothing.

use std::time::Duration;

use serde_json::json;

use super::{ChangeContext, FirstAttempt, Jobs, event};
use crate::{
    domain::{
        audit::{Action, Event, RequestContext},
        operation::Kind,
        revocation::Revocation,
        user::{UserId, UserRef},
    },
    error::Error,
};

/// How many operations of a revocation wait for ACS at most: enough to use its limit, few enough to search.
const MAX_PENDING: i64 = 256;
/// To how many users a revocation is applied in one go, and for how long a replica claims the right to do so.
const CHUNK: i64 = 64;
const CLAIM: Duration = Duration::from_secs(30);
/// How often the progress of a revocation whose operations wait for ACS is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

impl Jobs {
    /// Works on one bulk revocation that is not complete, if there is one; returns whether there is more to do at once.
    pub(super) async fn advance_revocations(&self) -> Result<bool, Error> {
        let (store, now) = (&self.parts.store, self.parts.clock.now());
        let Some(mut revocation) = store.claim_revocation(now + CLAIM, now).await? else { return Ok(false) };
        let progress = store.revocation_progress(&revocation).await?;
        let mut again_at = now + CHECK_INTERVAL;
        if let (Some(epoch), None) = (revocation.epoch, revocation.swept_at) {
            if progress.pending < MAX_PENDING {
                let stale = store.stale_users(epoch, &revocation.swept_to, CHUNK, now).await?;
                for user in &stale {
                    self.apply_global(user).await?;
                }
                match stale.last() {
                    Some(last) => last.as_str().clone_into(&mut revocation.swept_to),
                    None => revocation.swept_at = Some(now),
                }
                again_at = now;
            }
        } else if progress.pending == 0 {
            revocation.completed_at = Some(now);
            tracing::info!(revocation = %revocation.id, confirmed = progress.confirmed, "bulk revocation completed");
        }
        store.advance_revocation(&revocation, again_at).await?;
        Ok(again_at == now)
    }

    /// Applies the latest global revocation to a user, as a revocation of this user alone would have been.
    pub(crate) async fn apply_global(&self, user: &UserId) -> Result<(), Error> {
        let now = self.parts.clock.now();
        let mut tx = self.parts.store.begin().await?;
        let user = tx.lock_user(&UserRef::Id(user.clone()), now).await?;
        let Some(user) = user.filter(|user| user.is_stale) else { return Ok(()) };
        tx.apply_global(&user, now).await?;
        let revocation = tx.find_global_revocation(user.epoch).await?.ok_or(Error::Interrupted)?;
        let context = context_of(&revocation);
        let operation = if user.may_have_live_tokens(now) {
            let first = FirstAttempt::InBulk(revocation.id);
            Some(self.operation(&user, Kind::Revoke, &context, first, now)?)
        } else {
            None
        };
        tx.insert_operations(operation.as_slice()).await?;
        let event = Event {
            detail: Some(detail(&revocation)),
            ..event(Action::AccessRevoked, &user, operation.as_ref().map(|new| &new.operation), &context)
        };
        tx.append_audit([event], now).await?;
        tx.commit().await?;
        if operation.is_some() {
            self.wake();
        }
        Ok(())
    }
}

fn context_of(revocation: &Revocation) -> ChangeContext {
    let request_context = RequestContext { request_id: revocation.request_id.clone(), client: None };
    ChangeContext { actor: Some(revocation.actor.clone()), reason: revocation.reason.clone(), request_context }
}

/// What the audit trail says about a bulk revocation.
pub(crate) fn detail(revocation: &Revocation) -> serde_json::Value {
    json!({"revocation": revocation.id, "reason": revocation.reason})
}
