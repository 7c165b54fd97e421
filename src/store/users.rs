//! The rows of users: reading, locking and listing them.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Error, GlobalState, Store, Tx, connection::within_deadline, execute, on_pool, on_tx};
use crate::domain::{
    audit::{Action, Actor, Event, RequestContext},
    user::{AcsId, AppUser, IssuerKey, State, Subject, User, UserId, UserRef},
};
use sqlx::{ColumnIndex, Decode, FromRow, Type};

/// What is read of a user, from `users u` and `global_state g`; `$1` is the present time.
///
/// Held is derived, never a flag that one operation could clear for another: a pending revocation of the present identity,
/// or a time that is not over yet.
macro_rules! columns {
    ($cached_tokens:literal) => {
        concat!(
            "g.epoch AS global_epoch, g.sign_ins_valid_from AS global_sign_ins_valid_from,
             u.id, u.issuer_key, u.subject, u.resource, u.acs_id, u.state, u.blocked_at, u.generation, u.epoch,
             u.sign_ins_valid_from, u.claimed_until, u.last_minted_at, u.tokens_expire_at, u.no_reuse_before,
             u.created_at, u.updated_at, ",
            $cached_tokens,
            " AS cached_tokens,
             ((u.held_until IS NOT NULL AND u.held_until > $1) OR EXISTS (
                 SELECT 1 FROM operations o
                 WHERE o.user_id = u.id AND o.acs_id = u.acs_id AND o.kind = 'revoke' AND o.completed_at IS NULL
             )) AS held,
             (SELECT o.id FROM operations o WHERE o.user_id = u.id AND o.completed_at IS NULL
              ORDER BY o.id LIMIT 1) AS pending_operation"
        )
    };
}

/// One row for each user asked for, whether there is one or not: what is known of all users is always there.
macro_rules! read {
    ($condition:literal) => {
        concat!("SELECT ", columns!("u.cached_tokens"), " FROM global_state g LEFT JOIN users u ON ", $condition)
    };
}

/// Rows of users who are there.
macro_rules! list {
    ($rest:literal) => {
        concat!("SELECT ", columns!("NULL"), " FROM users u CROSS JOIN global_state g ", $rest)
    };
}

const READ_BY_APP_USER: &str = read!("u.issuer_key = $2 AND u.subject = $3");
const READ_BY_ID: &str = read!("u.id = $2");
const READ_BY_ACS_ID: &str = read!("u.acs_id = $2");

/// The same for a list of users, which stands between the two texts; the batched read puts it together.
pub(super) const READ_LATERAL: &str = concat!("SELECT w.place, ", columns!("u.cached_tokens"));
pub(super) const READ_LATERAL_FROM: &str = ") AS w (place, issuer_key, subject)
    CROSS JOIN global_state g
    LEFT JOIN LATERAL (
        SELECT * FROM users WHERE users.issuer_key = w.issuer_key AND users.subject = w.subject LIMIT 1) u ON TRUE";

/// An empty text stands for "any": neither an issuer key nor a subject nor an identity nor a state is ever empty.
const LIST: &str = list!(
    "WHERE ($2 = '' OR u.issuer_key = $2) AND ($3 = '' OR u.subject = $3) AND ($4 = '' OR u.acs_id = $4)
       AND ($5 = '' OR u.state = $5) AND u.id > $6 ORDER BY u.id LIMIT $7"
);
/// With the whole name of a user, or with an identity, there is one at most, found by its index.
const LIST_BY_APP_USER: &str = list!(
    "WHERE u.issuer_key = $2 AND u.subject = $3 AND ($4 = '' OR u.acs_id = $4) AND ($5 = '' OR u.state = $5)
       AND u.id > $6 ORDER BY u.id LIMIT $7"
);
const LIST_BY_ACS_ID: &str = list!(
    "WHERE u.acs_id = $4 AND ($2 = '' OR u.issuer_key = $2) AND ($3 = '' OR u.subject = $3) AND ($5 = '' OR u.state = $5)
       AND u.id > $6 ORDER BY u.id LIMIT $7"
);

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

/// What one statement reads about a user.
#[derive(Clone, Debug)]
pub struct UserRead {
    /// The user's row, if there is one.
    pub user: Option<User>,
    /// What was done to all users: all that is known of a user without a row.
    pub global: GlobalState,
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

/// A user's row as the database has it.
#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    issuer_key: String,
    subject: String,
    resource: Option<String>,
    acs_id: Option<String>,
    state: String,
    blocked_at: Option<DateTime<Utc>>,
    generation: i64,
    epoch: i64,
    sign_ins_valid_from: Option<DateTime<Utc>>,
    claimed_until: Option<DateTime<Utc>>,
    held: bool,
    pending_operation: Option<Uuid>,
    last_minted_at: Option<DateTime<Utc>>,
    tokens_expire_at: Option<DateTime<Utc>>,
    no_reuse_before: Option<DateTime<Utc>>,
    cached_tokens: Option<Vec<u8>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl<'r, R: sqlx::Row> FromRow<'r, R> for UserRead
where
    Row: FromRow<'r, R>,
    &'static str: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    Option<String>: Decode<'r, R::Database> + Type<R::Database>,
    Option<DateTime<Utc>>: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        let global = GlobalState {
            epoch: row.try_get("global_epoch")?,
            sign_ins_valid_from: row.try_get("global_sign_ins_valid_from")?,
        };
        let user = match row.try_get::<Option<String>, _>("id")? {
            Some(_) => Some(Row::from_row(row)?.user(&global)?),
            None => None,
        };
        Ok(Self { user, global })
    }
}

impl Row {
    fn user(self, global: &GlobalState) -> Result<User, sqlx::Error> {
        let corrupt = |column| {
            let error = Error::Corrupt { table: "users", column, row: self.id.clone() };
            sqlx::Error::Decode(Box::new(error))
        };
        let is_stale = self.epoch < global.epoch;
        Ok(User {
            id: UserId::parse(&self.id).map_err(|_| corrupt("id"))?,
            app_user: AppUser {
                issuer: IssuerKey::parse(&self.issuer_key).map_err(|_| corrupt("issuer_key"))?,
                subject: Subject::parse(&self.subject).map_err(|_| corrupt("subject"))?,
            },
            acs_id: self.acs_id.as_deref().map(AcsId::parse).transpose().map_err(|_| corrupt("acs_id"))?,
            state: State::parse(&self.state).ok_or_else(|| corrupt("state"))?,
            resource: self.resource,
            blocked_at: self.blocked_at,
            generation: self.generation + global.epoch,
            epoch: global.epoch,
            is_stale,
            sign_ins_valid_from: self.sign_ins_valid_from.max(global.sign_ins_valid_from.filter(|_| is_stale)),
            claimed_until: self.claimed_until,
            held: self.held,
            pending_operation: self.pending_operation,
            last_minted_at: self.last_minted_at,
            tokens_expire_at: self.tokens_expire_at,
            no_reuse_before: self.no_reuse_before,
            cached_tokens: self.cached_tokens,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}
