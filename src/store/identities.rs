//! The conditional statements of creating identities: claim, bind, release, and the import of one.
//!
//! Every condition stands on an `UPDATE users`, which takes the row lock.
//! The generation is always the one that was read when the request was authorised, never one that a write returned.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use sqlx::types::Json;

use super::{
    CachedTokens, Error, GlobalState, NewOperation, Store, Tx, audit::AuditRow, connection::Leased, execute, on_pool,
    on_readers, on_tx, operations::NewRow,
};
use crate::domain::{
    audit::{Action, Event},
    operation::{Kind, Operation},
    user::{AcsId, AppUser, State, User, UserId},
};

const CLAIM_NEW: &str = "
    INSERT INTO users (id, issuer_key, subject, state, generation, claim_id, claimed_until, created_at, updated_at, epoch,
                       sign_ins_valid_from)
    VALUES ($1, $2, $3, 'creating', 0, $4, $5, $6, $6, $7, $8)
    ON CONFLICT (issuer_key, subject) DO NOTHING";

/// Over a row without an identity, or over a claim that ran out.
macro_rules! claim_again {
    ($lock:literal) => {
        concat!(
            "UPDATE users SET state = 'creating', claim_id = $1, claimed_until = $2, updated_at = $3
             WHERE id = $4 AND generation + (SELECT g.epoch FROM global_state g WHERE g.id = 1",
            $lock,
            ") = $5 AND blocked_at IS NULL AND state = $6 AND (claimed_until IS NULL OR claimed_until < $3)"
        )
    };
}

const CLAIM_AGAIN_SQLITE: &str = claim_again!("");
/// With the events of what is lost with the claim before, if there was one.
const CLAIM_AGAIN_POSTGRES: &str = concat!(
    "WITH claimed AS (",
    claim_again!(" FOR SHARE"),
    " RETURNING id),
     appended AS (
        INSERT INTO audit_events SELECT e.* FROM claimed, jsonb_populate_recordset(NULL::audit_events, $7) e)
     SELECT id FROM claimed"
);

/// Binds and, where the generation is still the one that was read, keeps the token; else the identity is discarded.
/// One statement, so that the server ends the shared lock on the global state by itself.
const BIND_POSTGRES: &str = "
    WITH global AS (SELECT epoch FROM global_state WHERE id = 1 FOR SHARE),
    bound AS (
        UPDATE users SET state = 'active', acs_id = $1, resource = $2, claim_id = NULL, claimed_until = NULL, updated_at = $3,
            last_minted_at = COALESCE($4, last_minted_at), tokens_expire_at = COALESCE($5, tokens_expire_at),
            cached_tokens = CASE WHEN generation + global.epoch = $6 AND blocked_at IS NULL THEN $7 END,
            cached_until_day = CASE WHEN generation + global.epoch = $6 AND blocked_at IS NULL THEN $8 END
        FROM global
        WHERE id = $9 AND state = 'creating' AND claim_id = $10
        RETURNING generation + global.epoch = $6 AND blocked_at IS NULL AS is_current),
    discarded AS (
        INSERT INTO operations SELECT o.* FROM jsonb_populate_record(NULL::operations, $11) o
        WHERE NOT EXISTS (SELECT 1 FROM bound)),
    appended AS (
        INSERT INTO audit_events
        SELECT e.* FROM jsonb_populate_recordset(NULL::audit_events, $12) e
        WHERE CASE e.action
            WHEN 'identity_discarded' THEN NOT EXISTS (SELECT 1 FROM bound)
            WHEN 'identity_bound' THEN EXISTS (SELECT 1 FROM bound)
            ELSE EXISTS (SELECT 1 FROM bound WHERE is_current) END)
    SELECT is_current FROM bound";

const BIND_SQLITE: &str = "
    UPDATE users SET state = 'active', acs_id = $1, resource = $2, claim_id = NULL, claimed_until = NULL, updated_at = $3,
        last_minted_at = COALESCE($4, last_minted_at), tokens_expire_at = COALESCE($5, tokens_expire_at),
        cached_tokens = CASE WHEN generation + (SELECT epoch FROM global_state) = $6 AND blocked_at IS NULL THEN $7 END,
        cached_until_day = CASE WHEN generation + (SELECT epoch FROM global_state) = $6 AND blocked_at IS NULL THEN $8 END
    WHERE id = $9 AND state = 'creating' AND claim_id = $10
    RETURNING generation + (SELECT epoch FROM global_state) = $6 AND blocked_at IS NULL";

const RELEASE: &str = "
    UPDATE users SET state = 'unbound', claim_id = NULL, claimed_until = NULL, updated_at = $1
    WHERE id = $2 AND state = 'creating' AND claim_id = $3";

const IMPORT: &str = "
    UPDATE users SET state = 'active', acs_id = $1, resource = $2, updated_at = $3, tokens_expire_at = $5
    WHERE id = $4 AND state = 'unbound'";

/// The previous owner of an imported identity may have issued tokens with the longest lifetime.
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
    /// The generation that was read when the request was authorised.
    pub generation: i64,
}

