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
mod database;
mod error;
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
mod user_row;
mod users;

use database::BEGIN_SQLITE;

pub use access::Access;
pub use audit::{AuditFilter, AuditRow, HeldToken};
pub use database::{AuditSettings, READ_CONNECTIONS, Settings, Store, Tx};
pub use error::Error;
pub use idempotency::{Idempotency, IdempotentRequest};
pub use identities::{Bound, Claim, Imported, NewIdentity};
pub use operations::{Completion, Failure, NewOperation};
pub use quota::Reserved;
pub use tokens::{CachedTokens, Mint};
pub use url::{UrlError, check_url};
pub use user_row::{GlobalState, UserRead};
pub use users::{Found, UserFilter};

/// Runs one statement that may write.
macro_rules! on_pool {
    ($store:expr, |$db:ident| $body:expr) => {
        match $store {
            $crate::store::Store::Postgres { pool, .. } => {
                $crate::store::on_leased!(pool, |$db: sqlx::PgConnection| $body)
            }
            $crate::store::Store::Sqlite { writer, .. } => {
                $crate::store::on_leased!(writer, |$db: sqlx::SqliteConnection| $body)
            }
        }
    };
}

/// Runs one statement that only reads: on SQLite it does not wait for those that write.
macro_rules! on_readers {
    ($store:expr, |$db:ident| $body:expr) => {
        match $store {
            $crate::store::Store::Postgres { pool, .. } => {
                $crate::store::on_leased!(pool, |$db: sqlx::PgConnection| $body)
            }
            $crate::store::Store::Sqlite { readers, .. } => {
                $crate::store::on_leased!(readers, |$db: sqlx::SqliteConnection| $body)
            }
        }
    };
}

/// Runs one statement on a connection of a pool.
macro_rules! on_leased {
    ($pool:expr, |$db:ident: $connection:ty| $body:expr) => {
        match $crate::store::connection::Leased::acquire($pool).await {
            Ok(connection) => connection.run(async |$db: &mut $connection| $body).await,
            Err(error) => Err(error),
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

use {execute, on_leased, on_pool, on_readers, on_tx};
