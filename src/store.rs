//! The database: Postgres, or SQLite where there is none, behind one SQL text.
//!
//! Only this room knows sqlx.
//! Placeholders `$1`, `ON CONFLICT` and `RETURNING` read alike in both databases; what differs stands in this file.
//! Times are bound from the clock in whole milliseconds; in SQLite they are texts whose order is the order of the times,
//! which holds for whole milliseconds (sqlx writes none or three fraction digits, and `+` sorts before `.`).

mod access;
mod audit;
mod batch;
mod cached;
mod global;
mod idempotency;
mod identities;
mod imports;
mod migrations;
mod operations;
mod quota;
mod recorder;
mod revocations;
mod tokens;
mod url;
mod users;

use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;
use sqlx::{
    Connection, Database, PgPool, Postgres, Sqlite, SqlitePool, Transaction,
    pool::PoolOptions,
    sqlite::{SqliteJournalMode, SqliteSynchronous},
};

pub use access::Fence;
pub use audit::{AuditFilter, AuditRow, HeldToken};
pub use cached::{Reader, Reusable};
pub use global::GlobalState;
pub use idempotency::{Idempotency, IdempotentRequest};
pub use identities::{Bound, Claim, Imported};
pub use operations::{Completion, Failure, NewOperation};
pub use quota::QuotaRow;
pub use recorder::Recorder;
pub use tokens::CachedTokens;
pub use url::{UrlError, check_url};
pub use users::UserFilter;

/// Runs one body on whichever pool is open.
macro_rules! on_pool {
    ($store:expr, |$db:ident| $body:expr) => {
        match $store {
            $crate::store::Store::Postgres($db) => $body,
            $crate::store::Store::Sqlite($db) => $body,
        }
    };
}

/// Runs one body on the connection of whichever transaction is open.
macro_rules! on_tx {
    ($tx:expr, |$db:ident| $body:expr) => {
        match $tx {
            $crate::store::Tx::Postgres(tx) => {
                let $db = &mut **tx;
                $body
            }
            $crate::store::Tx::Sqlite(tx) => {
                let $db = &mut **tx;
                $body
            }
        }
    };
}

/// Executes one statement in whichever transaction is open, and returns how many rows it touched.
macro_rules! execute {
    ($tx:expr, $query:expr) => {
        on_tx!($tx, |db| $query.execute(db).await.map(|done| done.rows_affected()))
    };
}

use {execute, on_pool, on_tx};

/// How long a connection may have lain idle and still be taken for alive.
const SURELY_ALIVE: Duration = Duration::from_secs(1);
/// How many connections [`Reader`] and [`Recorder`] keep for themselves.
pub const KEPT_CONNECTIONS: u32 = 2 * batch::CONNECTIONS;

/// Where the mapping is kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `postgres://…`, or `sqlite:FILE`.
    pub url: SecretString,
    /// The most connections of this replica; 14 for Postgres and 8 for SQLite where not set.
    pub max_connections: Option<u32>,
    /// How long a request waits for a connection.
    #[serde(with = "humantime_serde")]
    pub acquire_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            url: "sqlite:acs-token-vendor.db".to_owned().into(),
            max_connections: None,
            acquire_timeout: Duration::from_secs(3),
        }
    }
}

