//! The database, opened: one of two pools, and the transactions on it.

use std::{fmt, time::Duration};

use secrecy::SecretString;
use serde::Deserialize;
use sqlx::{
    Postgres, Sqlite,
    sqlite::{SqliteJournalMode, SqliteSynchronous},
};

use super::{
    batch::{self, BatchReader},
    connection::{Connector, Leased, Pool, Session, close},
    error::Error,
    url,
};

/// How many of a replica's connections to Postgres serve batched reads only.
pub const READ_CONNECTIONS: u32 = batch::CONNECTIONS;

/// A user's change waits for nothing longer than this; the settings end with the transaction, so poolers do not mind.
const BEGIN_POSTGRES: &str = "
    BEGIN; SET LOCAL lock_timeout = '2s'; SET LOCAL statement_timeout = '5s';
    SET LOCAL idle_in_transaction_session_timeout = '5s'";
/// On SQLite a transaction takes the write lock at once, so that what it reads cannot change before it writes.
pub(super) const BEGIN_SQLITE: &str = "BEGIN IMMEDIATE";

const PING: &str = "SELECT 1";

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

/// The open database.
#[derive(Clone)]
pub enum Store {
    /// Shared by any number of replicas.
    Postgres { pool: Pool<Postgres>, reader: BatchReader },
    /// A file, for one replica. One connection writes, so that writers take their turn instead of polling for the lock.
    Sqlite { writer: Pool<Sqlite>, readers: Pool<Sqlite> },
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
        let timeout = settings.acquire_timeout;
        let store = match url::parse(&settings.url).map_err(Error::Url)? {
            url::Target::Postgres(options) => {
                let connections = settings.max_connections.unwrap_or(14).saturating_sub(READ_CONNECTIONS);
                let readers = Connector::pool(options.clone(), timeout, READ_CONNECTIONS);
                let pool = Connector::pool(options, timeout, connections);
                Self::Postgres { pool, reader: BatchReader::start(readers) }
            }
            url::Target::Sqlite(options) => {
                // Synchronous `FULL`: a commit that was answered survives a power cut.
                let options = options
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
                    .foreign_keys(true)
                    .busy_timeout(timeout);
                let readers = settings.max_connections.unwrap_or(8).saturating_sub(1);
                Self::Sqlite {
                    writer: Connector::pool(options.clone(), timeout, 1),
                    readers: Connector::pool(options, timeout, readers),
                }
            }
        };
        store.ping().await?;
        Ok(store)
    }

    /// Begins a transaction that waits two seconds for a lock at most.
    pub async fn begin(&self) -> Result<Tx, Error> {
        Ok(match self {
            Self::Postgres { pool, .. } => Tx::Postgres(Session::begin(pool, BEGIN_POSTGRES).await?),
            Self::Sqlite { writer, .. } => Tx::Sqlite(Session::begin(writer, BEGIN_SQLITE).await?),
        })
    }

    /// Asks the database whether it is there.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it is not.
    pub async fn ping(&self) -> Result<(), Error> {
        match self {
            Self::Postgres { pool, .. } => {
                Leased::acquire(pool).await?.run(async |db| sqlx::query(PING).execute(db).await.map(drop)).await?;
            }
            Self::Sqlite { readers, .. } => {
                Leased::acquire(readers).await?.run(async |db| sqlx::query(PING).execute(db).await.map(drop)).await?;
            }
        }
        Ok(())
    }

    /// Closes the connections.
    pub async fn close(&self) {
        match self {
            Self::Postgres { pool, reader } => {
                close(pool).await;
                reader.close().await;
            }
            Self::Sqlite { writer, readers } => {
                close(readers).await;
                close(writer).await;
            }
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Postgres { .. }) { "Postgres" } else { "SQLite" })
    }
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
