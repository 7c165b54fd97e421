//! Operations in the database: accepted in the transaction of their access change, leased before each attempt, completed once.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use serde::Serialize;
use sqlx::types::Json;

use super::{Error, Store, Tx, connection::within_deadline, execute, on_pool, on_readers, on_tx};
use crate::domain::{
    audit::Actor,
    operation::{Kind, Lease, Operation},
    user::{AcsId, UserId},
};

macro_rules! select_operation {
    ($rest:literal) => {
        concat!(
            "SELECT id, kind, user_id, acs_id, resource, revocation, actor_kind, actor, reason, not_before, next_attempt_at, attempts,
                    last_attempt_at, last_error, created_at, completed_at FROM operations ",
            $rest
        )
    };
}

const FIND: &str = select_operation!("WHERE id = $1");
const LIST_PENDING: &str = select_operation!("WHERE completed_at IS NULL AND id > $1 ORDER BY id LIMIT $2");
const LIST_COMPLETED: &str = select_operation!("WHERE completed_at IS NOT NULL AND id > $1 ORDER BY id LIMIT $2");
const LIST_ALL: &str = select_operation!("WHERE id > $1 ORDER BY id LIMIT $2");

const FIND_OPEN_DELETION: &str =
    select_operation!("WHERE user_id = $1 AND kind = 'delete' AND completed_at IS NULL ORDER BY id DESC LIMIT 1");

const INSERT_POSTGRES: &str = "INSERT INTO operations SELECT * FROM jsonb_populate_recordset(NULL::operations, $1)";

const INSERT_SQLITE: &str = "
    INSERT INTO operations (id, kind, user_id, acs_id, resource, revocation, actor_kind, actor, reason, request_id, not_before,
                            next_attempt_at, attempts, unanswered, last_attempt_at, leased_by, leased_until, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)";

const DUE: &str = "
    SELECT id FROM operations
    WHERE completed_at IS NULL AND next_attempt_at <= $1 AND not_before <= $1
      AND (leased_until IS NULL OR leased_until < $1)
    ORDER BY next_attempt_at LIMIT $2";

/// What may be pulled forward: tried by nobody now, and not a moment ago.
const OPEN_OF_USER: &str = "
    SELECT id FROM operations
    WHERE user_id = $1 AND completed_at IS NULL AND not_before <= $2
      AND (leased_until IS NULL OR leased_until < $2) AND (last_attempt_at IS NULL OR last_attempt_at <= $3)
    ORDER BY id LIMIT 1";

const OLDEST_PENDING: &str = "SELECT MIN(created_at) FROM operations WHERE completed_at IS NULL";

const NEXT_DUE: &str = "
    SELECT MIN(CASE WHEN next_attempt_at > not_before THEN next_attempt_at ELSE not_before END)
    FROM operations WHERE completed_at IS NULL AND (leased_until IS NULL OR leased_until < $1)";

const LEASE: &str = "
    UPDATE operations SET leased_by = $1, leased_until = $2, attempts = attempts + 1, unanswered = unanswered + 1,
                          last_attempt_at = $3
    WHERE id = $4 AND completed_at IS NULL AND not_before <= $3 AND (next_attempt_at <= $3 OR $5)
      AND (leased_until IS NULL OR leased_until < $3)";

/// An attempt that ended without success: whether it may still act decides if it stays counted as unanswered.
const BACK_OFF: &str = "
    UPDATE operations SET leased_by = NULL, leased_until = NULL, next_attempt_at = $1, last_error = $2,
                          unanswered = unanswered - $3,
                          not_before = CASE WHEN $4 > not_before THEN $4 ELSE not_before END
    WHERE id = $5 AND leased_by = $6";

const COMPLETE: &str = "
    UPDATE operations SET completed_at = $1, leased_by = NULL, leased_until = NULL, last_error = NULL
    WHERE id = $2 AND completed_at IS NULL RETURNING unanswered, last_attempt_at";

const HOLD: &str = "
    UPDATE users SET held_until = CASE WHEN held_until > $1 THEN held_until ELSE $1 END,
           no_reuse_before = CASE WHEN $2 IS NULL OR no_reuse_before > $2 THEN no_reuse_before ELSE $2 END
    WHERE id = $3";

const UNBIND: &str = "
    UPDATE users SET state = 'unbound', acs_id = NULL, updated_at = $1
    WHERE id = $2 AND state = 'deleting' AND acs_id = $3";

/// An operation to be accepted.
#[derive(Clone, Debug)]
pub struct NewOperation {
    pub operation: Operation,
    pub request_id: Option<String>,
    /// The lease of the first attempt, where the replica that accepts the operation makes it at once.
    pub lease: Option<Lease>,
}

