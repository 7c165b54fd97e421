//! P1: tokens that are there already, against the ceiling and the peer.

use anyhow::Context;
use jsonwebtoken::Algorithm;

use super::{ceiling_database, execute};
use crate::{
    Effort, load,
    report::{Figure, Finding, Series, ratio},
    world::{NO_QUOTA, Setup, World, subjects},
};

const USERS: usize = 10_000;
const CONNECTIONS: usize = 32;

pub async fn measure(world: &World, effort: Effort) -> anyhow::Result<Figure> {
    let subjects = subjects(USERS);
    let emulator = world.emulator("p1-emulator", &["--no-limits"]).await?;
    let (postgres, sqlite) = (world.database("bench_p1").await?, world.sqlite("p1"));
    let setup = Setup { database: &postgres, emulator: &emulator.url, reuse: true, more: NO_QUOTA };
    let on_postgres = world.service("p1-postgres", &setup).await?;
    let on_sqlite = world.service("p1-sqlite", &Setup { database: &sqlite, ..setup.clone() }).await?;
    let peer_database = world.database("bench_peer").await?;
    let peer = world.peer(&peer_database, &emulator.url).await?;

    let es256 = world.issuer.logins(Algorithm::ES256, &subjects)?;
    let sample = load::once_each(&world.http, &on_postgres.url, &es256).await?;
    load::once_each(&world.http, &on_sqlite.url, &es256).await?;
    load::once_each(&world.http, &peer.url, &es256).await?;
    execute(&postgres, "VACUUM ANALYZE").await?;
    let token = sample["token"].as_str().context("no token")?;
    let ceiling = world.ceiling("p1-ceiling", &ceiling_database(world, USERS, token).await?).await?;
    let minted = world.stats(&emulator.url).await?;

    let targets = [
        ("ours, Postgres", on_postgres.url.as_str()),
        ("ceiling", &ceiling.url),
        ("ours, SQLite", &on_sqlite.url),
        ("peer", &peer.url),
    ];
    let mut figure = Figure {
        title: format!("warm `POST /token`, {CONNECTIONS} connections, {USERS} users"),
        findings: Vec::new(),
        series: Vec::new(),
    };
    for algorithm in [Algorithm::RS256, Algorithm::ES256] {
        let logins = match algorithm {
            Algorithm::ES256 => es256.clone(),
            other => world.issuer.logins(other, &subjects)?,
        };
        let logins = world.write_logins("p1-logins", &logins)?;
        let mut seen: Vec<Vec<load::Seen>> = vec![Vec::new(); targets.len()];
        for round in 0..=effort.rounds {
            for step in 0..targets.len() {
                // Another one begins in each round, and the first round only warms up.
                let target = (round + step) % targets.len();
                let from = round * 7919;
                let result = load::wrk(targets[target].1, &logins, from, CONNECTIONS, effort.time).await?;
                if round > 0 {
                    seen[target].push(result);
                }
            }
        }
        let series = |unit: &str, value: fn(&load::Seen) -> f64| -> Vec<Series> {
            let named = targets.iter().zip(&seen);
            named
                .map(|((name, _), seen)| {
                    Series::new(format!("{name}, {algorithm:?}"), unit, seen.iter().map(value).collect())
                })
                .collect()
        };
        let rate = series("requests/s", |seen| seen.per_second);
        let p99 = series("p99 ms", |seen| seen.p99_us / 1000.0);
        let what = |text: &str| format!("{algorithm:?}: {text}");
        figure.findings.extend([
            Finding::told(what("requests/s, ours on Postgres"), format!("{:.0}", rate[0].median())),
            Finding::at_least(what("requests/s, of the ceiling's"), ratio(&rate[0], &rate[1]), 0.80, "×"),
            Finding::at_least(what("requests/s, of the peer's"), ratio(&rate[0], &rate[3]), 8.0, "×"),
            Finding::at_most(what("p99, of the ceiling's"), ratio(&p99[0], &p99[1]), 1.5, "×"),
            Finding::told(
                what("requests/s on SQLite, of the ceiling's"),
                format!("{:.2} ×", ratio(&rate[2], &rate[1])),
            ),
        ]);
        figure.series.extend(rate);
        figure.series.extend(p99);
    }
    let after = world.stats(&emulator.url).await?;
    anyhow::ensure!(minted["calls"]["create"] == after["calls"]["create"], "somebody was new, so it was not warm");
    Ok(figure)
}
