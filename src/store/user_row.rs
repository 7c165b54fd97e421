//! What is read about a user, by one statement, in whichever way the user is looked up.

use chrono::{DateTime, Utc};
use sqlx::{ColumnIndex, Decode, FromRow, Type};
use uuid::Uuid;

use super::error::Error;
use crate::domain::user::{AcsId, AppUser, IssuerKey, State, Subject, User, UserId};

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

pub(super) const READ_BY_APP_USER: &str = read!("u.issuer_key = $2 AND u.subject = $3");
pub(super) const READ_BY_ID: &str = read!("u.id = $2");
pub(super) const READ_BY_ACS_ID: &str = read!("u.acs_id = $2");

/// The same for a list of users, which stands between the two texts; the batched read puts it together.
pub(super) const READ_LATERAL: &str = concat!("SELECT w.place, ", columns!("u.cached_tokens"));
pub(super) const READ_LATERAL_FROM: &str = ") AS w (place, issuer_key, subject)
    CROSS JOIN global_state g
    LEFT JOIN LATERAL (
        SELECT * FROM users WHERE users.issuer_key = w.issuer_key AND users.subject = w.subject LIMIT 1) u ON TRUE";

/// An empty text stands for "any": neither an issuer key nor a subject nor an identity nor a state is ever empty.
pub(super) const LIST: &str = list!(
    "WHERE ($2 = '' OR u.issuer_key = $2) AND ($3 = '' OR u.subject = $3) AND ($4 = '' OR u.acs_id = $4)
       AND ($5 = '' OR u.state = $5) AND u.id > $6 ORDER BY u.id LIMIT $7"
);
/// With the whole name of a user, or with an identity, there is one at most, found by its index.
pub(super) const LIST_BY_APP_USER: &str = list!(
    "WHERE u.issuer_key = $2 AND u.subject = $3 AND ($4 = '' OR u.acs_id = $4) AND ($5 = '' OR u.state = $5)
       AND u.id > $6 ORDER BY u.id LIMIT $7"
);
pub(super) const LIST_BY_ACS_ID: &str = list!(
    "WHERE u.acs_id = $4 AND ($2 = '' OR u.issuer_key = $2) AND ($3 = '' OR u.subject = $3) AND ($5 = '' OR u.state = $5)
       AND u.id > $6 ORDER BY u.id LIMIT $7"
);

/// Of users who are locked.
pub(super) const LIST_BY_IDS: &str = list!("WHERE u.id = ANY($2)");

/// The revocations of all users.
#[derive(Clone, Copy, Debug)]
pub struct GlobalState {
    /// How many there were.
    pub epoch: i64,
    /// Sign-ins dated before this whole second get no token.
    pub sign_ins_valid_from: Option<DateTime<Utc>>,
}

/// What one statement reads about a user.
#[derive(Clone, Debug)]
pub struct UserRead {
    /// The user's row, if there is one.
    pub user: Option<User>,
    /// What was done to all users: all that is known of a user without a row.
    pub global: GlobalState,
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
