//! P2: a token is minted for each request. Against the cold ceiling, the Express server and the signed call alone.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use jsonwebtoken::Algorithm;

use super::{against_compared_build, ceiling_database};
use crate::{
    Effort,
    acs::Acs,
    environment::{ACCESS_KEY, Environment, NO_QUOTA, Setup, subjects},
    load::{self, Rounds, Target},
    report::{Figure, Finding, Series, percentile, ratio},
};

const USERS: usize = 2_000;
const CONNECTIONS: usize = 32;
/// The emulator's delay while the added time is measured.
const DELAY_MS: u64 = 20;
const CALLS: usize = 400;
const CONCURRENCY: usize = 4;

pub async fn measure(environment: &Environment, effort: Effort) -> anyhow::Result<Figure> {
    let emulator = environment.emulator("p2-emulator", &["--no-limits"]).await?;
    let subject_tokens = environment.issuer.sign_in_tokens(Algorithm::RS256, &subjects(USERS))?;
    let setup = Setup { database: "", emulator: &emulator.url, caches: false, more: NO_QUOTA };

    let sqlite = environment.sqlite("p2");
    let sqlite = environment.service("p2-sqlite", &Setup { database: &sqlite, ..setup.clone() }).await?;
    let express = environment.express(&environment.database("bench_p2_express").await?, &emulator.url).await?;
    let mut services = Vec::new();
    for build in environment.builds() {
        let name = format!("p2-{}", build.name);
        let database = environment.database(&format!("bench_{name}")).await?;
        services.push(environment.service_of(build, &name, &Setup { database: &database, ..setup.clone() }).await?);
        load::once_each(&environment.http, &services[services.len() - 1].url, &subject_tokens).await?;
    }
    load::once_each(&environment.http, &express.url, &subject_tokens).await?;
    let sample = load::once_each(&environment.http, &sqlite.url, &subject_tokens).await?;
    let token = sample["token"].as_str().context("no token")?;
    let identity = sample["user"]["communicationUserId"].as_str().context("no identity")?;
    let ceiling = ceiling_database(environment, "bench_p2_ceiling", USERS, identity, token).await?;
    let ceiling = environment.cold_ceiling(&ceiling, &emulator.url).await?;

    let file = environment.write_tokens("p2-tokens", &subject_tokens)?;
    let mut targets = vec![
        Target::new("ceiling", &ceiling.url, &file),
        Target::new("Express", &express.url, &file),
        Target::new("service, SQLite", &sqlite.url, &file),
    ];
    for (build, service) in environment.builds().iter().zip(&services) {
        targets.push(Target::new(format!("{}, Postgres", build.name), &service.url, &file));
    }
    let results = load::in_turn(&targets, CONNECTIONS, effort).await?;
    let rate: Vec<_> = results.iter().map(Rounds::rate).collect();
    let mut findings = vec![
        Finding::info("requests/s on Postgres", format!("{:.0}", rate[3].median())),
        Finding::at_least("requests/s ÷ ceiling's", ratio(&rate[3], &rate[0]), 0.85, "×"),
        Finding::info("requests/s ÷ Express's", format!("{:.2} ×", ratio(&rate[3], &rate[1]))),
        Finding::info("requests/s on SQLite ÷ Express's", format!("{:.2} ×", ratio(&rate[2], &rate[1]))),
    ];
    findings.extend(against_compared_build("requests/s", &rate[3], rate.get(4)));

    environment.delay(&emulator.url, DELAY_MS).await?;
    let acs = Acs::new(environment.http.clone(), &emulator.url, ACCESS_KEY)?;
    let mut servers = vec![("ceiling", &ceiling.url)];
    servers.extend(environment.builds().iter().zip(&services).map(|(build, service)| (build.name, &service.url)));
    let mut added = vec![(Vec::new(), Vec::new()); servers.len()];
    for round in 0..=effort.rounds {
        let mut direct = times(|_| async { acs.issue(identity).await.map(drop) }).await?;
        for step in 0..servers.len() {
            let server = (round + step) % servers.len();
            let url = servers[server].1;
            let tokens = subject_tokens.iter().cycle().skip(round * CALLS);
            let tokens: Vec<_> = tokens.take(CALLS).collect();
            let mut through = times(|call| request(environment, url, tokens[call])).await?;
            if round > 0 {
                added[server].0.push(percentile(&mut through, 0.50) - percentile(&mut direct, 0.50));
                added[server].1.push(percentile(&mut through, 0.99) - percentile(&mut direct, 0.99));
            }
        }
    }
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for ((name, _), (at_50, at_99)) in servers.iter().zip(added) {
        p50.push(Series::new(*name, "ms added, p50", at_50));
        p99.push(Series::new(*name, "ms added, p99", at_99));
    }
    let info = |what: &str, series: &Series| {
        Finding::info(format!("{what} added to the call alone"), format!("{:.2} ms", series.median()))
    };
    findings.extend([
        info("p50 of the service,", &p50[1]),
        info("p50 of the ceiling,", &p50[0]),
        Finding::at_most("p50 added ÷ ceiling's", ratio(&p50[1], &p50[0]), 1.2, "×"),
        info("p99 of the service,", &p99[1]),
        info("p99 of the ceiling,", &p99[0]),
    ]);
    findings.extend(against_compared_build("p50 added", &p50[1], p50.get(2)));
    let title = format!(
        "cold `POST /token`: each request mints, {CONNECTIONS} connections, {USERS} users; time added to a call of {DELAY_MS} ms"
    );
    Ok(Figure { title, findings, series: [rate, p50, p99].concat() })
}

/// Makes calls, a few at once, and returns how many milliseconds each took.
async fn times<F: Future<Output = anyhow::Result<()>>>(call: impl Fn(usize) -> F) -> anyhow::Result<Vec<f64>> {
    let timed = |number| {
        let call = call(number);
        async move {
            let begun = Instant::now();
            call.await?;
            Ok(milliseconds(begun.elapsed()))
        }
    };
    stream::iter((0..CALLS).map(timed)).buffer_unordered(CONCURRENCY).try_collect().await
}

async fn request(environment: &Environment, url: &str, token: &str) -> anyhow::Result<()> {
    let answer = environment.http.post(format!("{url}/token")).bearer_auth(token).send().await?;
    ensure!(answer.status().is_success(), "{} instead of a token", answer.status());
    answer.bytes().await?;
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
