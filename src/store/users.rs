//! Mappings of app users to identities: reading them, locking them, listing them.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Error, Store, Tx, execute, on_pool, on_tx};
use crate::domain::{
    audit::{Action, Actor, Event, RequestContext},
    user::{AcsId, AppUser, IssuerKey, State, Subject, User, UserId, UserRef},
};

/// The columns of a mapping, whether it is held, and its oldest unfinished operation; `$1` is the present time.
///
/// The generation is the user's own and everyone's together, so that whatever compares it knows of both.
/// Held is derived, never a flag that one operation could clear for another: an unfinished revocation of the present
/// identity, or a time that is not yet over.
macro_rules! select_user {
    ($rest:literal) => {
        select_user!("", $rest)
    };
    ($more:literal, $rest:literal) => {
        concat!(
            "SELECT id, issuer_key, subject, resource, acs_id, state, blocked_at, sign_ins_valid_from, claimed_until,
                    last_minted_at, tokens_expire_at, no_reuse_before, created_at, updated_at,
                    generation + (SELECT e.epoch FROM global_state e) AS generation,
                    (SELECT e.epoch FROM global_state e) AS epoch,
                    users.epoch < (SELECT e.epoch FROM global_state e) AS is_stale,
                    (SELECT e.sign_ins_valid_from FROM global_state e WHERE e.epoch > users.epoch) AS global_sign_ins_valid_from,
                    ((held_until IS NOT NULL AND held_until > $1) OR EXISTS (
                        SELECT 1 FROM operations o
                        WHERE o.user_id = users.id AND o.acs_id = users.acs_id AND o.kind = 'revoke' AND o.completed_at IS NULL
                    )) AS held,
                    (SELECT o.id FROM operations o WHERE o.user_id = users.id AND o.completed_at IS NULL
                     ORDER BY o.id LIMIT 1) AS pending_operation",
            $more,
            " FROM users ",
            $rest
        )
    };
}

const FIND_BY_APP_USER: &str = select_user!("WHERE issuer_key = $2 AND subject = $3");
const FIND_BY_ID: &str = select_user!("WHERE id = $2");
const FIND_BY_ACS_ID: &str = select_user!("WHERE acs_id = $2");

const FIND_WITH_TOKENS_BY_APP_USER: &str = select_user!(", cached_tokens", "WHERE issuer_key = $2 AND subject = $3");
const FIND_WITH_TOKENS_BY_ID: &str = select_user!(", cached_tokens", "WHERE id = $2");

/// An empty text stands for "any": neither an issuer key nor a subject nor an identity nor a state is ever empty.
const LIST: &str = select_user!(
    "WHERE ($2 = '' OR issuer_key = $2) AND ($3 = '' OR subject = $3) AND ($4 = '' OR acs_id = $4)
       AND ($5 = '' OR state = $5) AND id > $6 ORDER BY id LIMIT $7"
);

const LOCK_BY_APP_USER: &str = "UPDATE users SET updated_at = $1 WHERE issuer_key = $2 AND subject = $3";
const LOCK_BY_ID: &str = "UPDATE users SET updated_at = $1 WHERE id = $2";

const INSERT_UNBOUND: &str = "
    INSERT INTO users (id, issuer_key, subject, state, generation, created_at, updated_at, epoch, sign_ins_valid_from)
    SELECT $1, $2, $3, 'unbound', 0, $4, $4, e.epoch, e.sign_ins_valid_from FROM global_state e WHERE e.id = 1
    ON CONFLICT (issuer_key, subject) DO NOTHING";

const FORGET: &str = "
    DELETE FROM users WHERE id IN (
        SELECT id FROM users WHERE state = 'unbound' AND blocked_at IS NULL AND updated_at < $1 LIMIT 1000)
    AND state = 'unbound' AND blocked_at IS NULL AND updated_at < $1 RETURNING id";

