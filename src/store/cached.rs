//! Reading what may be reused: the hot path, for many requests at once.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection, Postgres, Sqlite, SqliteConnection};

use super::{
    Error, Store,
    batch::{Ask, Gatherer},
};
use crate::domain::user::{AcsId, AppUser, UserId};

/// Only what may be reused at once: whatever stands in the way leads to the statement that reads everything.
macro_rules! reusable {
    ($user:literal) => {
        concat!(
            "SELECT id, acs_id, generation + epoch AS generation, sign_ins_valid_from, cached_tokens FROM users
             WHERE ",
            $user,
            " AND cached_tokens IS NOT NULL AND state = 'active' AND blocked_at IS NULL
              AND epoch = (SELECT e.epoch FROM global_state e)
              AND (held_until IS NULL OR held_until <= $1)
              AND NOT EXISTS (SELECT 1 FROM operations o WHERE o.user_id = users.id AND o.completed_at IS NULL)"
        )
    };
}

const READ: &str = reusable!("issuer_key = $2 AND subject = $3");

/// The limit makes it one look into the index for each user, whatever the planner thinks of the table.
const READ_MANY: &str = concat!(
    "SELECT wanted.place, found.* FROM UNNEST($2::TEXT[], $3::TEXT[]) WITH ORDINALITY AS wanted (issuer_key, subject, place)
     CROSS JOIN LATERAL (",
    reusable!("issuer_key = wanted.issuer_key AND subject = wanted.subject"),
    " LIMIT 1) AS found"
);

/// A user whose cached tokens may be handed out, as far as the database can tell.
#[derive(Clone, Debug)]
pub struct Reusable {
    /// Our id.
    pub user: UserId,
    /// The identity.
    pub acs_id: AcsId,
    /// The generation.
    pub generation: i64,
    /// Logins from before this whole second get no token.
    pub sign_ins_valid_from: Option<DateTime<Utc>>,
    /// The tokens, sealed.
    pub kept: Vec<u8>,
}

/// Finds cached tokens.
#[derive(Debug)]
pub struct Reader(Gatherer<TokenParams, Option<Row>>);

#[derive(Debug)]
struct TokenParams {
    user: AppUser,
    now: DateTime<Utc>,
}

type Row = (String, String, i64, Option<DateTime<Utc>>, Vec<u8>);

#[derive(FromRow)]
struct Placed {
    place: i64,
    id: String,
    acs_id: String,
    generation: i64,
    sign_ins_valid_from: Option<DateTime<Utc>>,
    cached_tokens: Vec<u8>,
}

impl Reader {
    /// Begins to read, until it is dropped or the store is closed.
    #[must_use]
    pub fn start(store: &Store) -> Self {
        Self(Gatherer::start(store))
    }

    /// Finds the cached tokens of a user of whom nothing stands in the way; this read is the authorisation.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer, [`Error::Corrupt`] when the row cannot be read.
    pub async fn find_reusable(&self, user: AppUser, now: DateTime<Utc>) -> Result<Option<Reusable>, Arc<Error>> {
        let row = self.0.ask(TokenParams { user, now }).await?;
        row.map(Reusable::try_from).transpose().map_err(Arc::new)
    }
}

/// The earliest of the times is the strictest for all.
fn now(wanted: &[TokenParams]) -> Option<DateTime<Utc>> {
    wanted.iter().map(|wanted| wanted.now).min()
}

impl Ask<Postgres> for TokenParams {
    type Answer = Option<Row>;

    async fn ask(connection: &mut PgConnection, wanted: &[Self]) -> Result<Vec<Option<Row>>, sqlx::Error> {
        if let [Self { user, now }] = wanted {
            let query = sqlx::query_as(READ).bind(now).bind(user.issuer.as_str()).bind(user.subject.as_str());
            return Ok(vec![query.fetch_optional(connection).await?]);
        }
        let issuers: Vec<_> = wanted.iter().map(|wanted| wanted.user.issuer.as_str()).collect();
        let subjects: Vec<_> = wanted.iter().map(|wanted| wanted.user.subject.as_str()).collect();
        let found: Vec<Placed> =
            sqlx::query_as(READ_MANY).bind(now(wanted)).bind(issuers).bind(subjects).fetch_all(connection).await?;
        let mut rows: Vec<Option<Row>> = wanted.iter().map(|_| None).collect();
        for row in found {
            let place = usize::try_from(row.place - 1).ok().and_then(|place| rows.get_mut(place));
            *place.ok_or(sqlx::Error::RowNotFound)? =
                Some((row.id, row.acs_id, row.generation, row.sign_ins_valid_from, row.cached_tokens));
        }
        Ok(rows)
    }
}

impl Ask<Sqlite> for TokenParams {
    type Answer = Option<Row>;

    /// One after the other: a statement costs no round trip here.
    async fn ask(connection: &mut SqliteConnection, wanted: &[Self]) -> Result<Vec<Option<Row>>, sqlx::Error> {
        let mut rows = Vec::with_capacity(wanted.len());
        for Self { user, now } in wanted {
            let query = sqlx::query_as(READ).bind(now).bind(user.issuer.as_str()).bind(user.subject.as_str());
            rows.push(query.fetch_optional(&mut *connection).await?);
        }
        Ok(rows)
    }
}

impl TryFrom<Row> for Reusable {
    type Error = Error;

    fn try_from((id, acs_id, generation, sign_ins_valid_from, kept): Row) -> Result<Self, Error> {
        let corrupt = |column| Error::Corrupt { table: "users", column, row: id.clone() };
        Ok(Self {
            user: UserId::parse(&id).map_err(|_| corrupt("id"))?,
            acs_id: AcsId::parse(&acs_id).map_err(|_| corrupt("acs_id"))?,
            generation,
            sign_ins_valid_from,
            kept,
        })
    }
}
