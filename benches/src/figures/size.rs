//! P5: ten million mappings against ten thousand.

use anyhow::Context;
use jsonwebtoken::Algorithm;
use sqlx::{Connection, PgConnection};

use super::execute;
use crate::{
    Effort, load,
    report::{Figure, Finding, Series, ratio},
    world::{NO_QUOTA, Service, Setup, World},
};

const SMALL: u32 = 10_000;
const LARGE: u32 = 10_000_000;
/// The users who ask, spread over the whole mapping.
const ACTIVE: u32 = 10_000;
const CONNECTIONS: usize = 32;

/// Users as the service makes them, with random ids, so that neighbours in time are none in any index.
const FILL: &str = "
    INSERT INTO users (id, issuer_key, subject, resource, acs_id, state, generation, created_at, updated_at)
    SELECT 'u_' || md5('id' || n), 'bench', 'user-' || n, 'resource',
           '8:acs:' || $1 || '_' || md5('identity' || n)::UUID, 'active', 0, '2026-01-01', '2026-01-01'
    FROM generate_series($2::INT, $3::INT) AS n";
const AT_ONCE: u32 = 500_000;

struct Mapping {
    service: Service,
    logins: std::path::PathBuf,
    bytes_per_row: f64,
}

pub async fn measure(world: &World, effort: Effort) -> anyhow::Result<Figure> {
    // The emulator takes identities of its resource that it never saw for older ones.
    let emulator = world.emulator("p5-emulator", &["--no-limits"]).await?;
    let small = fill(world, &emulator.url, "bench_small", SMALL).await?;
    let large = fill(world, &emulator.url, "bench_large", LARGE).await?;
    let (mut rates, mut p99s) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..=effort.rounds {
        for step in 0..2 {
            let target = (round + step) % 2;
            let mapping = [&small, &large][target];
            let seen = load::wrk(&mapping.service.url, &mapping.logins, round * 7919, CONNECTIONS, effort.time).await?;
            if round > 0 {
                rates[target].push(seen.per_second);
                p99s[target].push(seen.p99_us / 1000.0);
            }
        }
    }
    let names = [format!("ours, {SMALL} mappings"), format!("ours, {LARGE} mappings")];
    let [small_rate, large_rate] = rates;
    let [small_p99, large_p99] = p99s;
    let series = vec![
        Series::new(&names[0], "requests/s", small_rate),
        Series::new(&names[1], "requests/s", large_rate),
        Series::new(&names[0], "p99 ms", small_p99),
        Series::new(&names[1], "p99 ms", large_p99),
    ];
    let findings = vec![
        Finding::at_most("p99, of the small mapping's", ratio(&series[3], &series[2]), 1.2, "×"),
        Finding::told("requests/s, of the small mapping's", format!("{:.2} ×", ratio(&series[1], &series[0]))),
        Finding::told("bytes per mapping with all indexes, of ten million", format!("{:.0}", large.bytes_per_row)),
    ];
    Ok(Figure { title: format!("{LARGE} mappings against {SMALL}, {ACTIVE} users active"), findings, series })
}

async fn fill(world: &World, emulator: &str, name: &str, rows: u32) -> anyhow::Result<Mapping> {
    let database = world.database(name).await?;
    let setup = Setup { database: &database, emulator, reuse: true, more: NO_QUOTA };
    let service = world.service(name, &setup).await?;
    let first = world.issuer.login(Algorithm::ES256, "the-first")?;
    let answer = load::once_each(&world.http, &service.url, &[first]).await?;
    let identity = answer["user"]["communicationUserId"].as_str().context("no identity")?;
    let guid = identity.get(6..42).context("no resource in the identity")?.to_owned();

    let mut connection = PgConnection::connect(&database).await?;
    let mut from = 0;
    while from < rows {
        let to = rows.min(from + AT_ONCE);
        sqlx::query(FILL)
            .bind(&guid)
            .bind(i32::try_from(from)?)
            .bind(i32::try_from(to - 1)?)
            .execute(&mut connection)
            .await?;
        from = to;
    }
    execute(&database, "VACUUM ANALYZE").await?;
    execute(&database, "CHECKPOINT").await?;
    let bytes: i64 = sqlx::query_scalar("SELECT pg_total_relation_size('users')").fetch_one(&mut connection).await?;
    let active: Vec<_> = (0..ACTIVE).map(|n| format!("user-{}", n * (rows / ACTIVE))).collect();
    let logins = world.issuer.logins(Algorithm::ES256, &active)?;
    load::once_each(&world.http, &service.url, &logins).await?;
    execute(&database, "VACUUM ANALYZE users").await?;
    let logins = world.write_logins(&format!("{name}-logins"), &logins)?;
    #[expect(clippy::cast_precision_loss, reason = "told to whole bytes")]
    let bytes_per_row = bytes as f64 / f64::from(rows);
    Ok(Mapping { service, logins, bytes_per_row })
}
