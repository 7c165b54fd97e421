//! The database: Postgres, or SQLite where there is none, behind one SQL text.
//!
//! Only this module knows sqlx.
//! Placeholders `$1`, `ON CONFLICT` and `RETURNING` read alike in both databases; what differs stands in this file.
//! Times are bound from the clock in whole milliseconds; in SQLite they are texts whose order is the order of the times,
//! which holds for whole milliseconds (sqlx writes none or three fraction digits, and `+` sorts before `.`).

mod access;
mod audit;
mod batch;
mod connection;
mod global;
mod idempotency;
mod identities;
mod imports;
mod migrations;
mod operations;
mod quota;
mod revocations;
mod tokens;
mod url;
mod users;

use std::{sync::Arc, time::Duration};

use secrecy::SecretString;
use serde::Deserialize;
use sqlx::{
    Database, PgPool, Postgres, Sqlite, SqlitePool,
    pool::PoolOptions,
    sqlite::{SqliteJournalMode, SqliteSynchronous},
};

use batch::BatchReader;
use connection::{Session, check_alive};

pub use access::Access;
pub use audit::{AuditFilter, AuditRow, HeldToken};
pub use global::GlobalState;
pub use idempotency::{Idempotency, IdempotentRequest};
pub use identities::{Bound, Claim, Imported, NewIdentity};
pub use operations::{Completion, Failure, NewOperation};
pub use quota::Reserved;
pub use tokens::{CachedTokens, Mint};
pub use url::{UrlError, check_url};
pub use users::{UserFilter, UserRead};

/// Runs one statement on a connection of whichever pool is open.
macro_rules! on_pool {
    ($store:expr, |$db:ident| $body:expr) => {
        match $store {
            $crate::store::Store::Postgres { pool, .. } => match $crate::store::connection::Leased::acquire(pool).await
            {
                Ok(connection) => connection.run(async |$db: &mut sqlx::PgConnection| $body).await,
                Err(error) => Err(error),
            },
            $crate::store::Store::Sqlite(pool) => match $crate::store::connection::Leased::acquire(pool).await {
                Ok(connection) => connection.run(async |$db: &mut sqlx::SqliteConnection| $body).await,
                Err(error) => Err(error),
            },
        }
    };
}

/// Runs one statement in whichever transaction is open.
macro_rules! on_tx {
    ($tx:expr, |$db:ident| $body:expr) => {
        match $tx {
            $crate::store::Tx::Postgres(tx) => {
                let $db = &mut **tx;
                $crate::store::connection::within_deadline(async { $body }).await
            }
            $crate::store::Tx::Sqlite(tx) => {
                let $db = &mut **tx;
                $crate::store::connection::within_deadline(async { $body }).await
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

/// How many of a replica's connections to Postgres serve batched reads only.
pub const READ_CONNECTIONS: u32 = batch::CONNECTIONS;

/// A user's change waits for nothing longer than this; the settings end with the transaction, so poolers do not mind.
const BEGIN_POSTGRES: &str = "
    BEGIN; SET LOCAL lock_timeout = '2s'; SET LOCAL statement_timeout = '5s';
    SET LOCAL idle_in_transaction_session_timeout = '5s'";
/// On SQLite a transaction takes the write lock at once, so that what it reads cannot change before it writes.
const BEGIN_SQLITE: &str = "BEGIN IMMEDIATE";

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

/// How long the audit trail is kept.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditSettings {
    /// Without end by default.
    #[serde(with = "humantime_serde")]
    pub retention: Option<Duration>,
}

/// Why the store could not answer, by what the caller can do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The URL is not valid.
    #[error("`database.url` {0}")]
    Url(UrlError),
    /// The database cannot be reached, is overloaded or restarting: trying again may help.
    #[error("the database is not available")]
    Unavailable(#[source] Arc<sqlx::Error>),
    /// The database refused a statement: trying again will not help.
    #[error("the database refused a statement")]
    Rejected(#[source] Arc<sqlx::Error>),
    /// A stored value cannot be read.
    #[error("`{column}` of row {row} in `{table}` has an unexpected value")]
    Corrupt { table: &'static str, column: &'static str, row: String },
    /// The schema could not be brought up to date.
    #[error("the schema could not be migrated")]
    Migration(#[source] Arc<sqlx::migrate::MigrateError>),
    /// The schema is newer than this binary can work with.
    #[error("the schema needs a binary that knows version {needed}; this one knows {known}")]
    TooOld { needed: i64, known: i64 },
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let passing = match &error {
            // Postgres classes: 08 connection, 40 rollback, 53 resources, 57 operator intervention; 25006 a read-only
            // server, 25P03 an idle transaction that was ended, 55P03 a lock that took too long.
            // SQLite: 5 and 517 busy, 6 and 261 locked.
            sqlx::Error::Database(db) => db.code().is_some_and(|code| {
                matches!(code.as_ref(), "5" | "6" | "517" | "261" | "25006" | "25P03" | "55P03")
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
        if passing { Self::Unavailable(Arc::new(error)) } else { Self::Rejected(Arc::new(error)) }
    }
}

/// The open database.
#[derive(Clone, Debug)]
pub enum Store {
    /// Shared by any number of replicas.
    Postgres { pool: PgPool, reader: BatchReader },
    /// A file, for one replica.
    Sqlite(SqlitePool),
}

/// A transaction; dropped without [`Tx::commit`] it is rolled back.
pub enum Tx {
    Postgres(Session<Postgres>),
    Sqlite(Session<Sqlite>),
}

impl Store {
    /// Opens the pool and makes one connection, so that a wrong URL or password shows at once.
    ///
    /// # Errors
    /// [`Error::Url`] for a URL of neither kind, [`Error::Unavailable`] when nobody answers.
    pub async fn connect(settings: &Settings) -> Result<Self, Error> {
        match url::parse(&settings.url).map_err(Error::Url)? {
            url::Target::Postgres(options) => {
                let connections = settings.max_connections.unwrap_or(14).saturating_sub(READ_CONNECTIONS);
                let pool = pool_options(settings, connections).connect_with(options).await?;
                Ok(Self::Postgres { reader: BatchReader::start(&pool), pool })
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

    /// Begins a transaction that waits two seconds for a lock at most.
    pub async fn begin(&self) -> Result<Tx, Error> {
        Ok(match self {
            Self::Postgres { pool, .. } => Tx::Postgres(Session::begin(pool, BEGIN_POSTGRES).await?),
            Self::Sqlite(pool) => Tx::Sqlite(Session::begin(pool, BEGIN_SQLITE).await?),
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
        match self {
            Self::Postgres { pool, .. } => pool.close().await,
            Self::Sqlite(pool) => pool.close().await,
        }
    }
}

/// A connection that was in use a moment ago is not asked whether it is alive: that would be a round trip for each statement.
fn pool_options<DB: Database>(settings: &Settings, max_connections: u32) -> PoolOptions<DB> {
    PoolOptions::new()
        .max_connections(max_connections.max(1))
        .acquire_timeout(settings.acquire_timeout)
        .test_before_acquire(false)
        .before_acquire(|connection: &mut DB::Connection, used| Box::pin(check_alive(connection, used.idle_for)))
}

impl Tx {
    /// Makes the transaction's changes lasting; after an error it is unknown whether they are.
    pub async fn commit(self) -> Result<(), Error> {
        match self {
            Self::Postgres(session) => session.commit().await?,
            Self::Sqlite(session) => session.commit().await?,
        }
        Ok(())
    }
}
