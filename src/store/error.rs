//! Why the store could not answer.

use std::sync::Arc;

use super::url::UrlError;

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
