//! Responses to operators' writes, stored under the caller's `Idempotency-Key`.

use chrono::{DateTime, Utc};

use super::{Error, Store, on_pool};

/// A key that was begun long ago and never answered belongs to a process that died: it may be taken over.
const BEGIN: &str = "
    INSERT INTO idempotency_keys (actor, route, key, body_hash, begun_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (actor, route, key) DO UPDATE
    SET body_hash = excluded.body_hash, begun_at = excluded.begun_at, expires_at = excluded.expires_at,
        status = NULL, answer = NULL
    WHERE idempotency_keys.expires_at <= $5
       OR (idempotency_keys.status IS NULL AND idempotency_keys.begun_at <= $7
           AND idempotency_keys.body_hash = excluded.body_hash)";

const FIND: &str = "
    SELECT body_hash, status, answer FROM idempotency_keys WHERE actor = $1 AND route = $2 AND key = $3";

const ANSWER: &str = "
    UPDATE idempotency_keys SET status = $1, answer = $2 WHERE actor = $3 AND route = $4 AND key = $5 AND begun_at = $6";

const FORGET: &str = "DELETE FROM idempotency_keys WHERE actor = $1 AND route = $2 AND key = $3 AND begun_at = $4";

const PURGE: &str = "DELETE FROM idempotency_keys WHERE expires_at < $1";

/// What a caller names a request, so that repeating it changes nothing.
#[derive(Clone, Debug)]
pub struct IdempotentRequest {
    /// Who asks.
    pub actor: String,
    /// Method and path.
    pub route: String,
    /// The caller's key.
    pub key: String,
    /// SHA-256 of the body.
    pub body_hash: String,
    /// When it began.
    pub begun_at: DateTime<Utc>,
}

/// What is known of a request of this key.
#[derive(Clone, Debug)]
pub enum Idempotency {
    /// Nothing: go on, and tell the answer.
    Begun,
    /// The same request was answered: with this status and body.
    Answered(i64, String),
    /// The same request is being answered.
    Running,
    /// The key was used for another request.
    Mismatch,
}

impl Store {
    /// Begins a request, unless its key is known.
    pub async fn begin_idempotent(
        &self,
        request: &IdempotentRequest,
        expires_at: DateTime<Utc>,
        abandoned_before: DateTime<Utc>,
    ) -> Result<Idempotency, Error> {
        let begun = on_pool!(self, |db| {
            sqlx::query(BEGIN)
                .bind(&request.actor)
                .bind(&request.route)
                .bind(&request.key)
                .bind(&request.body_hash)
                .bind(request.begun_at)
                .bind(expires_at)
                .bind(abandoned_before)
                .execute(db)
                .await
                .map(|done| done.rows_affected())
        })?;
        if begun == 1 {
            return Ok(Idempotency::Begun);
        }
        let row: Option<(String, Option<i64>, Option<String>)> = on_pool!(self, |db| {
            let query = sqlx::query_as(FIND).bind(&request.actor).bind(&request.route).bind(&request.key);
            query.fetch_optional(db).await
        })?;
        Ok(match row {
            Some((hash, ..)) if hash != request.body_hash => Idempotency::Mismatch,
            Some((_, Some(status), answer)) => Idempotency::Answered(status, answer.unwrap_or_default()),
            // It may have failed and been forgotten between the two statements: the caller tries again.
            _ => Idempotency::Running,
        })
    }

    /// Keeps the answer to a request.
    pub async fn answer_idempotent(&self, request: &IdempotentRequest, status: i64, answer: &str) -> Result<(), Error> {
        on_pool!(self, |db| {
            sqlx::query(ANSWER)
                .bind(status)
                .bind(answer)
                .bind(&request.actor)
                .bind(&request.route)
                .bind(&request.key)
                .bind(request.begun_at)
                .execute(db)
                .await
                .map(drop)
        })?;
        Ok(())
    }

    /// Forgets a request that failed, so that it can be tried again.
    pub async fn forget_idempotent(&self, request: &IdempotentRequest) -> Result<(), Error> {
        on_pool!(self, |db| {
            sqlx::query(FORGET)
                .bind(&request.actor)
                .bind(&request.route)
                .bind(&request.key)
                .bind(request.begun_at)
                .execute(db)
                .await
                .map(drop)
        })?;
        Ok(())
    }

    /// Deletes keys whose time is over.
    pub async fn purge_idempotency_keys(&self, now: DateTime<Utc>) -> Result<(), Error> {
        on_pool!(self, |db| sqlx::query(PURGE).bind(now).execute(db).await.map(drop))?;
        Ok(())
    }
}
