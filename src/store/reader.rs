//! Reading what may be reused, for many requests at once.
//!
//! Requests that wait at the same moment share a statement: while one is under way the next ones gather, so the database
//! is asked less often for each the more of them there are, and a request that comes alone waits for nobody.
//! The statement is sent after the request came, so it is as good an authorisation as one of its own.
//! Connections are kept between statements: giving one back to the pool costs a round trip (sqlx pings it).

use std::{pin::pin, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{Connection, Database, PgConnection, Pool, Postgres, Sqlite, SqliteConnection, pool::PoolConnection};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::{Instant, timeout},
};

use super::{Error, SURELY_ALIVE, Store};
use crate::domain::{
    clock::Clock,
    user::{AcsId, AppUser, UserId},
};

/// How many connections read for everybody; more would only make each statement serve fewer.
const READERS: usize = 2;
/// How many requests share a statement at most.
const MOST_AT_ONCE: usize = 64;
/// How long a statement may take before its connection is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Only what may be reused at once: whatever stands in the way leads to the statement that reads everything.
macro_rules! reusable {
    ($user:literal) => {
        concat!(
            "SELECT id, acs_id, generation, logins_valid_from, kept_tokens FROM users
             WHERE ",
            $user,
            " AND kept_tokens IS NOT NULL AND state = 'active' AND blocked_at IS NULL
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

/// A user whose kept tokens may be handed out, as far as the database can tell.
#[derive(Clone, Debug)]
pub struct Reusable {
    /// Our id.
    pub user: UserId,
    /// The identity.
    pub acs_id: AcsId,
    /// The generation.
    pub generation: i64,
    /// Logins from before this whole second get no token.
    pub logins_valid_from: Option<DateTime<Utc>>,
    /// The tokens, sealed.
    pub kept: Vec<u8>,
}

/// Reads for everybody until it is dropped.
#[derive(Debug)]
pub struct Reader(mpsc::Sender<Wanted>);

#[derive(Debug)]
struct Wanted {
    user: AppUser,
    answer: oneshot::Sender<Answer>,
}

type Answer = Result<Option<Reusable>, Arc<Error>>;
type Queue = Arc<Mutex<mpsc::Receiver<Wanted>>>;
type Row = (String, String, i64, Option<DateTime<Utc>>, Vec<u8>);

impl Reader {
    /// Begins to read.
    #[must_use]
    pub fn start(store: &Store, clock: &Clock) -> Self {
        let (sender, receiver) = mpsc::channel(MOST_AT_ONCE);
        let queue = Arc::new(Mutex::new(receiver));
        for _ in 0..READERS {
            let (queue, clock) = (Arc::clone(&queue), clock.clone());
            match store {
                Store::Postgres(pool) => drop(tokio::spawn(work(pool.clone(), queue, clock))),
                Store::Sqlite(pool) => drop(tokio::spawn(work(pool.clone(), queue, clock))),
            }
        }
        Self(sender)
    }

    /// Finds the kept tokens of a user of whom nothing stands in the way; this read is the authorisation.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer, [`Error::Corrupt`] when the row cannot be read.
    pub async fn find_reusable(&self, user: &AppUser) -> Answer {
        let (answer, answered) = oneshot::channel();
        let gone = |_| Arc::new(Error::Unavailable(sqlx::Error::PoolClosed));
        self.0.send(Wanted { user: user.clone(), answer }).await.map_err(|_| gone(()))?;
        answered.await.map_err(|_| gone(()))?
    }
}

/// A database that can be read from for several users at once.
trait Reads: Database {
    /// Reads for each user, in their order.
    fn read(
        connection: &mut Self::Connection,
        users: &[AppUser],
        now: DateTime<Utc>,
    ) -> impl Future<Output = Result<Vec<Option<Row>>, sqlx::Error>> + Send;
}

impl Reads for Postgres {
    async fn read(
        connection: &mut PgConnection,
        users: &[AppUser],
        now: DateTime<Utc>,
    ) -> Result<Vec<Option<Row>>, sqlx::Error> {
        if let [AppUser { issuer, subject }] = users {
            let query = sqlx::query_as(READ).bind(now).bind(issuer.as_str()).bind(subject.as_str());
            return Ok(vec![query.fetch_optional(connection).await?]);
        }
        let issuers: Vec<_> = users.iter().map(|user| user.issuer.as_str()).collect();
        let subjects: Vec<_> = users.iter().map(|user| user.subject.as_str()).collect();
        let found: Vec<(i64, String, String, i64, Option<DateTime<Utc>>, Vec<u8>)> =
            sqlx::query_as(READ_MANY).bind(now).bind(issuers).bind(subjects).fetch_all(connection).await?;
        let mut rows: Vec<Option<Row>> = users.iter().map(|_| None).collect();
        for (place, id, acs_id, generation, valid_from, kept) in found {
            let place = usize::try_from(place - 1).ok().and_then(|place| rows.get_mut(place));
            *place.ok_or(sqlx::Error::RowNotFound)? = Some((id, acs_id, generation, valid_from, kept));
        }
        Ok(rows)
    }
}

impl Reads for Sqlite {
    /// One after the other: a statement costs no round trip here.
    async fn read(
        connection: &mut SqliteConnection,
        users: &[AppUser],
        now: DateTime<Utc>,
    ) -> Result<Vec<Option<Row>>, sqlx::Error> {
        let mut rows = Vec::with_capacity(users.len());
        for AppUser { issuer, subject } in users {
            let query = sqlx::query_as(READ).bind(now).bind(issuer.as_str()).bind(subject.as_str());
            rows.push(query.fetch_optional(&mut *connection).await?);
        }
        Ok(rows)
    }
}

/// A connection that is kept, and when it was last known to live.
struct Held<DB: Database> {
    connection: PoolConnection<DB>,
    used_at: Instant,
}

/// Takes what has gathered, reads it, and answers; ends with the pool, or when nobody can ask any more.
async fn work<DB: Reads>(pool: Pool<DB>, queue: Queue, clock: Clock) {
    let mut held = None;
    let mut closed = pin!(pool.close_event());
    loop {
        let mut wanted = Vec::new();
        tokio::select! {
            () = &mut closed => return,
            count = gather(&queue, &mut wanted) => if count == 0 { return },
        }
        let (users, answers): (Vec<_>, Vec<_>) = wanted.into_iter().map(|wanted| (wanted.user, wanted.answer)).unzip();
        let rows = timeout(PATIENCE, read(&pool, held.take(), &users, &clock)).await;
        match rows.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
            Ok((rows, connection)) => {
                held = Some(connection);
                for (row, answer) in rows.into_iter().zip(answers) {
                    // Who asked may be gone.
                    let _ = answer.send(row.map(Reusable::try_from).transpose().map_err(Arc::new));
                }
            }
            Err(error) => {
                // Whatever the connection is in the middle of, nobody else shall find it so: it is closed.
                let error = Arc::new(Error::from(error));
                for answer in answers {
                    let _ = answer.send(Err(Arc::clone(&error)));
                }
            }
        }
    }
}

async fn gather(queue: &Queue, wanted: &mut Vec<Wanted>) -> usize {
    queue.lock().await.recv_many(wanted, MOST_AT_ONCE).await
}

async fn read<DB: Reads>(
    pool: &Pool<DB>,
    held: Option<Held<DB>>,
    users: &[AppUser],
    clock: &Clock,
) -> Result<(Vec<Option<Row>>, Held<DB>), sqlx::Error> {
    let mut connection = match held {
        Some(mut held) if held.used_at.elapsed() > SURELY_ALIVE => match held.connection.ping().await {
            Ok(()) => held.connection,
            Err(_) => pool.acquire().await?,
        },
        Some(held) => held.connection,
        None => pool.acquire().await?,
    };
    connection.close_on_drop();
    let rows = DB::read(&mut connection, users, clock.now()).await?;
    Ok((rows, Held { connection, used_at: Instant::now() }))
}

impl TryFrom<Row> for Reusable {
    type Error = Error;

    fn try_from((id, acs_id, generation, logins_valid_from, kept): Row) -> Result<Self, Error> {
        let corrupt = |column| Error::Corrupt { table: "users", column, row: id.clone() };
        Ok(Self {
            user: UserId::parse(&id).map_err(|_| corrupt("id"))?,
            acs_id: AcsId::parse(&acs_id).map_err(|_| corrupt("acs_id"))?,
            generation,
            logins_valid_from,
            kept,
        })
    }
}
