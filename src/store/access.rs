//! The writes of access changes on the rows of users who are locked.
//!
//! The lock comes first, then the row with its cached tokens, then the operation: a mint or bind that is running meanwhile
//! waits for the row and finds another generation.

use chrono::{DateTime, Utc};

use serde::Serialize;
use sqlx::types::Json;

use super::{Error, Tx, connection::within_deadline, execute, on_tx};
use crate::domain::user::{State, User, UserId};

/// A new generation and no cached token; global revocations that were read with the user are applied with it.
macro_rules! write {
    ($changes:literal) => {
        concat!(
            "UPDATE users AS u SET generation = u.generation + 1, epoch = w.epoch, updated_at = $1,
                sign_ins_valid_from = w.sign_ins_valid_from, blocked_at = w.blocked_at,
                block_reason = COALESCE(w.block_reason, u.block_reason), state = w.state,
                cached_tokens = NULL, cached_until_day = NULL,
                claim_id = CASE WHEN w.ends_claim THEN NULL ELSE u.claim_id END,
                claimed_until = CASE WHEN w.ends_claim THEN NULL ELSE u.claimed_until END
             FROM ",
            $changes,
            " WHERE u.id = w.id"
        )
    };
}

/// Any number of users, as JSON.
const WRITE_POSTGRES: &str = write!(
    "jsonb_to_recordset($2) AS w (id TEXT, epoch BIGINT, sign_ins_valid_from TIMESTAMPTZ, blocked_at TIMESTAMPTZ,
                                  block_reason TEXT, state TEXT, ends_claim BOOLEAN)"
);
const WRITE_SQLITE: &str = write!(
    "(SELECT $2 AS id, $3 AS epoch, $4 AS sign_ins_valid_from, $5 AS blocked_at, $6 AS block_reason, $7 AS state,
             $8 AS ends_claim) AS w"
);

const UNBLOCK: &str = "UPDATE users SET blocked_at = NULL, block_reason = NULL, updated_at = $1 WHERE id = $2";

const ALLOW_OLDER_SIGN_INS: &str = "UPDATE users SET sign_ins_valid_from = NULL, updated_at = $1 WHERE id = $2";

/// A user's access after a change.
#[derive(Clone, Debug, Serialize)]
pub struct Access {
    pub id: UserId,
    /// Of the global revocations that were read with the user.
    pub epoch: i64,
    /// Sign-ins from before this whole second get no token.
    pub sign_ins_valid_from: Option<DateTime<Utc>>,
    pub blocked_at: Option<DateTime<Utc>>,
    pub block_reason: Option<String>,
    pub state: State,
    /// Whether a claim to create the identity ends.
    pub ends_claim: bool,
}

impl Tx {
    /// Changes the access of locked users.
    pub async fn write_access(&mut self, changes: &[Access], now: DateTime<Utc>) -> Result<(), Error> {
        match self {
            Self::Postgres(tx) => {
                within_deadline(sqlx::query(WRITE_POSTGRES).bind(now).bind(Json(changes)).execute(&mut **tx)).await?;
            }
            Self::Sqlite(tx) => {
                for access in changes {
                    let query = sqlx::query(WRITE_SQLITE)
                        .bind(now)
                        .bind(access.id.as_str())
                        .bind(access.epoch)
                        .bind(access.sign_ins_valid_from)
                        .bind(access.blocked_at)
                        .bind(access.block_reason.as_deref())
                        .bind(access.state.as_str())
                        .bind(access.ends_claim);
                    query.execute(&mut **tx).await?;
                }
            }
        }
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
