//! Recording mints, and the cached tokens in their user's row.
//!
//! A minted token may be returned only where [`Store::record_mint`] touched the row: the conditions stand on an
//! `UPDATE users`, which takes the row lock. Under READ COMMITTED a condition in an `INSERT … SELECT` would not be one
//! (documentation of Postgres, "Read Committed Isolation Level").
//! The generation is the one that was read when the request was authorised. The global part of it is read under a shared
//! lock, which a revocation of all users waits for. The lock lasts one statement, so the server ends it by itself.

use chrono::{DateTime, Utc};

use super::{Error, Store, audit::AuditRow, connection::Leased, execute, on_pool, on_tx};
use crate::domain::{
    audit::Event,
    user::{AcsId, UserId},
};

/// The time of the last mint never moves back: a slow mint with an older time must not shorten a revocation's wait.
macro_rules! record {
    ($lock:literal) => {
        concat!(
            "UPDATE users SET
                last_minted_at = CASE WHEN last_minted_at > $1 THEN last_minted_at ELSE $1 END,
                tokens_expire_at = CASE WHEN tokens_expire_at > $2 THEN tokens_expire_at ELSE $2 END,
                cached_tokens = COALESCE($3, cached_tokens), cached_until_day = COALESCE($4, cached_until_day)
             WHERE id = $5 AND generation + (SELECT g.epoch FROM global_state g WHERE g.id = 1",
            $lock,
            ") = $6 AND acs_id = $7
                AND state = 'active' AND blocked_at IS NULL AND (held_until IS NULL OR held_until <= $1)
                AND NOT EXISTS (
                    SELECT 1 FROM operations o
                    WHERE o.user_id = users.id AND o.acs_id = users.acs_id AND o.kind = 'revoke' AND o.completed_at IS NULL)"
        )
    };
}

/// On SQLite the transaction holds the only write lock there is.
const RECORD_SQLITE: &str = record!("");

/// With its audit row, in one statement and so in one transaction.
const RECORD_POSTGRES: &str = concat!(
    "WITH minted AS (",
    record!(" FOR SHARE"),
    " RETURNING id)
     INSERT INTO audit_events SELECT e.* FROM minted, jsonb_populate_record(NULL::audit_events, $8) e"
);

macro_rules! delete_expired {
    ($lock:literal) => {
        concat!(
            "UPDATE users SET cached_tokens = NULL, cached_until_day = NULL WHERE id IN (
                SELECT id FROM users WHERE cached_until_day < $1 LIMIT 1000",
            $lock,
            ") AND cached_until_day < $1"
        )
    };
}

const DELETE_EXPIRED_SQLITE: &str = delete_expired!("");
/// Without waiting for anybody, as whoever locks many rows must.
const DELETE_EXPIRED_POSTGRES: &str = delete_expired!(" FOR UPDATE SKIP LOCKED");

/// Tokens as they are cached.
#[derive(Clone, Debug)]
pub struct CachedTokens {
    /// Encrypted.
    pub ciphertext: Vec<u8>,
    /// When the last of them expires.
    pub expire_at: DateTime<Utc>,
}

/// A token that ACS minted, and what was read before ACS was asked.
#[derive(Debug)]
pub struct Mint<'a> {
    pub user: &'a UserId,
    pub acs_id: &'a AcsId,
    pub generation: i64,
    pub expires_at: DateTime<Utc>,
    pub event: Event,
    pub cached: Option<CachedTokens>,
}

/// The statement for whichever database, with what `record!` asks for.
macro_rules! bind_mint {
    ($sql:expr, $mint:expr, $now:expr) => {
        sqlx::query($sql)
            .bind($now)
            .bind($mint.expires_at)
            .bind($mint.cached.as_ref().map(|cached| cached.ciphertext.as_slice()))
            .bind($mint.cached.as_ref().map(CachedTokens::last_day))
            .bind($mint.user.as_str())
            .bind($mint.generation)
            .bind($mint.acs_id.as_str())
    };
}

impl Store {
    /// Records a mint if the user is still as it was read; only then may the token be returned and cached.
    ///
    /// After an error it is unknown whether it was recorded, and the token must be thrown away.
    pub async fn record_mint(&self, mint: Mint<'_>, now: DateTime<Utc>) -> Result<bool, Error> {
        if let Self::Postgres { pool, .. } = self {
            let query = bind_mint!(RECORD_POSTGRES, mint, now).bind(AuditRow::json(mint.event.clone(), now));
            let done = Leased::acquire(pool).await?.run(async |db| query.execute(db).await).await?;
            return Ok(done.rows_affected() == 1);
        }
        let mut tx = self.begin().await?;
        let recorded = execute!(&mut tx, bind_mint!(RECORD_SQLITE, mint, now))?;
        if recorded == 1 {
            tx.append_audit([mint.event], now).await?;
        }
        tx.commit().await?;
        Ok(recorded == 1)
    }

    /// Deletes cached tokens that have expired; returns of how many users, at most a thousand.
    pub async fn delete_expired_tokens(&self, now: DateTime<Utc>) -> Result<u64, Error> {
        let sql = if matches!(self, Self::Postgres { .. }) { DELETE_EXPIRED_POSTGRES } else { DELETE_EXPIRED_SQLITE };
        let deleted = on_pool!(self, |db| {
            sqlx::query(sql).bind(day(now)).execute(db).await.map(|done| done.rows_affected())
        })?;
        Ok(deleted)
    }
}

/// The day of a time, counted from 1970.
fn day(time: DateTime<Utc>) -> i64 {
    time.timestamp().div_euclid(24 * 3600)
}

impl CachedTokens {
    /// The day after which they have all expired.
    pub(super) fn last_day(&self) -> i64 {
        day(self.expire_at)
    }
}
