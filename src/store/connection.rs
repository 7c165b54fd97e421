//! Connections that never hold anybody up: each statement has a deadline, and a connection whose statement did not come
//! to its end is closed instead of being given back.
//!
//! The driver pings a connection without a deadline when it is given back, so a silent server would keep it for good.

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use sqlx::{Connection, Database, Pool, pool::PoolConnection};
use tokio::time::timeout;

/// How long one statement may take.
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a rollback may take before its connection is closed.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection may have been idle without being asked whether it is alive, and how long it may take to answer.
pub(super) const TRUSTED_IDLE: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_millis(500);

/// A connection of the pool for one statement.
pub(super) struct Leased<DB: Database>(Option<PoolConnection<DB>>);

impl<DB: Database> Leased<DB> {
    pub(super) async fn acquire(pool: &Pool<DB>) -> Result<Self, sqlx::Error> {
        Ok(Self(Some(pool.acquire().await?)))
    }

    /// Runs a statement within its deadline, and gives the connection back if the server answered.
    pub(super) async fn run<T>(
        mut self,
        statement: impl AsyncFnOnce(&mut DB::Connection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let Some(connection) = &mut self.0 else { return Err(sqlx::Error::PoolClosed) };
        let result = within_deadline(statement(connection)).await;
        if result.as_ref().map_or_else(is_answer, |_| true) {
            drop(self.0.take());
        }
        result
    }
}

impl<DB: Database> Drop for Leased<DB> {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

/// A connection with an open transaction; dropped without a commit it is rolled back, or closed where that takes long.
pub struct Session<DB: Database>(Option<PoolConnection<DB>>)
where
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>;

impl<DB: Database> Session<DB>
where
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
{
    pub(super) async fn begin(pool: &Pool<DB>, begin: &'static str) -> Result<Self, sqlx::Error> {
        let mut session = Self(Some(pool.acquire().await?));
        within_deadline(sqlx::raw_sql(begin).execute(&mut *session)).await?;
        Ok(session)
    }

    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        let result = within_deadline(sqlx::raw_sql("COMMIT").execute(&mut *self)).await;
        if let Some(connection) = self.0.take() {
            match result {
                Ok(_) => drop(connection),
                Err(_) => drop(connection.detach()),
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
                drop(connection.detach());
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

/// Asks a connection that has been idle whether it is alive.
pub(super) async fn check_alive<C: Connection>(connection: &mut C, idle_for: Duration) -> Result<bool, sqlx::Error> {
    if idle_for > TRUSTED_IDLE {
        timeout(PING_TIMEOUT, connection.ping()).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
    }
    Ok(true)
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
