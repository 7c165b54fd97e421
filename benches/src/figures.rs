//! The figures: what each sets up and how it is measured.

pub mod cold;
pub mod instructions;
pub mod memory;
pub mod new_users;
pub mod overload;
pub mod round_trips;
pub mod size;
pub mod warm;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{
    environment::{Environment, subjects},
    report::{Finding, Series, ratio},
};

/// Creates the ceilings' database. Each user has an identity and a token of the real length.
async fn ceiling_database(
    environment: &Environment,
    name: &str,
    users: usize,
    identity: &str,
    token: &str,
) -> anyhow::Result<String> {
    let url = environment.database(name).await?;
    for create in [
        "CREATE TABLE ceiling_users (subject TEXT PRIMARY KEY, acs_id TEXT NOT NULL, token TEXT NOT NULL, expires_at_ms BIGINT NOT NULL)",
        "CREATE UNLOGGED TABLE ceiling_counter (id BIGINT PRIMARY KEY, n BIGINT NOT NULL)",
        "INSERT INTO ceiling_counter VALUES (1, 0)",
        "CREATE TABLE ceiling_issued (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at TIMESTAMPTZ NOT NULL DEFAULT now(), \
         subject TEXT NOT NULL, acs_id TEXT NOT NULL, expires_on TEXT NOT NULL)",
    ] {
        execute(&url, create).await?;
    }
    // Identities of the same resource with ids of their own.
    let insert = "INSERT INTO ceiling_users \
                  SELECT subject, substr($2, 1, 43) || md5(subject)::UUID, $3, 1893456000000 FROM UNNEST($1::TEXT[]) AS subject";
    let mut connection = PgConnection::connect(&url).await?;
    sqlx::query(insert).bind(subjects(users)).bind(identity).bind(token).execute(&mut connection).await?;
    execute(&url, "VACUUM ANALYZE").await?;
    Ok(url)
}

async fn execute(url: &str, sql: &str) -> anyhow::Result<u64> {
    let mut connection = PgConnection::connect(url).await?;
    Ok(sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await?.rows_affected())
}

/// Compares this build with the other one, if there is one.
fn against_compared_build(what: &str, service: &Series, compared: Option<&Series>) -> Option<Finding> {
    let compared = compared?;
    Some(Finding::info(format!("{what} ÷ compared build's"), format!("{:.2} ×", ratio(service, compared))))
}
