//! The audit trail in the database: append only, in the transaction of the change it records.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use super::{Error, Store, Tx, connection::within_deadline, on_pool, on_readers};
use crate::domain::{audit::Event, user::UserId};

const APPEND: &str = "
    INSERT INTO audit_events (id, at, action, actor_kind, actor, user_id, acs_id, request_id, client, operation_id,
                              token_fingerprint, token_scopes, token_expires_at, generation, detail)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)";

/// Any number of events, as JSON of the table's columns.
const APPEND_MANY: &str = "INSERT INTO audit_events SELECT * FROM jsonb_populate_recordset(NULL::audit_events, $1)";

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

/// Tokens that were issued before a time and had not expired, and when ACS confirmed their end.
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

/// An event as the table has it: the members are its columns.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
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
    /// When it was issued.
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
    /// The sign-in that it was issued for.
    pub detail: Option<Json<Value>>,
    /// When ACS confirmed its end.
    pub ended_at: Option<DateTime<Utc>>,
}

impl AuditRow {
    pub(super) fn new(event: Event, at: DateTime<Utc>) -> Self {
        let token = event.token;
        Self {
            id: Uuid::now_v7(),
            at,
            action: event.action.as_str().to_owned(),
            actor_kind: event.actor.kind().to_owned(),
            actor: event.actor.name().to_owned(),
            user_id: event.user.map(|user| user.as_str().to_owned()),
            acs_id: event.acs_id.map(|acs_id| acs_id.as_str().to_owned()),
            request_id: event.request_context.request_id,
            client: event.request_context.client.map(|client| client.to_string()),
            operation_id: event.operation,
            token_expires_at: token.as_ref().map(|token| token.expires_at),
            generation: token.as_ref().map(|token| token.generation),
            token_scopes: token.as_ref().map(|token| token.scopes.clone()),
            token_fingerprint: token.map(|token| token.fingerprint),
            detail: event.detail.map(Json),
        }
    }

    /// The event as JSON, for statements that write it together with what it is about.
    pub(super) fn json(event: Event, at: DateTime<Utc>) -> Json<Self> {
        Json(Self::new(event, at))
    }
}

impl Store {
    /// Appends an event that is about no change in the database.
    pub async fn append_audit(&self, event: Event, now: DateTime<Utc>) -> Result<(), Error> {
        let mut tx = self.begin().await?;
        tx.append_audit([event], now).await?;
        tx.commit().await
    }

    /// Lists events, newest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn list_audit(&self, filter: &AuditFilter, limit: i64) -> Result<Vec<AuditRow>, Error> {
        Ok(on_readers!(self, |db| {
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
        Ok(on_readers!(self, |db| { sqlx::query_as(TOKENS_AT).bind(user.as_str()).bind(moment).fetch_all(db).await })?)
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
    /// Appends events.
    pub async fn append_audit(
        &mut self,
        events: impl IntoIterator<Item = Event>,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let rows: Vec<_> = events.into_iter().map(|event| AuditRow::new(event, now)).collect();
        match self {
            _ if rows.is_empty() => {}
            Self::Postgres(tx) => {
                within_deadline(sqlx::query(APPEND_MANY).bind(Json(rows)).execute(&mut **tx)).await?;
            }
            Self::Sqlite(tx) => {
                for row in rows {
                    let query = sqlx::query(APPEND)
                        .bind(row.id)
                        .bind(row.at)
                        .bind(row.action)
                        .bind(row.actor_kind)
                        .bind(row.actor)
                        .bind(row.user_id)
                        .bind(row.acs_id)
                        .bind(row.request_id)
                        .bind(row.client)
                        .bind(row.operation_id)
                        .bind(row.token_fingerprint)
                        .bind(row.token_scopes)
                        .bind(row.token_expires_at)
                        .bind(row.generation)
                        .bind(row.detail);
                    query.execute(&mut **tx).await?;
                }
            }
        }
        Ok(())
    }
}
