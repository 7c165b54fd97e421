//! The budget of calls in the database: all replicas spend from the same window.
//!
//! What to spend is reckoned by whoever spends; a write holds only if the window is still the one that was read, which a
//! version of its own for every write tells. On Postgres the table is unlogged: a commit need not wait for the disk, and
//! what a crash of the database forgets is no more than the last half minute's calls.

use sqlx::types::Json;
use uuid::Uuid;

use super::{Error, Store, on_pool};
use crate::acs::window::Window;

const READ: &str = "SELECT version, spent, paused_until_ms FROM quota WHERE resource = $1 AND call = $2";

const INSERT: &str = "
    INSERT INTO quota (resource, call, version, spent, paused_until_ms) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (resource, call) DO NOTHING";

const UPDATE: &str = "
    UPDATE quota SET version = $3, spent = $4, paused_until_ms = $5
    WHERE resource = $1 AND call = $2 AND version = $6";

/// Cells with what was spent in each.
type Cells = Vec<(i64, u32)>;

/// A window as it was read.
#[derive(Clone, Debug, Default)]
pub struct QuotaRow {
    /// Unique to each write; none where nothing was ever spent.
    pub version: Option<Uuid>,
    /// What was spent.
    pub window: Window,
}

impl Store {
    /// Reads what was spent of a kind of call at a resource.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn read_quota(&self, resource: &str, call: &str) -> Result<QuotaRow, Error> {
        let row: Option<(Uuid, Json<Cells>, i64)> =
            on_pool!(self, |db| sqlx::query_as(READ).bind(resource).bind(call).fetch_optional(db).await)?;
        Ok(row.map_or_else(QuotaRow::default, |(version, Json(spent), paused_until_ms)| QuotaRow {
            version: Some(version),
            window: Window::new(spent, paused_until_ms),
        }))
    }

    /// Writes a window in the place of the one that was read; `None` when somebody else wrote meanwhile.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn write_quota(
        &self,
        resource: &str,
        call: &str,
        read: Option<Uuid>,
        window: Window,
    ) -> Result<Option<QuotaRow>, Error> {
        let version = Uuid::new_v4();
        let written = on_pool!(self, |db| {
            let query = sqlx::query(if read.is_some() { UPDATE } else { INSERT })
                .bind(resource)
                .bind(call)
                .bind(version)
                .bind(Json(window.spent()))
                .bind(window.paused_until_ms());
            let query = if let Some(read) = read { query.bind(read) } else { query };
            query.execute(db).await.map(|done| done.rows_affected())
        })?;
        Ok((written == 1).then_some(QuotaRow { version: Some(version), window }))
    }
}
