//! P5: many mappings against ten thousand, and operators' queries among them.

use std::{path::PathBuf, time::Instant};

use anyhow::Context;
use jsonwebtoken::Algorithm;
use sqlx::{Connection, PgConnection};

use super::execute;
use crate::{
    Effort,
    environment::{Environment, NO_QUOTA, OPS_KEY, Service, Setup},
    load::{self, Rounds, Target},
    report::{Figure, Finding, Series, ratio},
};

const SMALL: u32 = 10_000;
/// The users who send requests, spread over the whole mapping.
const ACTIVE: u32 = 10_000;
const CONNECTIONS: usize = 32;
/// How often each query of operators is sent.
const QUERIES: u32 = 20;

/// Users as the service creates them, but with random ids, so that users created one after the other are not neighbours in
/// any index.
const FILL_USERS: &str = "
    INSERT INTO users (id, issuer_key, subject, resource, acs_id, state, generation, epoch, created_at, updated_at)
    SELECT 'u_' || md5('id' || n), 'bench', 'user-' || n, 'resource',
           '8:acs:' || $1 || '_' || md5('identity' || n)::UUID, 'active', 0, 0, '2026-01-01', '2026-01-01'
    FROM generate_series($2::INT, $3::INT) AS n";
/// Minted tokens of these users, ten each second. Ids grow with time, as those of the service do.
const FILL_AUDIT: &str = "
    INSERT INTO audit_events (id, at, action, actor_kind, actor, user_id, acs_id, request_id, token_scopes, generation)
    SELECT (lpad(to_hex((extract(EPOCH FROM at) * 1000)::BIGINT), 12, '0')
               || '7' || substr(md5(n::TEXT), 1, 3) || '8' || substr(md5(n::TEXT), 4, 15))::UUID,
           at, 'token_minted', 'user', 'u_' || md5('id' || n % $1), 'u_' || md5('id' || n % $1),
           '8:acs:' || $2 || '_' || md5('identity' || n % $1)::UUID, md5('request' || n), 'chat,voip', 0
    FROM generate_series($3::INT, $4::INT) AS n,
         LATERAL (SELECT TIMESTAMPTZ '2026-01-01' + n * INTERVAL '100 milliseconds') AS moment (at)";
const ROWS_AT_ONCE: u32 = 500_000;

struct Mapping {
    service: Service,
    tokens: PathBuf,
    /// One of the identities.
    identity: String,
    bytes_per_row: f64,
}

pub async fn measure(environment: &Environment, effort: Effort) -> anyhow::Result<Figure> {
    // The emulator accepts identities of its resource that it has not created.
    let emulator = environment.emulator("p5-emulator", &["--no-limits"]).await?;
    let large_size = effort.mappings;
    let small = fill(environment, &emulator.url, "bench_p5_small", SMALL, 0).await?;
    let large = fill(environment, &emulator.url, "bench_p5_large", large_size, effort.audit_rows).await?;
    let targets = [
        Target::new(format!("service, {SMALL} mappings"), &small.service.url, &small.tokens),
        Target::new(format!("service, {large_size} mappings"), &large.service.url, &large.tokens),
    ];
    let results = load::in_turn(&targets, CONNECTIONS, effort).await?;
    let rate: Vec<_> = results.iter().map(Rounds::rate).collect();
    let p99: Vec<_> = results.iter().map(Rounds::p99).collect();
    let (queries, failed) = operators_queries(environment, &large, large_size).await?;
    let slowest = queries.iter().flat_map(|query| query.rounds.iter().copied()).fold(0.0, f64::max);
    let findings = vec![
        Finding::at_most("p99 ÷ small mapping's", ratio(&p99[1], &p99[0]), 1.2, "×"),
        Finding::info("requests/s ÷ small mapping's", format!("{:.2} ×", ratio(&rate[1], &rate[0]))),
        Finding::info("bytes for each mapping with all indexes", format!("{:.0}", large.bytes_per_row)),
        Finding::at_most("slowest of all queries of operators", slowest, 100.0, "ms"),
        Finding::at_most("queries of operators that failed", f64::from(failed), 0.0, ""),
    ];
    let title = format!(
        "{large_size} mappings and {} audit events against {SMALL} mappings, {ACTIVE} users active",
        effort.audit_rows
    );
    Ok(Figure { title, findings, series: [rate, p99, queries].concat() })
}

