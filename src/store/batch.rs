//! Statements that serve many requests at once.
//!
//! While one is under way the next requests gather and share the next one, so the database is asked less often for each
//! the more of them there are, and a request that comes alone waits for nobody. A statement is sent after the requests it
//! serves have come, so it decides for each as one of its own would.
//! Its connections are its own: giving one back to the pool costs a round trip (sqlx pings it), and who holds one for ever
//! must not take it from others.

use std::{pin::pin, sync::Arc, time::Duration};

use sqlx::{Connection, Database, PgConnection, Pool, Postgres, Sqlite, SqliteConnection};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::{Instant, timeout},
};

use super::{Error, SURELY_ALIVE, Store};

/// How many connections each kind of statement has; more would only make each statement serve fewer.
pub(super) const CONNECTIONS: u32 = 2;
/// How many requests share a statement at most.
const MOST_AT_ONCE: usize = 64;
/// How long a statement may take before its connection is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked of a database, for many at once.
pub(super) trait Ask<DB: Database>: Sized + Send + Sync + 'static {
    /// What each of them is told.
    type Answer: Send + 'static;

    /// Asks for all of them, in their order.
    fn ask(
        connection: &mut DB::Connection,
        asks: &[Self],
    ) -> impl Future<Output = Result<Vec<Self::Answer>, sqlx::Error>> + Send;
}

/// A database whose connections can be kept for statements that gather.
pub(super) trait Gathers: Database {
    /// Readies a connection that only ever runs such statements.
    fn ready(connection: &mut Self::Connection) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

impl Gathers for Postgres {
    /// One plan for lists of any length: planning such a statement takes far longer than running it, and each length would
    /// otherwise seem worth a plan of its own.
    async fn ready(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query("SET plan_cache_mode = force_generic_plan").execute(connection).await.map(drop)
    }
}

impl Gathers for Sqlite {
    async fn ready(_: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        Ok(())
    }
}

/// Gathers requests of one kind until it is dropped.
#[derive(Debug)]
pub(super) struct Gatherer<A, T>(mpsc::Sender<Asked<A, T>>);

type Told<T> = Result<T, Arc<Error>>;
type Asked<A, T> = (A, oneshot::Sender<Told<T>>);
type Queue<A, T> = Arc<Mutex<mpsc::Receiver<Asked<A, T>>>>;

impl<A, T> Gatherer<A, T>
where
    A: Ask<Postgres, Answer = T> + Ask<Sqlite, Answer = T>,
    T: Send + 'static,
{
    /// Begins to gather.
    pub(super) fn start(store: &Store) -> Self {
        let (sender, receiver) = mpsc::channel(MOST_AT_ONCE);
        let queue = Arc::new(Mutex::new(receiver));
        for _ in 0..CONNECTIONS {
            match store {
                Store::Postgres(pool) => drop(tokio::spawn(work(pool.clone(), Arc::clone(&queue)))),
                Store::Sqlite(pool) => drop(tokio::spawn(work(pool.clone(), Arc::clone(&queue)))),
            }
        }
        Self(sender)
    }

    /// Asks together with whoever asks at the same moment.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database does not answer; whether it did what it was asked is then unknown.
    pub(super) async fn ask(&self, ask: A) -> Told<T> {
        let (tell, told) = oneshot::channel();
        let gone = || Arc::new(Error::Unavailable(sqlx::Error::PoolClosed));
        self.0.send((ask, tell)).await.map_err(|_| gone())?;
        told.await.map_err(|_| gone())?
    }
}

/// A connection that is kept, and when it was last known to live.
struct Held<DB: Database> {
    connection: DB::Connection,
    used_at: Instant,
}

/// Takes what has gathered, asks, and tells; ends with the pool, or when nobody can ask any more.
async fn work<DB: Gathers, A: Ask<DB>>(pool: Pool<DB>, queue: Queue<A, A::Answer>)
where
    for<'c> &'c mut DB::Connection: Send,
{
    let mut held = None;
    let mut closed = pin!(pool.close_event());
    loop {
        let mut gathered = Vec::new();
        let asked = tokio::select! {
            () = &mut closed => 0,
            asked = gather(&queue, &mut gathered) => asked,
        };
        if asked == 0 {
            break;
        }
        let (asks, tell): (Vec<_>, Vec<_>) = gathered.into_iter().unzip();
        let told = timeout(PATIENCE, ask(&pool, held.take(), &asks)).await;
        match told.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
            Ok((answers, connection)) => {
                held = Some(connection);
                for (answer, tell) in answers.into_iter().zip(tell) {
                    // Who asked may be gone.
                    let _ = tell.send(Ok(answer));
                }
            }
            Err(error) => {
                let error = Arc::new(Error::from(error));
                for tell in tell {
                    let _ = tell.send(Err(Arc::clone(&error)));
                }
            }
        }
    }
    if let Some(Held { connection, .. }) = held {
        // A database that is told of the end is better than one that finds out; nothing is lost either way.
        let _ = connection.close().await;
    }
}

async fn gather<T>(queue: &Mutex<mpsc::Receiver<T>>, gathered: &mut Vec<T>) -> usize {
    queue.lock().await.recv_many(gathered, MOST_AT_ONCE).await
}

async fn ask<DB: Gathers, A: Ask<DB>>(
    pool: &Pool<DB>,
    held: Option<Held<DB>>,
    asks: &[A],
) -> Result<(Vec<A::Answer>, Held<DB>), sqlx::Error> {
    let mut connection = match held {
        Some(mut held) if held.used_at.elapsed() > SURELY_ALIVE => match held.connection.ping().await {
            Ok(()) => held.connection,
            Err(_) => connect(pool).await?,
        },
        Some(held) => held.connection,
        None => connect(pool).await?,
    };
    let answers = A::ask(&mut connection, asks).await?;
    Ok((answers, Held { connection, used_at: Instant::now() }))
}

async fn connect<DB: Gathers>(pool: &Pool<DB>) -> Result<DB::Connection, sqlx::Error> {
    let mut connection = DB::Connection::connect_with(&pool.connect_options()).await?;
    DB::ready(&mut connection).await?;
    Ok(connection)
}