/// What became of a new identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// It is the user's, and its token may be returned.
    AndCurrent,
    /// It is the user's, but access was revoked or blocked meanwhile: its token must be thrown away.
    ButChanged,
    /// Somebody else took the claim or deleted the mapping: the identity is not the user's.
    Lost,
}

/// An identity that ACS created for a claim, with the token that came with it where one was asked for.
#[derive(Clone, Debug)]
pub struct NewIdentity<'a> {
    pub acs_id: &'a AcsId,
    pub resource: &'a str,
    /// When the token expires.
    pub expires_at: Option<DateTime<Utc>>,
    pub cached: Option<&'a CachedTokens>,
    /// The event of the binding.
    pub bound: Event,
    /// The event of the token.
    pub minted: Option<Event>,
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
    /// Claims the creation of the first identity of an app user without a row, after the sign-in was checked against the
    /// `global` state; `None` if there is a row by now.
    pub async fn claim_new(
        &self,
        app_user: &AppUser,
        global: GlobalState,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Option<Claim>, Error> {
        let claim = Claim { id: Uuid::new_v4(), user: UserId::random(), generation: global.epoch };
        let inserted = on_pool!(self, |db| {
            sqlx::query(CLAIM_NEW)
                .bind(claim.user.as_str())
                .bind(app_user.issuer.as_str())
                .bind(app_user.subject.as_str())
                .bind(claim.id)
                .bind(until)
                .bind(now)
                .bind(global.epoch)
                .bind(global.sign_ins_valid_from)
                .execute(db)
                .await
                .map(|done| done.rows_affected())
        })?;
        Ok((inserted == 1).then_some(claim))
    }

    /// Claims the creation of an identity over a mapping that has none, or over a claim that ran out.
    ///
    /// `None` when the mapping moved on since `read` was read; a claim taken over leaves a possible orphan, which `orphan` tells of.
    pub async fn claim_again(
        &self,
        read: &User,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
        orphan: Event,
    ) -> Result<Option<Claim>, Error> {
        let claim = Claim { id: Uuid::new_v4(), user: read.id.clone(), generation: read.generation };
        let events: Vec<_> = (read.state == State::Creating).then_some(orphan).into_iter().collect();
        macro_rules! bind_claim {
            ($sql:expr) => {
                sqlx::query($sql)
                    .bind(claim.id)
                    .bind(until)
                    .bind(now)
                    .bind(read.id.as_str())
                    .bind(read.generation)
                    .bind(read.state.as_str())
            };
        }
        if let Self::Postgres { pool, .. } = self {
            let events: Vec<_> = events.into_iter().map(|event| AuditRow::new(event, now)).collect();
            let query = bind_claim!(CLAIM_AGAIN_POSTGRES).bind(Json(events));
            let claimed = Leased::acquire(pool).await?.run(async |db| query.fetch_optional(db).await).await?;
            return Ok(claimed.map(|_| claim));
        }
        let mut tx = self.begin().await?;
        if execute!(&mut tx, bind_claim!(CLAIM_AGAIN_SQLITE))? == 0 {
            return Ok(None);
        }
        tx.append_audit(events, now).await?;
        tx.commit().await?;
        Ok(Some(claim))
    }

    /// Binds a new identity to its user if the claim is still good; else queues the identity for deletion.
    pub async fn bind(&self, claim: &Claim, new: NewIdentity<'_>, now: DateTime<Utc>) -> Result<Bound, Error> {
        let discard = NewOperation {
            operation: Operation::new(
                Kind::Discard,
                claim.user.clone(),
                new.acs_id.clone(),
                new.resource.to_owned(),
                new.bound.actor.clone(),
                now,
            ),
            request_id: new.bound.request_context.request_id.clone(),
            lease: None,
        };
        macro_rules! bind_identity {
            ($sql:expr) => {
                sqlx::query_scalar($sql)
                    .bind(new.acs_id.as_str())
                    .bind(new.resource)
                    .bind(now)
                    .bind(new.expires_at.map(|_| now))
                    .bind(new.expires_at)
                    .bind(claim.generation)
                    .bind(new.cached.map(|cached| cached.ciphertext.as_slice()))
                    .bind(new.cached.map(CachedTokens::last_day))
                    .bind(claim.user.as_str())
                    .bind(claim.id)
            };
        }
        let discarded =
            Event { action: Action::IdentityDiscarded, operation: Some(discard.operation.id), ..new.bound.clone() };
        let is_current: Option<bool> = if let Self::Postgres { pool, .. } = self {
            let row = NewRow::from(&discard);
            let events = [Some(discarded), Some(new.bound.clone()), new.minted.clone()];
            let events: Vec<_> = events.into_iter().flatten().map(|event| AuditRow::new(event, now)).collect();
            let query = bind_identity!(BIND_POSTGRES).bind(Json(row)).bind(Json(events));
            Leased::acquire(pool).await?.run(async |db| query.fetch_optional(db).await).await?
        } else {
            let mut tx = self.begin().await?;
            let is_current = on_tx!(&mut tx, |db| bind_identity!(BIND_SQLITE).fetch_optional(db).await)?;
            match is_current {
                Some(true) => {
                    tx.append_audit([Some(new.bound.clone()), new.minted.clone()].into_iter().flatten(), now).await?;
                }
                Some(false) => tx.append_audit([new.bound.clone()], now).await?,
                None => {
                    tx.insert_operations(&[discard]).await?;
                    tx.append_audit([discarded], now).await?;
                }
            }
            tx.commit().await?;
            is_current
        };
        Ok(match is_current {
            Some(true) => Bound::AndCurrent,
            Some(false) => Bound::ButChanged,
            None => Bound::Lost,
        })
    }

    /// Gives a claim back after a creation that failed, so that the next request need not wait until it runs out.
    ///
    /// `orphan` tells of an identity that may have been created all the same.
    pub async fn release_claim(&self, claim: &Claim, orphan: Option<Event>, now: DateTime<Utc>) -> Result<(), Error> {
        let mut tx = self.begin().await?;
        execute!(&mut tx, sqlx::query(RELEASE).bind(now).bind(claim.user.as_str()).bind(claim.id))?;
        tx.append_audit(orphan, now).await?;
        tx.commit().await
    }

    /// Returns the GUID of a resource, as seen in its identities.
    pub async fn resource_guid(&self, resource: &str) -> Result<Option<String>, Error> {
        Ok(on_readers!(self, |db| sqlx::query_scalar(RESOURCE_GUID).bind(resource).fetch_optional(db).await)?)
    }

    /// Remembers the GUID of a resource.
    pub async fn remember_resource(&self, resource: &str, guid: &str, now: DateTime<Utc>) -> Result<(), Error> {
        on_pool!(self, |db| {
            sqlx::query(REMEMBER_RESOURCE).bind(resource).bind(guid).bind(now).execute(db).await.map(drop)
        })?;
        Ok(())
    }
}

impl Tx {
    /// Makes an identity the user's, who is locked and was read as `user`.
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
}
