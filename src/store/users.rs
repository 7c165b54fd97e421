//! The rows of users: reading, locking and listing them.

use chrono::{DateTime, Utc};

use super::{
    Error, Store, Tx,
    connection::within_deadline,
    execute, on_pool, on_tx,
    user_row::{LIST, LIST_BY_ACS_ID, LIST_BY_APP_USER, READ_BY_ACS_ID, READ_BY_APP_USER, READ_BY_ID, UserRead},
};
use crate::domain::{
    audit::{Action, Actor, Event, RequestContext},
    user::{AcsId, AppUser, IssuerKey, State, Subject, User, UserId, UserRef},
};

const LOCK_BY_APP_USER: &str = "SELECT id FROM users WHERE issuer_key = $1 AND subject = $2 FOR UPDATE";
const LOCK_BY_ID: &str = "SELECT id FROM users WHERE id = $1 FOR UPDATE";

const INSERT_UNBOUND: &str = "
    INSERT INTO users (id, issuer_key, subject, state, generation, created_at, updated_at, epoch, sign_ins_valid_from)
    SELECT $1, $2, $3, 'unbound', 0, $4, $4, g.epoch, g.sign_ins_valid_from FROM global_state g WHERE g.id = 1
    ON CONFLICT (issuer_key, subject) DO NOTHING";

const PURGE: &str = "
    DELETE FROM users WHERE id IN (
        SELECT id FROM users WHERE state = 'unbound' AND blocked_at IS NULL AND updated_at < $1 LIMIT 1000)
    AND state = 'unbound' AND blocked_at IS NULL AND updated_at < $1 RETURNING id";

/// Which users to list.
#[derive(Clone, Debug, Default)]
pub struct UserFilter {
    /// Of this issuer.
    pub issuer: Option<IssuerKey>,
    /// With this subject.
    pub subject: Option<Subject>,
    /// With this identity.
    pub acs_id: Option<AcsId>,
    /// In this state.
    pub state: Option<State>,
    /// After this id.
    pub after: Option<UserId>,
}

impl Store {
    /// Reads a user in one statement; everything that is decided afterwards relies on this read.
    pub async fn read_user(&self, user: &UserRef, now: DateTime<Utc>) -> Result<UserRead, Error> {
        match (self, user) {
            (Self::Postgres { reader, .. }, UserRef::AppUser(app_user)) => reader.read(app_user.clone(), now).await,
            (_, UserRef::AppUser(AppUser { issuer, subject })) => {
                let read = on_pool!(self, |db| {
                    let query = sqlx::query_as(READ_BY_APP_USER).bind(now).bind(issuer.as_str());
                    query.bind(subject.as_str()).fetch_one(db).await
                });
                Ok(read?)
            }
            (_, UserRef::Id(id)) => {
                Ok(on_pool!(self, |db| sqlx::query_as(READ_BY_ID).bind(now).bind(id.as_str()).fetch_one(db).await)?)
            }
        }
    }

    /// Reads a user's row.
    pub async fn find_user(&self, user: &UserRef, now: DateTime<Utc>) -> Result<Option<User>, Error> {
        Ok(self.read_user(user, now).await?.user)
    }

    /// Reads the row of the user of an identity.
    pub async fn find_user_by_acs_id(&self, acs_id: &AcsId, now: DateTime<Utc>) -> Result<Option<User>, Error> {
        let read: UserRead = on_pool!(self, |db| {
            sqlx::query_as(READ_BY_ACS_ID).bind(now).bind(acs_id.as_str()).fetch_one(db).await
        })?;
        Ok(read.user)
    }

    /// Lists users in the order of their ids.
    pub async fn list_users(&self, filter: &UserFilter, limit: i64, now: DateTime<Utc>) -> Result<Vec<User>, Error> {
        let sql = match filter {
            UserFilter { acs_id: Some(_), .. } => LIST_BY_ACS_ID,
            UserFilter { issuer: Some(_), subject: Some(_), .. } => LIST_BY_APP_USER,
            _ => LIST,
        };
        let rows: Vec<UserRead> = on_pool!(self, |db| {
            sqlx::query_as(sql)
                .bind(now)
                .bind(filter.issuer.as_ref().map_or("", IssuerKey::as_str))
                .bind(filter.subject.as_ref().map_or("", Subject::as_str))
                .bind(filter.acs_id.as_ref().map_or("", AcsId::as_str))
                .bind(filter.state.map_or("", State::as_str))
                .bind(filter.after.as_ref().map_or("", UserId::as_str))
                .bind(limit)
                .fetch_all(db)
                .await
        })?;
        Ok(rows.into_iter().filter_map(|read| read.user).collect())
    }

    /// Deletes rows without an identity that have not changed since a time; returns how many, at most a thousand.
    pub async fn purge_users(&self, unchanged_since: DateTime<Utc>, now: DateTime<Utc>) -> Result<usize, Error> {
        let mut tx = self.begin().await?;
        let ids: Vec<String> =
            on_tx!(&mut tx, |db| sqlx::query_scalar(PURGE).bind(unchanged_since).fetch_all(db).await)?;
        let read = |id: &String| {
            UserId::parse(id).map_err(|_| Error::Corrupt { table: "users", column: "id", row: id.clone() })
        };
        let users = ids.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let event = |user| Event::new(Action::UserPurged, Actor::Worker, user, RequestContext::default());
        tx.append_audit(users.into_iter().map(event), now).await?;
        tx.commit().await?;
        Ok(ids.len())
    }
}

impl Tx {
    /// Locks a user's row against every other change and reads it; `None` when there is no row.
    pub async fn lock_user(&mut self, user: &UserRef, now: DateTime<Utc>) -> Result<Option<User>, Error> {
        // On SQLite the transaction holds the only write lock there is. The read is a statement of its own, so that it
        // sees what the lock waited for.
        if let Self::Postgres(tx) = self {
            let locked: Option<(String,)> = within_deadline(async {
                let query = match user {
                    UserRef::Id(id) => sqlx::query_as(LOCK_BY_ID).bind(id.as_str()),
                    UserRef::AppUser(AppUser { issuer, subject }) => {
                        sqlx::query_as(LOCK_BY_APP_USER).bind(issuer.as_str()).bind(subject.as_str())
                    }
                };
                query.fetch_optional(&mut **tx).await
            })
            .await?;
            if locked.is_none() {
                return Ok(None);
            }
        }
        let read: UserRead = match user {
            UserRef::Id(id) => {
                on_tx!(self, |db| sqlx::query_as(READ_BY_ID).bind(now).bind(id.as_str()).fetch_one(db).await)?
            }
            UserRef::AppUser(AppUser { issuer, subject }) => on_tx!(self, |db| {
                let query = sqlx::query_as(READ_BY_APP_USER).bind(now).bind(issuer.as_str());
                query.bind(subject.as_str()).fetch_one(db).await
            })?,
        };
        Ok(read.user)
    }

    /// Locks a user's row, making one without an identity where there is none; `None` for an unknown id.
    pub async fn lock_or_insert(&mut self, user: &UserRef, now: DateTime<Utc>) -> Result<Option<User>, Error> {
        if let Some(found) = self.lock_user(user, now).await? {
            return Ok(Some(found));
        }
        let UserRef::AppUser(app_user) = user else { return Ok(None) };
        let id = UserId::random();
        execute!(
            self,
            sqlx::query(INSERT_UNBOUND)
                .bind(id.as_str())
                .bind(app_user.issuer.as_str())
                .bind(app_user.subject.as_str())
                .bind(now)
        )?;
        self.lock_user(user, now).await
    }
}
