//! Mappings of app users to identities, and the conditional statements that issuing stands on.
//!
//! Every condition sits on an `UPDATE users`, which takes the row lock: under READ COMMITTED a condition in an
//! `INSERT … SELECT` would not be one (docs of Postgres, "Read Committed Isolation Level").
//! The generation is always the one that was *read* with the login check, never one that a write returned.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Error, NewOperation, Store, execute, on_pool, on_tx};
use crate::domain::{
    audit::{Action, Event},
    user::{AcsId, AppUser, IssuerKey, State, Subject, User, UserId},
};

/// The columns of a mapping, and whether it is held: an unfinished revocation of its present identity, or a time not yet over.
macro_rules! select_user {
    ($condition:literal) => {
        concat!(
            "SELECT u.id, u.issuer_key, u.subject, u.resource, u.acs_id, u.state, u.blocked_at, u.generation,
                    u.logins_valid_from, u.claimed_until, u.last_minted_at, u.created_at, u.updated_at,
                    ((u.held_until IS NOT NULL AND u.held_until > $1) OR EXISTS (
                        SELECT 1 FROM operations o
                        WHERE o.user_id = u.id AND o.acs_id = u.acs_id AND o.kind = 'revoke' AND o.completed_at IS NULL
                    )) AS held
             FROM users u WHERE ",
            $condition
        )
    };
}

const FIND: &str = select_user!("u.issuer_key = $2 AND u.subject = $3");

const CLAIM_NEW: &str = "
    INSERT INTO users (id, issuer_key, subject, state, generation, claim_id, claimed_until, created_at, updated_at)
    VALUES ($1, $2, $3, 'creating', 0, $4, $5, $6, $6)
    ON CONFLICT (issuer_key, subject) DO NOTHING";

/// Both forms of a later claim: over a mapping without identity, and over a claim that ran out.
const CLAIM_AGAIN: &str = "
    UPDATE users SET state = 'creating', claim_id = $1, claimed_until = $2, updated_at = $3
    WHERE id = $4 AND generation = $5 AND blocked_at IS NULL AND state = $6
      AND (claimed_until IS NULL OR claimed_until < $3)";

const BIND: &str = "
    UPDATE users SET state = 'active', acs_id = $1, resource = $2, claim_id = NULL, claimed_until = NULL, updated_at = $3,
                     last_minted_at = $3, tokens_expire_at = $4
    WHERE id = $5 AND state = 'creating' AND claim_id = $6
    RETURNING generation, blocked_at";

const RELEASE: &str = "
    UPDATE users SET state = 'unbound', claim_id = NULL, claimed_until = NULL, updated_at = $1
    WHERE id = $2 AND state = 'creating' AND claim_id = $3";

const RECORD_MINT: &str = "
    UPDATE users SET last_minted_at = $1,
           tokens_expire_at = CASE WHEN tokens_expire_at > $2 THEN tokens_expire_at ELSE $2 END
    WHERE id = $3 AND generation = $4 AND acs_id = $5 AND state = 'active' AND blocked_at IS NULL
      AND (held_until IS NULL OR held_until <= $1)
      AND NOT EXISTS (
          SELECT 1 FROM operations o
          WHERE o.user_id = users.id AND o.acs_id = users.acs_id AND o.kind = 'revoke' AND o.completed_at IS NULL)";

const REMEMBER_RESOURCE: &str = "
    INSERT INTO resources (name, guid, created_at) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING";

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

/// A token that ACS minted and that wants to leave the house.
#[derive(Debug)]
pub struct Mint<'a> {
    /// The app user.
    pub user: &'a UserId,
    /// The generation that was read with the login check.
    pub generation: i64,
    /// The identity it was minted for.
    pub acs_id: &'a AcsId,
    /// When the token ends.
    pub expires_at: DateTime<Utc>,
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

impl Store {
    /// Reads an app user's mapping; this one statement is the authorisation that everything after it relies on.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer, [`Error::Corrupt`] when the row cannot be read.
    pub async fn find_user(&self, app_user: &AppUser, now: DateTime<Utc>) -> Result<Option<User>, Error> {
        let row: Option<Row> = on_pool!(self, |db| {
            sqlx::query_as(FIND)
                .bind(now)
                .bind(app_user.issuer.as_str())
                .bind(app_user.subject.as_str())
                .fetch_optional(db)
                .await
        })?;
        row.map(User::try_from).transpose()
    }

