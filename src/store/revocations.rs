//! Bulk revocations: what was accepted, and the progress of the calls to ACS.

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::{Error, Store, Tx, execute, on_pool, on_readers, on_tx};
use crate::domain::{
    audit::Actor,
    revocation::{Progress, Revocation},
};

macro_rules! select_revocation {
    ($rest:literal) => {
        concat!(
            "SELECT id, actor_kind, actor, reason, request_id, epoch, total, swept_to, swept_at, created_at, completed_at
             FROM revocations ",
            $rest
        )
    };
}

const FIND: &str = select_revocation!("WHERE id = $1");
const FIND_BY_EPOCH: &str = select_revocation!("WHERE epoch = $1");
const LIST: &str = select_revocation!("WHERE id < $1 ORDER BY id DESC LIMIT $2");

const INSERT: &str = "
    INSERT INTO revocations (id, actor_kind, actor, reason, request_id, epoch, total, swept_to, swept_at, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";

/// One replica at a time works through the users of a revocation.
const CLAIM: &str = "
    UPDATE revocations SET claimed_until = $1
    WHERE id = (SELECT r.id FROM revocations r
                WHERE r.completed_at IS NULL AND (r.claimed_until IS NULL OR r.claimed_until < $2)
                ORDER BY r.claimed_until IS NOT NULL, r.claimed_until, r.id LIMIT 1)
      AND (claimed_until IS NULL OR claimed_until < $2)
    RETURNING id";

const ADVANCE: &str = "
    UPDATE revocations SET swept_to = $1, swept_at = $2, completed_at = $3, claimed_until = $4 WHERE id = $5";

const SET_TOTAL: &str = "UPDATE revocations SET total = $1 WHERE id = $2";

/// The operations of later global revocations count for the earlier ones too.
const PROGRESS: &str = "
    SELECT COUNT(*) FILTER (WHERE completed_at IS NULL), COUNT(*) FILTER (WHERE completed_at IS NOT NULL)
    FROM operations WHERE revocation IN (SELECT id FROM revocations WHERE id = $1 OR epoch > $2)";

impl Store {
    /// Finds a revocation.
    pub async fn find_revocation(&self, id: Uuid) -> Result<Option<Revocation>, Error> {
        let row: Option<Row> = on_readers!(self, |db| sqlx::query_as(FIND).bind(id).fetch_optional(db).await)?;
        row.map(Revocation::try_from).transpose()
    }

    /// Lists revocations, newest first.
    pub async fn list_revocations(&self, before: Uuid, limit: i64) -> Result<Vec<Revocation>, Error> {
        let rows: Vec<Row> = on_readers!(self, |db| sqlx::query_as(LIST).bind(before).bind(limit).fetch_all(db).await)?;
        rows.into_iter().map(Revocation::try_from).collect()
    }

    /// Takes the right to work on an unfinished revocation for a while.
    pub async fn claim_revocation(
        &self,
        until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Option<Revocation>, Error> {
        let id: Option<Uuid> =
            on_pool!(self, |db| sqlx::query_scalar(CLAIM).bind(until).bind(now).fetch_optional(db).await)?;
        match id {
            Some(id) => self.find_revocation(id).await,
            None => Ok(None),
        }
    }

    /// Writes down how far a claimed revocation has come; it may be claimed again from a time on.
    pub async fn advance_revocation(&self, revocation: &Revocation, again_at: DateTime<Utc>) -> Result<(), Error> {
        on_pool!(self, |db| {
            sqlx::query(ADVANCE)
                .bind(revocation.swept_to.as_str())
                .bind(revocation.swept_at)
                .bind(revocation.completed_at)
                .bind(again_at)
                .bind(revocation.id)
                .execute(db)
                .await
                .map(drop)
        })?;
        Ok(())
    }

    /// Writes down how many users had tokens that were alive, as soon as they are counted.
    pub async fn set_revocation_total(&self, id: Uuid, total: i64) -> Result<(), Error> {
        on_pool!(self, |db| sqlx::query(SET_TOTAL).bind(total).bind(id).execute(db).await.map(drop))?;
        Ok(())
    }

    /// Counts the operations of a revocation.
    pub async fn revocation_progress(&self, revocation: &Revocation) -> Result<Progress, Error> {
        let later = revocation.epoch.unwrap_or(i64::MAX);
        let (pending, confirmed) =
            on_readers!(self, |db| { sqlx::query_as(PROGRESS).bind(revocation.id).bind(later).fetch_one(db).await })?;
        Ok(Progress { pending, confirmed })
    }
}

impl Tx {
    /// Accepts a revocation.
    pub async fn insert_revocation(&mut self, revocation: &Revocation) -> Result<(), Error> {
        execute!(
            self,
            sqlx::query(INSERT)
                .bind(revocation.id)
                .bind(revocation.actor.kind())
                .bind(revocation.actor.name())
                .bind(revocation.reason.as_deref())
                .bind(revocation.request_id.as_deref())
                .bind(revocation.epoch)
                .bind(revocation.total)
                .bind(revocation.swept_to.as_str())
                .bind(revocation.swept_at)
                .bind(revocation.created_at)
        )?;
        Ok(())
    }

    /// Finds the global revocation that began an epoch.
    pub async fn find_global_revocation(&mut self, epoch: i64) -> Result<Option<Revocation>, Error> {
        let row: Option<Row> = on_tx!(self, |db| sqlx::query_as(FIND_BY_EPOCH).bind(epoch).fetch_optional(db).await)?;
        row.map(Revocation::try_from).transpose()
    }
}

/// A revocation as the table has it: the members are its columns.
#[derive(Serialize, sqlx::FromRow)]
pub(super) struct Row {
    id: Uuid,
    actor_kind: String,
    actor: String,
    reason: Option<String>,
    request_id: Option<String>,
    epoch: Option<i64>,
    total: i64,
    swept_to: String,
    swept_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    completed_at: Option<DateTime<Utc>>,
}

impl Row {
    pub(super) fn new(revocation: &Revocation) -> Self {
        Self {
            id: revocation.id,
            actor_kind: revocation.actor.kind().to_owned(),
            actor: revocation.actor.name().to_owned(),
            reason: revocation.reason.clone(),
            request_id: revocation.request_id.clone(),
            epoch: revocation.epoch,
            total: revocation.total,
            swept_to: revocation.swept_to.clone(),
            swept_at: revocation.swept_at,
            created_at: revocation.created_at,
            completed_at: revocation.completed_at,
        }
    }
}

impl TryFrom<Row> for Revocation {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let corrupt = |column| Error::Corrupt { table: "revocations", column, row: row.id.to_string() };
        Ok(Self {
            id: row.id,
            actor: Actor::parse(&row.actor_kind, &row.actor).ok_or_else(|| corrupt("actor_kind"))?,
            reason: row.reason,
            request_id: row.request_id,
            epoch: row.epoch,
            total: row.total,
            swept_to: row.swept_to,
            swept_at: row.swept_at,
            created_at: row.created_at,
            completed_at: row.completed_at,
        })
    }
}
