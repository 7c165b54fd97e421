//! Tokens that are kept for reuse: sealed, in their user's row, so that whatever changes the one changes the other.
//!
//! They are written by the statements that permit a token to leave the house, and dropped by every fence.

use chrono::{DateTime, Utc};

use super::{Error, Store, on_pool};

const FORGET: &str = "
    UPDATE users SET cached_tokens = NULL, cached_until_day = NULL WHERE id IN (
        SELECT id FROM users WHERE cached_until_day < $1 LIMIT 1000) AND cached_until_day < $1";

/// Sealed tokens, and when the last of them is over.
#[derive(Clone, Debug)]
pub struct CachedTokens {
    /// What only the holder of the encryption key can read.
    pub sealed: Vec<u8>,
    /// When the last of them is over.
    pub until: DateTime<Utc>,
}

impl Store {
    /// Forgets cached tokens that are over; returns of how many users, at most a thousand.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn delete_expired_tokens(&self, now: DateTime<Utc>) -> Result<u64, Error> {
        let forgotten = on_pool!(self, |db| {
            sqlx::query(FORGET).bind(day(now)).execute(db).await.map(|done| done.rows_affected())
        })?;
        Ok(forgotten)
    }
}

/// The day of a time, counted from 1970.
fn day(time: DateTime<Utc>) -> i64 {
    time.timestamp().div_euclid(24 * 3600)
}

impl CachedTokens {
    /// The day after which they are all over.
    pub(super) fn last_day(&self) -> i64 {
        day(self.until)
    }
}
