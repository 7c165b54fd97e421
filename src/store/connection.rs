//! Connections that never hold anybody up: each statement has a deadline, and a connection whose statement did not come
//! to its end is closed instead of being given back.
//!
//! The pool is not the driver's, because that one pings a connection each time it is given back: a round trip more for each
//! statement, and without a deadline.

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use deadpool::managed::{self, Metrics, Object, PoolError, QueueMode, RecycleError, RecycleResult};
use sqlx::{Connection, Database};
use tokio::time::{sleep, timeout};

/// How long one statement may take.
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a rollback may take before its connection is closed.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection may have been idle without being asked whether it is alive, and how long it may take to answer.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_millis(500);
/// How old a connection gets, so that replicas spread over the servers behind one name.
const LONGEST_LIFE: Duration = Duration::from_mins(30);
/// The pause after an attempt to connect to a server that is just starting.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);

pub(super) type Pool<DB> = managed::Pool<Connector<DB>>;
type Options<DB> = <<DB as Database>::Connection as Connection>::Options;

/// Makes the connections of a pool.
pub struct Connector<DB: Database> {
    options: Options<DB>,
    /// How long a request waits for a connection.
    acquire_timeout: Duration,
}

impl<DB: Database> Connector<DB> {
    /// Makes a pool that connects when it is first used.
    pub(super) fn pool(options: Options<DB>, acquire_timeout: Duration, max_connections: u32) -> Pool<DB> {
        let max_size = usize::try_from(max_connections).unwrap_or(usize::MAX).max(1);
        let connector = Self { options, acquire_timeout };
        let pool = managed::Pool::builder(connector).max_size(max_size).queue_mode(QueueMode::Lifo).build();
        #[expect(clippy::expect_used, reason = "only timeouts need what a build can lack")]
        pool.expect("a pool without timeouts")
    }
}

impl<DB: Database> managed::Manager for Connector<DB> {
    type Type = DB::Connection;
    type Error = sqlx::Error;

    async fn create(&self) -> Result<DB::Connection, sqlx::Error> {
        loop {
            match DB::Connection::connect_with(&self.options).await {
                Err(error) if may_be_starting(&error) => sleep(CONNECT_PAUSE).await,
                result => return result,
            }
        }
    }

    async fn recycle(&self, connection: &mut DB::Connection, metrics: &Metrics) -> RecycleResult<sqlx::Error> {
        if metrics.age() > LONGEST_LIFE {
            return Err(RecycleError::message("the connection is old"));
        }
        if metrics.last_used() > TRUSTED_IDLE {
            timeout(PING_TIMEOUT, connection.ping()).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
        }
        Ok(())
    }
}

/// A server that refuses connections or says so itself may be there in a moment. So may a file of SQLite that another
/// process is just making: it is locked then, and nothing waits for that lock (code 5, busy).
fn may_be_starting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        sqlx::Error::Database(error) => {
            error.is_transient_in_connect_phase() || error.code().is_some_and(|code| code == "5")
        }
        _ => false,
    }
}

async fn acquire<DB: Database>(pool: &Pool<DB>) -> Result<Object<Connector<DB>>, sqlx::Error> {
    match timeout(pool.manager().acquire_timeout, pool.get()).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(PoolError::Backend(error))) => Err(error),
        Ok(Err(PoolError::Closed)) => Err(sqlx::Error::PoolClosed),
        Ok(Err(_)) | Err(_) => Err(sqlx::Error::PoolTimedOut),
    }
}

/// Closes the idle connections properly, and the others when they are given back.
pub(super) async fn close<DB: Database>(pool: &Pool<DB>) {
    let idle = pool.retain(|_, _| false).removed;
    pool.close();
    for connection in idle {
        // It is gone either way.
        let _ = timeout(ROLLBACK_TIMEOUT, connection.close()).await;
    }
}

/// A connection of the pool for one statement.
pub(super) struct Leased<DB: Database>(Option<Object<Connector<DB>>>);

impl<DB: Database> Leased<DB> {
    pub(super) async fn acquire(pool: &Pool<DB>) -> Result<Self, sqlx::Error> {
        Ok(Self(Some(acquire(pool).await?)))
    }

    /// Runs a statement within its deadline, and gives the connection back if the server answered.
    pub(super) async fn run<T>(
        self,
        statement: impl AsyncFnOnce(&mut DB::Connection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        within_deadline(self.run_for_long(statement)).await
    }

    /// Runs statements without a deadline.
    pub(super) async fn run_for_long<T>(
        mut self,
        statements: impl AsyncFnOnce(&mut DB::Connection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let Some(connection) = &mut self.0 else { return Err(sqlx::Error::PoolClosed) };
        let result = statements(connection).await;
        if result.as_ref().map_or_else(is_answer, |_| true) {
            drop(self.0.take());
        }
        result
    }
}

impl<DB: Database> Drop for Leased<DB> {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Object::take(connection));
        }
    }
}

/// A connection with an open transaction; dropped without a commit it is rolled back, or closed where that takes long.
pub struct Session<DB: Database>(Option<Object<Connector<DB>>>)
where
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>;

impl<DB: Database> Session<DB>
where
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
{
    pub(super) async fn begin(pool: &Pool<DB>, begin: &'static str) -> Result<Self, sqlx::Error> {
        let mut session = Self(Some(acquire(pool).await?));
        within_deadline(sqlx::raw_sql(begin).execute(&mut *session)).await?;
        Ok(session)
    }

    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        let result = within_deadline(sqlx::raw_sql("COMMIT").execute(&mut *self)).await;
        if let Some(connection) = self.0.take() {
            match result {
                Ok(_) => drop(connection),
                Err(_) => drop(Object::take(connection)),
            }
        }
        result.map(drop)
    }
}

impl<DB: Database> Drop for Session<DB>
where
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
{
    fn drop(&mut self) {
        let Some(mut connection) = self.0.take() else { return };
        tokio::spawn(async move {
            let rolled_back = timeout(ROLLBACK_TIMEOUT, sqlx::raw_sql("ROLLBACK").execute(&mut *connection)).await;
            if !matches!(rolled_back, Ok(Ok(_))) {
                drop(Object::take(connection));
            }
        });
    }
}

impl<DB: Database> Deref for Session<DB>
where
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
{
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        #[expect(clippy::expect_used, reason = "only commit and drop take the connection away")]
        self.0.as_deref().expect("a session has a connection until it ends")
    }
}

impl<DB: Database> DerefMut for Session<DB>
where
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
{
    fn deref_mut(&mut self) -> &mut DB::Connection {
        #[expect(clippy::expect_used, reason = "only commit and drop take the connection away")]
        self.0.as_deref_mut().expect("a session has a connection until it ends")
    }
}

/// Runs a statement; past its deadline the database counts as unavailable.
pub(super) async fn within_deadline<T>(
    statement: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    timeout(STATEMENT_TIMEOUT, statement).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// Tells whether an error is an answer of the server, after which the connection is good.
fn is_answer(error: &sqlx::Error) -> bool {
    matches!(
        error,
        sqlx::Error::Database(_)
            | sqlx::Error::RowNotFound
            | sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::Decode(_)
    )
}
