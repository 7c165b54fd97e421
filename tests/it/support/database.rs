//! A database for each test: a SQLite file, or a fresh database on the Postgres that `scripts/test` brings.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
use tempfile::TempDir;

use super::proxy::Proxy;

/// A database of one test.
#[derive(Clone)]
pub enum Database {
    Postgres { url: String },
    Sqlite { folder: Arc<TempDir> },
}

/// Runs one body on a connection of its own to whichever database it is.
macro_rules! on_connection {
    ($database:expr, |$connection:ident| $body:expr) => {
        match $database {
            Database::Postgres { url } => {
                let $connection = &mut PgConnection::connect(url).await.unwrap();
                $body
            }
            Database::Sqlite { .. } => {
                let $connection = &mut SqliteConnection::connect(&$database.url()).await.unwrap();
                $body
            }
        }
    };
}

impl Database {
    pub fn sqlite() -> Self {
        Self::Sqlite { folder: Arc::new(TempDir::new().unwrap()) }
    }

    /// Makes a new database on the test server. A test that needs one fails without a server, unless `TEST_SQLITE_ONLY`
    /// is set.
    pub async fn postgres() -> Option<Self> {
        let environment = acs_token_vendor::config::environment();
        let Some(server) = environment.get("TEST_POSTGRES_URL") else {
            let skip = environment.contains_key("TEST_SQLITE_ONLY");
            assert!(
                skip,
                "TEST_POSTGRES_URL is not set; ./scripts/test starts a server, TEST_SQLITE_ONLY=1 does without"
            );
            return None;
        };
        let name = format!("t_{}", uuid::Uuid::new_v4().simple());
        let mut connection = PgConnection::connect(server).await.unwrap();
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await.unwrap();
        let (base, _) = server.rsplit_once('/').unwrap();
        Some(Self::Postgres { url: format!("{base}/{name}") })
    }

    pub fn url(&self) -> String {
        match self {
            Self::Postgres { url } => url.clone(),
            Self::Sqlite { folder } => format!("sqlite:{}", folder.path().join("vendor.db").display()),
        }
    }

    /// The same Postgres database, reached through a proxy.
    pub async fn behind_proxy(&self) -> (Self, Proxy) {
        let Self::Postgres { url } = self else { panic!("a file has no proxy") };
        let (scheme, rest) = url.split_once("://").unwrap();
        let (authority, name) = rest.split_once('/').unwrap();
        let (credentials, host) = authority.rsplit_once('@').unwrap();
        let proxy = Proxy::start(host.to_owned()).await;
        (Self::Postgres { url: format!("{scheme}://{credentials}@{}/{name}", proxy.address) }, proxy)
    }

    /// Changes the database behind the service's back.
    pub async fn execute(&self, sql: &'static str) -> u64 {
        on_connection!(self, |connection| sqlx::query(sql).execute(connection).await.unwrap().rows_affected())
    }

    /// Changes the database behind the service's back, with a time for `$1`.
    pub async fn execute_at(&self, sql: &'static str, time: DateTime<Utc>) -> u64 {
        on_connection!(self, |connection| sqlx::query(sql)
            .bind(time)
            .execute(connection)
            .await
            .unwrap()
            .rows_affected())
    }

    /// Reads one value of bytes from the database.
    pub async fn bytes(&self, sql: &'static str) -> Vec<u8> {
        on_connection!(self, |connection| sqlx::query_scalar(sql).fetch_one(connection).await.unwrap())
    }

    /// Reads texts from the database.
    pub async fn texts(&self, sql: &'static str) -> Vec<String> {
        on_connection!(self, |connection| sqlx::query_scalar(sql).fetch_all(connection).await.unwrap())
    }

    /// Reads one number from the database.
    pub async fn count(&self, sql: &'static str) -> i64 {
        on_connection!(self, |connection| sqlx::query_scalar(sql).fetch_one(connection).await.unwrap())
    }
}

/// Makes each test two: one on SQLite and one on Postgres.
macro_rules! on_each_database {
    ($($(#[doc = $doc:literal])* async fn $name:ident($database:ident) $body:block)*) => {
        $(
            mod $name {
                use super::*;

                $(#[doc = $doc])*
                async fn body($database: Database) $body

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_sqlite() {
                    body(Database::sqlite()).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_postgres() {
                    if let Some(database) = Database::postgres().await {
                        body(database).await;
                    }
                }
            }
        )*
    };
}

pub(crate) use on_each_database;
