//! Recording mints: the write that permits a minted token to leave the house, for many requests at once.
//!
//! The condition sits on an `UPDATE users`, which takes the row lock: under READ COMMITTED a condition in an
//! `INSERT … SELECT` would not be one (docs of Postgres, "Read Committed Isolation Level").
//! The generation is the one that was *read* with the login check. GlobalState's part of it is read under a lock, which whoever
//! revokes everyone waits for: so no mint commits after that with what it read before.
//! A user's mints that meet in one statement are recorded one after the other: it would touch the row only once.

use std::{collections::HashSet, sync::Arc};

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{Connection, PgConnection, Postgres, Sqlite, SqliteConnection, types::Json};
use uuid::Uuid;

use super::{
    CachedTokens, Error, Store,
    audit::{append, client},
    batch::{Ask, Gatherer},
};
use crate::domain::{
    audit::{Event, TokenRecord},
    user::{AcsId, User, UserId},
};

/// What must still be so, and what is then written; the time of the last mint never moves back: a slow mint with an older
/// time must not shorten a revocation's wait.
macro_rules! record {
    ($lock:literal, $from:literal, $now:literal, $expires:literal, $id:literal, $generation:literal, $acs_id:literal, $kept:literal, $day:literal) => {
        concat!(
            "UPDATE users SET last_minted_at = CASE WHEN last_minted_at > ", $now, " THEN last_minted_at ELSE ", $now, " END,
                tokens_expire_at = CASE WHEN tokens_expire_at > ", $expires, " THEN tokens_expire_at ELSE ", $expires, " END,
                cached_tokens = COALESCE(", $kept, ", cached_tokens), cached_until_day = COALESCE(", $day, ", cached_until_day) ",
            $from,
            " WHERE users.id = ", $id, " AND generation + (SELECT e.epoch FROM global_state e", $lock, ") = ", $generation,
            " AND acs_id = ", $acs_id, "
                AND state = 'active' AND blocked_at IS NULL AND (held_until IS NULL OR held_until <= ", $now, ")
                AND NOT EXISTS (
                    SELECT 1 FROM operations o
                    WHERE o.user_id = users.id AND o.acs_id = users.acs_id AND o.kind = 'revoke' AND o.completed_at IS NULL)"
        )
    };
}

const RECORD: &str = record!("", "", "$1", "$2", "$3", "$4", "$5", "$6", "$7");

/// The same with its audit row, in one statement and so in one transaction.
const RECORD_ONE: &str = concat!(
    "WITH minted AS (",
    record!(" FOR SHARE", "", "$1", "$2", "$3", "$4", "$5", "$6", "$7"),
    " RETURNING id)
     INSERT INTO audit_events (id, at, action, actor_kind, actor, user_id, acs_id, request_id, client,
                               token_fingerprint, token_scopes, token_expires_at, generation, detail)
     SELECT $8, $1, $16, $9, $10, id, $5, $11, $12, $13, $14, $2, $4, $15 FROM minted"
);

/// The statement for one mint, for whichever database, with what `record!` asks for.
macro_rules! bind_mint {
    ($sql:expr, $mint:expr) => {
        sqlx::query($sql)
            .bind($mint.now)
            .bind($mint.token.expires_at)
            .bind($mint.user.as_str())
            .bind($mint.generation)
            .bind($mint.acs_id.as_str())
            .bind($mint.kept.as_ref().map(|kept| kept.sealed.as_slice()))
            .bind($mint.kept.as_ref().map(CachedTokens::last_day))
    };
}

/// The same for each of a list.
const RECORD_MANY: &str = concat!(
    "WITH wanted AS (
        SELECT * FROM UNNEST($1::TIMESTAMPTZ[], $2::TIMESTAMPTZ[], $3::TEXT[], $4::BIGINT[], $5::TEXT[], $6::BYTEA[],
                             $7::BIGINT[], $8::UUID[], $9::TEXT[], $10::TEXT[], $11::TEXT[], $12::TEXT[], $13::TEXT[],
                             $14::TEXT[], $15::JSONB[], $16::TEXT[]) WITH ORDINALITY
        AS w (now, expires_at, user_id, of_generation, identity, kept, day, event_id, actor_kind, actor, request_id, client,
              fingerprint, scopes, detail, action, place)),
     minted AS (",
    record!(
        " FOR SHARE",
        "FROM wanted w",
        "w.now",
        "w.expires_at",
        "w.user_id",
        "w.of_generation",
        "w.identity",
        "w.kept",
        "w.day"
    ),
    " RETURNING w.place),
     told AS (
        INSERT INTO audit_events (id, at, action, actor_kind, actor, user_id, acs_id, request_id, client,
                                  token_fingerprint, token_scopes, token_expires_at, generation, detail)
        SELECT event_id, now, action, actor_kind, actor, user_id, identity, request_id, client,
               fingerprint, scopes, expires_at, of_generation, detail
        FROM wanted JOIN minted USING (place))
     SELECT place FROM minted"
);

/// Records mints.
#[derive(Debug)]
pub struct Recorder(Gatherer<Mint, bool>);

