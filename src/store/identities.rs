//! The conditional statements that creating stands on.
//!
//! Every condition sits on an `UPDATE users`, which takes the row lock: under READ COMMITTED a condition in an
//! `INSERT … SELECT` would not be one (docs of Postgres, "Read Committed Isolation Level").
//! The generation is always the one that was *read* with the login check, never one that a write returned.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{CachedTokens, Error, GlobalState, NewOperation, Store, Tx, execute, on_pool, on_tx};
use crate::domain::{
    audit::{Action, Event},
    operation::Kind,
    user::{AcsId, AppUser, State, User, UserId, UserRef},
};

const CLAIM_NEW: &str = "
    INSERT INTO users (id, issuer_key, subject, state, generation, claim_id, claimed_until, created_at, updated_at, epoch,
                       sign_ins_valid_from)
    VALUES ($1, $2, $3, 'creating', 0, $4, $5, $6, $6, $7, $8)
    ON CONFLICT (issuer_key, subject) DO NOTHING";

/// Both forms of a later claim: over a mapping without identity, and over a claim that ran out.
const CLAIM_AGAIN: &str = "
    UPDATE users SET state = 'creating', claim_id = $1, claimed_until = $2, updated_at = $3
    WHERE id = $4 AND generation + (SELECT e.epoch FROM global_state e) = $5 AND blocked_at IS NULL AND state = $6
      AND (claimed_until IS NULL OR claimed_until < $3)";

const BIND: &str = "
    UPDATE users SET state = 'active', acs_id = $1, resource = $2, claim_id = NULL, claimed_until = NULL, updated_at = $3,
                     last_minted_at = COALESCE($4, last_minted_at), tokens_expire_at = COALESCE($5, tokens_expire_at)
    WHERE id = $6 AND state = 'creating' AND claim_id = $7
    RETURNING generation, blocked_at";

const RELEASE: &str = "
    UPDATE users SET state = 'unbound', claim_id = NULL, claimed_until = NULL, updated_at = $1
    WHERE id = $2 AND state = 'creating' AND claim_id = $3";

/// The first token of an identity, in the transaction that bound it.
const KEEP: &str = "UPDATE users SET cached_tokens = $1, cached_until_day = $2 WHERE id = $3";

const IMPORT: &str = "
    UPDATE users SET state = 'active', acs_id = $1, resource = $2, updated_at = $3, tokens_expire_at = $5
    WHERE id = $4 AND state = 'unbound'";

/// Whoever had an imported identity before may have handed out tokens that live as long as tokens can.
pub(super) const LONGEST_LIFE: Duration = Duration::from_hours(24);

/// An identity that was ever queued for deletion may be gone at any moment, or gone already.
const IS_CONDEMNED: &str = "SELECT COUNT(*) FROM operations WHERE acs_id = $1 AND kind IN ('delete', 'discard')";

const IS_TAKEN: &str = "SELECT COUNT(*) FROM users WHERE acs_id = $1 AND id <> $2";

const REMEMBER_RESOURCE: &str = "
    INSERT INTO resources (name, guid, created_at) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING";

const RESOURCE_GUID: &str = "SELECT guid FROM resources WHERE name = $1";

/// The right to create one identity for one user, good until it runs out or somebody deletes the mapping.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Unique to this claim.
    pub id: Uuid,
    /// The app user.
    pub user: UserId,
    /// The generation that was read with the login check.
    pub generation: i64,
}

/// What became of a new identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// It is the user's, and its token may be handed out.
    AndCurrent,
    /// It is the user's, but access was revoked or blocked meanwhile: its token must be thrown away.
    ButFenced,
    /// Somebody else took the claim or deleted the mapping: the identity is not the user's.
    Lost,
}

/// What became of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Imported {
    /// The identity is the user's from now on.
    Now,
    /// It was the user's before.
    Before,
    /// The user has another identity, or is getting one.
    UserHasAnother,
    /// The identity is another user's.
    IdentityTaken,
    /// The identity is being deleted, or was.
    IdentityCondemned,
}

impl Store {
    /// Claims the creation of a first identity for an app user who has no row yet, after the login was held against what
    /// was done to `everyone`; `None` when there is a row by now.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn claim_new(
        &self,
        app_user: &AppUser,
        everyone: GlobalState,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Option<Claim>, Error> {
        let claim = Claim { id: Uuid::new_v4(), user: UserId::random(), generation: everyone.epoch };
        let inserted = on_pool!(self, |db| {
            sqlx::query(CLAIM_NEW)
                .bind(claim.user.as_str())
                .bind(app_user.issuer.as_str())
                .bind(app_user.subject.as_str())
                .bind(claim.id)
                .bind(until)
                .bind(now)
                .bind(everyone.epoch)
                .bind(everyone.sign_ins_valid_from)
                .execute(db)
                .await
                .map(|done| done.rows_affected())
        })?;
        Ok((inserted == 1).then_some(claim))
    }

