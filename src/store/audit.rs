//! The audit trail in the database: append only, in the transaction of the change it tells of.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use super::{Error, Store, Tx, execute, on_pool, on_tx};
use crate::domain::{audit::Event, user::UserId};

pub(super) const APPEND: &str = "
    INSERT INTO audit_events (id, at, action, actor_kind, actor, user_id, acs_id, request_id, client, operation_id,
                              token_fingerprint, token_scopes, token_expires_at, generation, detail)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)";

/// The statement that appends an event, for whichever database.
macro_rules! append {
    ($event:expr, $now:expr) => {{
        let (event, token) = ($event, $event.token.as_ref());
        sqlx::query($crate::store::audit::APPEND)
            .bind(uuid::Uuid::now_v7())
            .bind($now)
            .bind(event.action.as_str())
            .bind(event.actor.kind())
            .bind(event.actor.name())
            .bind(event.user.as_ref().map($crate::domain::user::UserId::as_str))
            .bind(event.acs_id.as_ref().map($crate::domain::user::AcsId::as_str))
            .bind(event.trace.request_id.as_deref())
            .bind($crate::store::audit::client(event))
            .bind(event.operation)
            .bind(token.map(|token| token.fingerprint.as_str()))
            .bind(token.map(|token| token.scopes.as_str()))
            .bind(token.map(|token| token.expires_at))
            .bind(token.map(|token| token.generation))
            .bind(event.detail.as_ref().map(sqlx::types::Json))
    }};
}
pub(super) use append;

/// An empty text stands for "any"; newest first.
macro_rules! list_where {
    ($user:literal) => {
        concat!(
            "SELECT id, at, action, actor_kind, actor, user_id, acs_id, request_id, client, operation_id,
                    token_fingerprint, token_scopes, token_expires_at, generation, detail
             FROM audit_events WHERE ",
            $user,
            " AND ($2 = '' OR actor = $2) AND ($3 = '' OR action = $3) AND at >= $4 AND at < $5 AND id < $6
             ORDER BY id DESC LIMIT $7"
        )
    };
}

const LIST: &str = list_where!("$1 = ''");
const LIST_OF_USER: &str = list_where!("user_id = $1");

/// Tokens that were handed out before a moment and not yet over by themselves, and when ACS ended them.
const TOKENS_AT: &str = "
    SELECT a.at, a.token_fingerprint, a.token_scopes, a.token_expires_at, a.acs_id, a.request_id, a.client, a.detail,
           (SELECT MIN(o.completed_at) FROM operations o
            WHERE o.acs_id = a.acs_id AND o.created_at >= a.at AND o.completed_at IS NOT NULL) AS ended_at
    FROM audit_events a
    WHERE a.user_id = $1 AND a.action = 'token_minted' AND a.at <= $2 AND a.token_expires_at > $2
    ORDER BY a.id DESC LIMIT 1000";

const PURGE: &str = "
    DELETE FROM audit_events WHERE id IN (SELECT id FROM audit_events WHERE at < $1 LIMIT 1000)";

/// Which events to list.
#[derive(Clone, Debug)]
pub struct AuditFilter {
    /// About this user.
    pub user: Option<UserId>,
    /// By the actor of this name.
    pub actor: Option<String>,
    /// Of this action.
    pub action: Option<&'static str>,
    /// From this time on.
    pub since: DateTime<Utc>,
    /// Before this time.
    pub until: DateTime<Utc>,
    /// Older than this event.
    pub before: Uuid,
}

/// An event as the trail has it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct AuditRow {
    /// Its id: `UUIDv7`.
    pub id: Uuid,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// What was done.
    pub action: String,
    /// What kind of actor did it.
    pub actor_kind: String,
    /// Which one.
    pub actor: String,
    /// To whom; none where all users are concerned.
    pub user_id: Option<String>,
    /// The identity concerned.
    pub acs_id: Option<String>,
    /// The request.
    pub request_id: Option<String>,
    /// Where it came from.
    pub client: Option<String>,
    /// The operation concerned.
    pub operation_id: Option<Uuid>,
    /// The token concerned.
    pub token_fingerprint: Option<String>,
    /// Its scopes.
    pub token_scopes: Option<String>,
    /// When it ends.
    pub token_expires_at: Option<DateTime<Utc>>,
    /// The generation it was authorised under.
    pub generation: Option<i64>,
    /// What else there is.
    pub detail: Option<Json<Value>>,
}

/// A token that a user held.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct HeldToken {
    /// When it was handed out.
    pub at: DateTime<Utc>,
    /// SHA-256 of the token.
    pub token_fingerprint: String,
    /// Its scopes.
    pub token_scopes: String,
    /// When it ends by itself.
    pub token_expires_at: DateTime<Utc>,
    /// The identity.
    pub acs_id: Option<String>,
    /// The request that got it.
    pub request_id: Option<String>,
    /// Where that came from.
    pub client: Option<String>,
    /// The login behind it.
    pub detail: Option<Json<Value>>,
    /// When ACS confirmed its end.
    pub ended_at: Option<DateTime<Utc>>,
}

impl Store {
    /// Appends an event that tells of no change in the database.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn append_audit(&self, event: &Event, now: DateTime<Utc>) -> Result<(), Error> {
        let mut tx = self.begin().await?;
        tx.append_audit(event, now).await?;
        tx.commit().await
    }

    /// Lists events, newest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn list_audit(&self, filter: &AuditFilter, limit: i64) -> Result<Vec<AuditRow>, Error> {
        Ok(on_pool!(self, |db| {
            sqlx::query_as(if filter.user.is_some() { LIST_OF_USER } else { LIST })
                .bind(filter.user.as_ref().map_or("", UserId::as_str))
                .bind(filter.actor.as_deref().unwrap_or_default())
                .bind(filter.action.unwrap_or_default())
                .bind(filter.since)
                .bind(filter.until)
                .bind(filter.before)
                .bind(limit)
                .fetch_all(db)
                .await
        })?)
    }

    /// Lists the tokens that a user held at a moment, whether or not ACS had ended them by then.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn tokens_at(&self, user: &UserId, moment: DateTime<Utc>) -> Result<Vec<HeldToken>, Error> {
        Ok(on_pool!(self, |db| { sqlx::query_as(TOKENS_AT).bind(user.as_str()).bind(moment).fetch_all(db).await })?)
    }

    /// Deletes events from before a time; returns how many, at most a thousand.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn purge_audit(&self, before: DateTime<Utc>) -> Result<u64, Error> {
        let purged = on_pool!(self, |db| {
            sqlx::query(PURGE).bind(before).execute(db).await.map(|done| done.rows_affected())
        })?;
        Ok(purged)
    }
}

impl Tx {
    /// Appends an event.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn append_audit(&mut self, event: &Event, now: DateTime<Utc>) -> Result<(), Error> {
        execute!(self, append!(event, now))?;
        Ok(())
    }
}

/// Where an event came from, as it is stored.
pub(super) fn client(event: &Event) -> Option<String> {
    event.trace.client.as_ref().map(IpAddr::to_string)
}
