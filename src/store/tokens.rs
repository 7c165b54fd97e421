//! Tokens that are kept for reuse: one for each user and set of scopes, sealed by whoever keeps them.
//!
//! They are written in the transaction that hands the token out, under the user's row lock, and dropped by every fence.

use chrono::{DateTime, Utc};

use super::{Error, Store, Tx, execute, on_pool, on_tx};
use crate::domain::{audit::TokenTrace, user::UserId};

const KEEP: &str = "
    INSERT INTO issued_tokens (user_id, scopes, generation, acs_key, sealed, fingerprint, issued_at, expires_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (user_id, scopes) DO UPDATE
    SET generation = excluded.generation, acs_key = excluded.acs_key, sealed = excluded.sealed,
        fingerprint = excluded.fingerprint, issued_at = excluded.issued_at, expires_at = excluded.expires_at";

const PURGE: &str = "
    DELETE FROM issued_tokens WHERE (user_id, scopes) IN (
        SELECT user_id, scopes FROM issued_tokens WHERE expires_at < $1 LIMIT 1000)";

/// A token to be kept.
#[derive(Clone, Debug)]
pub struct SealedToken {
    /// The token, which only the holder of the sealing key can read.
    pub sealed: Vec<u8>,
    /// Which credential of ours at ACS it was made with.
    pub made_with: String,
}

/// A token that was kept.
#[derive(Clone, Debug)]
pub struct StoredToken {
    /// The token, which only the holder of the sealing key can read.
    pub sealed: Vec<u8>,
    /// SHA-256 of the token in hexadecimal.
    pub fingerprint: String,
    /// Which credential of ours at ACS it was made with.
    pub made_with: String,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

impl Store {
    /// Forgets tokens that are over; returns how many, at most a thousand.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn purge_tokens(&self, now: DateTime<Utc>) -> Result<u64, Error> {
        let purged =
            on_pool!(self, |db| sqlx::query(PURGE).bind(now).execute(db).await.map(|done| done.rows_affected()))?;
        Ok(purged)
    }
}

impl Tx {
    /// Keeps a token of a user whose row this transaction has locked.
    pub(super) async fn keep_token(
        &mut self,
        user: &UserId,
        kept: &SealedToken,
        token: &TokenTrace,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        execute!(
            self,
            sqlx::query(KEEP)
                .bind(user.as_str())
                .bind(&token.scopes)
                .bind(token.generation)
                .bind(&kept.made_with)
                .bind(&kept.sealed)
                .bind(&token.fingerprint)
                .bind(now)
                .bind(token.expires_at)
        )?;
        Ok(())
    }
}
