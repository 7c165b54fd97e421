//! The audit trail in the database: append only, in the transaction of the change it tells of.

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use super::{Error, Tx, execute, on_tx};
use crate::domain::audit::Event;

const APPEND: &str = "
    INSERT INTO audit_events (id, at, action, actor_kind, actor, user_id, acs_id, request_id,
                              token_fingerprint, token_scopes, token_expires_at, generation, detail)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";

impl Tx {
    /// Appends an event.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn append_audit(&mut self, event: &Event, now: DateTime<Utc>) -> Result<(), Error> {
        let token = event.token.as_ref();
        execute!(
            self,
            sqlx::query(APPEND)
                .bind(Uuid::now_v7())
                .bind(now)
                .bind(event.action.as_str())
                .bind(event.actor.kind())
                .bind(event.actor.name())
                .bind(event.user.as_str())
                .bind(event.acs_id.as_ref().map(super::super::domain::user::AcsId::as_str))
                .bind(event.request_id.as_deref())
                .bind(token.map(|t| t.fingerprint.as_str()))
                .bind(token.map(|t| t.scopes.as_str()))
                .bind(token.map(|t| t.expires_at))
                .bind(token.map(|t| t.generation))
                .bind(event.detail.as_ref().map(Json))
        )?;
        Ok(())
    }
}
