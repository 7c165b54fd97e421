//! Tokens that are kept for reuse: sealed, in their user's row, so that whatever changes the one changes the other.
//!
//! They are written by the statements that permit a token to leave the house, and dropped by every fence.

use chrono::{DateTime, Utc};

use super::{Error, Store, on_pool};
use crate::domain::user::{AcsId, AppUser, UserId, UserRef};

/// Only what may be reused at once: whatever stands in the way leads to the statement that reads everything.
macro_rules! select_reusable {
    ($rest:literal) => {
        concat!(
            "SELECT id, acs_id, generation, logins_valid_from, kept_tokens FROM users
             WHERE kept_tokens IS NOT NULL AND state = 'active' AND blocked_at IS NULL
               AND (held_until IS NULL OR held_until <= $1)
               AND NOT EXISTS (SELECT 1 FROM operations o WHERE o.user_id = users.id AND o.completed_at IS NULL)",
            $rest
        )
    };
}

const FIND_BY_APP_USER: &str = select_reusable!(" AND issuer_key = $2 AND subject = $3");
const FIND_BY_ID: &str = select_reusable!(" AND id = $2");

const FORGET: &str = "
    UPDATE users SET kept_tokens = NULL, kept_until = NULL WHERE id IN (
        SELECT id FROM users WHERE kept_until < $1 LIMIT 1000) AND kept_until < $1";

/// Sealed tokens, and when the last of them is over.
#[derive(Clone, Debug)]
pub struct KeptTokens {
    /// What only the holder of the sealing key can read.
    pub sealed: Vec<u8>,
    /// When the last of them is over.
    pub until: DateTime<Utc>,
}

/// A user whose kept tokens may be handed out, as far as the database can tell.
#[derive(Clone, Debug)]
pub struct Reusable {
    /// Our id.
    pub user: UserId,
    /// The identity.
    pub acs_id: AcsId,
    /// The generation.
    pub generation: i64,
    /// Logins from before this whole second get no token.
    pub logins_valid_from: Option<DateTime<Utc>>,
    /// The tokens, sealed.
    pub kept: Vec<u8>,
}

type Row = (String, String, i64, Option<DateTime<Utc>>, Vec<u8>);

impl Store {
    /// Finds the kept tokens of a user of whom nothing stands in the way: this one statement is the authorisation.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer, [`Error::Corrupt`] when the row cannot be read.
    pub async fn find_reusable(&self, user: &UserRef, now: DateTime<Utc>) -> Result<Option<Reusable>, Error> {
        let row: Option<Row> = match user {
            UserRef::Id(id) => {
                on_pool!(self, |db| sqlx::query_as(FIND_BY_ID).bind(now).bind(id.as_str()).fetch_optional(db).await)?
            }
            UserRef::AppUser(AppUser { issuer, subject }) => on_pool!(self, |db| {
                let query = sqlx::query_as(FIND_BY_APP_USER).bind(now).bind(issuer.as_str()).bind(subject.as_str());
                query.fetch_optional(db).await
            })?,
        };
        let Some((id, acs_id, generation, logins_valid_from, kept)) = row else { return Ok(None) };
        let corrupt = |column| Error::Corrupt { table: "users", column, row: id.clone() };
        Ok(Some(Reusable {
            user: UserId::parse(&id).map_err(|_| corrupt("id"))?,
            acs_id: AcsId::parse(&acs_id).map_err(|_| corrupt("acs_id"))?,
            generation,
            logins_valid_from,
            kept,
        }))
    }

    /// Forgets kept tokens that are over; returns of how many users, at most a thousand.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn forget_tokens(&self, now: DateTime<Utc>) -> Result<u64, Error> {
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

impl KeptTokens {
    /// The day after which they are all over.
    pub(super) fn last_day(&self) -> i64 {
        day(self.until)
    }
}
