//! What was done to everyone at once: one row that every read and every write of tokens asks.
//!
//! Its epoch counts as part of each user's generation. Users whose own epoch is older are behind: they are caught up one by
//! one, by the worker or by their own next request, and until then nothing is handed out to them.

use chrono::{DateTime, Utc};

use super::{Error, Store, Tx, execute, on_pool, on_tx};
use crate::domain::user::{User, UserId};

const READ: &str = "SELECT epoch, sign_ins_valid_from FROM global_state WHERE id = 1";

const LOCK_POSTGRES: &str = "SELECT epoch FROM global_state WHERE id = 1 FOR SHARE";
const LOCK_SQLITE: &str = "SELECT epoch FROM global_state WHERE id = 1";

/// Waits for those who hold a share of the row, and keeps newcomers back meanwhile: shares of a row alone would let them
/// pass for ever.
const LOCK_ALL: &str = "LOCK TABLE global_state IN EXCLUSIVE MODE";

const STEP: &str = "
    UPDATE global_state SET epoch = epoch + 1,
           sign_ins_valid_from = CASE WHEN $1 IS NULL OR sign_ins_valid_from > $1 THEN sign_ins_valid_from ELSE $1 END
    WHERE id = 1 RETURNING epoch";

const APPLY_GLOBAL: &str = "
    UPDATE users SET epoch = $1, sign_ins_valid_from = $2, cached_tokens = NULL, cached_until_day = NULL, updated_at = $3
    WHERE id = $4";

const BEHIND: &str = "
    SELECT id FROM users
    WHERE id > $1 AND state = 'active' AND epoch < $2 AND tokens_expire_at > $3 ORDER BY id LIMIT $4";

const COUNT_LIVE: &str = "SELECT COUNT(*) FROM users WHERE state = 'active' AND tokens_expire_at > $1";

/// What was done to everyone.
#[derive(Clone, Copy, Debug, sqlx::FromRow)]
pub struct GlobalState {
    /// How often everyone was revoked.
    pub epoch: i64,
    /// Logins from before this whole second get no token.
    pub sign_ins_valid_from: Option<DateTime<Utc>>,
}

impl Store {
    /// Reads what was done to everyone: all there is to know of a user without a row.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn global_state(&self) -> Result<GlobalState, Error> {
        Ok(on_pool!(self, |db| sqlx::query_as(READ).fetch_one(db).await)?)
    }

    /// Counts the users who have tokens that are not over by themselves.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn count_live(&self, now: DateTime<Utc>) -> Result<i64, Error> {
        Ok(on_pool!(self, |db| sqlx::query_scalar(COUNT_LIVE).bind(now).fetch_one(db).await)?)
    }

    /// Lists users with live tokens who are behind an epoch, in the order of their ids.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer, [`Error::Corrupt`] when an id cannot be read.
    pub async fn users_behind(
        &self,
        epoch: i64,
        after: &str,
        limit: i64,
        now: DateTime<Utc>,
    ) -> Result<Vec<UserId>, Error> {
        let ids: Vec<String> = on_pool!(self, |db| {
            sqlx::query_scalar(BEHIND).bind(after).bind(epoch).bind(now).bind(limit).fetch_all(db).await
        })?;
        let read =
            |id: String| UserId::parse(&id).map_err(|_| Error::Corrupt { table: "users", column: "id", row: id });
        ids.into_iter().map(read).collect()
    }
}

impl Tx {
    /// Reads the epoch so that it cannot step before this transaction ends.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn lock_epoch(&mut self) -> Result<i64, Error> {
        let sql = if matches!(self, Self::Postgres(_)) { LOCK_POSTGRES } else { LOCK_SQLITE };
        Ok(on_tx!(self, |db| sqlx::query_scalar(sql).fetch_one(db).await)?)
    }

    /// Steps the epoch: from the commit on nothing that was authorised before is handed out, to anybody.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn step_epoch(&mut self, sign_ins_valid_from: Option<DateTime<Utc>>) -> Result<i64, Error> {
        if let Self::Postgres(tx) = self {
            sqlx::query(LOCK_ALL).execute(&mut **tx).await?;
        }
        Ok(on_tx!(self, |db| sqlx::query_scalar(STEP).bind(sign_ins_valid_from).fetch_one(db).await)?)
    }

    /// Carries over to a locked user what was done to everyone when the user was read.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn apply_global(&mut self, user: &User, now: DateTime<Utc>) -> Result<(), Error> {
        let (epoch, since) = (user.epoch, user.sign_ins_valid_from);
        execute!(self, sqlx::query(APPLY_GLOBAL).bind(epoch).bind(since).bind(now).bind(user.id.as_str()))?;
        Ok(())
    }
}
