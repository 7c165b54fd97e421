//! P2: a mint for each request, against the peer, and against the same call to ACS without us.

use std::time::{Duration, Instant};

use acs_token_vendor::{
    acs,
    domain::{
        clock::Clock,
        scope::{Scope, Scopes},
        token::Lifetime,
        user::AcsId,
    },
};
use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use jsonwebtoken::Algorithm;

use crate::{
    Effort, load,
    report::{Figure, Finding, Series, median, percentile, ratio},
    world::{ACCESS_KEY, NO_QUOTA, Setup, World, subjects},
};

const USERS: usize = 2_000;
const CONNECTIONS: usize = 32;
/// How far away ACS is when the time that we add is measured.
const DELAY_MS: u64 = 20;
const CALLS: usize = 400;
const AT_ONCE: usize = 4;

pub async fn measure(world: &World, effort: Effort) -> anyhow::Result<Figure> {
    let emulator = world.emulator("p2-emulator", &["--no-limits"]).await?;
    let database = world.database("bench_p2").await?;
    let setup = Setup { database: &database, emulator: &emulator.url, reuse: false, more: NO_QUOTA };
    let ours = world.service("p2-postgres", &setup).await?;
    let sqlite_database = world.sqlite("p2");
    let sqlite = world.service("p2-sqlite", &Setup { database: &sqlite_database, ..setup.clone() }).await?;
    let peer = world.peer(&world.database("bench_p2_peer").await?, &emulator.url).await?;
    let logins = world.issuer.logins(Algorithm::RS256, &subjects(USERS))?;
    for url in [&ours.url, &sqlite.url, &peer.url] {
        load::once_each(&world.http, url, &logins).await?;
    }
    let file = world.write_logins("p2-logins", &logins)?;

    let targets = [("ours, Postgres", &ours.url), ("ours, SQLite", &sqlite.url), ("peer", &peer.url)];
    let mut rates = vec![Vec::new(); targets.len()];
    for round in 0..=effort.rounds {
        for step in 0..targets.len() {
            let target = (round + step) % targets.len();
            let seen = load::wrk(targets[target].1, &file, round * 331, CONNECTIONS, effort.time).await?;
            if round > 0 {
                rates[target].push(seen.per_second);
            }
        }
    }
    let mut series: Vec<_> =
        targets.iter().zip(rates).map(|((name, _), rates)| Series::new(*name, "requests/s", rates)).collect();
    let mut findings = vec![
        Finding::told("requests/s, ours on Postgres", format!("{:.0}", series[0].median())),
        Finding::at_least("requests/s, of the peer's", ratio(&series[0], &series[2]), 3.0, "×"),
        Finding::told("requests/s on SQLite, of the peer's", format!("{:.2} ×", ratio(&series[1], &series[2]))),
    ];

    world.delay(&emulator.url, DELAY_MS).await?;
    let direct = Direct::new(world, &emulator.url).await?;
    let (mut p50, mut p99) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..=effort.rounds {
        let mut times = [direct.times().await?, through_us(world, &ours.url, &logins[round * 97..]).await?];
        if round > 0 {
            for (index, times) in times.iter_mut().enumerate() {
                p50[index].push(percentile(times, 0.50));
                p99[index].push(percentile(times, 0.99));
            }
        }
    }
    let added =
        |of: &[Vec<f64>; 2]| median(&of[1].iter().zip(&of[0]).map(|(ours, direct)| ours - direct).collect::<Vec<_>>());
    findings.push(Finding::at_most(format!("added to a direct call of {DELAY_MS} ms, p50"), added(&p50), 1.0, "ms"));
    findings.push(Finding::at_most(format!("added to a direct call of {DELAY_MS} ms, p99"), added(&p99), 3.0, "ms"));
    for (name, of) in [("p50 ms", p50), ("p99 ms", p99)] {
        let [direct, ours] = of;
        series.push(Series::new("ours, through the service", name, ours));
        series.push(Series::new("direct signed call", name, direct));
    }
    let title = format!("cold `POST /token`: a mint each time, {CONNECTIONS} connections, {USERS} users");
    Ok(Figure { title, findings, series })
}

/// Signed calls to the emulator without a service between.
struct Direct {
    client: acs::Client,
    scopes: Scopes,
    id: AcsId,
}

impl Direct {
    async fn new(world: &World, emulator: &str) -> anyhow::Result<Self> {
        let connection = format!("endpoint={emulator};accesskey={ACCESS_KEY}").parse()?;
        let client = acs::Client::new(world.http.clone(), connection, &acs::Settings::default(), Clock::default());
        let id = client.create().await?;
        Ok(Self { client, scopes: [Scope::Chat, Scope::Voip].into_iter().collect(), id })
    }

    async fn times(&self) -> anyhow::Result<Vec<f64>> {
        let call = |_| async {
            let begun = Instant::now();
            self.client.issue(&self.id, &self.scopes, Lifetime::HOUR).await?;
            Ok(milliseconds(begun.elapsed()))
        };
        stream::iter((0..CALLS).map(call)).buffer_unordered(AT_ONCE).try_collect().await
    }
}

async fn through_us(world: &World, url: &str, logins: &[String]) -> anyhow::Result<Vec<f64>> {
    let url = format!("{url}/token");
    let call = |login: &String| {
        let request = world.http.post(&url).bearer_auth(login);
        async move {
            let begun = Instant::now();
            let answer = request.send().await?;
            if !answer.status().is_success() {
                bail!("{} instead of a token", answer.status());
            }
            answer.bytes().await?;
            Ok(milliseconds(begun.elapsed()))
        }
    };
    let logins = logins.get(..CALLS).context("too few logins")?;
    stream::iter(logins.iter().map(call)).buffer_unordered(AT_ONCE).try_collect().await
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