/// A new operation as the table has it: the members are its columns.
#[derive(Debug, Serialize)]
pub(super) struct NewRow<'a> {
    id: Uuid,
    kind: &'static str,
    user_id: &'a str,
    acs_id: &'a str,
    resource: &'a str,
    revocation: Option<Uuid>,
    actor_kind: &'static str,
    actor: &'a str,
    reason: Option<&'a str>,
    request_id: Option<&'a str>,
    not_before: DateTime<Utc>,
    next_attempt_at: DateTime<Utc>,
    attempts: i64,
    unanswered: i64,
    last_attempt_at: Option<DateTime<Utc>>,
    leased_by: Option<Uuid>,
    leased_until: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
}

impl<'a> From<&'a NewOperation> for NewRow<'a> {
    fn from(NewOperation { operation, request_id, lease }: &'a NewOperation) -> Self {
        Self {
            id: operation.id,
            kind: operation.kind.as_str(),
            user_id: operation.user.as_str(),
            acs_id: operation.acs_id.as_str(),
            resource: &operation.resource,
            revocation: operation.revocation,
            actor_kind: operation.actor.kind(),
            actor: operation.actor.name(),
            reason: operation.reason.as_deref(),
            request_id: request_id.as_deref(),
            not_before: operation.not_before,
            next_attempt_at: operation.next_attempt_at,
            attempts: operation.attempts,
            unanswered: operation.attempts,
            last_attempt_at: operation.last_attempt_at,
            leased_by: lease.map(|lease| lease.by),
            leased_until: lease.map(|lease| lease.until),
            created_at: operation.created_at,
        }
    }
}

/// An attempt that ended without success.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When to try again.
    pub next_attempt_at: DateTime<Utc>,
    /// Before when nobody may try again.
    pub not_before: Option<DateTime<Utc>>,
    /// Why it failed.
    pub error: Option<String>,
    /// Whether its call may still act.
    pub may_act: bool,
}

/// What a completion leaves to be told.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// How many other attempts got no answer: their calls may still act.
    pub late_calls: i64,
    /// When the last attempt was made.
    pub last_attempt_at: Option<DateTime<Utc>>,
}

impl Store {
    /// Reads an operation.
    pub async fn find_operation(&self, id: Uuid) -> Result<Option<Operation>, Error> {
        let row: Option<Row> = on_readers!(self, |db| sqlx::query_as(FIND).bind(id).fetch_optional(db).await)?;
        row.map(Operation::try_from).transpose()
    }

    /// Finds the deletion of a user that is not finished.
    pub async fn find_open_deletion(&self, user: &UserId) -> Result<Option<Operation>, Error> {
        let row: Option<Row> = on_readers!(self, |db| {
            sqlx::query_as(FIND_OPEN_DELETION).bind(user.as_str()).fetch_optional(db).await
        })?;
        row.map(Operation::try_from).transpose()
    }

    /// Lists operations in the order of acceptance: the unfinished, the finished, or all.
    pub async fn list_operations(
        &self,
        pending: Option<bool>,
        after: Uuid,
        limit: i64,
    ) -> Result<Vec<Operation>, Error> {
        let sql = match pending {
            Some(true) => LIST_PENDING,
            Some(false) => LIST_COMPLETED,
            None => LIST_ALL,
        };
        let rows: Vec<Row> = on_readers!(self, |db| sqlx::query_as(sql).bind(after).bind(limit).fetch_all(db).await)?;
        rows.into_iter().map(Operation::try_from).collect()
    }

    /// Lists operations that wait for an attempt.
    pub async fn due_operations(&self, now: DateTime<Utc>, limit: i64) -> Result<Vec<Uuid>, Error> {
        Ok(on_readers!(self, |db| sqlx::query_scalar(DUE).bind(now).bind(limit).fetch_all(db).await)?)
    }

    /// Finds a user's unfinished operation that nobody is trying, and nobody tried after `not_since`.
    pub async fn open_operation_of(
        &self,
        user: &UserId,
        now: DateTime<Utc>,
        not_since: DateTime<Utc>,
    ) -> Result<Option<Uuid>, Error> {
        Ok(on_readers!(self, |db| {
            sqlx::query_scalar(OPEN_OF_USER).bind(user.as_str()).bind(now).bind(not_since).fetch_optional(db).await
        })?)
    }

    /// Returns when the oldest operation that ACS has not confirmed was accepted.
    pub(crate) async fn oldest_pending_operation(&self) -> Result<Option<DateTime<Utc>>, Error> {
        Ok(on_readers!(self, |db| sqlx::query_scalar(OLDEST_PENDING).fetch_one(db).await)?)
    }

