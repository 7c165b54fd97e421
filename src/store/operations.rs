//! Work at ACS that was accepted and must happen: rows are written in the transaction that accepts it.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Error, Tx, execute, on_tx};
use crate::domain::{
    audit::Actor,
    user::{AcsId, UserId},
};

const INSERT: &str = "
    INSERT INTO operations (id, kind, user_id, acs_id, resource, actor_kind, actor, request_id, not_before, attempts, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, $9)";

/// An identity that lost the race to be bound and must be deleted at ACS.
#[derive(Clone, Debug)]
pub struct NewOperation<'a> {
    /// The app user in whose name it was created.
    pub user: &'a UserId,
    /// The identity.
    pub acs_id: &'a AcsId,
    /// The ACS resource that holds it.
    pub resource: &'a str,
    /// Who asked.
    pub actor: &'a Actor,
    /// The request that led to it.
    pub request_id: Option<&'a str>,
}

impl Tx {
    /// Queues the deletion of an identity that nobody will use.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn insert_discard(&mut self, new: &NewOperation<'_>, now: DateTime<Utc>) -> Result<(), Error> {
        execute!(
            self,
            sqlx::query(INSERT)
                .bind(Uuid::now_v7())
                .bind("discard")
                .bind(new.user.as_str())
                .bind(new.acs_id.as_str())
                .bind(new.resource)
                .bind(new.actor.kind())
                .bind(new.actor.name())
                .bind(new.request_id)
                .bind(now)
        )?;
        Ok(())
    }
}
