//! Revocations of all users: one row that every read and every write of tokens asks.
//!
//! Its epoch counts as part of each user's generation. A user whose own epoch is older is stale: the worker, or the user's
//! next request, applies the revocation, and until then no token is issued to the user.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{error::DatabaseError, types::Json};

use super::{Error, Store, Tx, audit::AuditRow, connection::Leased, execute, on_readers, on_tx, revocations};
use crate::domain::{
    audit::Event,
    revocation::Revocation,
    user::{User, UserId},
};

/// Locks, steps and records in one call that the server ends by itself. The migration has the function.
const REVOKE_ALL_POSTGRES: &str = "SELECT revoke_all($1, $2, $3)";

const STEP_SQLITE: &str = "
    UPDATE global_state SET epoch = epoch + 1,
           sign_ins_valid_from = CASE WHEN $1 IS NULL OR sign_ins_valid_from > $1 THEN sign_ins_valid_from ELSE $1 END
    WHERE id = 1 RETURNING epoch";

/// How often the lock on the global state is asked for, each time for two seconds at most, and the pause in between, in which
/// mints that queued behind the request go on.
const LOCK_ATTEMPTS: u32 = 3;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

const APPLY_GLOBAL: &str = "
    UPDATE users SET epoch = $1, sign_ins_valid_from = $2, cached_tokens = NULL, cached_until_day = NULL, updated_at = $3
    WHERE id = $4";

const STALE: &str = "
    SELECT id FROM users
    WHERE id > $1 AND state = 'active' AND epoch < $2 AND tokens_expire_at > $3 ORDER BY id LIMIT $4";

const COUNT_LIVE: &str = "SELECT COUNT(*) FROM users WHERE state = 'active' AND tokens_expire_at > $1";

impl Store {
    /// Revokes all users: steps the global epoch, and writes the revocation that `revocation` describes with its event.
    ///
    /// Once it returns, nothing that was authorised before is returned to anybody. An error that says that the database is
    /// not available leaves no request for a lock behind.
    pub async fn revoke_all(
        &self,
        revocation: &mut Revocation,
        sign_ins_valid_from: Option<DateTime<Utc>>,
        event: Event,
    ) -> Result<(), Error> {
        let now = revocation.created_at;
        let epoch = match self {
            Self::Postgres { pool, .. } => {
                let (row, event) = (Json(revocations::Row::new(revocation)), AuditRow::json(event, now));
                let mut attempt = 1;
                loop {
                    let query =
                        sqlx::query_scalar(REVOKE_ALL_POSTGRES).bind(sign_ins_valid_from).bind(&row).bind(&event);
                    match Leased::acquire(pool).await?.run(async |db| query.fetch_one(db).await).await {
                        Err(sqlx::Error::Database(error)) if is_lock_timeout(&*error) && attempt < LOCK_ATTEMPTS => {
                            attempt += 1;
                            tokio::time::sleep(LOCK_PAUSE).await;
                        }
                        result => break result?,
                    }
                }
            }
            Self::Sqlite { .. } => {
                let mut tx = self.begin().await?;
                let epoch = on_tx!(&mut tx, |db| sqlx::query_scalar(STEP_SQLITE)
                    .bind(sign_ins_valid_from)
                    .fetch_one(db)
                    .await)?;
                let revocation = Revocation { epoch: Some(epoch), ..revocation.clone() };
                tx.insert_revocation(&revocation).await?;
                tx.append_audit([event], now).await?;
                tx.commit().await?;
                epoch
            }
        };
        revocation.epoch = Some(epoch);
        Ok(())
    }

    /// Counts the users who have tokens that are not over by themselves.
    pub async fn count_live(&self, now: DateTime<Utc>) -> Result<i64, Error> {
        Ok(on_readers!(self, |db| sqlx::query_scalar(COUNT_LIVE).bind(now).fetch_one(db).await)?)
    }

    /// Lists users with live tokens who are behind an epoch, in the order of their ids.
    pub async fn stale_users(
        &self,
        epoch: i64,
        after: &str,
        limit: i64,
        now: DateTime<Utc>,
    ) -> Result<Vec<UserId>, Error> {
        let ids: Vec<String> = on_readers!(self, |db| {
            sqlx::query_scalar(STALE).bind(after).bind(epoch).bind(now).bind(limit).fetch_all(db).await
        })?;
        let read =
            |id: String| UserId::parse(&id).map_err(|_| Error::Corrupt { table: "users", column: "id", row: id });
        ids.into_iter().map(read).collect()
    }
}

impl Tx {
    /// Applies global revocations to a locked user, as of the read of the user.
    pub async fn apply_global(&mut self, user: &User, now: DateTime<Utc>) -> Result<(), Error> {
        let (epoch, since) = (user.epoch, user.sign_ins_valid_from);
        execute!(self, sqlx::query(APPLY_GLOBAL).bind(epoch).bind(since).bind(now).bind(user.id.as_str()))?;
        Ok(())
    }
}

fn is_lock_timeout(error: &(dyn DatabaseError + 'static)) -> bool {
    error.code().is_some_and(|code| code == "55P03")
}
