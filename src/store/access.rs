//! The writes of access changes on a user's row that is locked.
//!
//! The lock comes first, then the row with its cached tokens, then the operation: a mint or bind that is running meanwhile
//! waits for the row and finds another generation.

use chrono::{DateTime, Utc};

use super::{Error, Tx, execute, on_tx};
use crate::domain::user::{State, User};

const WRITE: &str = "
    UPDATE users SET generation = generation + 1, epoch = $8, updated_at = $1, sign_ins_valid_from = $2, blocked_at = $3,
           block_reason = COALESCE($4, block_reason), state = $5, cached_tokens = NULL, cached_until_day = NULL,
           claim_id = CASE WHEN $6 THEN NULL ELSE claim_id END,
           claimed_until = CASE WHEN $6 THEN NULL ELSE claimed_until END
    WHERE id = $7";

const UNBLOCK: &str = "UPDATE users SET blocked_at = NULL, block_reason = NULL, updated_at = $1 WHERE id = $2";

const ALLOW_OLDER_SIGN_INS: &str = "UPDATE users SET sign_ins_valid_from = NULL, updated_at = $1 WHERE id = $2";

/// A user's access after a change.
#[derive(Clone, Debug)]
pub struct Access<'a> {
    /// Sign-ins from before this whole second get no token.
    pub sign_ins_valid_from: Option<DateTime<Utc>>,
    pub blocked_at: Option<DateTime<Utc>>,
    pub block_reason: Option<&'a str>,
    pub state: State,
    /// Whether a claim to create the identity ends.
    pub ends_claim: bool,
}

impl Tx {
    /// Changes a locked user's access: a new generation and no cached token; global revocations are applied with it.
    pub async fn write_access(&mut self, user: &User, access: &Access<'_>, now: DateTime<Utc>) -> Result<(), Error> {
        execute!(
            self,
            sqlx::query(WRITE)
                .bind(now)
                .bind(access.sign_ins_valid_from)
                .bind(access.blocked_at)
                .bind(access.block_reason)
                .bind(access.state.as_str())
                .bind(access.ends_claim)
                .bind(user.id.as_str())
                .bind(user.epoch)
        )?;
        Ok(())
    }

    /// Accepts a locked user's sign-ins of any age again.
    pub async fn allow_older_sign_ins(&mut self, user: &User, now: DateTime<Utc>) -> Result<(), Error> {
        execute!(self, sqlx::query(ALLOW_OLDER_SIGN_INS).bind(now).bind(user.id.as_str()))?;
        Ok(())
    }

    /// Lifts the block of a locked user, and nothing else.
    pub async fn unblock(&mut self, user: &User, now: DateTime<Utc>) -> Result<(), Error> {
        execute!(self, sqlx::query(UNBLOCK).bind(now).bind(user.id.as_str()))?;
        Ok(())
    }
}