/// A token that ACS made for what was read before, and what is to be written of it.
#[derive(Debug)]
pub struct Mint {
    user: UserId,
    generation: i64,
    acs_id: AcsId,
    token: TokenRecord,
    event: Event,
    kept: Option<CachedTokens>,
    now: DateTime<Utc>,
}

impl Recorder {
    /// Begins to record, until it is dropped or the store is closed.
    #[must_use]
    pub fn start(store: &Store) -> Self {
        Self(Gatherer::start(store))
    }

    /// Records a mint for what was `read` before ACS was asked, if the mapping still is so; only then may the token be
    /// handed out, and be `kept` for reuse.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer; the token must then be thrown away.
    pub async fn record_mint(
        &self,
        read: &User,
        acs_id: &AcsId,
        token: TokenRecord,
        event: Event,
        kept: Option<CachedTokens>,
        now: DateTime<Utc>,
    ) -> Result<bool, Arc<Error>> {
        let (user, generation, acs_id) = (read.id.clone(), read.generation, acs_id.clone());
        self.0.ask(Mint { user, generation, acs_id, token, event, kept, now }).await
    }
}

/// Splits mints into lists in which each user is at most once, in the order of their ids, so that no two statements wait
/// for each other's rows.
fn rounds(mints: &[Mint]) -> Vec<Vec<(usize, &Mint)>> {
    let mut rounds = Vec::new();
    let mut left: Vec<_> = mints.iter().enumerate().collect();
    while !left.is_empty() {
        let mut users = HashSet::new();
        let (mut round, later): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|(_, mint)| users.insert(mint.user.as_str()));
        round.sort_unstable_by_key(|(_, mint)| mint.user.as_str());
        rounds.push(round);
        left = later;
    }
    rounds
}

impl Ask<Postgres> for Mint {
    type Answer = bool;

    async fn ask(connection: &mut PgConnection, mints: &[Self]) -> Result<Vec<bool>, sqlx::Error> {
        if let [mint] = mints {
            let query = bind_mint!(RECORD_ONE, mint)
                .bind(Uuid::now_v7())
                .bind(mint.event.actor.kind())
                .bind(mint.event.actor.name())
                .bind(mint.event.trace.request_id.as_deref())
                .bind(client(&mint.event))
                .bind(mint.token.fingerprint.as_str())
                .bind(mint.token.scopes.as_str())
                .bind(mint.event.detail.as_ref().map(Json::<&Value>))
                .bind(mint.event.action.as_str());
            return Ok(vec![query.execute(connection).await?.rows_affected() == 1]);
        }
        let mut recorded = vec![false; mints.len()];
        for round in rounds(mints) {
            let each = round.iter().map(|(_, mint)| *mint);
            fn list<'a, T>(each: impl Iterator<Item = &'a Mint>, of: impl Fn(&'a Mint) -> T) -> Vec<T> {
                each.map(of).collect()
            }
            let query = sqlx::query_scalar(RECORD_MANY)
                .bind(list(each.clone(), |mint| mint.now))
                .bind(list(each.clone(), |mint| mint.token.expires_at))
                .bind(list(each.clone(), |mint| mint.user.as_str()))
                .bind(list(each.clone(), |mint| mint.generation))
                .bind(list(each.clone(), |mint| mint.acs_id.as_str()))
                .bind(list(each.clone(), |mint| mint.kept.as_ref().map(|kept| kept.sealed.as_slice())))
                .bind(list(each.clone(), |mint| mint.kept.as_ref().map(CachedTokens::last_day)))
                .bind(list(each.clone(), |_| Uuid::now_v7()))
                .bind(list(each.clone(), |mint| mint.event.actor.kind()))
                .bind(list(each.clone(), |mint| mint.event.actor.name()))
                .bind(list(each.clone(), |mint| mint.event.trace.request_id.as_deref()))
                .bind(list(each.clone(), |mint| client(&mint.event)))
                .bind(list(each.clone(), |mint| mint.token.fingerprint.as_str()))
                .bind(list(each.clone(), |mint| mint.token.scopes.as_str()))
                .bind(list(each.clone(), |mint| mint.event.detail.as_ref().map(Json::<&Value>)))
                .bind(list(each, |mint| mint.event.action.as_str()));
            let places: Vec<i64> = query.fetch_all(&mut *connection).await?;
            for place in places {
                let index = usize::try_from(place - 1).ok().and_then(|place| round.get(place));
                recorded[index.ok_or(sqlx::Error::RowNotFound)?.0] = true;
            }
        }
        Ok(recorded)
    }
}

impl Ask<Sqlite> for Mint {
    type Answer = bool;

    /// One after the other in one transaction: what costs time here is the commit.
    async fn ask(connection: &mut SqliteConnection, mints: &[Self]) -> Result<Vec<bool>, sqlx::Error> {
        let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
        let mut recorded = Vec::with_capacity(mints.len());
        for mint in mints {
            let query = bind_mint!(RECORD, mint);
            let is_recorded = query.execute(&mut *tx).await?.rows_affected() == 1;
            if is_recorded {
                append!(&mint.event, mint.now).execute(&mut *tx).await?;
            }
            recorded.push(is_recorded);
        }
        tx.commit().await?;
        Ok(recorded)
    }
}