    /// Claims the creation of an identity over a mapping that has none, or over a claim that ran out.
    ///
    /// `None` when the mapping moved on since `read` was read; a claim taken over leaves a possible orphan, which `orphan` tells of.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn claim_again(
        &self,
        read: &User,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
        orphan: &Event,
    ) -> Result<Option<Claim>, Error> {
        let claim = Claim { id: Uuid::new_v4(), user: read.id.clone(), generation: read.generation };
        let mut tx = self.begin().await?;
        let claimed = execute!(
            &mut tx,
            sqlx::query(CLAIM_AGAIN)
                .bind(claim.id)
                .bind(until)
                .bind(now)
                .bind(read.id.as_str())
                .bind(read.generation)
                .bind(read.state.as_str())
        )?;
        if claimed == 0 {
            return Ok(None);
        }
        if read.state == State::Creating {
            tx.append_audit(orphan, now).await?;
        }
        tx.commit().await?;
        Ok(Some(claim))
    }

    /// Binds a new identity to its user, if the claim is still good; else queues the identity for deletion.
    ///
    /// `about` is the event of the token that came with the identity, or of the binding where none did; `kept` is that
    /// token for reuse.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn bind(
        &self,
        claim: &Claim,
        resource: &str,
        acs_id: &AcsId,
        about: &Event,
        kept: Option<&CachedTokens>,
        now: DateTime<Utc>,
    ) -> Result<Bound, Error> {
        let token = about.token.as_ref();
        let mut tx = self.begin().await?;
        // First, as wherever both are locked.
        let epoch = tx.lock_epoch().await?;
        let row: Option<(i64, Option<DateTime<Utc>>)> = on_tx!(&mut tx, |db| {
            sqlx::query_as(BIND)
                .bind(acs_id.as_str())
                .bind(resource)
                .bind(now)
                .bind(token.map(|_| now))
                .bind(token.map(|token| token.expires_at))
                .bind(claim.user.as_str())
                .bind(claim.id)
                .fetch_optional(db)
                .await
        })?;
        let event = |action| Event { action, token: None, acs_id: Some(acs_id.clone()), ..about.clone() };
        let bound = if let Some((generation, blocked_at)) = row {
            tx.remember_resource(resource, acs_id, now).await?;
            tx.append_audit(&event(Action::IdentityBound), now).await?;
            if generation + epoch != claim.generation || blocked_at.is_some() {
                Bound::ButFenced
            } else {
                if token.is_some() {
                    tx.append_audit(about, now).await?;
                }
                if let Some(kept) = kept {
                    let (sealed, day) = (&kept.sealed, kept.last_day());
                    execute!(&mut tx, sqlx::query(KEEP).bind(sealed).bind(day).bind(claim.user.as_str()))?;
                }
                Bound::AndCurrent
            }
        } else {
            let discard = NewOperation {
                kind: Kind::Discard,
                user: &claim.user,
                acs_id,
                resource,
                revocation: None,
                actor: &about.actor,
                reason: None,
                request_id: about.trace.request_id.as_deref(),
                not_before: now,
                lease: None,
            };
            let operation = tx.insert_operation(&discard, now).await?;
            let event = Event { operation: Some(operation.id), ..event(Action::IdentityDiscarded) };
            tx.append_audit(&event, now).await?;
            Bound::Lost
        };
        tx.commit().await?;
        Ok(bound)
    }

    /// Gives a claim back after a creation that failed, so that the next request need not wait until it runs out.
    ///
    /// `orphan` tells of an identity that may have been created all the same.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer; the claim then runs out by itself.
    pub async fn release_claim(&self, claim: &Claim, orphan: Option<&Event>, now: DateTime<Utc>) -> Result<(), Error> {
        let mut tx = self.begin().await?;
        execute!(&mut tx, sqlx::query(RELEASE).bind(now).bind(claim.user.as_str()).bind(claim.id))?;
        if let Some(event) = orphan {
            tx.append_audit(event, now).await?;
        }
        tx.commit().await
    }

    /// Returns the GUID of a resource, as seen in its identities.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn resource_guid(&self, resource: &str) -> Result<Option<String>, Error> {
        Ok(on_pool!(self, |db| sqlx::query_scalar(RESOURCE_GUID).bind(resource).fetch_optional(db).await)?)
    }
}

impl Tx {
    /// Makes an identity the user's, who is locked and was read as `user`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn import_identity(
        &mut self,
        user: &User,
        acs_id: &AcsId,
        resource: &str,
        now: DateTime<Utc>,
    ) -> Result<Imported, Error> {
        if user.acs_id.as_ref() == Some(acs_id) && user.state == State::Active {
            return Ok(Imported::Before);
        }
        if user.state != State::Unbound {
            return Ok(Imported::UserHasAnother);
        }
        let (id, new) = (user.id.as_str(), acs_id.as_str());
        // In this order: a deletion writes its operation before it frees the identity, so nothing slips between the two.
        let taken: i64 = on_tx!(self, |db| sqlx::query_scalar(IS_TAKEN).bind(new).bind(id).fetch_one(db).await)?;
        if taken > 0 {
            return Ok(Imported::IdentityTaken);
        }
        let condemned: i64 = on_tx!(self, |db| sqlx::query_scalar(IS_CONDEMNED).bind(new).fetch_one(db).await)?;
        if condemned > 0 {
            return Ok(Imported::IdentityCondemned);
        }
        match execute!(self, sqlx::query(IMPORT).bind(new).bind(resource).bind(now).bind(id).bind(now + LONGEST_LIFE)) {
            Ok(_) => {}
            // Somebody else imported it at the same moment.
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => return Ok(Imported::IdentityTaken),
            Err(error) => return Err(error.into()),
        }
        Ok(Imported::Now)
    }

    /// Locks a mapping for an app user, making one without identity where there is none.
    ///
    /// # Errors
    /// As [`Store::find_user`].
    pub async fn lock_or_insert(&mut self, user: &UserRef, now: DateTime<Utc>) -> Result<Option<User>, Error> {
        if let UserRef::AppUser(app_user) = user {
            self.insert_unbound(app_user, now).await?;
        }
        self.lock_user(user, now).await
    }

    async fn remember_resource(&mut self, resource: &str, acs_id: &AcsId, now: DateTime<Utc>) -> Result<(), Error> {
        execute!(self, sqlx::query(REMEMBER_RESOURCE).bind(resource).bind(acs_id.resource_guid()).bind(now))?;
        Ok(())
    }
}