/// Why the store could not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is not valid.
    #[error("`database.url` {0}")]
    Url(UrlError),
    /// The database cannot be reached, is overloaded or restarting: trying again may help.
    #[error("the database is not available")]
    Unavailable(#[source] sqlx::Error),
    /// The database refused what it was asked: trying again will not help.
    #[error("the database refused a statement")]
    Rejected(#[source] sqlx::Error),
    /// A stored value cannot be read.
    #[error("`{column}` of row {row} in `{table}` has an unexpected value")]
    Corrupt {
        /// Which table.
        table: &'static str,
        /// Which column.
        column: &'static str,
        /// Which row.
        row: String,
    },
    /// The schema could not be brought up to date.
    #[error("the schema could not be migrated")]
    Migration(#[source] sqlx::migrate::MigrateError),
    /// The schema is newer than this binary can work with.
    #[error("the schema needs a binary that knows version {needed}; this one knows {known}")]
    TooOld {
        /// The oldest version a binary must know.
        needed: i64,
        /// The newest version this binary knows.
        known: i64,
    },
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let passing = match &error {
            // Postgres classes: 08 connection, 40 rollback, 53 resources, 57 operator intervention; SQLite: 5 busy, 6 locked.
            sqlx::Error::Database(db) => db.code().is_some_and(|code| {
                matches!(code.as_ref(), "5" | "6" | "517" | "261")
                    || (code.len() == 5 && ["08", "40", "53", "57"].contains(&&code[..2]))
            }),
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            _ => false,
        };
        if passing { Self::Unavailable(error) } else { Self::Rejected(error) }
    }
}

/// The open database.
#[derive(Clone, Debug)]
pub enum Store {
    /// Shared by any number of replicas.
    Postgres(PgPool),
    /// A file, for one replica.
    Sqlite(SqlitePool),
}

/// A transaction; dropped without [`Tx::commit`] it is rolled back.
#[derive(Debug)]
pub enum Tx {
    /// On Postgres.
    Postgres(Transaction<'static, Postgres>),
    /// On SQLite.
    Sqlite(Transaction<'static, Sqlite>),
}

impl Store {
    /// Opens the pool and makes one connection, so that a wrong URL or password shows at once.
    ///
    /// # Errors
    /// [`Error::Url`] for a URL of neither kind, [`Error::Unavailable`] when nobody answers.
    pub async fn connect(settings: &Settings) -> Result<Self, Error> {
        match url::parse(&settings.url).map_err(Error::Url)? {
            url::Target::Postgres(options) => {
                let pool = pool_options(settings, settings.max_connections.unwrap_or(14)).connect_with(options).await?;
                Ok(Self::Postgres(pool))
            }
            url::Target::Sqlite(options) => {
                // Synchronous `FULL`: a commit that was answered survives a power cut.
                let options = options
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
                    .foreign_keys(true)
                    .busy_timeout(settings.acquire_timeout);
                let pool = pool_options(settings, settings.max_connections.unwrap_or(8)).connect_with(options).await?;
                Ok(Self::Sqlite(pool))
            }
        }
    }

    /// Begins a transaction; on SQLite it takes the write lock at once, so that what it reads cannot change before it writes.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no connection can be had.
    pub async fn begin(&self) -> Result<Tx, Error> {
        Ok(match self {
            Self::Postgres(pool) => Tx::Postgres(pool.begin().await?),
            Self::Sqlite(pool) => Tx::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await?),
        })
    }

    /// Asks the database whether it is there.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it is not.
    pub async fn ping(&self) -> Result<(), Error> {
        on_pool!(self, |db| sqlx::query("SELECT 1").execute(db).await.map(drop))?;
        Ok(())
    }

    /// Closes the pool after the connections in use have come back.
    pub async fn close(&self) {
        on_pool!(self, |db| db.close().await);
    }
}

/// A connection that was in use a moment ago is not asked whether it lives: that would be a round trip for each statement.
fn pool_options<DB: Database>(settings: &Settings, max_connections: u32) -> PoolOptions<DB> {
    PoolOptions::new()
        .max_connections(max_connections.saturating_sub(KEPT_CONNECTIONS).max(1))
        .acquire_timeout(settings.acquire_timeout)
        .test_before_acquire(false)
        .before_acquire(|connection: &mut DB::Connection, used| {
            Box::pin(async move {
                if used.idle_for > SURELY_ALIVE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
}

impl Tx {
    /// Makes the transaction's changes lasting.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database did not confirm; whether it committed is then unknown.
    pub async fn commit(self) -> Result<(), Error> {
        match self {
            Self::Postgres(tx) => tx.commit().await?,
            Self::Sqlite(tx) => tx.commit().await?,
        }
        Ok(())
    }
}
