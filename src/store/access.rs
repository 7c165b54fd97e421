//! Fences: the one write behind revoke, block and delete, on a mapping that is locked.
//!
//! The lock comes first, then the row with its cached tokens, then the operation: whoever mints or binds meanwhile waits for
//! the row and finds another generation.

use chrono::{DateTime, Utc};

use super::{Error, Tx, execute, on_tx};
use crate::domain::user::{State, User};

const WRITE: &str = "
    UPDATE users SET generation = generation + 1, updated_at = $1, sign_ins_valid_from = $2, blocked_at = $3,
           block_reason = COALESCE($4, block_reason), state = $5, cached_tokens = NULL, cached_until_day = NULL, epoch = $8,
           claim_id = CASE WHEN $6 THEN NULL ELSE claim_id END,
           claimed_until = CASE WHEN $6 THEN NULL ELSE claimed_until END
    WHERE id = $7";

const UNBLOCK: &str = "UPDATE users SET blocked_at = NULL, block_reason = NULL, updated_at = $1 WHERE id = $2";

const ALLOW_OLDER_SIGN_INS: &str = "UPDATE users SET sign_ins_valid_from = NULL, updated_at = $1 WHERE id = $2";

/// What a mapping is after its fence.
#[derive(Clone, Debug)]
pub struct Fence<'a> {
    /// Logins from before this whole second get no token.
    pub sign_ins_valid_from: Option<DateTime<Utc>>,
    /// Since when the user is blocked.
    pub blocked_at: Option<DateTime<Utc>>,
    /// Why the user is blocked.
    pub block_reason: Option<&'a str>,
    /// The state.
    pub state: State,
    /// Whether a claim to create the identity ends here.
    pub ends_claim: bool,
}

impl Tx {
    /// Fences a locked user: another generation, and no stored token; what was done to everyone is done with it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn write_fence(&mut self, user: &User, fence: &Fence<'_>, now: DateTime<Utc>) -> Result<(), Error> {
        execute!(
            self,
            sqlx::query(WRITE)
                .bind(now)
                .bind(fence.sign_ins_valid_from)
                .bind(fence.blocked_at)
                .bind(fence.block_reason)
                .bind(fence.state.as_str())
                .bind(fence.ends_claim)
                .bind(user.id.as_str())
                .bind(user.epoch)
        )?;
        Ok(())
    }

    /// Forgets from when on a locked user's logins are good.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn allow_older_sign_ins(&mut self, user: &User, now: DateTime<Utc>) -> Result<(), Error> {
        execute!(self, sqlx::query(ALLOW_OLDER_SIGN_INS).bind(now).bind(user.id.as_str()))?;
        Ok(())
    }

    /// Lifts the block of a locked user, and nothing else: what was fenced stays fenced.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn unblock(&mut self, user: &User, now: DateTime<Utc>) -> Result<(), Error> {
        execute!(self, sqlx::query(UNBLOCK).bind(now).bind(user.id.as_str()))?;
        Ok(())
    }
}
