//! The schema: embedded migrations, applied under a lock that also works through PgBouncer.
//!
//! Migrations only grow. A binary runs on a newer schema unless that schema says it is too old.

use std::{borrow::Cow, sync::Arc};

use sqlx::{Connection, PgConnection, SqliteConnection, migrate::Migrator};

use super::{BEGIN_SQLITE, Error, Store, connection::Leased, on_pool};

static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");
static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");

/// The advisory lock that start-ups take in turn: the ASCII codes of `acsvend`.
const MIGRATION_LOCK: i64 = 0x0061_6373_7665_6e64;

impl Store {
    /// Brings the schema up to date; any number of replicas may start at once.
    ///
    /// Everything runs in one transaction, because a lock held by a session does not survive a transaction pooler.
    pub async fn migrate(&self) -> Result<(), Error> {
        // The driver's own transactions, because a migration is a transaction inside of them.
        let migrated = match self {
            Self::Postgres { pool, .. } => {
                let migrate = async |db: &mut PgConnection| {
                    let mut tx = db.begin().await?;
                    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(MIGRATION_LOCK).execute(&mut *tx).await?;
                    let migrated = tolerant(&POSTGRES).run_direct(None, &mut *tx, false).await;
                    if migrated.is_ok() { tx.commit().await.map(|()| migrated) } else { Ok(migrated) }
                };
                Leased::acquire(pool).await?.run_for_long(migrate).await?
            }
            Self::Sqlite { writer, .. } => {
                let migrate = async |db: &mut SqliteConnection| {
                    let mut tx = db.begin_with(BEGIN_SQLITE).await?;
                    let migrated = tolerant(&SQLITE).run_direct(None, &mut *tx, false).await;
                    if migrated.is_ok() { tx.commit().await.map(|()| migrated) } else { Ok(migrated) }
                };
                Leased::acquire(writer).await?.run_for_long(migrate).await?
            }
        };
        migrated.map_err(|error| Error::Migration(Arc::new(error)))?;
        self.check_compatibility().await
    }

    /// Returns the versions that this binary knows and the database does not have yet.
    pub async fn pending_migrations(&self) -> Result<Vec<i64>, Error> {
        const HAS_TABLE_POSTGRES: &str = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";
        const HAS_TABLE_SQLITE: &str = "SELECT COUNT(*) > 0 FROM sqlite_master WHERE name = '_sqlx_migrations'";
        let sql = if matches!(self, Self::Postgres { .. }) { HAS_TABLE_POSTGRES } else { HAS_TABLE_SQLITE };
        let has_table: bool = on_pool!(self, |db| sqlx::query_scalar(sql).fetch_one(db).await)?;
        let applied: Vec<i64> = if has_table {
            on_pool!(self, |db| sqlx::query_scalar("SELECT version FROM _sqlx_migrations").fetch_all(db).await)?
        } else {
            Vec::new()
        };
        Ok(self.migrator().iter().map(|m| m.version).filter(|version| !applied.contains(version)).collect())
    }

    async fn check_compatibility(&self) -> Result<(), Error> {
        const SQL: &str = "SELECT oldest_known_version FROM schema_compatibility WHERE id = 1";
        let needed: i64 = on_pool!(self, |db| sqlx::query_scalar(SQL).fetch_one(db).await)?;
        let known = self.migrator().iter().map(|m| m.version).max().unwrap_or(0);
        if needed > known { Err(Error::TooOld { needed, known }) } else { Ok(()) }
    }

    fn migrator(&self) -> &'static Migrator {
        match self {
            Self::Postgres { .. } => &POSTGRES,
            Self::Sqlite { .. } => &SQLITE,
        }
    }
}

/// The same migrations without a lock of their own, and content to find newer ones that this binary does not know.
fn tolerant(migrator: &'static Migrator) -> Migrator {
    let mut migrator = Migrator { migrations: Cow::Borrowed(&migrator.migrations), ..Migrator::DEFAULT };
    migrator.set_locking(false).set_ignore_missing(true);
    migrator
}
