//! The calls that all replicas together make to ACS: one row for each resource and kind of call.

use chrono::{DateTime, Utc};
use sqlx::types::Json;

use super::{
    BEGIN_SQLITE, Error, Store,
    connection::{Leased, Session},
    on_pool,
};
use crate::domain::{
    clock::Clock,
    window::{Allowance, Window},
};

const RESERVE_POSTGRES: &str = "
    SELECT granted, is_ahead, newest, counts, paused_until FROM reserve_quota($1, $2, $3, $4, $5, $6)";

const READ_SQLITE: &str = "SELECT newest_cell, calls, paused_until_ms FROM quota WHERE resource = $1 AND call = $2";

const WRITE_SQLITE: &str = "
    INSERT INTO quota (resource, call, newest_cell, calls, paused_until_ms) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (resource, call) DO UPDATE
    SET newest_cell = excluded.newest_cell, calls = excluded.calls, paused_until_ms = excluded.paused_until_ms";

const PAUSE: &str = "
    UPDATE quota SET paused_until_ms = $3 WHERE resource = $1 AND call = $2 AND paused_until_ms < $3";

/// The answer to a reservation.
#[derive(Debug)]
pub struct Reserved {
    /// When it was made.
    pub at: DateTime<Utc>,
    /// How many calls may be made.
    pub granted: u32,
    /// What all replicas have reserved.
    pub window: Window,
    /// Whether times were stored that were too far in the future.
    pub was_ahead: bool,
}

impl Store {
    /// Reserves as many of the wanted calls as the allowance leaves.
    pub async fn reserve_quota(
        &self,
        resource: &str,
        call: &str,
        allowance: Allowance,
        wanted: u32,
        clock: &Clock,
    ) -> Result<Reserved, Error> {
        // The time is read when there is a connection, because waiting for one can take long.
        match self {
            Self::Postgres { pool, .. } => {
                let connection = Leased::acquire(pool).await?;
                let at = clock.now();
                let query = sqlx::query_as(RESERVE_POSTGRES)
                    .bind(resource)
                    .bind(call)
                    .bind(at.timestamp_millis())
                    .bind(i64::from(allowance.calls))
                    .bind(allowance.cells())
                    .bind(i64::from(wanted));
                let (granted, was_ahead, newest_cell, calls, paused_until_ms): (i64, bool, i64, Vec<i64>, i64) =
                    connection.run(async |db| query.fetch_one(db).await).await?;
                let granted = u32::try_from(granted).unwrap_or_default();
                Ok(Reserved { at, granted, window: Window::new(newest_cell, calls, paused_until_ms), was_ahead })
            }
            Self::Sqlite { writer, .. } => {
                let mut tx = Session::begin(writer, BEGIN_SQLITE).await?;
                let at = clock.now();
                let row: Option<(i64, Json<Vec<i64>>, i64)> =
                    sqlx::query_as(READ_SQLITE).bind(resource).bind(call).fetch_optional(&mut *tx).await?;
                let mut window = row.map_or_else(Window::default, |(newest_cell, Json(calls), paused_until_ms)| {
                    Window::new(newest_cell, calls, paused_until_ms)
                });
                let was_ahead = window.advance(allowance, at);
                let granted = window.reserve(wanted, allowance, at);
                if granted > 0 || was_ahead {
                    sqlx::query(WRITE_SQLITE)
                        .bind(resource)
                        .bind(call)
                        .bind(window.newest_cell())
                        .bind(Json(window.calls()))
                        .bind(window.paused_until_ms())
                        .execute(&mut *tx)
                        .await?;
                }
                tx.commit().await?;
                Ok(Reserved { at, granted, window, was_ahead })
            }
        }
    }

    /// Forbids calls of a kind before a time, for all replicas.
    pub async fn pause_quota(&self, resource: &str, call: &str, until_ms: i64) -> Result<(), Error> {
        on_pool!(self, |db| sqlx::query(PAUSE).bind(resource).bind(call).bind(until_ms).execute(db).await.map(drop))?;
        Ok(())
    }
}