async fn fill(
    environment: &Environment,
    emulator: &str,
    name: &str,
    users: u32,
    events: u32,
) -> anyhow::Result<Mapping> {
    let database = environment.database(name).await?;
    let setup = Setup { database: &database, emulator, caches: true, more: NO_QUOTA };
    let service = environment.service(name, &setup).await?;
    let first = environment.issuer.sign_in_token(Algorithm::ES256, "the-first")?;
    let answer = load::once_each(&environment.http, &service.url, &[first]).await?;
    let identity = answer["user"]["communicationUserId"].as_str().context("no identity")?;
    let resource = identity.get(6..42).context("no resource in the identity")?.to_owned();

    let mut connection = PgConnection::connect(&database).await?;
    for (from, to) in parts(users)? {
        sqlx::query(FILL_USERS).bind(&resource).bind(from).bind(to).execute(&mut connection).await?;
    }
    for (from, to) in parts(events)? {
        let query = sqlx::query(FILL_AUDIT).bind(i32::try_from(users)?).bind(&resource).bind(from).bind(to);
        query.execute(&mut connection).await?;
    }
    execute(&database, "VACUUM ANALYZE").await?;
    execute(&database, "CHECKPOINT").await?;
    let bytes: i64 = sqlx::query_scalar("SELECT pg_total_relation_size('users')").fetch_one(&mut connection).await?;
    let active: Vec<_> = (0..ACTIVE).map(|n| format!("user-{}", n * (users / ACTIVE))).collect();
    let tokens = environment.issuer.sign_in_tokens(Algorithm::ES256, &active)?;
    load::once_each(&environment.http, &service.url, &tokens).await?;
    execute(&database, "VACUUM ANALYZE users").await?;
    let tokens = environment.write_tokens(&format!("{name}-tokens"), &tokens)?;
    #[expect(clippy::cast_precision_loss, reason = "rounded to whole bytes")]
    let bytes_per_row = bytes as f64 / f64::from(users);
    Ok(Mapping { service, tokens, identity: identity.to_owned(), bytes_per_row })
}

/// The first and the last number of each part.
fn parts(rows: u32) -> anyhow::Result<Vec<(i32, i32)>> {
    let rows = i32::try_from(rows)?;
    let size = i32::try_from(ROWS_AT_ONCE)?;
    let part = |from: i32| (from, rows.min(from.saturating_add(size)) - 1);
    Ok((0..rows).step_by(usize::try_from(ROWS_AT_ONCE)?).map(part).collect())
}

/// Times the queries that operators send, each for different users, and counts answers that are not a success.
async fn operators_queries(
    environment: &Environment,
    mapping: &Mapping,
    users: u32,
) -> anyhow::Result<(Vec<Series>, u32)> {
    let queries = [
        ("users", "/users?limit=100"),
        ("users by identity", "/users?communicationUserId={identity}"),
        ("user", "/users/bench:{user}"),
        ("tokens of a user", "/users/bench:{user}/tokens"),
        ("audit", "/audit?limit=100"),
        ("audit of a user", "/audit?user=bench:{user}"),
        ("audit of an action", "/audit?action=user_blocked"),
        ("audit of an actor", "/audit?actor=operator"),
        ("audit of a day", "/audit?since=2026-01-02T00:00:00Z&until=2026-01-03T00:00:00Z"),
        ("pending operations", "/operations?state=pending"),
        ("revocations", "/revocations"),
    ];
    let (mut series, mut failed) = (Vec::new(), 0);
    for (name, path) in queries {
        let mut times = Vec::new();
        for number in 0..QUERIES {
            let n = number * (users / QUERIES) + 1;
            let path = path.replace("{identity}", &mapping.identity).replace("{user}", &format!("user-{n}"));
            let begun = Instant::now();
            let request = environment.http.get(format!("{}{path}", mapping.service.url)).bearer_auth(OPS_KEY);
            let answer = request.send().await?;
            let succeeded = answer.status().is_success();
            answer.bytes().await?;
            times.push(begun.elapsed().as_secs_f64() * 1000.0);
            failed += u32::from(!succeeded);
        }
        series.push(Series::new(format!("service, {name}"), "ms for a query of operators", times));
    }
    Ok((series, failed))
}
