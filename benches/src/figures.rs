//! The figures, each with what it sets up and how it is measured.

pub mod cold;
pub mod herd;
pub mod instructions;
pub mod memory;
pub mod overload;
pub mod size;
pub mod warm;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::world::{World, subjects};

/// Makes the ceiling's table: a token of the real length for each user.
async fn ceiling_database(world: &World, users: usize, token: &str) -> anyhow::Result<String> {
    let url = world.database("bench_ceiling").await?;
    let mut connection = PgConnection::connect(&url).await?;
    let create =
        "CREATE TABLE ceiling_tokens (subject TEXT PRIMARY KEY, token TEXT NOT NULL, expires_at_ms BIGINT NOT NULL)";
    sqlx::query(create).execute(&mut connection).await?;
    let insert = "INSERT INTO ceiling_tokens SELECT subject, $2, 1893456000000 FROM UNNEST($1::TEXT[]) AS subject";
    sqlx::query(insert).bind(subjects(users)).bind(token).execute(&mut connection).await?;
    execute(&url, "VACUUM ANALYZE").await?;
    Ok(url)
}

async fn execute(url: &str, sql: &str) -> anyhow::Result<u64> {
    let mut connection = PgConnection::connect(url).await?;
    Ok(sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await?.rows_affected())
}