/// With the whole name of a user, or with an identity, there is one at most, found by its index.
const LIST_BY_APP_USER: &str = select_user!(
    "WHERE issuer_key = $2 AND subject = $3 AND ($4 = '' OR acs_id = $4) AND ($5 = '' OR state = $5) AND id > $6
     ORDER BY id LIMIT $7"
);
const LIST_BY_ACS_ID: &str = select_user!(
    "WHERE acs_id = $4 AND ($2 = '' OR issuer_key = $2) AND ($3 = '' OR subject = $3) AND ($5 = '' OR state = $5)
       AND id > $6 ORDER BY id LIMIT $7"
);

/// Which mappings to list.
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
    /// Reads an app user's mapping; this one statement is the authorisation that everything after it relies on.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer, [`Error::Corrupt`] when the row cannot be read.
    pub async fn find_user(&self, user: &UserRef, now: DateTime<Utc>) -> Result<Option<User>, Error> {
        let row: Option<Row> = match user {
            UserRef::Id(id) => {
                on_pool!(self, |db| sqlx::query_as(FIND_BY_ID).bind(now).bind(id.as_str()).fetch_optional(db).await)?
            }
            UserRef::AppUser(AppUser { issuer, subject }) => on_pool!(self, |db| {
                let query = sqlx::query_as(FIND_BY_APP_USER).bind(now).bind(issuer.as_str()).bind(subject.as_str());
                query.fetch_optional(db).await
            })?,
        };
        row.map(User::try_from).transpose()
    }

    /// Reads an app user's mapping as [`Store::find_user`] does, with the tokens that are kept, sealed.
    ///
    /// # Errors
    /// As [`Store::find_user`].
    pub async fn find_user_and_tokens(
        &self,
        user: &UserRef,
        now: DateTime<Utc>,
    ) -> Result<Option<(User, Option<Vec<u8>>)>, Error> {
        let row: Option<RowWithTokens> = match user {
            UserRef::Id(id) => on_pool!(self, |db| {
                sqlx::query_as(FIND_WITH_TOKENS_BY_ID).bind(now).bind(id.as_str()).fetch_optional(db).await
            })?,
            UserRef::AppUser(AppUser { issuer, subject }) => on_pool!(self, |db| {
                let query = sqlx::query_as(FIND_WITH_TOKENS_BY_APP_USER).bind(now).bind(issuer.as_str());
                query.bind(subject.as_str()).fetch_optional(db).await
            })?,
        };
        row.map(|RowWithTokens { row, cached_tokens }| Ok((row.try_into()?, cached_tokens))).transpose()
    }

    /// Reads the mapping of an identity.
    ///
    /// # Errors
    /// As [`Store::find_user`].
    pub async fn find_user_by_acs_id(&self, acs_id: &AcsId, now: DateTime<Utc>) -> Result<Option<User>, Error> {
        let row: Option<Row> = on_pool!(self, |db| {
            sqlx::query_as(FIND_BY_ACS_ID).bind(now).bind(acs_id.as_str()).fetch_optional(db).await
        })?;
        row.map(User::try_from).transpose()
    }

    /// Lists mappings in the order of their ids.
    ///
    /// # Errors
    /// As [`Store::find_user`].
    pub async fn list_users(&self, filter: &UserFilter, limit: i64, now: DateTime<Utc>) -> Result<Vec<User>, Error> {
        let sql = match filter {
            UserFilter { acs_id: Some(_), .. } => LIST_BY_ACS_ID,
            UserFilter { issuer: Some(_), subject: Some(_), .. } => LIST_BY_APP_USER,
            _ => LIST,
        };
        let rows: Vec<Row> = on_pool!(self, |db| {
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
        rows.into_iter().map(User::try_from).collect()
    }

    /// Forgets mappings without identity that nothing happened to since a time; returns how many, at most a thousand.
    ///
    /// # Errors
    /// As [`Store::find_user`].
    pub async fn forget_users(&self, unchanged_since: DateTime<Utc>, now: DateTime<Utc>) -> Result<usize, Error> {
        let mut tx = self.begin().await?;
        let ids: Vec<String> =
            on_tx!(&mut tx, |db| sqlx::query_scalar(FORGET).bind(unchanged_since).fetch_all(db).await)?;
        for id in &ids {
            let user =
                UserId::parse(id).map_err(|_| Error::Corrupt { table: "users", column: "id", row: id.clone() })?;
            let event = Event::new(Action::UserPurged, Actor::Worker, user, RequestContext::default());
            tx.append_audit(&event, now).await?;
        }
        tx.commit().await?;
        Ok(ids.len())
    }
}

impl Tx {
    /// Locks a mapping against every other change and reads it; `None` when there is no row.
    ///
    /// # Errors
    /// As [`Store::find_user`].
    pub async fn lock_user(&mut self, user: &UserRef, now: DateTime<Utc>) -> Result<Option<User>, Error> {
        // The read is a statement of its own, so that it sees what the lock waited for.
        let row: Option<Row> = match user {
            UserRef::Id(id) => {
                execute!(self, sqlx::query(LOCK_BY_ID).bind(now).bind(id.as_str()))?;
                on_tx!(self, |db| sqlx::query_as(FIND_BY_ID).bind(now).bind(id.as_str()).fetch_optional(db).await)?
            }
            UserRef::AppUser(AppUser { issuer, subject }) => {
                let (issuer, subject) = (issuer.as_str(), subject.as_str());
                execute!(self, sqlx::query(LOCK_BY_APP_USER).bind(now).bind(issuer).bind(subject))?;
                on_tx!(self, |db| {
                    sqlx::query_as(FIND_BY_APP_USER).bind(now).bind(issuer).bind(subject).fetch_optional(db).await
                })?
            }
        };
        row.map(User::try_from).transpose()
    }

    /// Makes a mapping without identity, if there is none at all.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer.
    pub async fn insert_unbound(&mut self, app_user: &AppUser, now: DateTime<Utc>) -> Result<(), Error> {
        let id = UserId::random();
        execute!(
            self,
            sqlx::query(INSERT_UNBOUND)
                .bind(id.as_str())
                .bind(app_user.issuer.as_str())
                .bind(app_user.subject.as_str())
                .bind(now)
        )?;
        Ok(())
    }
}

/// A mapping as the database has it.
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
    is_stale: bool,
    sign_ins_valid_from: Option<DateTime<Utc>>,
    global_sign_ins_valid_from: Option<DateTime<Utc>>,
    claimed_until: Option<DateTime<Utc>>,
    held: bool,
    pending_operation: Option<Uuid>,
    last_minted_at: Option<DateTime<Utc>>,
    tokens_expire_at: Option<DateTime<Utc>>,
    no_reuse_before: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// A mapping with its cached tokens.
#[derive(sqlx::FromRow)]
struct RowWithTokens {
    #[sqlx(flatten)]
    row: Row,
    cached_tokens: Option<Vec<u8>>,
}

impl TryFrom<Row> for User {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let corrupt = |column| Error::Corrupt { table: "users", column, row: row.id.clone() };
        Ok(Self {
            id: UserId::parse(&row.id).map_err(|_| corrupt("id"))?,
            app_user: AppUser {
                issuer: IssuerKey::parse(&row.issuer_key).map_err(|_| corrupt("issuer_key"))?,
                subject: Subject::parse(&row.subject).map_err(|_| corrupt("subject"))?,
            },
            acs_id: row.acs_id.as_deref().map(AcsId::parse).transpose().map_err(|_| corrupt("acs_id"))?,
            state: State::parse(&row.state).ok_or_else(|| corrupt("state"))?,
            resource: row.resource,
            blocked_at: row.blocked_at,
            generation: row.generation,
            epoch: row.epoch,
            is_stale: row.is_stale,
            sign_ins_valid_from: row.sign_ins_valid_from.max(row.global_sign_ins_valid_from),
            claimed_until: row.claimed_until,
            held: row.held,
            pending_operation: row.pending_operation,
            last_minted_at: row.last_minted_at,
            tokens_expire_at: row.tokens_expire_at,
            no_reuse_before: row.no_reuse_before,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}