    /// Claims the creation of a first identity for an app user who has no row yet; `None` when there is one by now.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn claim_new(
        &self,
        app_user: &AppUser,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Option<Claim>, Error> {
        let claim = Claim {
            id: Uuid::new_v4(),
            user: UserId::random(),
            generation: 0,
        };
        let inserted = on_pool!(self, |db| {
            sqlx::query(CLAIM_NEW)
                .bind(claim.user.as_str())
                .bind(app_user.issuer.as_str())
                .bind(app_user.subject.as_str())
                .bind(claim.id)
                .bind(until)
                .bind(now)
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
        let claim = Claim {
            id: Uuid::new_v4(),
            user: read.id.clone(),
            generation: read.generation,
        };
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
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn bind(
        &self,
        claim: &Claim,
        resource: &str,
        minted: &Event,
        acs_id: &AcsId,
        now: DateTime<Utc>,
    ) -> Result<Bound, Error> {
        let expires_at = minted.token.as_ref().map(|token| token.expires_at);
        let mut tx = self.begin().await?;
        let row: Option<(i64, Option<DateTime<Utc>>)> = on_tx!(&mut tx, |db| {
            sqlx::query_as(BIND)
                .bind(acs_id.as_str())
                .bind(resource)
                .bind(now)
                .bind(expires_at)
                .bind(claim.user.as_str())
                .bind(claim.id)
                .fetch_optional(db)
                .await
        })?;
        let about = |action| Event {
            action,
            token: None,
            ..minted.clone()
        };
        let bound = if let Some((generation, blocked_at)) = row {
            execute!(
                &mut tx,
                sqlx::query(REMEMBER_RESOURCE)
                    .bind(resource)
                    .bind(acs_id.resource_guid())
                    .bind(now)
            )?;
            tx.append_audit(&about(Action::IdentityBound), now).await?;
            if generation == claim.generation && blocked_at.is_none() {
                tx.append_audit(minted, now).await?;
                Bound::AndCurrent
            } else {
                Bound::ButFenced
            }
        } else {
            let discard = NewOperation {
                user: &claim.user,
                acs_id,
                resource,
                actor: &minted.actor,
                request_id: minted.request_id.as_deref(),
            };
            tx.insert_discard(&discard, now).await?;
            tx.append_audit(&about(Action::IdentityDiscarded), now).await?;
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
        execute!(
            &mut tx,
            sqlx::query(RELEASE).bind(now).bind(claim.user.as_str()).bind(claim.id)
        )?;
        if let Some(event) = orphan {
            tx.append_audit(event, now).await?;
        }
        tx.commit().await
    }

    /// Records a mint, if the mapping is still what was read before ACS was asked; only then may the token be handed out.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer; the token must then be thrown away.
    pub async fn record_mint(&self, mint: &Mint<'_>, event: &Event, now: DateTime<Utc>) -> Result<bool, Error> {
        let mut tx = self.begin().await?;
        let updated = execute!(
            &mut tx,
            sqlx::query(RECORD_MINT)
                .bind(now)
                .bind(mint.expires_at)
                .bind(mint.user.as_str())
                .bind(mint.generation)
                .bind(mint.acs_id.as_str())
        )?;
        if updated == 0 {
            return Ok(false);
        }
        tx.append_audit(event, now).await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// A mapping as the database has it.
#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    issuer_key: String,
    subject: String,
    resource: Option<String>,
    acs_id: Option<String>,
    state: String,
    blocked_at: Option<DateTime<Utc>>,
    generation: i64,
    logins_valid_from: Option<DateTime<Utc>>,
    claimed_until: Option<DateTime<Utc>>,
    held: bool,
    last_minted_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<Row> for User {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let corrupt = |column| Error::Corrupt {
            column,
            row: row.id.clone(),
        };
        Ok(Self {
            id: UserId::parse(&row.id).map_err(|_| corrupt("id"))?,
            app_user: AppUser {
                issuer: IssuerKey::parse(&row.issuer_key).map_err(|_| corrupt("issuer_key"))?,
                subject: Subject::parse(&row.subject).map_err(|_| corrupt("subject"))?,
            },
            acs_id: row
                .acs_id
                .as_deref()
                .map(AcsId::parse)
                .transpose()
                .map_err(|_| corrupt("acs_id"))?,
            state: State::parse(&row.state).ok_or_else(|| corrupt("state"))?,
            resource: row.resource,
            blocked_at: row.blocked_at,
            generation: row.generation,
            logins_valid_from: row.logins_valid_from,
            claimed_until: row.claimed_until,
            held: row.held,
            last_minted_at: row.last_minted_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}
