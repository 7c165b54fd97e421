//! The rows of users: reading, locking and listing them.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use super::{
    Error, Store, Tx,
    connection::within_deadline,
    execute, on_readers, on_tx,
    user_row::{
        LIST, LIST_BY_ACS_ID, LIST_BY_APP_USER, LIST_BY_IDS, READ_BY_ACS_ID, READ_BY_APP_USER, READ_BY_ID, UserRead,
    },
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

/// In the order of the users, so that no two lists wait for each other's rows.
const INSERT_UNBOUND_MANY: &str = "
    INSERT INTO users (id, issuer_key, subject, state, generation, created_at, updated_at, epoch, sign_ins_valid_from)
    SELECT w.id, w.issuer_key, w.subject, 'unbound', 0, $4, $4, g.epoch, g.sign_ins_valid_from
    FROM UNNEST($1::TEXT[], $2::TEXT[], $3::TEXT[]) AS w (id, issuer_key, subject), global_state g
    ORDER BY w.issuer_key, w.subject ON CONFLICT (issuer_key, subject) DO NOTHING";

/// By ids and by names, in the order of the ids.
const LOCK_MANY: &str = "
    SELECT id FROM users WHERE id IN (
        SELECT UNNEST($1::TEXT[])
        UNION SELECT u.id FROM UNNEST($2::TEXT[], $3::TEXT[]) AS w (issuer_key, subject)
              JOIN users u ON u.issuer_key = w.issuer_key AND u.subject = w.subject)
    ORDER BY id FOR UPDATE";

macro_rules! purge {
    ($lock:literal) => {
        concat!(
            "DELETE FROM users WHERE id IN (
                SELECT id FROM users WHERE state = 'unbound' AND blocked_at IS NULL AND updated_at < $1 LIMIT 1000",
            $lock,
            ") AND state = 'unbound' AND blocked_at IS NULL AND updated_at < $1 RETURNING id"
        )
    };
}

const PURGE_SQLITE: &str = purge!("");
/// Without waiting for anybody: two that lock many rows in different orders could wait for each other.
const PURGE_POSTGRES: &str = purge!(" FOR UPDATE SKIP LOCKED");

/// The users of a list who have a row, each once, and the places of the others.
#[derive(Debug, Default)]
pub struct Found {
    pub users: Vec<User>,
    pub unknown: Vec<usize>,
}

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
                let read = on_readers!(self, |db| {
                    let query = sqlx::query_as(READ_BY_APP_USER).bind(now).bind(issuer.as_str());
                    query.bind(subject.as_str()).fetch_one(db).await
                });
                Ok(read?)
            }
            (_, UserRef::Id(id)) => {
                Ok(on_readers!(self, |db| sqlx::query_as(READ_BY_ID).bind(now).bind(id.as_str()).fetch_one(db).await)?)
            }
        }
    }

    /// Reads a user's row.
    pub async fn find_user(&self, user: &UserRef, now: DateTime<Utc>) -> Result<Option<User>, Error> {
        Ok(self.read_user(user, now).await?.user)
    }

    /// Reads the row of the user of an identity.
    pub async fn find_user_by_acs_id(&self, acs_id: &AcsId, now: DateTime<Utc>) -> Result<Option<User>, Error> {
        let read: UserRead = on_readers!(self, |db| {
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
        let rows: Vec<UserRead> = on_readers!(self, |db| {
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
        let sql = if matches!(tx, Tx::Postgres(_)) { PURGE_POSTGRES } else { PURGE_SQLITE };
        let ids: Vec<String> = on_tx!(&mut tx, |db| sqlx::query_scalar(sql).bind(unchanged_since).fetch_all(db).await)?;
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

    /// Makes rows without an identity for those who have none.
    pub async fn insert_missing(&mut self, users: &[&AppUser], now: DateTime<Utc>) -> Result<(), Error> {
        let ids: Vec<_> = users.iter().map(|_| UserId::random()).collect();
        match self {
            Self::Postgres(tx) => {
                let query = sqlx::query(INSERT_UNBOUND_MANY)
                    .bind(ids.iter().map(UserId::as_str).collect::<Vec<_>>())
                    .bind(users.iter().map(|user| user.issuer.as_str()).collect::<Vec<_>>())
                    .bind(users.iter().map(|user| user.subject.as_str()).collect::<Vec<_>>())
                    .bind(now);
                within_deadline(query.execute(&mut **tx)).await?;
            }
            Self::Sqlite(tx) => {
                for (user, id) in users.iter().zip(&ids) {
                    let query = sqlx::query(INSERT_UNBOUND).bind(id.as_str()).bind(user.issuer.as_str());
                    query.bind(user.subject.as_str()).bind(now).execute(&mut **tx).await?;
                }
            }
        }
        Ok(())
    }

    /// Locks the rows of many users against every other change, and reads them.
    pub async fn lock_many(&mut self, users: &[UserRef], now: DateTime<Utc>) -> Result<Found, Error> {
        let mut found = Found::default();
        let mut seen = HashSet::new();
        let Self::Postgres(tx) = self else {
            for (place, user) in users.iter().enumerate() {
                match self.lock_user(user, now).await? {
                    Some(user) if seen.insert(user.id.clone()) => found.users.push(user),
                    Some(_) => {}
                    None => found.unknown.push(place),
                }
            }
            return Ok(found);
        };
        let (mut ids, mut issuers, mut subjects) = (Vec::new(), Vec::new(), Vec::new());
        for user in users {
            match user {
                UserRef::Id(id) => ids.push(id.as_str()),
                UserRef::AppUser(AppUser { issuer, subject }) => {
                    issuers.push(issuer.as_str());
                    subjects.push(subject.as_str());
                }
            }
        }
        let query = sqlx::query_scalar(LOCK_MANY).bind(ids).bind(issuers).bind(subjects);
        let locked: Vec<String> = within_deadline(query.fetch_all(&mut **tx)).await?;
        let query = sqlx::query_as(LIST_BY_IDS).bind(now).bind(locked);
        let rows: Vec<UserRead> = within_deadline(query.fetch_all(&mut **tx)).await?;
        found.users = rows.into_iter().filter_map(|read| read.user).collect();
        let names: HashSet<_> = found.users.iter().map(|user| &user.app_user).collect();
        seen.extend(found.users.iter().map(|user| user.id.clone()));
        for (place, user) in users.iter().enumerate() {
            let is_known = match user {
                UserRef::Id(id) => seen.contains(id),
                UserRef::AppUser(app_user) => names.contains(app_user),
            };
            if !is_known {
                found.unknown.push(place);
            }
        }
        Ok(found)
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