    /// Tells when the next operation waits for an attempt.
    pub async fn next_due(&self, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, Error> {
        Ok(on_readers!(self, |db| sqlx::query_scalar(NEXT_DUE).bind(now).fetch_one(db).await)?)
    }

    /// Takes the right to one attempt, committed and counted before anything is sent; `None` when another has it.
    ///
    /// `early` takes it before its pause is over, but never before its `not_before`.
    pub async fn lease_operation(
        &self,
        id: Uuid,
        lease: Lease,
        early: bool,
        now: DateTime<Utc>,
    ) -> Result<Option<Operation>, Error> {
        let leased = on_pool!(self, |db| {
            let query = sqlx::query(LEASE).bind(lease.by).bind(lease.until).bind(now).bind(id).bind(early);
            query.execute(db).await.map(|done| done.rows_affected())
        })?;
        if leased == 1 { self.find_operation(id).await } else { Ok(None) }
    }

    /// Ends an attempt without success.
    pub async fn back_off(&self, id: Uuid, lease: Lease, failure: &Failure) -> Result<(), Error> {
        on_pool!(self, |db| {
            sqlx::query(BACK_OFF)
                .bind(failure.next_attempt_at)
                .bind(failure.error.as_deref())
                .bind(i64::from(!failure.may_act))
                .bind(failure.not_before)
                .bind(id)
                .bind(lease.by)
                .execute(db)
                .await
                .map(drop)
        })?;
        Ok(())
    }
}

impl Tx {
    /// Accepts operations.
    pub async fn insert_operations(&mut self, new: &[NewOperation]) -> Result<(), Error> {
        let rows: Vec<_> = new.iter().map(NewRow::from).collect();
        match self {
            _ if rows.is_empty() => {}
            Self::Postgres(tx) => {
                within_deadline(sqlx::query(INSERT_POSTGRES).bind(Json(rows)).execute(&mut **tx)).await?;
            }
            Self::Sqlite(tx) => {
                for row in rows {
                    let query = sqlx::query(INSERT_SQLITE)
                        .bind(row.id)
                        .bind(row.kind)
                        .bind(row.user_id)
                        .bind(row.acs_id)
                        .bind(row.resource)
                        .bind(row.revocation)
                        .bind(row.actor_kind)
                        .bind(row.actor)
                        .bind(row.reason)
                        .bind(row.request_id)
                        .bind(row.not_before)
                        .bind(row.next_attempt_at)
                        .bind(row.attempts)
                        .bind(row.unanswered)
                        .bind(row.last_attempt_at)
                        .bind(row.leased_by)
                        .bind(row.leased_until)
                        .bind(row.created_at);
                    query.execute(&mut **tx).await?;
                }
            }
        }
        Ok(())
    }

    /// Completes an operation that ACS confirmed; `None` when it was completed before, and then nothing may be changed.
    ///
    /// The lease need not be the caller's any more: what ACS confirmed is done.
    pub async fn complete_operation(&mut self, id: Uuid, now: DateTime<Utc>) -> Result<Option<Completion>, Error> {
        let row: Option<(i64, Option<DateTime<Utc>>)> =
            on_tx!(self, |db| sqlx::query_as(COMPLETE).bind(now).bind(id).fetch_optional(db).await)?;
        Ok(row.map(|(unanswered, last_attempt_at)| Completion { late_calls: unanswered - 1, last_attempt_at }))
    }

    /// Holds issuing back until a time, and caching of tokens until late calls can no longer act.
    pub async fn hold(
        &mut self,
        user: &UserId,
        until: DateTime<Utc>,
        no_reuse_before: Option<DateTime<Utc>>,
    ) -> Result<(), Error> {
        execute!(self, sqlx::query(HOLD).bind(until).bind(no_reuse_before).bind(user.as_str()))?;
        Ok(())
    }

    /// Ends the deletion of a user whose identity is gone.
    pub async fn unbind(&mut self, user: &UserId, acs_id: &AcsId, now: DateTime<Utc>) -> Result<(), Error> {
        execute!(self, sqlx::query(UNBIND).bind(now).bind(user.as_str()).bind(acs_id.as_str()))?;
        Ok(())
    }
}

/// An operation as the database has it.
#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    kind: String,
    user_id: String,
    acs_id: String,
    resource: String,
    revocation: Option<Uuid>,
    actor_kind: String,
    actor: String,
    reason: Option<String>,
    not_before: DateTime<Utc>,
    next_attempt_at: DateTime<Utc>,
    attempts: i64,
    last_attempt_at: Option<DateTime<Utc>>,
    last_error: Option<String>,
    created_at: DateTime<Utc>,
    completed_at: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for Operation {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let corrupt = |column| Error::Corrupt { table: "operations", column, row: row.id.to_string() };
        Ok(Self {
            id: row.id,
            kind: Kind::parse(&row.kind).ok_or_else(|| corrupt("kind"))?,
            user: UserId::parse(&row.user_id).map_err(|_| corrupt("user_id"))?,
            acs_id: AcsId::parse(&row.acs_id).map_err(|_| corrupt("acs_id"))?,
            actor: Actor::parse(&row.actor_kind, &row.actor).ok_or_else(|| corrupt("actor_kind"))?,
            resource: row.resource,
            revocation: row.revocation,
            reason: row.reason,
            not_before: row.not_before,
            next_attempt_at: row.next_attempt_at,
            attempts: row.attempts,
            last_attempt_at: row.last_attempt_at,
            last_error: row.last_error,
            created_at: row.created_at,
            completed_at: row.completed_at,
        })
    }
}
